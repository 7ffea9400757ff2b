// What --granularity names, and how a weight tensor is a matrix of outputs by inputs.
#pragma once

#include <optional>
#include <vector>

#include "compress/recipe.h"
#include "passes/weights.h"

namespace compress {

enum class PruneUnit { element, n_of_m, block, channel, head };

struct Granularity {
  PruneUnit unit = PruneUnit::element;
  int64_t keep = 0;  // n:m: `keep` of each `of` neighbours along the inputs stay
  int64_t of = 0;
  int64_t rows = 1;  // block: outputs by inputs
  int64_t columns = 1;
};

// True where what is pruned leaves the model, false where weights become zero.
inline bool removes(PruneUnit unit) {
  return unit == PruneUnit::channel || unit == PruneUnit::head;
}

// Fails (usage) where --granularity is none of element, N:M, block:RxC, channel and head.
Granularity read_granularity(const Options& options);

// --sparsity, or what N:M implies. Fails (usage) where the two contradict each other.
double read_sparsity(const Options& options, const Granularity& granularity);

// Axes of a weight constant. Outputs are sums over the reduction axis, in pieces of `segment` (the
// inputs of one group of a convolution), and over whatever axes are neither (the taps of a kernel).
struct WeightAxes {
  int reduction = 0;
  int64_t segment = 0;
  int output = -1;  // -1: a single output

  bool operator==(const WeightAxes& other) const = default;
};

// Of the constant behind a weight read, seen through Transpose, Cast and Q/DQ; nullopt where
// something else (Reshape, the border of a body) is in between, or the weight is a table.
std::optional<WeightAxes> weight_axes(const WeightRead& read);

}  // namespace compress
