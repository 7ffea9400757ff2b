// What rows_f32.cpp and the kernels of each instruction set agree on. Plain data only.
#pragma once

#include <cstdint>

#include "compress/kernels/isa.h"

namespace compress::kernels {

struct RowsF32Kernel {
  const char* name;
  Isa isa;
  // out = softmax(scale * x + mask); `mask` may be null, `out` may be x.
  void (*softmax)(const float* x, const float* mask, float scale, int64_t count,
                  float* out) noexcept;
  // out = (x - mean) / sqrt(variance + epsilon) * gain + bias; gain and bias may be null.
  void (*layer_norm)(const float* x, const float* gain, const float* bias, float epsilon,
                     int64_t count, float* out) noexcept;
  // out = x / sqrt(mean of squares + epsilon) * gain.
  void (*rms_norm)(const float* x, const float* gain, float epsilon, int64_t count,
                   float* out) noexcept;
};

extern const RowsF32Kernel kRowsF32Ref;
extern const RowsF32Kernel kRowsF32Avx2;

}  // namespace compress::kernels
