// Chains of element-by-element work in one pass over memory: a small program runs on blocks that
// stay in the first cache.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "compress/kernels/float_rows/elementwise_f32_kernel.h"

namespace compress::kernels {

// Operands and results are numbered: inputs first, then registers.
struct ElementStep {
  ElementOp op = ElementOp::add;
  int a = 0, b = -1;
  int to = 0;
  float p = 0, q = 0;
};

struct ElementProgram {
  static constexpr int kMaxInputs = 8;
  static constexpr int kMaxRegisters = 8;

  int inputs = 0;
  std::vector<ElementStep> steps;  // the last one makes the output
};

// How the elements of an input lie against those of the output. Dimensions are merged where every
// input allows it.
struct ElementLayout {
  enum class Kind { whole, single, spread };
  std::vector<int64_t> dims;
  int64_t count = 1;
  struct Input {
    Kind kind = Kind::whole;
    std::vector<int64_t> strides;  // spread: by dimension of `dims`, 0 where it is repeated
  };
  std::vector<Input> inputs;
};

// Shapes broadcast as ONNX's do. REQUIRES that each fits `out`.
ElementLayout element_layout(std::span<const int64_t> out,
                             std::span<const std::vector<int64_t>> inputs);

std::span<const ElementwiseF32Kernel* const> elementwise_f32_kernels() noexcept;
const ElementwiseF32Kernel& best_elementwise_f32() noexcept;

// `out` may be an input of kind `whole`.
void run_elements(const ElementProgram& program, const ElementLayout& layout,
                  std::span<const float* const> inputs, float* out,
                  const ElementwiseF32Kernel& kernel = best_elementwise_f32()) noexcept;

// One step, with its parameters: what follows a product or a convolution.
struct ActivationF32 {
  bool has = false;
  ElementOp op = ElementOp::clip;
  float p = 0, q = 0;
};

// In place; split over threads.
void activate_f32(const ActivationF32& activation, float* values, int64_t count) noexcept;

}  // namespace compress::kernels
