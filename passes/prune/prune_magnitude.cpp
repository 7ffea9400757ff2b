// Magnitude pruning: the smallest weights of each tensor (--scope layer) or of the whole model
// (--scope global) become zero, exactly as many as the sparsity asks for, ties by index. Blocks go
// by the root of their mean square; of N:M each group keeps its N largest.
#include "passes/prune/candidates.h"
#include "passes/prune/masks.h"
#include "passes/prune/prune.h"

namespace compress {
PassResult prune_magnitude(Model& model, PassContext& context) {
  const Granularity granularity = read_granularity(context.options);
  if (removes(granularity.unit) || context.options.text("method") != "magnitude") return {};
  const Sparsities sparsities(context.options, granularity);
  const bool together = context.options.text("scope") == "global";
  Candidates candidates =
      find_candidates(model, context.options, granularity.unit != PruneUnit::element);
  PruneReport report;
  zero_least(candidates, granularity, sparsities, together, report);
  return report.result(std::move(candidates.skipped));
}

}  // namespace compress
