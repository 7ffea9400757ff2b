#include <chrono>

#include "cli/machine.h"
#include "cli/verification.h"
#include "compress/error.h"
#include "formats/onnx.h"

namespace compress {
namespace {

struct Command {
  CommonFlags flags;
  std::string reference;
  std::string candidate;
};

int run(const Command& command) {
  const auto start = std::chrono::steady_clock::now();
  const CommonFlags& flags = command.flags;
  apply(flags);
  const GateSet gates = read_gates(flags);
  const Model reference = read_onnx(command.reference);
  const Model candidate = read_onnx(command.candidate);
  JobData data = open_data(flags, reference, false);
  choose_evaluation(data, flags, false);
  check_measurable(gates, flags, data.evaluation);
  Report report;
  report.command = "verify";
  report.version = program_version();
  report.build = program_build();
  report.machine = machine_info();
  report.seed = flags.seed;
  report.reference = summarize(reference, command.reference);
  report.candidate = summarize(candidate, command.candidate);
  Progress progress(!flags.quiet && !flags.no_progress);
  verify_models(reference, candidate, data, flags, progress, report);
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return finish(report, gates, flags);
}

std::string metric_help() {
  std::string out =
      "Gates: METRIC OP NUMBER[%], OP one of <= >= < > ==. Metrics (each also with "
      "_drop and _drop_rel):\n";
  for (const MetricDef& metric : all_metrics()) {
    out += fmt::format("  {:<18} {}\n", metric.name, metric.summary);
  }
  return out;
}

}  // namespace

Run add_verify(CLI::App& program) {
  CLI::App* command =
      program.add_subcommand("verify", "compare two models: accuracy, distortion, speed, memory");
  command->footer(
      "Examples:\n"
      "  compress verify model.onnx int8.onnx --data images.json\n"
      "  compress verify model.onnx int8.onnx --data test.npz --gate 'top1_drop<=1%' \\\n"
      "      --gate 'speedup>=1.2' --report report.md\n"
      "Without data: sizes, weights, and speed on noise.\n\n" +
      metric_help());
  auto state = std::make_shared<Command>();
  command->add_option("REFERENCE", state->reference, "the model to compare with")->required();
  command->add_option("CANDIDATE", state->candidate, "the model to judge")->required();
  add_data_flags(*command, state->flags, false);
  add_report_flags(*command, state->flags);
  add_model_flags(*command, state->flags);
  add_run_flags(*command, state->flags);
  return [state] { return run(*state); };
}

}  // namespace compress
