#include "cli/search.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>

#include "calibration/calibrator.h"
#include "cli/data_files.h"
#include "cli/explaining.h"
#include "cli/machine.h"
#include "cli/ranks.h"
#include "cli/verification.h"
#include "compress/error.h"
#include "formats/file.h"

namespace compress {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxStateBytes = uint64_t{256} << 20;
constexpr double kLatencySeconds = 3;  // of timing a trial

// splitmix64 (Steele, Lea and Flood 2014): the same numbers everywhere.
uint64_t next_random(uint64_t& state) {
  uint64_t z = (state += 0x9E3779B97F4A7C15);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

// Two random halves; samples of a pair stay together.
std::pair<std::vector<int64_t>, std::vector<int64_t>> halves_of(const std::vector<int64_t>& indices,
                                                                bool pairs, uint64_t seed) {
  const size_t unit = pairs ? 2 : 1;
  std::vector<size_t> units(indices.size() / unit);
  for (size_t i = 0; i < units.size(); ++i) units[i] = i;
  uint64_t state = seed;
  for (size_t i = units.size(); i > 1; --i) {
    std::swap(units[i - 1], units[next_random(state) % i]);
  }
  std::pair<std::vector<int64_t>, std::vector<int64_t>> out;
  for (size_t i = 0; i < units.size(); ++i) {
    std::vector<int64_t>& half = i < units.size() / 2 ? out.first : out.second;
    for (size_t k = 0; k < unit; ++k) half.push_back(indices[units[i] * unit + k]);
  }
  std::sort(out.first.begin(), out.first.end());
  std::sort(out.second.begin(), out.second.end());
  return out;
}

double seconds_from_text(const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  double unit = 1;
  if (*end == 'm') unit = 60;
  if (*end == 'h') unit = 3600;
  if (*end == 's' || *end == 'm' || *end == 'h') ++end;
  if (end == text.c_str() || *end != '\0' || !(value > 0) || !(value * unit < 1e9)) {
    fail(ErrorCode::usage, "--budget '{}': write a time, as 90s, 10m or 2h", text);
  }
  return value * unit;
}

class SearchRun {
 public:
  SearchRun(Job job, const CommonFlags& flags, const SearchFlags& search)
      : job_(std::move(job)),
        flags_(flags),
        search_(search),
        progress_(!flags.quiet && !flags.no_progress),
        start_(std::chrono::steady_clock::now()) {}

  int run() {
    read_settings();
    gates_ = read_gates(flags_);
    check_paths();
    input_ = read_onnx(job_.model);
    check_input_shapes(flags_, {&input_});
    open();
    read_state();
    check_existing();
    check_measurable(gates_, flags_, data_.evaluation);
    // A metric that cannot be had is refused before anything is written.
    choose_metric(search_.metric, *data_.evaluation, Damage::kl);
    optimized_ = input_;
    optimize(optimized_);
    // An output of the search exists from here on, and only ever gets better.
    if (state_.is_null()) publish(optimized_, {});

    KeptSamples samples(*data_.evaluation);
    const EvaluateOptions evaluate = search_evaluate_options(flags_);
    ReferenceOutputs seen(optimized_, samples, seen_, evaluate);
    const MetricChoice metric = choose_metric(search_.metric, *data_.evaluation, seen.damage());
    settings_.evaluate = evaluate;
    settings_.metric = metric.name;
    settings_.relative = metric.relative;
    SharedCalibration calibration(data_, flags_, progress_);
    const SearchResult result =
        search(input_, optimized_, seen, settings_, hooks(calibration, samples, evaluate),
               state_.is_null() ? Json() : state_["search"]);
    progress_.clear();
    finish_files(result);
    return end(result, calibration);
  }

 private:
  bool prunes() const { return job_.command == "prune"; }
  // Magnitudes need no samples; what would have calibrated is left to be measured on.
  bool calibrates() const {
    return !prunes() || settings_.options.value("method", "magnitude") != "magnitude";
  }

  void read_settings() {
    settings_.max_drop = fraction_from_text(search_.max_drop, "--max-drop");
    settings_.budget_seconds = seconds_from_text(search_.budget);
    settings_.minimize = search_.minimize == "latency" ? Minimize::latency : Minimize::size;
    settings_.kind = prunes() ? &sparsity_search() : &precision_search();
    settings_.seed = flags_.seed;
    settings_.options = job_.recipe.steps.back().options;
    settings_.disabled = flags_.disabled;
    if (settings_.options.contains("override")) {
      fail(ErrorCode::usage, "--max-drop chooses the {} of each layer: leave out --override",
           prunes() ? "sparsity" : "precision");
    }
    if (settings_.options.contains("sparsity")) {
      fail(ErrorCode::usage, "--max-drop chooses how much goes: leave out --sparsity");
    }
    if (settings_.options.contains("min-cosine")) {
      fail(ErrorCode::usage, "--max-drop chooses what stays in float: leave out --min-cosine");
    }
    for (const auto& [flag, given] :
         {std::pair("--statistics", !flags_.statistics.empty()),
          std::pair("--dry-run", flags_.dry_run), std::pair("--no-verify", flags_.no_verify),
          std::pair("--stop-after", !flags_.stop_after.empty())}) {
      if (given) fail(ErrorCode::usage, "--max-drop measures as it goes: leave out {}", flag);
    }
  }

  void check_paths() {
    std::error_code ignored;
    if (flags_.output.empty()) {
      fail(ErrorCode::usage, "no output; name the file to write with -o");
    }
    if (fs::equivalent(job_.model, flags_.output, ignored)) {
      fail(ErrorCode::io, "the output {} is the input; name another file", flags_.output);
    }
    if (!search_.plot.empty() && !search_.plot.ends_with(".svg")) {
      fail(ErrorCode::usage, "--plot {}: the name ends in .svg", search_.plot);
    }
    state_path_ = flags_.output + ".search.json";
  }

  void open() {
    data_ = open_data(flags_, input_, true);
    if (data_.evaluation == nullptr || data_.calibration == nullptr) {
      fail(ErrorCode::usage, "--max-drop is measured on samples; give --data");
    }
    choose_calibration(data_, flags_);
    choose_evaluation(data_, flags_, calibrates());
    const bool pairs = !data_.evaluation->pair_scores().empty();
    std::tie(seen_, held_) = halves_of(data_.evaluation_indices, pairs, flags_.seed);
    if (seen_.empty()) {
      fail(ErrorCode::usage, "--max-drop holds back half of the samples; {} are too few",
           data_.evaluation_indices.size());
    }
  }

  // What a search is a function of. A state of another one is not gone on with.
  Json key() const {
    return {{"input_sha256", sha256_file(job_.model)},
            {"version", program_version()},
            {"step", job_.command},
            {"options", settings_.options},
            {"max_drop", settings_.max_drop},
            {"minimize", search_.minimize},
            {"metric", search_.metric},
            {"metric_output", flags_.metric_output},
            {"seed", flags_.seed},
            {"batch", flags_.batch},
            {"disabled", settings_.disabled},
            {"data", data_.evaluation->description()},
            {"calibration", data_.calibration->description()},
            {"calibration_samples", data_.calibration_indices},
            {"search_samples", seen_}};
  }

  void read_state() {
    key_ = key();
    std::error_code ignored;
    if (!fs::exists(state_path_, ignored)) return;
    Json found = in_context(
        [&] { return state_path_; },
        [&] { return parse_json(read_file(state_path_, kMaxStateBytes), "search state"); });
    if (!found.is_object() || found.value("schema", "") != "compress.search/1" ||
        !found.contains("search") || found.value("key", Json()) != key_) {
      if (flags_.force) return;
      fail(ErrorCode::usage,
           "{} belongs to a search of another model or with other flags; remove it, or --force "
           "starts anew",
           state_path_);
    }
    state_ = std::move(found);
    earlier_seconds_ = state_.value("seconds", 0.0);
    published_sha_ = state_.value("output_sha256", "");
    notes_.push_back(fmt::format("went on with a search of {:.0f} s", earlier_seconds_));
  }

  void check_existing() {
    std::error_code ignored;
    if (flags_.force || !fs::exists(fs::symlink_status(flags_.output, ignored))) return;
    if (!published_sha_.empty() && sha256_file(flags_.output) == published_sha_) return;
    fail(ErrorCode::io, "{} exists; --force replaces it", flags_.output);
  }

  // What the result is compared with, and the first file that is written. Pruning leaves all but
  // weights as it is.
  void optimize(Model& model) const {
    if (prunes()) return;
    Recipe recipe;
    recipe.seed = flags_.seed;
    recipe.steps = {{"optimize", Json::object()}};
    PipelineOptions options;
    options.disabled = flags_.disabled;
    options.lift_opset = convert_opset;
    run_pipeline(model, recipe, options);
  }

  double seconds() const {
    return earlier_seconds_ +
           std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

  std::string provenance(const Json& steps) const {
    Json json = {{"schema", "compress.recipe/1"},
                 {"version", program_version()},
                 {"steps", steps},
                 {"seed", flags_.seed},
                 {"input_sha256", sha256_file(job_.model)}};
    if (!flags_.disabled.empty()) json["disabled"] = flags_.disabled;
    json["calibration_samples"] = data_.calibration_indices.size();
    return json.dump();
  }

  Json unchanged_steps() const {
    return prunes() ? Json::array() : Json::array({{{"optimize", Json::object()}}});
  }

  void publish(const Model& model, const Json& options) {
    const Json steps =
        options.is_null() ? unchanged_steps() : Json::array({{{job_.command, options}}});
    WriteOptions write;
    write.overwrite = true;
    write.external_data = flags_.external_data;
    write.provenance = [&] { return provenance(steps); };
    write_onnx(model, flags_.output, write);
    published_sha_ = sha256_file(flags_.output);
  }

  void save(const Json& search_state) {
    const Json state = {{"schema", "compress.search/1"},
                        {"key", key_},
                        {"seconds", seconds()},
                        {"output_sha256", published_sha_},
                        {"search", search_state}};
    write_text(state_path_, state.dump(1, ' ', false, Json::error_handler_t::replace));
    saved_ = search_state;
  }

  SearchHooks hooks(SharedCalibration& calibration, KeptSamples& samples,
                    const EvaluateOptions& evaluate) {
    SearchHooks hooks;
    hooks.pipeline = calibration.options();
    hooks.pipeline.disabled = flags_.disabled;
    hooks.size = prunes() ? bytes_without_zeros : serialized_bytes;
    hooks.latency = [&](const Model& model) { return latency_of(model, samples); };
    hooks.held_out = [&, evaluate](const Model& model) {
      if (!held_outputs_) {
        held_outputs_ = std::make_unique<ReferenceOutputs>(optimized_, samples, held_, evaluate);
      }
      return held_outputs_->evaluate(model);
    };
    hooks.publish = [this](const SearchTrial& trial, const Model& model) {
      publish(model, trial.options);
      if (!saved_.is_null()) save(saved_);  // the state knows the file that it stands beside
    };
    hooks.save = [this](const Json& state) { save(state); };
    hooks.seconds = [this] { return seconds(); };
    hooks.say = [this](const std::string& line) {
      if (flags_.verbose) say(printable(line));
      if (!flags_.verbose) progress_.stage(line.substr(0, 60));
    };
    return hooks;
  }

  double latency_of(const Model& model, KeptSamples& samples) const {
    const Sample sample = samples.get(seen_[0]);
    Session ours(optimized_);
    Session theirs(model);
    BenchmarkOptions options;
    options.seconds = kLatencySeconds;
    options.seed = flags_.seed;
    const Benchmark result = benchmark(ours, theirs, sample.inputs, options);
    return result.candidate.median_ms / result.reference.median_ms;
  }

  void finish_files(const SearchResult& result) {
    const SearchTrial* chosen =
        result.chosen < 0 ? nullptr : &result.trials[static_cast<size_t>(result.chosen)];
    publish(result.model, chosen == nullptr ? Json() : chosen->options);
    std::error_code ignored;
    if (result.out_of_time) {
      if (!saved_.is_null()) save(saved_);
      notes_.push_back(fmt::format(
          "the budget of {} ended the search; the same command with a larger --budget goes on from "
          "{}",
          search_.budget, state_path_));
    } else {
      fs::remove(state_path_, ignored);
    }
  }

  int end(const SearchResult& result, const SharedCalibration& calibration) {
    Report report;
    report.command = job_.command;
    report.version = program_version();
    report.build = program_build();
    report.machine = machine_info();
    report.seed = flags_.seed;
    Recipe resolved = job_.recipe;
    report.recipe = resolved.to_json();
    const bool found = result.chosen >= 0;
    report.recipe["steps"] = found ? Json(result.pipeline.resolved_steps) : unchanged_steps();
    report.reference = summarize(input_, job_.model);
    for (const PassRecord& pass : result.pipeline.passes) {
      PassSummary row{pass.name, pass.step, pass.seconds, pass.changed, {}, pass.details};
      for (const Skipped& skip : pass.skipped) row.skipped.push_back({skip.node, skip.reason});
      report.passes.push_back(std::move(row));
    }
    report.changed = found && result.pipeline.changed;
    if (found && !result.pipeline.changed) {
      report.note = "nothing pruned: no part of the model qualifies";
      say(report.note);
    }
    if (!found) {
      report.note =
          fmt::format("nothing {}: no setting keeps the drop of {} within {:g}",
                      prunes() ? "pruned" : "quantized", settings_.metric, settings_.max_drop);
      say(report.note);
    }
    report.notes = notes_;
    if (!prunes()) note_saturation(result.pipeline, report);
    report.search = search_report(result);
    report.sensitivity =
        SensitivityReport{std::string(damage_name(result.damage)), settings_.metric,
                          static_cast<int64_t>(seen_.size()), result.sensitivity};
    if (!search_.plot.empty()) write_text(search_.plot, search_svg(*report.search));

    // The proof is made on what the search did not see.
    data_.evaluation_indices = held_;
    report.notes.push_back("verified on the held-out half, which the search did not see");
    const Model written = read_onnx(flags_.output);
    report.candidate = summarize(written, flags_.output);
    verify_models(input_, written, data_, flags_, progress_, report);
    report.activations = calibration.ranges();
    keep_quantized(report.activations, written.graph);
    note_speed(report);
    report.seconds = seconds() - earlier_seconds_;
    return finish(report, gates_, flags_);
  }

  // Whoever asked for the smallest file hears what it costs.
  void note_speed(Report& report) const {
    if (prunes() || settings_.minimize != Minimize::size || report.speed.empty()) return;
    const Benchmark& times = report.speed[0].benchmark;
    const double ratio = times.candidate.median_ms / times.reference.median_ms;
    constexpr double kNoticeable = 1.2;
    if (ratio > kNoticeable) {
      report.notes.push_back(
          fmt::format("size alone was minimised: a run takes {:.1f} times as long as the float "
                      "model's; --minimize latency looks for a fast one",
                      ratio));
    }
  }

  SearchReport search_report(const SearchResult& result) const {
    SearchReport out;
    out.metric = settings_.metric;
    out.relative = settings_.relative;
    out.max_drop = settings_.max_drop;
    out.minimize = prunes() ? "weights" : search_.minimize;
    out.search_samples = static_cast<int64_t>(seen_.size());
    out.held_out_samples = static_cast<int64_t>(held_.size());
    out.held_out_drop = result.held_out_drop;
    out.held_out_looks = result.held_out_looks;
    out.out_of_time = result.out_of_time;
    out.seconds = seconds();
    out.points = result.trials;
    if (result.chosen >= 0) out.points[static_cast<size_t>(result.chosen)].chosen = true;
    return out;
  }

  Job job_;
  const CommonFlags& flags_;
  const SearchFlags& search_;
  Progress progress_;
  std::chrono::steady_clock::time_point start_;
  double earlier_seconds_ = 0;
  SearchSettings settings_;
  GateSet gates_;
  std::string state_path_;
  Json key_;
  Json state_;  // as found
  Json saved_;  // as last written
  std::string published_sha_;
  Model input_;
  Model optimized_;
  JobData data_;
  std::vector<int64_t> seen_;
  std::vector<int64_t> held_;
  std::unique_ptr<ReferenceOutputs> held_outputs_;
  std::vector<std::string> notes_;
};

}  // namespace

struct SharedCalibration::State {
  JobData& data;
  const CommonFlags& flags;
  Progress& progress;
  SampleSource& samples;
  StatisticsSet known = {};  // whatever was wanted of each value
};

SharedCalibration::SharedCalibration(JobData& data, const CommonFlags& flags, Progress& progress)
    : calibration_(*data.calibration), state_(new State{data, flags, progress, calibration_}) {}

PipelineOptions SharedCalibration::options() const {
  PipelineOptions options;
  options.lift_opset = convert_opset;
  const std::shared_ptr<State> state = state_;
  options.statistics = [state](const Model& model, const StatisticsRequests& wanted,
                               const Options&) {
    // Values of one name have one content in every run: optimize is the same, and lifting an opset
    // renames nothing that is computed otherwise.
    StatisticsRequests missing;
    for (const auto& [name, request] : wanted) {
      if (state->known.values.count(name) > 0) continue;
      missing[name] = request;
      missing[name].histogram = true;
    }
    StatisticsSet set;
    if (!missing.empty()) {
      set = collect_statistics(model, state->samples, state->data.calibration_indices, missing);
      for (const auto& [name, statistics] : set.values) state->known.values[name] = statistics;
    }
    for (const auto& [name, request] : wanted) {
      const auto row = state->known.values.find(name);
      if (row != state->known.values.end()) set.values[name] = row->second;
    }
    set.samples = static_cast<int64_t>(state->data.calibration_indices.size());
    set.seed = state->flags.seed;
    return set;
  };
  options.samples = [state] {
    return CalibrationSamples{&state->samples, state->data.calibration_indices};
  };
  return options;
}

std::vector<ActivationRange> SharedCalibration::ranges() const {
  return activation_ranges(state_->known);
}

EvaluateOptions search_evaluate_options(const CommonFlags& flags) {
  EvaluateOptions options;
  options.batch = flags.batch;
  const size_t colon = flags.metric_output.rfind(':');
  options.metric_output = flags.metric_output.substr(0, colon);
  if (colon != std::string::npos) {
    options.metric_axis = std::strtoll(flags.metric_output.c_str() + colon + 1, nullptr, 10);
  }
  return options;
}

MetricChoice choose_metric(const std::string& name, SampleSource& data, Damage damage) {
  MetricChoice out{name, false};
  if (name.empty()) {
    out.name = can_measure(MetricNeeds::positions, &data)     ? "perplexity"
               : can_measure(MetricNeeds::pair_scores, &data) ? "spearman"
               : can_measure(MetricNeeds::labels, &data)      ? "top1"
               : damage == Damage::kl                         ? "agreement"
                                                              : "cosine";
  }
  const MetricDef& metric = find_metric(out.name);
  const bool measures_output =
      metric.needs == MetricNeeds::data || metric.needs == MetricNeeds::labels ||
      metric.needs == MetricNeeds::positions || metric.needs == MetricNeeds::pair_scores;
  if (!measures_output) {
    fail(ErrorCode::usage, "--metric {}: a metric of the outputs, as top1, agreement or spearman",
         out.name);
  }
  if (!can_measure(metric.needs, &data)) {
    fail(ErrorCode::usage, "--metric {} needs {}", out.name, describe(metric.needs));
  }
  // What has no fixed scale is judged by its share.
  out.relative = metric.unit != "fraction" && out.name != "spearman" && out.name != "cosine";
  return out;
}

double fraction_from_text(const std::string& text, const char* flag) {
  char* end = nullptr;
  double value = std::strtod(text.c_str(), &end);
  if (end != text.c_str() && *end == '%') {
    value /= 100;
    ++end;
  }
  if (end == text.c_str() || *end != '\0' || !(value >= 0) || !(value < 1e6)) {
    fail(ErrorCode::usage, "{} '{}': write a number, as 0.5% or 0.005", flag, text);
  }
  return value;
}

void write_text(const std::string& path, std::string_view text) {
  AtomicFile file(path, true);
  file.write(text);
  file.commit();
}

void add_search_flags(CLI::App& command, const std::string& step, SearchFlags& flags) {
  constexpr const char* kSearch = "Search";
  const bool prunes = step == "prune";
  command
      .add_option(
          "--max-drop", flags.max_drop,
          std::string(prunes ? "search for how much of each layer may go so that the metric "
                               "drops by no more than this, as "
                             : "search for the best mixed precision whose metric drops by "
                               "no more than this, as ") +
              "0.5%: in points, or (perplexity, sqnr) as a part of the value")
      ->group(kSearch)
      ->type_name("X[%]");
  if (!prunes) {
    command.add_option("--minimize", flags.minimize, "what the search makes small (default size)")
        ->check(CLI::IsMember({"size", "latency"}))
        ->group(kSearch)
        ->type_name("size|latency");
  }
  command
      .add_option("--budget", flags.budget,
                  "most time for the search, earlier runs of it included (default 10m)")
      ->group(kSearch)
      ->type_name("TIME");
  command
      .add_option(
          "--metric", flags.metric,
          "by whose drop the search judges (default: perplexity, spearman or top1 where the "
          "labels allow, else agreement or cosine)")
      ->group(kSearch)
      ->type_name("METRIC");
  command.add_option("--plot", flags.plot, "write what was tried as a picture")
      ->group(kSearch)
      ->type_name("FILE.svg");
}

int run_search(Job job, const CommonFlags& flags, const SearchFlags& search) {
  apply(flags);
  require_one_process(job.command);
  return SearchRun(std::move(job), flags, search).run();
}

}  // namespace compress
