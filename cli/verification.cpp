#include "cli/verification.h"

#include <unistd.h>

#include <algorithm>
#include <set>

#include "cli/console.h"
#include "cli/explaining.h"
#include "cli/generation.h"
#include "cli/load.h"
#include "cli/machine.h"
#include "cli/on_device.h"
#include "cli/onnxruntime.h"
#include "compress/core/parallel.h"
#include "compress/error.h"
#include "compress/kernels/gemm_s8/saturation.h"
#include "compress/report/trace.h"
#include "compress/runtime/session.h"
#include "formats/file.h"

namespace compress {
namespace {

constexpr int64_t kLayerSamples = 4;

EvaluateOptions evaluate_options(const CommonFlags& flags, Progress& progress) {
  EvaluateOptions options;
  options.batch = flags.batch;
  options.needs_labels =
      !flags.labels.empty() || !flags.gates.empty() || !flags.metric_output.empty();
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

void evaluate_accuracy(const Runner& reference, const Runner& candidate, JobData& data,
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

// The candidate as it computes where sums of byte products saturate; gates are about that. What it
// loses there is told beside what it would be with exact sums.
void evaluate_saturating(const Runner& reference, const Model& candidate,
                         const SessionOptions& options, JobData& data, const CommonFlags& flags,
                         Progress& progress, Report& report) {
  const Evaluation exact = *report.evaluation;
  Session session(candidate, options);
  Runner runner = runner_of(session);
  runner.run = [&](std::span<const NamedTensor> feeds) {
    const kernels::SaturationScope scope;
    return session.run(feeds);
  };
  evaluate_accuracy(reference, runner, data, flags, progress, report);
  const double before = exact.similarity.at("sqnr").candidate;
  const double after = report.evaluation->similarity.at("sqnr").candidate;
  constexpr double kNoticeable = 1;  // dB
  std::string note = fmt::format(
      "16-bit sums saturate, as on AVX2 without VNNI: agreement {:.4f}, SQNR {:.1f} dB; {:.4f}, "
      "{:.1f} dB where sums are exact",
      report.evaluation->similarity.at("agreement").candidate, after,
      exact.similarity.at("agreement").candidate, before);
  for (const auto& [name, row] : report.evaluation->accuracy) {
    note +=
        fmt::format("; {} {:.4f}, {:.4f}", name, row.candidate, exact.accuracy.at(name).candidate);
  }
  if (after < before - kNoticeable) {
    note += "; quantize --reduce-range leaves a bit of the weights unused, and nothing saturates";
  }
  report.notes.push_back(std::move(note));
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

BenchmarkOptions benchmark_options(const CommonFlags& flags) {
  BenchmarkOptions options;
  options.seconds = flags.time_budget;
  options.batch = flags.batch;
  options.seed = flags.seed;
  return options;
}

void time_models(const Runner& reference, const Runner& candidate,
                 const std::vector<NamedTensor>& feed, const CommonFlags& flags, Report& report) {
  SpeedRow row;
  row.device = device_label(chosen_device(flags));
  row.threads = thread_count();
  row.batch = flags.batch;
  row.data = report.data;
  row.benchmark = benchmark(reference, candidate, feed, benchmark_options(flags));
  report.speed.push_back(std::move(row));
}

// Speed, and the kernel that each node of the candidate ran on.
void run_timing(Session& reference, Session& candidate, const std::vector<NamedTensor>& feed,
                const CommonFlags& flags, Report& report) {
  candidate.run(feed);
  if (flags.time_budget > 0) {
    time_models(runner_of(reference), runner_of(candidate), feed, flags, report);
  }
  candidate.profile(feed);
  // A node that was fused into another's kernel is listed with it, once.
  std::set<std::string> seen;
  for (const KernelRecord& row : candidate.kernels()) {
    if (!seen.insert(row.node).second && row.milliseconds == 0) continue;
    report.kernels.push_back({row.node, row.op, row.device, row.kernel, row.milliseconds});
  }
}

TraceProcess profiled(Session& session, const std::vector<NamedTensor>& feed, const char* role,
                      const Model& model) {
  session.run(feed);
  session.profile(feed);
  return {fmt::format("{}: {}", role, model.path), session.kernels()};
}

void write_trace(const std::string& path, const std::vector<TraceProcess>& runs) {
  AtomicFile file(path, true);
  file.write(to_trace(runs));
  file.commit();
}

// Kernels of one run in our own engine; why there are none is a note.
std::vector<KernelRecord> kernels_here(const Model& model, const std::vector<NamedTensor>& feed,
                                       const CommonFlags& flags, Report& report) {
  try {
    Session session(model, session_options(flags, chosen_device(flags)));
    return profile_kernels(session, feed);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::internal) throw;
    report.notes.push_back(fmt::format("not run in this program's own engine: {}", error.what()));
    return {};
  }
}

// The same comparison in ONNX Runtime, a process a model.
void verify_elsewhere(const Model& reference, const Model& candidate, JobData& data,
                      const CommonFlags& flags, Progress& progress, Report& report,
                      const VerifyExtras& extras) {
  OnnxRuntime a(extras.engine_timeout);
  OnnxRuntime b(extras.engine_timeout);
  report.engine = b.version();
  const std::vector<NamedTensor> feed = timing_feed(reference, data, flags, flags.batch);
  in_context([&] { return "the reference, " + reference.path; },
             [&] { a.open(reference.path, thread_count()); });
  in_context([&] { return "the candidate, " + candidate.path; },
             [&] { b.open(candidate.path, thread_count()); });
  evaluate_accuracy(a.runner(), b.runner(), data, flags, progress, report);
  progress.clear();
  if (flags.time_budget > 0) time_models(a.runner(), b.runner(), feed, flags, report);
  if (!extras.profile.empty()) {
    write_trace(
        extras.profile,
        {{"reference: " + reference.path, a.profile(reference.path, feed, thread_count())},
         {"candidate: " + candidate.path, b.profile(candidate.path, feed, thread_count())}});
  }
  report.weights = compare_weights(reference, candidate);
  report.reference_use = a.resources();
  report.candidate_use = b.resources();
  load_elsewhere(a, b, reference, candidate, data, flags, extras, report);
  if (!extras.explain) return;
  Model named = candidate;
  name_nodes(named);
  report.explanation =
      explain_model(named, candidate.path, feed, kernels_here(named, feed, flags, report),
                    !extras.rules_only, &b, report.notes);
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

void check_measurable(const GateSet& set, const CommonFlags& flags, SampleSource* evaluation,
                      const VerifyExtras& extras) {
  for (const Gate& gate : set.gates) {
    const MetricNeeds needs = gate.metric->needs;
    const bool timed = (needs != MetricNeeds::timing || flags.time_budget > 0) &&
                       (needs != MetricNeeds::generation || extras.generate > 0);
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
                   const CommonFlags& flags, Progress& progress, Report& report,
                   const VerifyExtras& extras) {
  for (const std::string& note : data.notes) report.notes.push_back(note);
  if (extras.onnxruntime) {
    return verify_elsewhere(reference, candidate, data, flags, progress, report, extras);
  }
  std::vector<NamedTensor> feed;
  {
    const SessionOptions options = session_options(flags, chosen_device(flags));
    Session reference_session = in_context([&] { return "the reference, " + reference.path; },
                                           [&] { return Session(reference, options); });
    Session candidate_session = in_context([&] { return "the candidate, " + candidate.path; },
                                           [&] { return Session(candidate, options); });
    evaluate_accuracy(runner_of(reference_session), runner_of(candidate_session), data, flags,
                      progress, report);
    if (extras.saturate) {
      evaluate_saturating(runner_of(reference_session), candidate, options, data, flags, progress,
                          report);
    }
    progress.clear();
    try {
      feed = timing_feed(reference, data, flags, flags.batch);
      run_timing(reference_session, candidate_session, feed, flags, report);
      if (extras.explain) {
        report.explanation =
            explain_model(candidate, candidate.path, feed, profile_kernels(candidate_session, feed),
                          !extras.rules_only, nullptr, report.notes);
      }
      if (!extras.profile.empty()) {
        write_trace(extras.profile, {profiled(reference_session, feed, "reference", reference),
                                     profiled(candidate_session, feed, "candidate", candidate)});
      }
    } catch (const Error& error) {
      // Noise of a guessed shape may not fit the model; that proves nothing against the result.
      if (data.evaluation != nullptr || error.code() == ErrorCode::internal) throw;
      report.weights = compare_weights(reference, candidate);
      const std::string why = error.what();
      const bool told = why.find("--input-shape") != std::string::npos;
      report.notes.push_back("not run: " + why +
                             (told ? "" : "; name sizes with --input-shape, or give --data"));
      return;
    }
  }
  if (flags.device == "all") {
    verify_on_device(reference, candidate, data, feed, flags, evaluate_options(flags, progress),
                     benchmark_options(flags), report);
  }
  compare_insides(reference, candidate, data, flags, report);
  load_here(reference, candidate, session_options(flags, chosen_device(flags)), data, flags, extras,
            report);
  generate_here(reference, candidate, session_options(flags, chosen_device(flags)), data, flags,
                extras, report);
  report.reference_use = measure(reference.path, flags, feed);
  report.candidate_use = measure(candidate.path, flags, feed);
  if (!report.reference_use || !report.candidate_use) {
    report.notes.push_back("peak memory could not be measured: the process for it failed");
  }
  progress.clear();
}

namespace {

// What became of gates, on a terminal.
std::string with_colours(const std::string& table) {
  std::string out;
  for (size_t from = 0; from < table.size();) {
    const size_t to = std::min(table.find('\n', from), table.size() - 1) + 1;
    std::string line = table.substr(from, to - from);
    for (const auto& [end, colour] :
         {std::pair(": passed\n", Colour::green), std::pair(": FAILED\n", Colour::red)}) {
      if (!line.starts_with("gate: ") || !line.ends_with(end)) continue;
      const std::string_view word = std::string_view(end).substr(2, 6);
      line = line.substr(0, line.size() - 7) + coloured(word, colour, STDOUT_FILENO) + "\n";
    }
    out += line;
    from = to;
  }
  return out;
}

}  // namespace

int finish(Report& report, const GateSet& gates, const CommonFlags& flags) {
  report.date = utc_now();
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
    print(with_colours(to_table(report)));
  }
  const bool unchanged = flags.require_change && report.changed && !*report.changed;
  return report.passed() && !unchanged ? kDone : kGateFailed;
}

}  // namespace compress
