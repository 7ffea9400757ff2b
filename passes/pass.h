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
#include "compress/runtime/sample_source.h"

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

// Lifts the default opset of a model; injected, since passes do not include formats.
using LiftOpset = std::function<void(Model&, int opset)>;

// Calibration data itself, for passes that measure again and again while they rewrite. The source
// outlives the pipeline.
struct CalibrationSamples {
  SampleSource* source = nullptr;
  std::vector<int64_t> indices;
};

struct TrainingAccess;  // passes/distill/distill.h

struct PassContext {
  const Options& options;
  uint64_t seed = 0;
  // Statistics of activations by value name; null where there are none (no data).
  const StatisticsSet* statistics = nullptr;
  const LiftOpset* lift_opset = nullptr;  // null where the caller gave no converter
  bool has_data = false;                  // statistics can be had
  // Null: there is no data, or only a file of statistics.
  const std::function<CalibrationSamples()>* samples = nullptr;
  const TrainingAccess* training = nullptr;  // null where no step trains
  bool sizes_only = false;                   // tensors had better be computed when they are read
};

struct PassDef {
  std::string_view name;     // verb_object, as in files: "fuse_batch_norm"
  std::string_view step;     // the step (subcommand) that runs it: "optimize"
  std::string_view summary;  // one line
  PassResult (*run)(Model& model, PassContext& context);
  bool bodies = false;            // also runs on the bodies of If, Loop and Scan, each as a model
  bool needs_statistics = false;  // StepDef::wants is asked before the first such pass of a step
  // There for other passes of its step: what it changed is taken back where none of them did.
  bool serves = false;
};

// The passes of a step, in the order they run.
std::span<const PassDef> all_passes();

struct StepDef {
  std::string_view name;
  std::string_view summary;
  std::span<const OptionDef> options;
  // Which statistics the step needs of which values of the (already optimized) model; null: none.
  // Asked only where the pipeline can give statistics.
  StatisticsRequests (*wants)(const Model& model, const Options& options) = nullptr;
  int max_rounds = 1;           // the passes repeat while one changes something, at most so often
  bool optimize_first = false;  // runs "optimize" with its defaults unless the step before was it
};
std::span<const StepDef> all_steps();
// Fails (usage) naming the nearest.
const StepDef& find_step(std::string_view name);

// --- The pipeline --------------------------------------------------------------------------------

// One a pass and step, in the order of first execution; rounds are summed.
struct PassRecord {
  std::string name;
  std::string step;
  double seconds = 0;
  bool changed = false;
  std::vector<Skipped> skipped;
  Json details = Json::object();
};

struct PipelineOptions {
  std::vector<std::string> disabled;  // pass names
  std::string stop_after;
  std::string dump_after;                     // print_graph goes to `log` after this pass
  std::function<void(std::string_view)> log;  // one line a pass; may be empty
  // Gives statistics for a model at the point where the step runs (calibration, or a file). Empty:
  // there is no data. The model's types are inferred.
  std::function<StatisticsSet(const Model&, const StatisticsRequests&, const Options&)> statistics;
  LiftOpset lift_opset;  // formats' convert_opset; empty: models stay at their opset
  // Asked where a pass needs the samples themselves; empty: there are none.
  std::function<CalibrationSamples()> samples;
  const TrainingAccess* training = nullptr;  // what steps that train need
  bool sizes_only = false;  // quantized weights are computed when they are read, if ever
};

struct PipelineResult {
  bool changed = false;
  std::vector<PassRecord> passes;
  std::vector<Json> resolved_steps;  // steps with every option filled in
};

// Runs the recipe's steps on the model. Errors gain the pass's name as context.
PipelineResult run_pipeline(Model& model, const Recipe& recipe, const PipelineOptions& options);

}  // namespace compress
