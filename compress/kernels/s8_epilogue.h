// What happens to an exact int32 sum before it is stored; shared by every int8 kernel.
#pragma once

#include <cstdint>

namespace compress::kernels {

enum class S8Output : int32_t {
  int32,      // acc
  quantized,  // saturate(rint(float(acc) * m[n]) + zero_point), half to even, no FMA; u8 or s8
  float32,    // float(acc) * m[n] (+ float_bias[n]), two roundings
};

// acc is the integer result with bias and zero points added exactly (modulo 2^32), and
// m[n] = scale[n] * scale_factor, one float multiplication. Arrays hold one entry an output
// channel.
struct S8Epilogue {
  S8Output output = S8Output::quantized;
  const int32_t* bias = nullptr;      // optional, all outputs
  const float* scale = nullptr;       // quantized and float32; must be finite
  float scale_factor = 1.0f;          // of the activations, where it is known at run time only
  const float* float_bias = nullptr;  // optional, float32 only
  bool is_signed = false;             // quantized: s8 rather than u8
  int32_t zero_point = 0;             // quantized: of the output
  int32_t lo = 0;                     // quantized: bounds that include zero_point, within the
  int32_t hi = 255;                   //   type's range (relu: lo = zero_point)
};

// The epilogue as kernels read it: tables for every channel, filled by make_s8_finish().
struct S8Finish {
  const int32_t* offset;    // added to every sum: bias and the terms of the zero point of A
  const float* scale;       // quantized, float32
  const float* float_bias;  // float32
  float lo, hi;             // quantized: bounds minus zero_point
  int32_t zero_point;
  S8Output output;
  bool is_signed;
  bool saturates;  // quantized: the bounds are those of the type, and every scale is below 1, so
                   // that packing to bytes with saturation needs no other clamp
};

}  // namespace compress::kernels
