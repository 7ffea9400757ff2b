// How real numbers become integers: the only home of the rounding rule (docs/numbers.md).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "compress/core/dtype.h"
#include "compress/core/tensor.h"

namespace compress {

// scale and zero_point of one tensor, of each slice along `axis`, or of each block of `block_size`
// elements along `axis`.
struct QuantParams {
  DType dtype = DType::uint8;  // an integer type of 2, 4, 8 or 16 bits
  bool symmetric = false;      // zero point fixed in the middle of the range
  std::optional<int> axis;     // none: per tensor
  int64_t block_size = 0;      // 0: the whole slice
  std::vector<float> scales;   // finite and > 0; blocked: row-major like the tensor, axis shrunk
  std::vector<int32_t> zero_points;
};

struct IntegerRange {
  int32_t min;
  int32_t max;
};

// The integers that values may take: int8 symmetric weights use [-127, 127]; every other type its
// whole range; `reduce_range` leaves one bit unused (u8 [0, 127], s8 [-64, 64]).
IntegerRange integer_range(DType dtype, bool symmetric, bool reduce_range = false);

struct ScaleZeroPoint {
  float scale;
  int32_t zero_point;
};

// From the range of values that are to be representable. The range is widened to include 0. A range
// too small for a float32 scale gives scale 1. Asymmetric: scale = (max - min) / (qmax - qmin),
// zero_point = round(qmin - min / scale); symmetric: scale = max(|min|, |max|) / ((qmax - qmin) /
// 2), zero_point = round((qmin + qmax) / 2).
ScaleZeroPoint choose_scale(double min, double max, DType dtype, bool symmetric,
                            bool reduce_range = false);

// int4 weights by the full signed range: scale = signed_absmax / -8, so that the extreme value is
// exact. `values` are one block; zero_point is 0.
float choose_signed_scale(std::span<const float> values, DType dtype);

// saturate(rint(x / scale) + zero_point), computed in float32: half to even, a division and never a
// product with the reciprocal. NaN becomes zero_point.
int32_t quantize_value(float x, float scale, int32_t zero_point, IntegerRange range);
inline float dequantize_value(int32_t q, float scale, int32_t zero_point) {
  return static_cast<float>(q - zero_point) * scale;
}

// Whole tensors by these rules; float32 (float16 and bfloat16 are widened) to `params.dtype`
// (sub-byte results are packed) and back to float32. Bit-exact on every machine, any thread count.
Tensor quantize(const Tensor& values, const QuantParams& params);
Tensor dequantize(const Tensor& quantized, const QuantParams& params);

// Symmetric or asymmetric parameters for a weight tensor by its minima and maxima, per tensor,
// channel (`axis`) or block. int4 symmetric uses choose_signed_scale. Fails (invalid_model) on
// values that are not finite, naming how many.
QuantParams weight_params(const Tensor& weights, DType dtype, bool symmetric,
                          std::optional<int> axis, int64_t block_size = 0,
                          bool reduce_range = false);

}  // namespace compress
