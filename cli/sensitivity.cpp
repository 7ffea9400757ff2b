#include <algorithm>
#include <chrono>

#include "cli/data_files.h"
#include "cli/machine.h"
#include "cli/search.h"
#include "cli/verification.h"
#include "compress/error.h"

namespace compress {
namespace {

constexpr int64_t kSamples = 64;  // damages of layers settle early

struct Command {
  CommonFlags flags;
  StepFlags step;
  std::string model;
  std::string metric;
  std::string plot;
  std::vector<std::string> precisions;
};

// The precisions of a layer: those asked for, else what quantize would take first.
std::vector<std::string> precisions_for(const Command& command, const SearchLayer& layer) {
  if (!command.precisions.empty()) return command.precisions;
  for (const std::string& rung : layer.ladder) {
    if (rung.starts_with("static/int8")) return {rung};
  }
  return {"weight-only/int4/block:32"};
}

// Half of a small set calibrates; those are left out here unless that leaves nothing.
std::vector<int64_t> samples_of(JobData& data, const CommonFlags& flags) {
  CommonFlags few = flags;
  if (few.eval_samples == 0) few.eval_samples = kSamples;
  choose_calibration(data, flags);
  choose_evaluation(data, few, true);
  return data.evaluation_indices;
}

int run(const Command& command) {
  const CommonFlags& flags = command.flags;
  const auto start = std::chrono::steady_clock::now();
  apply(flags);
  if (!command.plot.empty() && !command.plot.ends_with(".svg")) {
    fail(ErrorCode::usage, "--plot {}: the name ends in .svg", command.plot);
  }
  const Model input = read_onnx(command.model);
  check_input_shapes(flags, {&input});
  JobData data = open_data(flags, input, true);
  if (data.evaluation == nullptr || data.calibration == nullptr) {
    fail(ErrorCode::usage, "sensitivity is measured on samples; give --data");
  }
  Progress progress(!flags.quiet && !flags.no_progress);
  SearchSettings settings;
  settings.seed = flags.seed;
  settings.options = command.step.given();
  if (settings.options.contains("override")) {
    fail(ErrorCode::usage, "sensitivity sets one layer at a time: --precision, not --override");
  }
  KeptSamples samples(*data.evaluation);
  const std::vector<int64_t> indices = samples_of(data, flags);
  SharedCalibration calibration(data, flags, progress);
  Model optimized = input;
  Recipe recipe;
  recipe.seed = flags.seed;
  recipe.steps = {{"optimize", Json::object()}};
  run_pipeline(optimized, recipe, calibration.options());

  ReferenceOutputs seen(optimized, samples, indices, search_evaluate_options(flags));
  const MetricChoice metric = choose_metric(command.metric, samples, seen.damage());
  settings.metric = metric.name;
  settings.relative = metric.relative;
  Report report;
  report.sensitivity = SensitivityReport{std::string(damage_name(seen.damage())),
                                         metric.name,
                                         static_cast<int64_t>(indices.size()),
                                         {}};
  VariantMeter meter(seen);
  const std::vector<SearchLayer> layers = search_layers(optimized);
  progress.stage("measuring layers");
  for (size_t i = 0; i < layers.size(); ++i) {
    progress.update(static_cast<int64_t>(i), static_cast<int64_t>(layers.size()));
    for (const std::string& precision : precisions_for(command, layers[i])) {
      const SensitivityRow row = measure_layer(meter, seen, layers[i], precision, settings.options,
                                               settings, calibration.options());
      report.sensitivity->rows.push_back(row);
    }
  }
  progress.clear();
  report.command = "sensitivity";
  report.version = program_version();
  report.build = program_build();
  report.machine = machine_info();
  report.seed = flags.seed;
  report.reference = summarize(input, command.model);
  report.data = data.evaluation->description();
  report.notes = data.notes;
  report.notes.push_back(fmt::format("{} variants ran from kept values, {} from the start",
                                     meter.cut_runs(), meter.whole_runs()));
  if (!command.plot.empty()) write_text(command.plot, sensitivity_svg(*report.sensitivity));
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return finish(report, {}, flags);
}

}  // namespace

Run add_sensitivity(CLI::App& program) {
  CLI::App* command = program.add_subcommand(
      "sensitivity", "one layer at a time, measured: which layers cost accuracy");
  command->footer(
      "Examples:\n"
      "  compress sensitivity cnn.onnx --data images.json --report layers.html\n"
      "  compress sensitivity bert.onnx --data dev.npz --precision weight-only/int4/block:32\n"
      "Each layer alone gets the precision, all others stay float32; what the float model "
      "computes\n"
      "ahead of it is computed once. quantize --max-drop uses the same measurements.\n");
  auto state = std::make_shared<Command>();
  command->add_option("MODEL", state->model, "the model to read (.onnx)")->required();
  command
      ->add_option("--precision", state->precisions,
                   "measure each layer in this, as static/int8/channel (repeatable; default: int8 "
                   "static for convolutions, int4 blocks else)")
      ->expected(1)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->type_name("PRECISION");
  command->add_option("--metric", state->metric, "whose drop stands in the table")
      ->type_name("METRIC");
  command->add_option("--plot", state->plot, "write the table as a picture")->type_name("FILE.svg");
  add_data_flags(*command, state->flags, true);
  state->step.add(*command, find_step("quantize").options);
  add_report_flags(*command, state->flags);
  add_model_flags(*command, state->flags);
  add_run_flags(*command, state->flags);
  return [state] { return run(*state); };
}

}  // namespace compress
