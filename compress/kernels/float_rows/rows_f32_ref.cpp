#include <cmath>

#include "compress/kernels/float_rows/rows_f32_kernel.h"

namespace compress::kernels {
namespace {

void softmax(const float* x, const float* mask, float scale, int64_t count, float* out) noexcept {
  float most = -INFINITY;
  for (int64_t i = 0; i < count; ++i) {
    out[i] = x[i] * scale + (mask != nullptr ? mask[i] : 0.0f);
    if (out[i] > most || std::isnan(out[i])) most = out[i];
  }
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    out[i] = std::exp(out[i] - most);
    sum += static_cast<double>(out[i]);
  }
  const auto inverse = static_cast<float>(1.0 / sum);
  for (int64_t i = 0; i < count; ++i) out[i] *= inverse;
}

void layer_norm(const float* x, const float* gain, const float* bias, float epsilon, int64_t count,
                float* out) noexcept {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(x[i]);
  const double mean = sum / static_cast<double>(count);
  double squares = 0;
  for (int64_t i = 0; i < count; ++i) {
    squares += (static_cast<double>(x[i]) - mean) * (static_cast<double>(x[i]) - mean);
  }
  const double inverse =
      1.0 / std::sqrt(squares / static_cast<double>(count) + static_cast<double>(epsilon));
  for (int64_t i = 0; i < count; ++i) {
    auto y = static_cast<float>((static_cast<double>(x[i]) - mean) * inverse);
    if (gain != nullptr) y *= gain[i];
    out[i] = bias != nullptr ? y + bias[i] : y;
  }
}

void rms_norm(const float* x, const float* gain, float epsilon, int64_t count,
              float* out) noexcept {
  double squares = 0;
  for (int64_t i = 0; i < count; ++i) {
    squares += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  }
  const auto inverse = static_cast<float>(
      1.0 / std::sqrt(squares / static_cast<double>(count) + static_cast<double>(epsilon)));
  for (int64_t i = 0; i < count; ++i) out[i] = x[i] * inverse * gain[i];
}

}  // namespace

const RowsF32Kernel kRowsF32Ref{"ref", Isa::ref, softmax, layer_norm, rms_norm};

}  // namespace compress::kernels
