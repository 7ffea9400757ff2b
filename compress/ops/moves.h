// Nodes that only move elements, as copies with strides: for kernels on other devices.
#pragma once

#include <optional>
#include <vector>

#include "compress/ops/op.h"

namespace compress {

// output[to + sum of to_strides] = input[from + sum of from_strides] over all of `dims`, counted in
// elements.
struct MovedBlock {
  int input = 0, output = 0;
  std::vector<int64_t> dims, from_strides, to_strides;
  int64_t from = 0, to = 0;
};

// What Transpose, Expand, Slice, Concat and Split do; nothing for other operators, and where an
// operand that decides it is not known. REQUIRES concrete types.
std::optional<std::vector<MovedBlock>> moves_of(const NodeContext& context);

// Axes of a Reduce node in [0, rank); nothing where they are not known.
std::optional<std::vector<int>> reduced_axes(const NodeContext& context);

}  // namespace compress
