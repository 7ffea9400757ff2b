#include <cmath>

#include "compress/kernels/float_rows/elementwise_f32_kernel.h"

namespace compress::kernels {
namespace {

float clip(float x, float lo, float hi) noexcept {
  const float y = x < lo ? lo : x;  // NaN stays
  return y > hi ? hi : y;
}

float sigmoid(float x) noexcept { return 1.0f / (1.0f + std::exp(-x)); }

float one(ElementOp op, float p, float q, float x) noexcept {
  switch (op) {
    case ElementOp::negate:
      return -x;
    case ElementOp::absolute:
      return std::fabs(x);
    case ElementOp::square:
      return x * x;
    case ElementOp::square_root:
      return std::sqrt(x);
    case ElementOp::reciprocal:
      return 1.0f / x;
    case ElementOp::exponential:
      return std::exp(x);
    case ElementOp::error_function:
      return std::erf(x);
    case ElementOp::tangent_h:
      return std::tanh(x);
    case ElementOp::sigmoid:
      return sigmoid(x);
    case ElementOp::clip:
      return clip(x, p, q);
    case ElementOp::leaky:
      return x < 0 ? p * x : x;
    case ElementOp::hard_sigmoid:
      return clip(p * x + q, 0, 1);
    case ElementOp::hard_swish:
      return x * clip(x * (1.0f / 6) + 0.5f, 0, 1);
    case ElementOp::silu:
      return x * sigmoid(p * x);
    case ElementOp::gelu:
      return 0.5f * x * (1.0f + std::erf(x * 0.70710678f));
    case ElementOp::gelu_tanh:
      return 0.5f * x * (1.0f + std::tanh(0.79788456f * (x + 0.044715f * x * x * x)));
    case ElementOp::add_number:
      return x + p;
    case ElementOp::from_number:
      return p - x;
    case ElementOp::scale:
      return x * p;
    case ElementOp::divide_by:
      return x / p;
    default:
      return p / x;
  }
}

float two(ElementOp op, float a, float b) noexcept {
  switch (op) {
    case ElementOp::add:
      return a + b;
    case ElementOp::subtract:
      return a - b;
    case ElementOp::multiply:
      return a * b;
    case ElementOp::divide:
      return a / b;
    case ElementOp::maximum:
      return a > b || std::isnan(a) ? a : b;
    default:
      return a < b || std::isnan(a) ? a : b;
  }
}

void apply(ElementOp op, float p, float q, const float* a, const float* b, float* out,
           int64_t count) noexcept {
  for (int64_t i = 0; i < count; ++i)
    out[i] = b != nullptr ? two(op, a[i], b[i]) : one(op, p, q, a[i]);
}

}  // namespace

const ElementwiseF32Kernel kElementwiseF32Ref{"ref", Isa::ref, apply};

}  // namespace compress::kernels
