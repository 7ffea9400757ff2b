// Magnitude pruning: the smallest weights of each tensor (--scope layer) or of the whole model
// (--scope global) become zero, exactly as many as the sparsity asks for, ties by index. Blocks go
// by the root of their mean square; of N:M each group keeps its N largest.
#include "compress/error.h"
#include "passes/prune/candidates.h"
#include "passes/prune/masks.h"
#include "passes/prune/prune.h"

namespace compress {
namespace {

void prune_elements(std::vector<Candidate>& candidates, double sparsity, bool together,
                    PruneReport& report) {
  std::vector<const PruneTarget*> targets;
  int64_t count = 0;
  for (const Candidate& candidate : candidates) {
    targets.push_back(&candidate.target);
    count += candidate.target.tensor.count();
  }
  if (targets.empty()) return;
  Threshold shared;
  if (together) shared = select_smallest(targets, wanted_zeros(sparsity, count));
  for (Candidate& candidate : candidates) {
    const PruneTarget& target = candidate.target;
    Threshold own;
    if (!together) own = select_smallest({&target}, wanted_zeros(sparsity, target.tensor.count()));
    report.set(candidate, zero_smallest(target, together ? shared : own));
  }
}

}  // namespace

PassResult prune_magnitude(Model& model, PassContext& context) {
  const Granularity granularity = read_granularity(context.options);
  const double sparsity = read_sparsity(context.options, granularity);
  const bool together = context.options.text("scope") == "global";
  Candidates candidates =
      find_candidates(model, context.options, granularity.unit != PruneUnit::element);
  PruneReport report;
  if (granularity.unit == PruneUnit::element) {
    prune_elements(candidates.chosen, sparsity, together, report);
  } else {
    prune_structures(candidates, granularity, sparsity, together, report);
  }
  return report.result(std::move(candidates.skipped));
}

}  // namespace compress
