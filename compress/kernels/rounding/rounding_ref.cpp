#include "compress/kernels/rounding/rounding_kernel.h"

namespace compress::kernels {
namespace {

constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves no room for a fraction
constexpr int64_t kLanes = 8;          // partial sums

float loss(const float* values, const float* weights, int64_t n, RoundingTrial trial,
           RoundingRange range) noexcept {
  const float inverse = 1 / trial.scale;
  const auto lost = [=](int64_t i) {
    float x = values[i] * inverse + trial.zero;
    x = x < range.least ? range.least : x;
    x = x > range.most ? range.most : x;
    x = values[i] - (((x + kRound) - kRound) - trial.zero) * trial.scale;
    return weights[i] * x * x;
  };
  float parts[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) parts[lane] += lost(i + lane);
  }
  for (; i < n; ++i) parts[0] += lost(i);
  return ((parts[0] + parts[1]) + (parts[2] + parts[3])) +
         ((parts[4] + parts[5]) + (parts[6] + parts[7]));
}

void losses(const float* values, const float* weights, int64_t n, const RoundingTrial* trials,
            int64_t count, RoundingRange range, float* out) noexcept {
  for (int64_t t = 0; t < count; ++t) out[t] = loss(values, weights, n, trials[t], range);
}

void round_columns(const RoundingPanel& panel) noexcept {
  constexpr int64_t kRows = kRoundingRows;
  for (int64_t c = panel.begin; c < panel.end; ++c) {
    float* w = panel.weights + c * kRows;
    float* errors = panel.errors + c * kRows;
    const float* u = panel.spread == nullptr ? nullptr : panel.spread + c * panel.spread_stride;
    for (int64_t r = 0; r < kRows; ++r) {
      float q = w[r] / panel.scale[r];
      q = ((q + kRound) - kRound) + panel.zero[r];
      q = q != q ? panel.zero[r] : q;
      q = q > panel.range.least ? q : panel.range.least;
      q = q < panel.range.most ? q : panel.range.most;
      panel.integers[c * kRows + r] = static_cast<int32_t>(q);
      if (u != nullptr) errors[r] = (w[r] - (q - panel.zero[r]) * panel.scale[r]) / u[c];
    }
    if (u == nullptr) continue;
    for (int64_t j = c + 1; j < panel.width; ++j) {
      float* behind = panel.weights + j * kRows;
      for (int64_t r = 0; r < kRows; ++r) behind[r] -= errors[r] * u[j];
    }
  }
}

}  // namespace

const RoundingKernel kRoundingRef{"ref", Isa::ref, losses, round_columns};

}  // namespace compress::kernels
