#include <algorithm>
#include <filesystem>

#include "calibration/calibrator.h"
#include "cli/data.h"
#include "cli/data_files.h"
#include "cli/progress.h"
#include "cli/verification.h"
#include "compress/error.h"
#include "passes/pass.h"

namespace compress {
namespace {

struct Command {
  CommonFlags flags;
  StepFlags step;
  std::string model;
  std::vector<std::string> merge;
};

void check_output(const CommonFlags& flags) {
  std::error_code ignored;
  if (flags.output.empty()) fail(ErrorCode::usage, "no output; name the statistics file with -o");
  if (!flags.force && std::filesystem::exists(flags.output, ignored)) {
    fail(ErrorCode::io, "{} exists; --force replaces it", flags.output);
  }
}

int merge(const Command& command) {
  if (command.merge.size() < 2) {
    fail(ErrorCode::usage, "--merge wants at least two statistics files");
  }
  StatisticsSet all = read_statistics(command.merge[0], data_files());
  for (size_t i = 1; i < command.merge.size(); ++i) {
    in_context([&] { return command.merge[i]; },
               [&] { merge_statistics(all, read_statistics(command.merge[i], data_files())); });
  }
  write_statistics(all, command.flags.output, true, data_files());
  if (!command.flags.quiet) {
    print(fmt::format("{}: {} values, {} samples\n", command.flags.output, all.values.size(),
                      all.samples));
  }
  return kDone;
}

// The pipeline runs as quantize would, so that the statistics belong to the graph that it asks
// about; the quantized model is thrown away.
StatisticsSet collect(const Command& command, Model& model, JobData& data, Progress& progress) {
  Recipe recipe;
  recipe.seed = command.flags.seed;
  Json options = command.step.given();
  options["mode"] = "static";
  recipe.steps = {{"quantize", options}};
  StatisticsSet set;
  PipelineOptions pipeline;
  pipeline.lift_opset = convert_opset;
  pipeline.statistics = [&](const Model& at, const StatisticsRequests& wanted, const Options&) {
    StatisticsRequests all = wanted;
    for (auto& [name, request] : all) request.histogram = true;  // whatever calibrator comes later
    progress.stage("calibrating");
    set = collect_statistics(at, *data.calibration, data.calibration_indices, all,
                             progress.callback());
    set.seed = command.flags.seed;
    return set;
  };
  run_pipeline(model, recipe, pipeline);
  return set;
}

int run(const Command& command) {
  const CommonFlags& flags = command.flags;
  apply(flags);
  check_output(flags);
  if (!command.merge.empty()) return merge(command);
  if (command.model.empty()) fail(ErrorCode::usage, "no model; name one, or --merge A --merge B");
  Model model = read_onnx(command.model);
  check_input_shapes(flags, {&model});
  JobData data = open_data(flags, model, true);
  if (data.calibration == nullptr) {
    fail(ErrorCode::usage, "no data to calibrate on; give --data");
  }
  // Nothing is measured here, so that a small set is used whole.
  data.shared = false;
  choose_calibration(data, flags);
  Progress progress(!flags.quiet && !flags.no_progress);
  const StatisticsSet set = collect(command, model, data, progress);
  progress.clear();
  if (set.values.empty()) {
    fail(ErrorCode::unsupported,
         "{} has nothing to calibrate: no part of it is quantized with activations", command.model);
  }
  write_statistics(set, flags.output, true, data_files());
  if (!flags.quiet) {
    print(fmt::format("{}: {} values, {} samples\n", flags.output, set.values.size(), set.samples));
  }
  return kDone;
}

}  // namespace

Run add_calibrate(CLI::App& program) {
  CLI::App* command = program.add_subcommand(
      "calibrate", "run data through a model and keep the ranges for quantize --statistics");
  command->footer(
      "Examples:\n"
      "  compress calibrate model.onnx --data images.json -o ranges.npz\n"
      "  compress quantize model.onnx -o int8.onnx --mode static --statistics ranges.npz\n"
      "  compress calibrate --merge monday.npz --merge tuesday.npz -o both.npz\n");
  auto state = std::make_shared<Command>();
  command->add_option("MODEL", state->model, "the model to read (.onnx)");
  command->add_option("-o,--output", state->flags.output, "the statistics file to write")
      ->type_name("FILE.npz");
  command->add_flag("-f,--force", state->flags.force, "replace an existing output");
  command->add_option("--merge", state->merge, "join files of the same model (repeatable)")
      ->expected(1)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->type_name("FILE");
  command->add_option("-d,--data", state->flags.data, "the samples to run; see docs/data.md")
      ->type_name("PATH");
  command->add_option("--samples", state->flags.samples, "samples, evenly spaced (default 128)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->type_name("N");
  command->add_flag("--allow-random", state->flags.allow_random,
                    "noise where there is no data; the result is hardly usable");
  state->step.add(*command, find_step("quantize").options);
  add_model_flags(*command, state->flags);
  add_run_flags(*command, state->flags);
  return [state] { return run(*state); };
}

}  // namespace compress
