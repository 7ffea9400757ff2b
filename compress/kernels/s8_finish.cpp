#include "compress/kernels/s8_finish.h"

#include <algorithm>
#include <cmath>

namespace compress::kernels {

S8Finish make_s8_finish(const S8Epilogue& epilogue, int64_t channels, const int32_t* weight_sum,
                        int32_t zero_point, void* memory) noexcept {
  const int64_t padded = round_up(channels, kS8FinishPadding);
  int32_t* offset = static_cast<int32_t*>(memory);
  float* scale = reinterpret_cast<float*>(offset + padded);
  float* float_bias = scale + padded;
  const uint32_t zero = static_cast<uint32_t>(zero_point);
  for (int64_t i = 0; i < channels; ++i) {
    const uint32_t bias = epilogue.bias ? static_cast<uint32_t>(epilogue.bias[i]) : 0;
    offset[i] = static_cast<int32_t>(bias - zero * static_cast<uint32_t>(weight_sum[i]));
  }
  std::fill(offset + channels, offset + padded, 0);

  S8Finish finish{offset, scale, float_bias, 0, 0, 0, epilogue.output, epilogue.is_signed, false};
  if (epilogue.output == S8Output::int32) return finish;
  for (int64_t i = 0; i < channels; ++i) scale[i] = epilogue.scale[i] * epilogue.scale_factor;
  std::fill(scale + channels, scale + padded, 0.0f);
  if (epilogue.output == S8Output::float32) {
    // Adding -0 changes no value, not even the sign of a zero.
    for (int64_t i = 0; i < channels; ++i) {
      float_bias[i] = epilogue.float_bias ? epilogue.float_bias[i] : -0.0f;
    }
    std::fill(float_bias + channels, float_bias + padded, 0.0f);
    return finish;
  }
  finish.zero_point = epilogue.zero_point;
  finish.lo = static_cast<float>(epilogue.lo - epilogue.zero_point);
  finish.hi = static_cast<float>(epilogue.hi - epilogue.zero_point);
  const bool whole = epilogue.is_signed ? epilogue.lo == -128 && epilogue.hi == 127
                                        : epilogue.lo == 0 && epilogue.hi == 255;
  finish.saturates = whole && std::all_of(scale, scale + channels,
                                          [](float value) { return std::abs(value) < 1.0f; });
  return finish;
}

}  // namespace compress::kernels
