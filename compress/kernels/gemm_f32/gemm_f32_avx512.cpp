// 6 x 32: twelve sums hide the latency of two FMA a cycle, and eight loads a step of k are fewer
// than they can take. Every element is the same sum as in gemm_f32_avx2.cpp, to the bit.
#include <immintrin.h>

#include "compress/kernels/gemm_f32/gemm_f32_kernel.h"

namespace compress::kernels {
namespace {

constexpr int64_t kWidth = 16;

__m512 finished(const GemmF32Tile& t, __m512 sum, const float* bias,
                const float* residual) noexcept {
  if (bias != nullptr) {
    sum = _mm512_fmadd_ps(_mm512_set1_ps(t.alpha), sum, _mm512_loadu_ps(bias));
  } else {
    sum = _mm512_mul_ps(_mm512_set1_ps(t.alpha), sum);
  }
  if (residual != nullptr) sum = _mm512_add_ps(sum, _mm512_loadu_ps(residual));
  // NaN stays: the second operand is what max and min return then.
  sum = _mm512_max_ps(_mm512_set1_ps(t.lo), sum);
  return _mm512_min_ps(_mm512_set1_ps(t.hi), sum);
}

template <int kRows, int kPanels>
void tile_of(const GemmF32Tile& t, int64_t panel_stride) noexcept {
  __m512 sum[kRows][kPanels];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int j = 0; j < kPanels; ++j) {
      sum[r][j] = t.first ? _mm512_setzero_ps() : _mm512_loadu_ps(t.c + r * t.ldc + j * kWidth);
    }
  }
  const float* b = t.b;
  // Two bases and one stride: x86 addresses reach three rows from each.
  const auto* a0 = reinterpret_cast<const char*>(t.a);
  const int64_t lda = t.lda * static_cast<int64_t>(sizeof(float));
  const char* a3 = a0 + 3 * lda;
  const float* next = t.next;
  for (int64_t i = t.k; i > 0; --i) {
    __m512 weights[kPanels];
#pragma GCC unroll 2
    for (int j = 0; j < kPanels; ++j) {
      _mm_prefetch(reinterpret_cast<const char*>(next + j * panel_stride), _MM_HINT_T1);
      weights[j] = _mm512_load_ps(b + j * panel_stride);
    }
    next += kWidth;
    b += kWidth;
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      const char* from = r < 3 ? a0 + r * lda : a3 + (r - 3) * lda;
      const __m512 value = _mm512_set1_ps(*reinterpret_cast<const float*>(from));
#pragma GCC unroll 2
      for (int j = 0; j < kPanels; ++j) {
        sum[r][j] = _mm512_fmadd_ps(value, weights[j], sum[r][j]);
      }
    }
    a0 += sizeof(float);
    a3 += sizeof(float);
    asm("" : "+r"(a0), "+r"(a3));  // keeps gcc from making an address of each row
  }
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int j = 0; j < kPanels; ++j) {
      const int64_t column = j * kWidth;
      if (t.last) {
        sum[r][j] = finished(t, sum[r][j], t.bias != nullptr ? t.bias + column : nullptr,
                             t.residual != nullptr ? t.residual + r * t.ldc + column : nullptr);
      }
      _mm512_storeu_ps(t.c + r * t.ldc + column, sum[r][j]);
    }
  }
}

template <int kPanels>
void panels(const GemmF32Tile& t, int64_t panel_stride) noexcept {
  switch (t.rows) {
    case 1:
      return tile_of<1, kPanels>(t, panel_stride);
    case 2:
      return tile_of<2, kPanels>(t, panel_stride);
    case 3:
      return tile_of<3, kPanels>(t, panel_stride);
    case 4:
      return tile_of<4, kPanels>(t, panel_stride);
    case 5:
      return tile_of<5, kPanels>(t, panel_stride);
    default:
      return tile_of<6, kPanels>(t, panel_stride);
  }
}

void tile(const GemmF32Tile& t) noexcept { panels<1>(t, 0); }
void pair(const GemmF32Tile& t, int64_t panel_stride) noexcept { panels<2>(t, panel_stride); }

void row(const GemmF32Tile& t, int64_t panel_stride) noexcept {
  __m512 sum[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    sum[j] = t.first ? _mm512_setzero_ps() : _mm512_loadu_ps(t.c + kWidth * j);
  }
  for (int64_t i = 0; i < t.k; ++i) {
    const __m512 value = _mm512_set1_ps(t.a[i]);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const float* b = t.b + j * panel_stride + i * kWidth;
      sum[j] = _mm512_fmadd_ps(value, _mm512_load_ps(b), sum[j]);
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const int64_t column = kWidth * j;
    if (t.last) {
      sum[j] = finished(t, sum[j], t.bias != nullptr ? t.bias + column : nullptr,
                        t.residual != nullptr ? t.residual + column : nullptr);
    }
    _mm512_storeu_ps(t.c + column, sum[j]);
  }
}

}  // namespace

const GemmF32Kernel kGemmF32Avx512{"avx512", Isa::avx512, tile, row, pair};

}  // namespace compress::kernels
