// Pruning by what the loss would do (passes/prune/taylor.h): elements, N:M and blocks.
#include "compress/error.h"
#include "passes/prune/masks.h"
#include "passes/prune/prune.h"
#include "passes/prune/taylor.h"

namespace compress {

PassResult prune_taylor(Model& model, PassContext& context) {
  const Granularity granularity = read_granularity(context.options);
  if (removes(granularity.unit) || context.options.text("method") != "taylor") return {};
  if (context.samples == nullptr) {
    fail(ErrorCode::usage, "--method taylor asks what a loss would do, on samples; give --data");
  }
  const Sparsities sparsities(context.options, granularity);
  Candidates candidates =
      find_candidates(model, context.options, granularity.unit != PruneUnit::element);
  const CalibrationSamples samples = (*context.samples)();
  rank_by_taylor(model, candidates, samples, context.seed);
  PruneReport report;
  zero_least(candidates, granularity, sparsities, context.options.text("scope") == "global",
             report);
  return report.result(std::move(candidates.skipped));
}

}  // namespace compress
