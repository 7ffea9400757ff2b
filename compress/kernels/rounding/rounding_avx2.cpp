#include <immintrin.h>

#include "compress/kernels/rounding/rounding_kernel.h"

namespace compress::kernels {
namespace {

constexpr int64_t kLanes = 8;

__m256 whole(__m256 x) noexcept {
  return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

struct Trial {
  __m256 scale, inverse, zero, least, most;

  // x's weighted squared loss; no FMA, so that sums have the reference's bits.
  __m256 lost(__m256 x, __m256 weight) const noexcept {
    __m256 q = _mm256_add_ps(_mm256_mul_ps(x, inverse), zero);
    q = _mm256_min_ps(most, _mm256_max_ps(least, q));  // NaN stays
    const __m256 kept = _mm256_mul_ps(_mm256_sub_ps(whole(q), zero), scale);
    const __m256 error = _mm256_sub_ps(x, kept);
    return _mm256_mul_ps(_mm256_mul_ps(weight, error), error);
  }
};

float loss(const float* values, const float* weights, int64_t n, RoundingTrial trial,
           RoundingRange range) noexcept {
  const Trial vectors{_mm256_set1_ps(trial.scale), _mm256_set1_ps(1 / trial.scale),
                      _mm256_set1_ps(trial.zero), _mm256_set1_ps(range.least),
                      _mm256_set1_ps(range.most)};
  __m256 sum = _mm256_setzero_ps();
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const __m256 x = _mm256_loadu_ps(values + i);
    sum = _mm256_add_ps(sum, vectors.lost(x, _mm256_loadu_ps(weights + i)));
  }
  alignas(32) float parts[kLanes];
  _mm256_store_ps(parts, sum);
  for (; i < n; ++i) {
    const __m256 x = _mm256_set1_ps(values[i]);
    parts[0] += _mm256_cvtss_f32(vectors.lost(x, _mm256_set1_ps(weights[i])));
  }
  return ((parts[0] + parts[1]) + (parts[2] + parts[3])) +
         ((parts[4] + parts[5]) + (parts[6] + parts[7]));
}

void losses(const float* values, const float* weights, int64_t n, const RoundingTrial* trials,
            int64_t count, RoundingRange range, float* out) noexcept {
  for (int64_t t = 0; t < count; ++t) out[t] = loss(values, weights, n, trials[t], range);
}

// Eight rows of a panel: the rounding of column c, and what it loses.
void round_column(const RoundingPanel& panel, int64_t c, int64_t row, const float* u) noexcept {
  const int64_t at = c * kRoundingRows + row;
  const __m256 w = _mm256_loadu_ps(panel.weights + at);
  const __m256 scale = _mm256_loadu_ps(panel.scale + row);
  const __m256 zero = _mm256_loadu_ps(panel.zero + row);
  __m256 q = _mm256_add_ps(whole(_mm256_div_ps(w, scale)), zero);
  q = _mm256_blendv_ps(q, zero, _mm256_cmp_ps(q, q, _CMP_UNORD_Q));
  q = _mm256_max_ps(q, _mm256_set1_ps(panel.range.least));
  q = _mm256_min_ps(q, _mm256_set1_ps(panel.range.most));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(panel.integers + at), _mm256_cvttps_epi32(q));
  if (u == nullptr) return;
  const __m256 kept = _mm256_mul_ps(_mm256_sub_ps(q, zero), scale);
  _mm256_storeu_ps(panel.errors + at, _mm256_div_ps(_mm256_sub_ps(w, kept), _mm256_set1_ps(u[c])));
}

void round_columns(const RoundingPanel& panel) noexcept {
  static_assert(kRoundingRows == 2 * kLanes);
  for (int64_t c = panel.begin; c < panel.end; ++c) {
    const float* u = panel.spread == nullptr ? nullptr : panel.spread + c * panel.spread_stride;
    round_column(panel, c, 0, u);
    round_column(panel, c, kLanes, u);
    if (u == nullptr) continue;
    const __m256 low = _mm256_loadu_ps(panel.errors + c * kRoundingRows);
    const __m256 high = _mm256_loadu_ps(panel.errors + c * kRoundingRows + kLanes);
    float* w = panel.weights + (c + 1) * kRoundingRows;
    for (int64_t j = c + 1; j < panel.width; ++j, w += kRoundingRows) {
      const __m256 part = _mm256_set1_ps(u[j]);
      _mm256_storeu_ps(w, _mm256_sub_ps(_mm256_loadu_ps(w), _mm256_mul_ps(low, part)));
      _mm256_storeu_ps(w + kLanes,
                       _mm256_sub_ps(_mm256_loadu_ps(w + kLanes), _mm256_mul_ps(high, part)));
    }
  }
}

}  // namespace

const RoundingKernel kRoundingAvx2{"avx2", Isa::avx2, losses, round_columns};

}  // namespace compress::kernels
