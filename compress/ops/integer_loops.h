// What integer reference kernels share: widening to 32-bit words that wrap as int32 accumulators do
// (unsigned, so that hostile inputs overflow without undefined behaviour), and requantization.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "compress/core/parallel.h"
#include "compress/core/tensor.h"

namespace compress {

// The value of element i of a uint8, int8, uint16, int16 or int32 array.
inline int32_t integer_at(const TensorView& view, int64_t i) {
  switch (view.dtype) {
    case DType::uint8:
      return static_cast<const uint8_t*>(view.data)[i];
    case DType::int8:
      return static_cast<const int8_t*>(view.data)[i];
    case DType::uint16:
      return static_cast<const uint16_t*>(view.data)[i];
    case DType::int16:
      return static_cast<const int16_t*>(view.data)[i];
    default:
      return static_cast<const int32_t*>(view.data)[i];
  }
}

// The same for an optional zero point that is one number or one for each channel.
inline int32_t zero_point_at(const TensorView& view, int64_t channel) {
  if (view.data == nullptr) return 0;
  return integer_at(view, view.count() == 1 ? 0 : channel);
}

inline float scale_at(const TensorView& view, int64_t channel) {
  return view.as<const float>()[view.count() == 1 ? 0 : channel];
}

// out[i] = values[begin + i] - zero_point.
inline void widen(const TensorView& values, int64_t begin, int64_t count, int32_t zero_point,
                  uint32_t* out) {
  const auto fill = [&](const auto* data) {
    for (int64_t i = 0; i < count; ++i) {
      out[i] = static_cast<uint32_t>(static_cast<int32_t>(data[i]) - zero_point);
    }
  };
  if (values.dtype == DType::uint8) {
    fill(static_cast<const uint8_t*>(values.data) + begin);
  } else {
    fill(static_cast<const int8_t*>(values.data) + begin);
  }
}

// DESIGN.md 4: saturate(rint(float(acc) * m) + zero_point), m = float(double(s_x) * s_w / s_y).
inline float requantize_factor(float x_scale, float w_scale, float y_scale) {
  return static_cast<float>(static_cast<double>(x_scale) * w_scale / y_scale);
}

// saturate(rint(value) + zero_point) for a value in units of the output's scale.
template <class T>
T round_to(float value, int32_t zero_point) {
  // Clamped before the conversion: int32 holds any sum of what is left and a zero point.
  const float rounded = std::isnan(value) ? 0.0f : std::nearbyint(std::clamp(value, -1e6f, 1e6f));
  const int32_t shifted = static_cast<int32_t>(rounded) + zero_point;
  return static_cast<T>(
      std::clamp<int32_t>(shifted, std::numeric_limits<T>::min(), std::numeric_limits<T>::max()));
}

// Scale and zero point of DynamicQuantizeLinear: uint8, the range includes 0.
struct DynamicScale {
  float scale;
  uint8_t zero_point;
};
DynamicScale dynamic_scale(const float* x, int64_t count);
void quantize_bytes(const float* x, int64_t count, DynamicScale dynamic, uint8_t* y);

}  // namespace compress
