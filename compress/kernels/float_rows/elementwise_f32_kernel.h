// What elementwise_f32.cpp and the kernels of each instruction set agree on. Plain data only, as in
// gemm_s8_kernel.h.
#pragma once

#include <cstdint>

#include "compress/kernels/isa.h"

namespace compress::kernels {

// `p` and `q` are the parameters of a step.
enum class ElementOp : int {
  // of one operand
  negate,
  absolute,
  square,
  square_root,
  reciprocal,
  exponential,
  error_function,
  tangent_h,
  sigmoid,
  clip,          // p..q
  leaky,         // x < 0: p * x
  hard_sigmoid,  // clip(p * x + q, 0, 1)
  hard_swish,    // x * clip(x / 6 + 1 / 2, 0, 1)
  silu,          // x * sigmoid(p * x)
  gelu,          // x / 2 * (1 + erf(x / sqrt(2)))
  gelu_tanh,     // x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))
  add_number,    // x + p
  from_number,   // p - x
  scale,         // x * p
  divide_by,     // x / p
  number_over,   // p / x
  // of two
  add,
  subtract,
  multiply,
  divide,
  maximum,
  minimum,
};

inline constexpr bool is_binary(ElementOp op) { return op >= ElementOp::add; }

struct ElementwiseF32Kernel {
  const char* name;
  Isa isa;
  // out[i] = op(a[i], b[i]); `b` is null for one operand. `out` may be an operand.
  void (*apply)(ElementOp op, float p, float q, const float* a, const float* b, float* out,
                int64_t count) noexcept;
};

extern const ElementwiseF32Kernel kElementwiseF32Ref;
extern const ElementwiseF32Kernel kElementwiseF32Avx2;

}  // namespace compress::kernels
