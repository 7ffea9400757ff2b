// SparseGPT (Frantar and Alistarh 2023, arXiv 2301.00774) on one layer.
#pragma once

#include <optional>

#include "compress/core/tensor.h"
#include "passes/prune/granularity.h"
#include "passes/recover/input_gram.h"

namespace compress {

struct SparseGptOptions {
  double sparsity = 0.5;
  bool n_of_m = false;
  int64_t keep = 0, of = 0;
};

// The weights (float32, of a Conv, or two dimensions) with exactly as many zeros as the sparsity
// asks for of each group of a convolution, or N of each M neighbours along the reduction axis kept;
// what is left makes up for what went, as the inputs' Gram matrix says. The result does not depend
// on the number of threads. nullopt where the matrix cannot be inverted.
std::optional<Tensor> sparse_gpt(const Tensor& weights, const WeightAxes& axes,
                                 const InputGram& inputs, const SparseGptOptions& options);

}  // namespace compress
