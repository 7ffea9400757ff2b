#include <algorithm>
#include <chrono>
#include <optional>
#include <set>

#include "compress/core/interruption.h"
#include "compress/core/nearest.h"
#include "compress/error.h"
#include "compress/ops/op.h"
#include "passes/bodies.h"
#include "passes/distill/distill.h"
#include "passes/overrides.h"
#include "passes/pass.h"
#include "passes/select.h"
#include "passes/types.h"

namespace compress {
namespace {

void merge_details(Json& into, const Json& from) {
  for (const auto& [key, value] : from.items()) {
    const bool sums = into.contains(key) && into[key].is_number() && value.is_number();
    if (sums && (into[key].is_number_float() || value.is_number_float())) {
      into[key] = into[key].get<double>() + value.get<double>();
    } else if (sums) {
      into[key] = into[key].get<int64_t>() + value.get<int64_t>();
    } else {
      into[key] = value;
    }
  }
}

void append(PassResult& into, PassResult from) {
  into.changed = into.changed || from.changed;
  std::move(from.skipped.begin(), from.skipped.end(), std::back_inserter(into.skipped));
  merge_details(into.details, from.details);
}

PassResult run_with_bodies(const PassDef& pass, Model& model, PassContext& context) {
  PassResult result = pass.run(model, context);
  if (!pass.bodies) return result;
  for (NodeId id = 0; id < model.graph.node_slots(); ++id) {
    if (!model.graph.node(id).alive) continue;
    for (const Body& body : model.graph.node(id).bodies) {
      BodyModel inner(model, *body.graph);
      append(result, run_with_bodies(pass, inner.model, context));
    }
  }
  return result;
}

class Pipeline {
 public:
  Pipeline(Model& model, const Recipe& recipe, const PipelineOptions& options)
      : model_(model), recipe_(recipe), options_(options) {}

  PipelineResult run() {
    check_names();
    std::string_view before;
    for (const Step& step : recipe_.steps) {
      const StepDef& def = find_step(step.name);
      const Options options = in_context([&] { return fmt::format("step '{}'", step.name); },
                                         [&] { return Options(def.options, step.options); });
      check_op_types(options);
      if (def.optimize_first && before != "optimize") {
        const StepDef& optimize = find_step("optimize");
        run_step(optimize, Options(optimize.options, Json::object()));
      }
      result_.resolved_steps.push_back(Json{{step.name, options.json()}});
      const std::optional<Model> unquantized = quantize_for_training(options);
      TrainingAccess training =
          options_.training != nullptr ? *options_.training : TrainingAccess();
      if (unquantized) training.unquantized = &*unquantized;
      if (!stopped_) {
        const std::vector<std::string> unmatched = unmatched_patterns(def, options);
        run_step(def, options, options_.training != nullptr ? &training : nullptr);
        for (const std::string& text : unmatched) warn(def, text);
      }
      if (stopped_) break;
      before = def.name;
    }
    forget_inferred_types(model_.graph);
    return std::move(result_);
  }

 private:
  void check_names() const {
    std::vector<std::string_view> names;
    for (const PassDef& pass : all_passes()) names.push_back(pass.name);
    std::vector<std::string> wanted = options_.disabled;
    for (const std::string& name : {options_.stop_after, options_.dump_after}) {
      if (!name.empty()) wanted.push_back(name);
    }
    for (const std::string& name : wanted) {
      if (std::find(names.begin(), names.end(), name) == names.end()) {
        fail(ErrorCode::usage, "unknown pass '{}'{}", name, suggestion(name, names));
      }
    }
  }

  // Of PATTERN=VALUE, as the row of --override writes it.
  static std::string_view value_name(const StepDef& step) {
    for (const OptionDef& row : step.options) {
      const size_t from = row.help.find('='), to = row.help.find(':');
      if (row.name == "override" && from < to) return row.help.substr(from + 1, to - from - 1);
    }
    return "VALUE";
  }

  // A name that was mistyped would select nothing without a word.
  std::vector<std::string> unmatched_patterns(const StepDef& step, const Options& options) const {
    std::vector<std::string> out;
    if (options.has("include")) out = Selection(options).unmatched(model_.graph);
    if (!options.has("override")) return out;
    for (const OverrideRow& row : read_overrides(options, value_name(step))) {
      if (matches_any(row, model_.graph)) continue;
      out.push_back(fmt::format("--override '{}' matches no node{}", row.pattern,
                                nearest_label(model_.graph, row.pattern)));
    }
    return out;
  }

  // Fails (usage) where --op-types names what is no operator at all.
  void check_op_types(const Options& options) const {
    if (!options.has("op-types")) return;
    std::set<std::string_view> known;
    for (const auto& family : op_families()) {
      for (const OpDef& op : family) known.insert(op.name);
    }
    for (NodeId id = 0; id < model_.graph.node_slots(); ++id) {
      if (model_.graph.node(id).alive) known.insert(model_.graph.node(id).op_type);
    }
    const std::vector<std::string_view> names(known.begin(), known.end());
    for (const std::string& name : options.list("op-types")) {
      if (known.count(name) > 0) continue;
      const std::string_view near = nearest(name, names);
      fail(ErrorCode::usage, "--op-types: there is no operator '{}'{}", name,
           near.empty() ? "" : fmt::format(" (did you mean '{}'?)", near));
    }
  }

  void warn(const StepDef& step, const std::string& text) {
    for (PassRecord& record : result_.passes) {
      if (record.step != step.name) continue;
      Json& warning = record.details["warning"];
      warning = warning.is_string() ? warning.get<std::string>() + "; " + text : text;
      return;
    }
  }

  bool is_disabled(std::string_view pass) const {
    return std::find(options_.disabled.begin(), options_.disabled.end(), pass) !=
           options_.disabled.end();
  }

  // --qat: the model is quantized as for deployment, and the step trains through the integers.
  // Returns the model of before.
  std::optional<Model> quantize_for_training(const Options& options) {
    if (stopped_ || !options.has("qat") || options.text("qat") == "none") return {};
    const StepDef& optimize = find_step("optimize");
    run_step(optimize, Options(optimize.options, Json::object()));
    Model before = model_;
    const StepDef& quantize = find_step("quantize");
    const Json static_weights = {{"mode", "static"}, {"weights", options.text("qat")}};
    if (!stopped_) run_step(quantize, Options(quantize.options, static_weights));
    return before;
  }

  void run_step(const StepDef& step, const Options& options,
                const TrainingAccess* training = nullptr) {
    PassContext context{options,
                        recipe_.seed,
                        nullptr,
                        options_.lift_opset ? &options_.lift_opset : nullptr,
                        static_cast<bool>(options_.statistics),
                        options_.samples ? &options_.samples : nullptr,
                        training,
                        options_.sizes_only};
    const PipelineResult earlier = result_;
    useful_ = false;
    before_.reset();
    run_rounds(step, options, context);
    if (before_ && !useful_ && !stopped_) take_back(earlier);
    before_.reset();
  }

  void run_rounds(const StepDef& step, const Options& options, PassContext& context) {
    StatisticsSet statistics;
    bool asked = false;
    for (int round = 0; round < step.max_rounds; ++round) {
      bool changed = false;
      for (const PassDef& pass : all_passes()) {
        if (pass.step != step.name || is_disabled(pass.name)) continue;
        if (pass.needs_statistics && !asked && options_.statistics && step.wants != nullptr) {
          asked = true;
          infer_known_types(model_);
          const StatisticsRequests wanted = step.wants(model_, options);
          if (!wanted.empty()) {
            statistics = options_.statistics(model_, wanted, options);
            context.statistics = &statistics;
          }
        }
        const bool is_first = pass.serves && !useful_ && !before_;
        if (is_first) before_ = model_;
        const bool now = run_pass(pass, context, round);
        if (useful_ || (is_first && !now)) before_.reset();
        changed = changed || now;
        if (options_.stop_after == pass.name) stopped_ = true;
        if (stopped_) return;
      }
      if (!changed) return;
    }
  }

  bool run_pass(const PassDef& pass, PassContext& context, int round) {
    check_interruption();
    const auto start = std::chrono::steady_clock::now();
    PassResult result = in_context([&] { return fmt::format("in pass {}", pass.name); },
                                   [&] {
                                     PassResult out = run_with_bodies(pass, model_, context);
                                     check_graph(model_.graph);
                                     return out;
                                   });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    log(fmt::format("{} (round {}): {}, {:.1f} ms, {} nodes{}", pass.name, round + 1,
                    result.changed ? "changed" : "unchanged", seconds.count() * 1e3,
                    model_.graph.node_count(),
                    result.details.empty() ? "" : " " + result.details.dump()));
    if (options_.dump_after == pass.name) log(print_graph(model_.graph));
    const bool changed = result.changed;
    useful_ = useful_ || (changed && !pass.serves);
    record(pass, std::move(result), seconds.count());
    return changed;
  }

  // Nothing came of what the step's passes prepared.
  void take_back(const PipelineResult& earlier) {
    model_ = std::move(*before_);
    result_.changed = earlier.changed;
    for (size_t i = 0; i < result_.passes.size(); ++i) {
      result_.passes[i].changed = i < earlier.passes.size() && earlier.passes[i].changed;
    }
  }

  void record(const PassDef& pass, PassResult result, double seconds) {
    result_.changed = result_.changed || result.changed;
    auto row = std::find_if(result_.passes.begin(), result_.passes.end(), [&](const auto& record) {
      return record.name == pass.name && record.step == pass.step;
    });
    if (row == result_.passes.end()) {
      row = result_.passes.emplace(row);
      row->name = pass.name;
      row->step = pass.step;
    }
    row->seconds += seconds;
    row->changed = row->changed || result.changed;
    row->skipped = std::move(result.skipped);  // what the last round still had to leave
    merge_details(row->details, result.details);
  }

  void log(std::string_view line) const {
    if (options_.log) options_.log(line);
  }

  Model& model_;
  const Recipe& recipe_;
  const PipelineOptions& options_;
  PipelineResult result_;
  bool stopped_ = false;
  // In this step, a pass that is there for itself has changed something.
  bool useful_ = false;
  // The model before the first that is there for others did; not kept longer than it may be needed.
  std::optional<Model> before_;
};

}  // namespace

PipelineResult run_pipeline(Model& model, const Recipe& recipe, const PipelineOptions& options) {
  return Pipeline(model, recipe, options).run();
}

}  // namespace compress
