#include "cli/verification.h"

#include <algorithm>
#include <cstdio>
#include <set>

#include "cli/machine.h"
#include "compress/core/parallel.h"
#include "compress/error.h"
#include "compress/runtime/session.h"
#include "formats/file.h"

namespace compress {
namespace {

constexpr uint64_t kMaxReportBytes = uint64_t{256} << 20;
constexpr int64_t kLayerSamples = 4;

EvaluateOptions evaluate_options(const CommonFlags& flags, Progress& progress) {
  EvaluateOptions options;
  options.batch = flags.batch;
  options.progress = progress.callback();
  const size_t colon = flags.metric_output.rfind(':');
  options.metric_output = flags.metric_output.substr(0, colon);
  if (colon != std::string::npos) {
    const std::string axis = flags.metric_output.substr(colon + 1);
    char* end = nullptr;
    options.metric_axis = std::strtoll(axis.c_str(), &end, 10);
    if (axis.empty() || *end != '\0') {
      fail(ErrorCode::usage, "--metric-output '{}': the axis after ':' is a number",
           flags.metric_output);
    }
  }
  return options;
}

SessionOptions session_options(const CommonFlags& flags) {
  SessionOptions options;
  options.lower = !flags.no_lower;
  options.max_memory = max_memory_bytes(flags);
  return options;
}

// What timing runs on: a batch of real samples, or noise.
std::vector<NamedTensor> timing_feed(const Model& model, JobData& data, const CommonFlags& flags) {
  if (data.evaluation == nullptr) {
    return random_feed(model, input_shapes(flags), flags.seed, flags.batch);
  }
  std::vector<int64_t> batch;
  for (int64_t i = 0; i < flags.batch; ++i) {
    const size_t at = static_cast<size_t>(i) % data.evaluation_indices.size();
    batch.push_back(data.evaluation_indices[at]);
  }
  return join(*data.evaluation, batch).inputs;
}

std::optional<ResourceUse> measure(const std::string& path, const CommonFlags& flags,
                                   const std::vector<NamedTensor>& feed) {
  std::vector<std::string> arguments = {"measure-one", path,
                                        "--seed",      std::to_string(flags.seed),
                                        "--threads",   std::to_string(thread_count())};
  if (flags.no_lower) arguments.push_back("--no-lower");
  for (const NamedTensor& input : feed) {
    std::string shape;
    for (const int64_t dim : input.tensor.shape()) {
      shape += (shape.empty() ? "" : "x") + std::to_string(dim);
    }
    if (shape.empty()) continue;
    arguments.push_back("--input-shape");
    arguments.push_back(input.name + ":" + shape);
  }
  const std::optional<std::string> text = run_self(arguments, 120);
  if (!text) return std::nullopt;
  const Json json = parse_json(*text, "measurement");
  return ResourceUse{json.at("peak_memory_bytes"), json.at("cpu_percent")};
}

void evaluate_accuracy(Session& reference, Session& candidate, JobData& data,
                       const CommonFlags& flags, Progress& progress, Report& report) {
  if (data.evaluation == nullptr) {
    report.data = "none";
    return;
  }
  progress.stage("verifying");
  report.data = data.evaluation->description();
  report.evaluation = evaluate(reference, candidate, *data.evaluation, data.evaluation_indices,
                               evaluate_options(flags, progress));
  for (const std::string& note : report.evaluation->notes) report.notes.push_back(note);
}

void compare_insides(const Model& reference, const Model& candidate, JobData& data,
                     const CommonFlags& flags, Report& report) {
  report.weights = compare_weights(reference, candidate);
  if (data.evaluation == nullptr) return;
  std::vector<int64_t> indices;
  const int64_t size = static_cast<int64_t>(data.evaluation_indices.size());
  for (const int64_t at : evenly_spaced(size, std::min(size, kLayerSamples))) {
    indices.push_back(data.evaluation_indices[static_cast<size_t>(at)]);
  }
  LayerOptions options;
  options.lower = !flags.no_lower;
  LayerComparison layers = compare_layers(reference, candidate, *data.evaluation, indices, options);
  report.layers = std::move(layers.layers);
  if (layers.truncated) report.notes.push_back("layers: only those that fit in 1 GB were compared");
}

void time_models(Session& reference, Session& candidate, const std::vector<NamedTensor>& feed,
                 const CommonFlags& flags, Report& report) {
  BenchmarkOptions options;
  options.seconds = flags.time_budget;
  options.batch = flags.batch;
  options.seed = flags.seed;
  SpeedRow row;
  row.threads = thread_count();
  row.batch = flags.batch;
  row.data = report.data;
  row.benchmark = benchmark(reference, candidate, feed, options);
  report.speed.push_back(std::move(row));
}

// Speed, and the kernel that each node of the candidate ran on.
void run_timing(Session& reference, Session& candidate, const std::vector<NamedTensor>& feed,
                const CommonFlags& flags, Report& report) {
  candidate.run(feed);
  if (flags.time_budget > 0) time_models(reference, candidate, feed, flags, report);
  candidate.profile(feed);
  // A node that was fused into another's kernel is listed with it, once.
  std::set<std::string> seen;
  for (const KernelRecord& row : candidate.kernels()) {
    if (!seen.insert(row.node).second && row.milliseconds == 0) continue;
    report.kernels.push_back({row.node, row.op, row.device, row.kernel, row.milliseconds});
  }
}

}  // namespace

GateSet read_gates(const CommonFlags& flags) {
  GateSet set;
  for (const std::string& text : flags.gates) set.gates.push_back(parse_gate(text));
  if (!flags.baseline.empty()) {
    set.baseline = read_baseline(read_file(flags.baseline, kMaxReportBytes), flags.baseline);
  }
  return set;
}

void check_measurable(const GateSet& set, const CommonFlags& flags, SampleSource* evaluation) {
  for (const Gate& gate : set.gates) {
    const MetricNeeds needs = gate.metric->needs;
    const bool timed = needs != MetricNeeds::timing || flags.time_budget > 0;
    const bool runs = needs == MetricNeeds::nothing || !(flags.no_verify || flags.dry_run);
    if (!timed || !runs || !can_measure(needs, evaluation)) {
      fail(ErrorCode::usage, "gate '{}': {} needs {}", gate.expression, gate.metric->name,
           runs ? describe(needs) : "verification; leave out --no-verify and --dry-run");
    }
    if (set.baseline && gate.of != Gate::Of::candidate &&
        set.baseline->find(gate.metric->name) == set.baseline->end()) {
      fail(ErrorCode::usage, "gate '{}': the baseline {} holds no {}", gate.expression,
           flags.baseline, gate.metric->name);
    }
  }
}

void verify_models(const Model& reference, const Model& candidate, JobData& data,
                   const CommonFlags& flags, Progress& progress, Report& report) {
  for (const std::string& note : data.notes) report.notes.push_back(note);
  const std::vector<NamedTensor> feed = timing_feed(reference, data, flags);
  {
    const SessionOptions options = session_options(flags);
    Session reference_session = in_context([&] { return "the reference, " + reference.path; },
                                           [&] { return Session(reference, options); });
    Session candidate_session = in_context([&] { return "the candidate, " + candidate.path; },
                                           [&] { return Session(candidate, options); });
    evaluate_accuracy(reference_session, candidate_session, data, flags, progress, report);
    progress.clear();
    try {
      run_timing(reference_session, candidate_session, feed, flags, report);
    } catch (const Error& error) {
      // Noise of a guessed shape may not fit the model; that proves nothing against the result.
      if (data.evaluation != nullptr || error.code() == ErrorCode::internal) throw;
      report.weights = compare_weights(reference, candidate);
      report.notes.push_back(
          fmt::format("not run: {}; name sizes with --input-shape, or give --data", error.what()));
      return;
    }
  }
  compare_insides(reference, candidate, data, flags, report);
  report.reference_use = measure(reference.path, flags, feed);
  report.candidate_use = measure(candidate.path, flags, feed);
  if (!report.reference_use || !report.candidate_use) {
    report.notes.push_back("peak memory could not be measured: the process for it failed");
  }
  progress.clear();
}

void print(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    fail(ErrorCode::io, "standard output cannot be written");
  }
}

int finish(Report& report, const GateSet& gates, const CommonFlags& flags) {
  report.gates =
      check_gates(gates.gates, measurements(report), gates.baseline ? &*gates.baseline : nullptr);
  report.peak_memory_bytes = peak_resident_bytes();
  for (const std::string& path : flags.reports) {
    AtomicFile file(path, true);
    file.write(render(report, path));
    file.commit();
  }
  if (flags.json) {
    print(render(report, "-.json"));
  } else if (!flags.quiet) {
    print(to_table(report));
  }
  const bool unchanged = flags.require_change && report.changed && !*report.changed;
  return report.passed() && !unchanged ? kDone : kGateFailed;
}

}  // namespace compress
