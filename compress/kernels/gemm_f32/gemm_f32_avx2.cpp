// 6 x 16: twelve sums, two registers of B and a broadcast of A fit the sixteen there are; two FMA a
// cycle are then the limit.
#include <immintrin.h>

#include "compress/kernels/gemm_f32/gemm_f32_kernel.h"

namespace compress::kernels {
namespace {

__m256 finished(const GemmF32Tile& t, __m256 sum, const float* bias,
                const float* residual) noexcept {
  if (bias != nullptr) {
    sum = _mm256_fmadd_ps(_mm256_set1_ps(t.alpha), sum, _mm256_loadu_ps(bias));
  } else {
    sum = _mm256_mul_ps(_mm256_set1_ps(t.alpha), sum);
  }
  if (residual != nullptr) sum = _mm256_add_ps(sum, _mm256_loadu_ps(residual));
  // NaN stays: the second operand is what max and min return then.
  sum = _mm256_max_ps(_mm256_set1_ps(t.lo), sum);
  return _mm256_min_ps(_mm256_set1_ps(t.hi), sum);
}

template <int kRows>
void tile_of(const GemmF32Tile& t) noexcept {
  __m256 sum[kRows][2];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
    sum[r][0] = t.first ? _mm256_setzero_ps() : _mm256_loadu_ps(t.c + r * t.ldc);
    sum[r][1] = t.first ? _mm256_setzero_ps() : _mm256_loadu_ps(t.c + r * t.ldc + 8);
  }
  const float* b = t.b;
  // Two bases and one stride: x86 addresses reach three rows from each.
  const auto* a0 = reinterpret_cast<const char*>(t.a);
  const int64_t lda = t.lda * static_cast<int64_t>(sizeof(float));
  const char* a3 = a0 + 3 * lda;
  const auto* next = reinterpret_cast<const char*>(t.next);
  for (int64_t i = t.k; i > 0; --i) {
    _mm_prefetch(next, _MM_HINT_T1);
    next += 64;
    const __m256 b0 = _mm256_load_ps(b);
    const __m256 b1 = _mm256_load_ps(b + 8);
    b += 16;
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      const char* from = r < 3 ? a0 + r * lda : a3 + (r - 3) * lda;
      const __m256 value = _mm256_broadcast_ss(reinterpret_cast<const float*>(from));
      sum[r][0] = _mm256_fmadd_ps(value, b0, sum[r][0]);
      sum[r][1] = _mm256_fmadd_ps(value, b1, sum[r][1]);
    }
    a0 += sizeof(float);
    a3 += sizeof(float);
    asm("" : "+r"(a0), "+r"(a3));  // keeps gcc from making an address of each row
  }
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
    const float* residual = t.residual != nullptr ? t.residual + r * t.ldc : nullptr;
    if (t.last) {
      sum[r][0] = finished(t, sum[r][0], t.bias, residual);
      sum[r][1] = finished(t, sum[r][1], t.bias != nullptr ? t.bias + 8 : nullptr,
                           residual != nullptr ? residual + 8 : nullptr);
    }
    _mm256_storeu_ps(t.c + r * t.ldc, sum[r][0]);
    _mm256_storeu_ps(t.c + r * t.ldc + 8, sum[r][1]);
  }
}

void tile(const GemmF32Tile& t) noexcept {
  switch (t.rows) {
    case 1:
      return tile_of<1>(t);
    case 2:
      return tile_of<2>(t);
    case 3:
      return tile_of<3>(t);
    case 4:
      return tile_of<4>(t);
    case 5:
      return tile_of<5>(t);
    default:
      return tile_of<6>(t);
  }
}

void row(const GemmF32Tile& t, int64_t panel_stride) noexcept {
  __m256 sum[8];
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) {
    sum[j] = t.first ? _mm256_setzero_ps() : _mm256_loadu_ps(t.c + 8 * j);
  }
  for (int64_t i = 0; i < t.k; ++i) {
    const __m256 value = _mm256_broadcast_ss(t.a + i);
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      const float* b = t.b + (j / 2) * panel_stride + i * 16 + (j % 2) * 8;
      sum[j] = _mm256_fmadd_ps(value, _mm256_load_ps(b), sum[j]);
    }
  }
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) {
    if (t.last) {
      sum[j] = finished(t, sum[j], t.bias != nullptr ? t.bias + 8 * j : nullptr,
                        t.residual != nullptr ? t.residual + 8 * j : nullptr);
    }
    _mm256_storeu_ps(t.c + 8 * j, sum[j]);
  }
}

}  // namespace

const GemmF32Kernel kGemmF32Avx2{"avx2", Isa::avx2, tile, row};

}  // namespace compress::kernels
