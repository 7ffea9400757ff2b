// Permutes the axes of a tensor whose elements have four bytes.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "compress/kernels/float_rows/transpose_32_kernel.h"

namespace compress::kernels {

// Axes that stay neighbours are merged. A move is of runs (`run` elements that stay together) or of
// matrices that are turned.
struct Transpose32 {
  std::vector<int64_t> dims;     // of the output, what is not in run or matrix
  std::vector<int64_t> strides;  // into the input, by dimension of `dims`
  std::vector<int64_t> to;       // into the output
  int64_t outer = 1;             // product of dims
  int64_t run = 1;
  bool turned = false;
  // turned: out[c * out_stride + r] = in[r * in_stride + c]
  int64_t rows = 1, columns = 1, in_stride = 0, out_stride = 0;
};

Transpose32 plan_transpose_32(std::span<const int64_t> dims, std::span<const int64_t> perm);

std::span<const Transpose32Kernel* const> transpose_32_kernels() noexcept;
const Transpose32Kernel& best_transpose_32() noexcept;

void transpose_32(const Transpose32& plan, const uint32_t* in, uint32_t* out,
                  const Transpose32Kernel& kernel = best_transpose_32()) noexcept;

}  // namespace compress::kernels
