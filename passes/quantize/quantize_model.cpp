// Chooses the mode and runs it. What could not be quantized is listed with its reason.
#include "compress/error.h"
#include "passes/quantize/keep_float.h"
#include "passes/quantize/precision.h"
#include "passes/quantize/target.h"
#include "passes/recover/recover_static.h"

namespace compress {
namespace {

void refuse_recovery(const QuantJob& job, std::string_view mode) {
  const RecoverOptions recover = recover_options(job.options);  // a wrong name is said first
  const bool only_rounds = !recover.bias && !recover.equalize && !recover.smooth;
  if (mode != "static" && !job.options.list("recover").empty() &&
      (mode != "weight-only" || !only_rounds)) {
    fail(ErrorCode::usage, "--recover is for --mode static{}, this is {}",
         mode == "weight-only" ? " (but for adaround)" : "", mode);
  }
  if (mode == "weight-only" && !job.options.list("recover").empty() &&
      is_half(weight_dtype(job.options, QuantMode::weight_only))) {
    fail(ErrorCode::usage, "--recover is for integer weights, these are {}",
         job.options.text("weights"));
  }
  if (mode != "static" && job.options.has("min-cosine")) {
    fail(ErrorCode::usage, "--min-cosine is for --mode static, this is {}", mode);
  }
  if (mode != "static" && job.options.has("format") && job.options.text("format") == "qoperator") {
    fail(ErrorCode::usage, "--format qoperator is for --mode static, this is {}", mode);
  }
  const std::string algorithm = job.options.text("algorithm");
  if (algorithm == "rtn" || mode == "weight-only") return;
  if (algorithm == "gptq" && mode == "static") return;
  fail(ErrorCode::usage, "--algorithm {} is for --mode {}weight-only, this is {}", algorithm,
       algorithm == "gptq" ? "static and " : "", mode);
}

void quantize_and_recover(QuantJob& job) {
  const RecoverOptions recover = recover_options(job.options);
  if (!recover) return quantize_static(job);
  const CalibrationSamples samples = calibration_samples(
      job, job.options.list("recover").empty() ? "--algorithm gptq" : "--recover");
  const Model reference = job.model;
  quantize_static(job);
  recover_static(job.model, reference, job.layers, recover, samples, job.result);
}

void quantize_static_and_recover(QuantJob& job) {
  if (!job.options.has("min-cosine")) return quantize_and_recover(job);
  quantize_above(job, job.options.number("min-cosine"), quantize_and_recover);
}

}  // namespace

CalibrationSamples calibration_samples(const QuantJob& job, std::string_view what) {
  if (job.samples == nullptr) {
    fail(ErrorCode::usage, "{} runs samples; give --data (a file of statistics is not enough)",
         what);
  }
  CalibrationSamples samples = (*job.samples)();
  if (samples.indices.empty()) fail(ErrorCode::usage, "{} runs samples; there are none", what);
  return samples;
}

namespace {

// Runs one mode on the nodes that `restrict` leaves it.
void run_mode(QuantJob& job, QuantMode mode, bool has_data) {
  switch (mode) {
    case QuantMode::static_:
      if (!has_data) {
        fail(ErrorCode::usage,
             "static quantization needs calibration data: --data, or --statistics");
      }
      refuse_recovery(job, "static");
      if (!target_of(job.options).has_integer_kernels) {
        job.result.details["warning"] =
            "ONNX Runtime's CUDA provider has no integer kernels for Q/DQ: the model will be "
            "smaller, and slower than float; --mode float16 is what is fast there";
      }
      return quantize_static_and_recover(job);
    case QuantMode::dynamic:
      refuse_recovery(job, "dynamic");
      return quantize_dynamic(job);
    case QuantMode::weight_only:
      refuse_recovery(job, "weight-only");
      return is_half(weight_dtype(job.options, mode)) ? store_half(job) : quantize_weights(job);
    case QuantMode::half:  // a pass of its own
    case QuantMode::none:
      return;
  }
}

void take_results(QuantJob& from, QuantJob& into) {
  into.quantized += from.quantized;
  auto& rows = from.result.skipped;
  std::move(rows.begin(), rows.end(), std::back_inserter(into.result.skipped));
  for (const auto& [key, value] : from.result.details.items()) into.result.details[key] = value;
}

// The operators of the nodes of one precision: patterns name convolutions as well, which a mode
// leaves alone by default.
Json op_types_of(const Graph& graph, const Overrides& overrides, const Precision& precision) {
  std::set<std::string> types;
  for (NodeId id = 0; id < graph.node_slots(); ++id) {
    const Node& node = graph.node(id);
    if (!node.alive) continue;
    const Precision* own = overrides.find(graph, node);
    if (own != nullptr && own->text == precision.text) types.insert(node.op_type);
  }
  return Json(types);
}

}  // namespace

PassResult quantize_model(Model& model, PassContext& context) {
  const ModeChoice choice = choose_mode(model, context.options, context.has_data);
  QuantJob job{model, context.options, context.statistics, Selection(context.options)};
  job.samples = context.samples;
  job.sizes_only = context.sizes_only;
  job.result.details = {{"mode", mode_name(choice.mode)}, {"why", choice.why}};
  if (choice.mode == QuantMode::none) {
    job.skip("", choice.why);
    return std::move(job.result);
  }
  const Overrides overrides(context.options);
  const Graph& graph = model.graph;
  const bool by_default = choice.mode == QuantMode::static_;
  // What is quantized statically hangs together by its scales, so it goes at once, and first: the
  // others change names.
  if (by_default || overrides.has(QuantMode::static_)) {
    const Options options =
        by_default ? context.options : options_for(context.options, parse_precision("static"));
    QuantJob part{model, options, context.statistics, Selection(options)};
    part.samples = context.samples;
    part.sizes_only = context.sizes_only;
    part.overrides = &overrides;
    restrict_to_static(part.selection, graph, overrides, by_default);
    run_mode(part, QuantMode::static_, context.has_data);
    take_results(part, job);
  }
  for (const Precision* precision : overrides.kinds()) {
    if (precision->mode != QuantMode::dynamic && precision->mode != QuantMode::weight_only)
      continue;
    Json json = options_for(context.options, *precision).json();
    json["op-types"] = op_types_of(graph, overrides, *precision);
    if (json["op-types"].empty()) continue;
    const Options options(find_step("quantize").options, json);
    QuantJob part{model, options, context.statistics, Selection(options)};
    part.samples = context.samples;
    part.sizes_only = context.sizes_only;
    part.restrict = [&overrides, precision](Selection& selection, const Graph& scope) {
      restrict_to(selection, scope, overrides, precision->text);
    };
    part.restrict(part.selection, graph);
    run_mode(part, precision->mode, context.has_data);
    part.result.skipped.clear();  // all that other precisions took
    take_results(part, job);
  }
  if (!by_default) {
    job.restrict = [&overrides](Selection& selection, const Graph& scope) {
      restrict_to(selection, scope, overrides, "");
    };
    job.restrict(job.selection, graph);
    run_mode(job, choice.mode, context.has_data);
  }
  job.result.changed = job.quantized > 0;
  job.result.details["quantized_nodes"] = job.quantized;
  return std::move(job.result);
}

}  // namespace compress
