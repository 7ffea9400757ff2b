// kernels::ElementOp on the device.
#pragma once

#include "compress/kernels/cuda/device_code.h"
#include "compress/kernels/float_rows/elementwise_f32_kernel.h"

namespace compress::cuda {

__device__ inline float clip(float x, float lo, float hi) {
  const float y = x < lo ? lo : x;  // NaN stays
  return y > hi ? hi : y;
}

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

__device__ inline float element_op(int32_t op, float p, float q, float a, float b) {
  switch (static_cast<kernels::ElementOp>(op)) {
    case kernels::ElementOp::negate:
      return -a;
    case kernels::ElementOp::absolute:
      return fabsf(a);
    case kernels::ElementOp::square:
      return a * a;
    case kernels::ElementOp::square_root:
      return sqrtf(a);
    case kernels::ElementOp::reciprocal:
      return 1.0f / a;
    case kernels::ElementOp::exponential:
      return expf(a);
    case kernels::ElementOp::error_function:
      return erff(a);
    case kernels::ElementOp::tangent_h:
      return tanhf(a);
    case kernels::ElementOp::sigmoid:
      return sigmoid(a);
    case kernels::ElementOp::clip:
      return clip(a, p, q);
    case kernels::ElementOp::leaky:
      return a < 0 ? p * a : a;
    case kernels::ElementOp::hard_sigmoid:
      return clip(p * a + q, 0, 1);
    case kernels::ElementOp::hard_swish:
      return a * clip(a * (1.0f / 6) + 0.5f, 0, 1);
    case kernels::ElementOp::silu:
      return a * sigmoid(p * a);
    case kernels::ElementOp::gelu:
      return 0.5f * a * (1.0f + erff(a * 0.70710678f));
    case kernels::ElementOp::gelu_tanh:
      return 0.5f * a * (1.0f + tanhf(0.79788456f * (a + 0.044715f * a * a * a)));
    case kernels::ElementOp::add_number:
      return a + p;
    case kernels::ElementOp::from_number:
      return p - a;
    case kernels::ElementOp::scale:
      return a * p;
    case kernels::ElementOp::divide_by:
      return a / p;
    case kernels::ElementOp::number_over:
      return p / a;
    case kernels::ElementOp::add:
      return a + b;
    case kernels::ElementOp::subtract:
      return a - b;
    case kernels::ElementOp::multiply:
      return a * b;
    case kernels::ElementOp::divide:
      return a / b;
    case kernels::ElementOp::maximum:
      return a > b || a != a ? a : b;
    default:
      return a < b || a != a ? a : b;
  }
}

}  // namespace compress::cuda
