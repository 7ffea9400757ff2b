#include <immintrin.h>

#include "compress/kernels/fma_rows/fma_rows_kernel.h"

namespace compress::kernels {
namespace {

template <int R>
void contiguous(float* const* y, const float* w, const float* x, int64_t n) noexcept {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 in = _mm256_loadu_ps(x + i);
    for (int r = 0; r < R; ++r) {
      const __m256 sum = _mm256_fmadd_ps(_mm256_set1_ps(w[r]), in, _mm256_loadu_ps(y[r] + i));
      _mm256_storeu_ps(y[r] + i, sum);
    }
  }
  for (; i < n; ++i) {
    for (int r = 0; r < R; ++r) y[r][i] = __builtin_fmaf(w[r], x[i], y[r][i]);
  }
}

template <int R>
void strided(float* const* y, const float* w, const float* x, int64_t stride, int64_t n) noexcept {
  for (int64_t i = 0; i < n; ++i) {
    const float in = x[i * stride];
    for (int r = 0; r < R; ++r) y[r][i] = __builtin_fmaf(w[r], in, y[r][i]);
  }
}

template <int R>
void block(float* const* y, const float* w, const float* x, int64_t stride, int64_t n) noexcept {
  if (stride == 1) return contiguous<R>(y, w, x, n);
  strided<R>(y, w, x, stride, n);
}

void fma_rows_avx2(int rows, float* const* y, const float* w, const float* x, int64_t stride,
                   int64_t n) noexcept {
  int r = 0;
  for (; r + 4 <= rows; r += 4) block<4>(y + r, w + r, x, stride, n);
  for (; r < rows; ++r) block<1>(y + r, w + r, x, stride, n);
}

}  // namespace

const FmaRows kFmaRowsAvx2 = fma_rows_avx2;

}  // namespace compress::kernels
