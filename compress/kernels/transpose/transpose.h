// Permutes the axes of a tensor whose elements have four bytes or one.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "compress/kernels/transpose/transpose_kernel.h"

namespace compress::kernels {

// Axes that stay neighbours are merged. A move is of runs (`run` elements that stay together) or of
// matrices that are turned.
struct Transpose {
  std::vector<int64_t> dims;     // of the output, what is not in run or matrix
  std::vector<int64_t> strides;  // into the input, by dimension of `dims`
  std::vector<int64_t> to;       // into the output
  int64_t outer = 1;             // product of dims
  int64_t run = 1;
  bool turned = false;
  // turned: out[c * out_stride + r] = in[r * in_stride + c]
  int64_t rows = 1, columns = 1, in_stride = 0, out_stride = 0;
};

Transpose plan_transpose(std::span<const int64_t> dims, std::span<const int64_t> perm);

std::span<const TransposeKernel* const> transpose_kernels() noexcept;
const TransposeKernel& best_transpose() noexcept;

void transpose(const Transpose& plan, const uint32_t* in, uint32_t* out,
               const TransposeKernel& kernel = best_transpose()) noexcept;
void transpose(const Transpose& plan, const uint8_t* in, uint8_t* out,
               const TransposeKernel& kernel = best_transpose()) noexcept;

}  // namespace compress::kernels
