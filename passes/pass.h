// A pass is a row: a name, options, and a function on the graph. Only the pipeline times, logs,
// recurses into bodies, checks invariants after each, and honours --disable and --dump-after.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "compress/graph/model.h"
#include "compress/quant/statistics.h"
#include "compress/recipe.h"

namespace compress {

struct Skipped {
  std::string node;
  std::string reason;
};

struct PassResult {
  bool changed = false;
  std::vector<Skipped> skipped;
  Json details = Json::object();  // figures for the report: counts, sparsity per layer
};

struct PassContext {
  const Options& options;
  uint64_t seed = 0;
  // Statistics of activations by value name; null where the pass asked for none.
  const StatisticsSet* statistics = nullptr;
};

struct PassDef {
  std::string_view name;     // verb_object, as in files: "fuse_batch_norm"
  std::string_view step;     // the step (subcommand) that runs it: "optimize"
  std::string_view summary;  // one line
  PassResult (*run)(Model& model, PassContext& context);
};

// The passes of a step, in the order they run.
std::span<const PassDef> all_passes();

struct StepDef {
  std::string_view name;
  std::string_view summary;
  std::span<const OptionDef> options;
  // Which statistics the step needs of which values of the (already optimized) model; null: none.
  StatisticsRequests (*wants)(const Model& model, const Options& options);
};
std::span<const StepDef> all_steps();
// Fails (usage) naming the nearest.
const StepDef& find_step(std::string_view name);

// --- The pipeline --------------------------------------------------------------------------------

struct PassRecord {
  std::string name;
  double seconds = 0;
  bool changed = false;
  std::vector<Skipped> skipped;
  Json details = Json::object();
};

struct PipelineOptions {
  std::vector<std::string> disabled;  // pass names
  std::string stop_after;
  std::string dump_after;
  std::function<void(std::string_view)> log;  // one line a pass; may be empty
  // Gives statistics for a model at the point where the step runs (calibration, or a file).
  std::function<StatisticsSet(const Model&, const StatisticsRequests&, const Options&)> statistics;
};

struct PipelineResult {
  bool changed = false;
  std::vector<PassRecord> passes;
  std::vector<Json> resolved_steps;  // steps with every option filled in
};

// Runs the recipe's steps on the model. Errors gain the pass's name as context.
PipelineResult run_pipeline(Model& model, const Recipe& recipe, const PipelineOptions& options);

}  // namespace compress
