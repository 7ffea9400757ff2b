// Shapes and batches of matrix products (NumPy's matmul rules), float and integer.
#pragma once

#include <cstdint>
#include <vector>

#include "compress/ops/matmul_loops.h"
#include "compress/ops/op.h"

namespace compress {

struct MatMulPlan {
  Shape out;
  int64_t m = 0, n = 0, k = 0;
  // Strides in elements of one matrix of A and B.
  int64_t a_row = 0, a_column = 1;
  int64_t b_row = 0, b_column = 1;
  // First elements of the matrices that product i of the batch reads.
  std::vector<int64_t> a_offsets;
  std::vector<int64_t> b_offsets;

  int64_t batch() const { return static_cast<int64_t>(a_offsets.size()); }
};

// The shape of A B, where either may be transposed (its last two dimensions). Unknown dimensions
// stay unknown. Fails (invalid_model) where the shapes do not fit.
Shape matmul_output(const NodeContext& c, const Shape& a, const Shape& b, bool transpose_a = false,
                    bool transpose_b = false);
// Fails (invalid_model) where the addend in `slot` (Gemm's C) cannot be broadcast to the result.
void check_gemm_bias(const NodeContext& c, int slot, const Shape& out);
// REQUIRES concrete shapes.
MatMulPlan plan_matmul(const NodeContext& c, const Shape& a, const Shape& b,
                       bool transpose_a = false, bool transpose_b = false);

template <class T>
void run_matmul(const MatMulPlan& plan, const T* a, const T* b, T* c) {
  multiply_all<T>(plan.batch(), plan.m, plan.n, plan.k, [&](int64_t i) {
    return Product<T>{{a + plan.a_offsets[static_cast<size_t>(i)], plan.a_row, plan.a_column},
                      {b + plan.b_offsets[static_cast<size_t>(i)], plan.b_row, plan.b_column},
                      c + i * plan.m * plan.n};
  });
}

// Bytes that integer_matmul needs for a and b in 32 bits.
size_t integer_matmul_workspace(const Shape& a, const Shape& b);
// Checks element types of a and b, and zero points (-1: none): one number, or one for each row of a
// or column of b.
void check_integer_matmul(const NodeContext& c, const MatMulPlan& plan, int a, int a_zero, int b,
                          int b_zero);
// acc = (a - a_zero)(b - b_zero) as wrapping 32-bit integers, exactly.
void integer_matmul(const MatMulPlan& plan, const TensorView& a, const TensorView& a_zero,
                    const TensorView& b, const TensorView& b_zero, std::byte* workspace,
                    uint32_t* acc);

}  // namespace compress
