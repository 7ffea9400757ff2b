// Zeros in structures: N of each M, and blocks.
#pragma once

#include "passes/prune/candidates.h"

namespace compress {

// Prunes every candidate by element, N:M or block. REQUIRES that all have axes, except for
// elements. Fails (usage) where N:M is to hold over the whole model.
void zero_least(Candidates& candidates, const Granularity& granularity,
                const Sparsities& sparsities, bool together, PruneReport& report);

// One a weight: 1 where it goes.
using PruneMask = std::vector<uint8_t>;

// Of each `of` neighbours along the reduction axis, all but the `keep` largest, lower indices first
// among equal ones. Groups begin anew with each segment; a shorter last one keeps as many.
PruneMask mask_n_of_m(const PruneTarget& target, const WeightAxes& axes, int64_t keep, int64_t of);

// Of each output's weights the share `sparsity`, the smallest first. REQUIRES an output axis that
// comes first, or two dimensions.
PruneMask mask_outputs(const PruneTarget& target, const WeightAxes& axes, double sparsity);

// Blocks of rows x columns (outputs x inputs) at every other coordinate, smaller ones at the edges.
struct WeightBlocks {
  std::vector<double> sizes;  // root mean squares, in order of their first element's coordinates
};
WeightBlocks measure_blocks(const PruneTarget& target, const WeightAxes& axes, int64_t rows,
                            int64_t columns);
// `goes[b]`: block b becomes zero.
PruneMask mask_blocks(const PruneTarget& target, const WeightAxes& axes, int64_t rows,
                      int64_t columns, const std::vector<bool>& goes);
// The smallest blocks of one tensor.
PruneMask mask_smallest_blocks(const PruneTarget& target, const WeightAxes& axes,
                               const Granularity& granularity, double sparsity);

}  // namespace compress
