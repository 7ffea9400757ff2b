#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <string>
#include <utility>

#include "cli/machine.h"
#include "cli/verification.h"
#include "compress/error.h"
#include "compress/report/trace.h"
#include "compress/verify/generate.h"
#include "formats/onnx.h"

namespace compress {
namespace {

struct Command {
  CommonFlags flags;
  std::string reference;
  std::string candidate;
  std::string engine = "compress";
  std::string batches;
  VerifyExtras extras;
};

// "1,2,8"; what is not given is one batch of one sample.
std::vector<int64_t> batches_of(const std::string& text) {
  std::vector<int64_t> out;
  const char* at = text.c_str();
  while (*at != '\0') {
    char* end = nullptr;
    errno = 0;
    const long long batch = std::strtoll(at, &end, 10);
    const bool ends = *end == '\0' || (*end == ',' && end[1] != '\0');
    if (end == at || errno != 0 || batch < 1 || batch > (int64_t{1} << 30) || !ends) {
      fail(ErrorCode::usage, "--batch '{}': write a number of samples, or several as 1,4,16", text);
    }
    out.push_back(batch);
    at = *end == '\0' ? end : end + 1;
  }
  return out;
}

void check_profile_path(const Command& command) {
  const std::string& path = command.extras.profile;
  if (path.empty()) return;
  check_trace_path(path);
  namespace fs = std::filesystem;
  std::error_code ignored;
  for (const std::string& report : command.flags.reports) {
    if (report == path || fs::equivalent(report, path, ignored)) {
      fail(ErrorCode::usage, "--profile {} is also named by --report", path);
    }
  }
}

std::set<std::string> input_names(const Model& model) {
  std::set<std::string> names;
  for (const ValueId id : model.graph.inputs()) {
    const Value& value = model.graph.value(id);
    if (!value.is_constant()) names.insert(value.name);
  }
  return names;
}

// Both models are fed the same values, by name.
void require_same_inputs(const Model& reference, const Model& candidate) {
  const std::set<std::string> ours = input_names(reference), theirs = input_names(candidate);
  if (ours == theirs) return;
  fail(ErrorCode::invalid_model, "the models take other inputs: {} takes '{}', {} takes '{}'",
       reference.path, fmt::join(ours, "', '"), candidate.path, fmt::join(theirs, "', '"));
}

int run(const Command& command) {
  const auto start = std::chrono::steady_clock::now();
  CommonFlags flags = command.flags;
  VerifyExtras extras = command.extras;
  extras.onnxruntime = command.engine == "onnxruntime";
  extras.batches = batches_of(command.batches);
  if (!extras.batches.empty()) flags.batch = extras.batches[0];
  apply(flags);
  check_profile_path(command);
  if (extras.onnxruntime && flags.no_lower) {
    fail(ErrorCode::usage, "--no-lower is about this program's own engine, not onnxruntime");
  }
  if ((extras.concurrency > 0 || extras.onnxruntime) && flags.device != "cpu") {
    fail(ErrorCode::usage,
         "--concurrency and --engine onnxruntime run on the CPU; leave out "
         "--device {}",
         flags.device);
  }
  if (extras.generate > 0 && extras.onnxruntime) {
    fail(ErrorCode::usage, "--generate runs on this program's own engine, not onnxruntime");
  }
  if (extras.generate > 0 && flags.time_budget <= 0) {
    fail(ErrorCode::usage, "--generate measures time; leave out --time-budget 0");
  }
  if (extras.concurrency > 0 && flags.time_budget <= 0) {
    fail(ErrorCode::usage, "--concurrency measures time; leave out --time-budget 0");
  }
  if (extras.saturate && (extras.onnxruntime || flags.no_lower)) {
    fail(ErrorCode::usage, "--simulate-saturation is about this program's own kernels");
  }
  const GateSet gates = read_gates(flags);
  const Model reference = read_onnx(command.reference);
  Model candidate = read_onnx(command.candidate);
  check_input_shapes(flags, {&reference, &candidate});
  require_same_inputs(reference, candidate);
  if (extras.explain) name_nodes(candidate);
  JobData data = open_data(flags, reference, false);
  choose_evaluation(data, flags, false);
  if (extras.saturate && data.evaluation == nullptr) {
    fail(ErrorCode::usage, "--simulate-saturation compares outputs; give --data");
  }
  check_measurable(gates, flags, data.evaluation, extras);
  if (extras.generate > 0) {
    for (const Model* model : {&reference, &std::as_const(candidate)}) find_decoder(*model);
  }
  check_batches(reference, extras.batches, data, flags);
  check_batches(candidate, extras.batches, data, flags);
  Report report;
  report.command = "verify";
  report.version = program_version();
  report.build = program_build();
  report.machine = machine_info();
  report.seed = flags.seed;
  report.reference = summarize(reference, command.reference);
  report.candidate = summarize(candidate, command.candidate);
  Progress progress(!flags.quiet && !flags.no_progress);
  verify_models(reference, candidate, data, flags, progress, report, extras);
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

void add_extras(CLI::App& command, Command& state) {
  VerifyExtras& extras = state.extras;
  constexpr const char* kGroup = "Verification";
  command
      .add_flag("--explain", extras.explain,
                "the kernel of each node here and in ONNX Runtime, and what keeps the candidate "
                "from being faster")
      ->group(kGroup);
  command
      .add_flag("--rules-only", extras.rules_only,
                "with --explain: do not ask ONNX Runtime, even where Python has it")
      ->group(kGroup);
  command
      .add_flag("--simulate-saturation", extras.saturate,
                "measure the candidate with 16-bit sums that saturate, as ONNX Runtime's kernels "
                "have them on AVX2 without VNNI; slow")
      ->group(kGroup);
  command.add_option("--profile", extras.profile, "write one run of each model as a trace (.json)")
      ->group(kGroup)
      ->type_name("FILE.json");
  command
      .add_option("--engine", state.engine,
                  "what runs the models: compress (default), or onnxruntime (by Python)")
      ->check(CLI::IsMember({"compress", "onnxruntime"}))
      ->group(kGroup)
      ->type_name("ENGINE");
  command
      .add_option("--engine-timeout", extras.engine_timeout,
                  "longest wait for one answer of onnxruntime, seconds (default 300)")
      ->check(CLI::Range(0.1, 1e6))
      ->group(kGroup)
      ->type_name("SECONDS");
  command
      .add_option("--concurrency", extras.concurrency,
                  "response times and throughput while N clients ask at once, each again as soon "
                  "as it has its answer")
      ->check(CLI::Range(1, 256))
      ->group(kGroup)
      ->type_name("N");
  command
      .add_option("--generate", extras.generate,
                  "time to the first token and tokens a second of language models: N tokens after "
                  "the first sample, or after 64 random tokens")
      ->check(CLI::Range(1, 1 << 20))
      ->group(kGroup)
      ->type_name("N");
  // Here it may list several.
  command.remove_option(command.get_option("--batch"));
  command
      .add_option("--batch", state.batches,
                  "samples in one run (default 1); several, as 1,4,16: latency against batch size")
      ->group("Running")
      ->type_name("N[,N...]");
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
      "  compress verify model.onnx int8.onnx --explain\n"
      "  compress verify model.onnx int8.onnx --engine onnxruntime --data test.npz\n"
      "  compress verify model.onnx int8.onnx --concurrency 4 --batch 1,2,4,8\n"
      "  compress verify llm.onnx llm_q4.onnx --generate 64\n"
      "  compress verify model.onnx int8.onnx --profile run.json   # open in chrome://tracing\n"
      "Without data: sizes, weights, and speed on noise.\n"
      "--explain tells why a quantized model is not faster: the kernel of every node here, and "
      "what\n"
      "ONNX Runtime does with it (integers, float, weights dequantized on each run). It asks ONNX\n"
      "Runtime itself where Python has it, and goes by rules elsewhere.\n"
      "--engine onnxruntime runs both models in Python's onnxruntime instead of this program's "
      "own\n"
      "engine: python3, or the Python that COMPRESS_PYTHON names, must have it.\n\n" +
      metric_help());
  auto state = std::make_shared<Command>();
  command->add_option("REFERENCE", state->reference, "the model to compare with")->required();
  command->add_option("CANDIDATE", state->candidate, "the model to judge")->required();
  add_data_flags(*command, state->flags, false);
  add_report_flags(*command, state->flags);
  add_model_flags(*command, state->flags);
  add_run_flags(*command, state->flags);
  add_extras(*command, *state);
  return [state] { return run(*state); };
}

}  // namespace compress
