// Floating point types of 8 bits and fewer, as stored codes: float8e4m3fn, float8e4m3fnuz,
// float8e5m2, float8e5m2fnuz, float8e8m0, float4e2m1. Arithmetic happens in wider types.
#pragma once

#include <array>
#include <cstdint>

#include "compress/core/dtype.h"

namespace compress {

bool is_small_float(DType dtype);

// How a value becomes a code. ONNX's attributes of Cast bear these names.
struct SmallRounding {
  bool saturate = true;  // beyond the range: the largest value; else infinity or NaN
  // float8e8m0 alone; the others round to nearest, ties to even.
  enum class Mode { up, down, nearest } mode = Mode::up;
};

// The values of all codes; those of float4e2m1 repeat after the 16th.
// REQUIRES is_small_float(dtype).
const std::array<float, 256>& small_float_values(DType dtype);

// The code of `value`, rounded once. REQUIRES is_small_float(dtype).
uint8_t to_small_float(DType dtype, double value, SmallRounding rounding = {});

}  // namespace compress
