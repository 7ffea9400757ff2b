#include "cli/job.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <future>
#include <map>

#include "calibration/calibrator.h"
#include "cli/console.h"
#include "cli/data.h"
#include "cli/data_files.h"
#include "cli/explaining.h"
#include "cli/machine.h"
#include "cli/progress.h"
#include "cli/ranks.h"
#include "cli/training.h"
#include "cli/verification.h"
#include "compress/core/thread_taken.h"
#include "compress/error.h"
#include "formats/file.h"
#include "formats/onnx.h"
#include "passes/pass.h"
#include "passes/plugin/plugin.h"

namespace compress {
namespace {

namespace fs = std::filesystem;

void check_output(const std::string& model, const CommonFlags& flags) {
  if (flags.output.empty()) {
    fail(ErrorCode::usage, "no output; name the file to write with -o");
  }
  std::error_code ignored;
  if (fs::equivalent(model, flags.output, ignored)) {
    fail(ErrorCode::io, "the output {} is the input; name another file", flags.output);
  }
  for (const std::string& report : flags.reports) {
    if (report == flags.output || report == model || fs::equivalent(model, report, ignored)) {
      fail(ErrorCode::usage, "--report {} would replace a model; name another file", report);
    }
  }
  if (flags.dry_run || flags.force) return;
  if (fs::exists(fs::symlink_status(flags.output, ignored))) {
    fail(ErrorCode::io, "{} exists; --force replaces it", flags.output);
  }
}

// The steps that the command is about: what comes before quantize is only its preparation.
std::vector<std::string> main_steps(const Recipe& recipe) {
  std::vector<std::string> names;
  for (const Step& step : recipe.steps) {
    if (step.name != "optimize") names.push_back(step.name);
  }
  if (names.empty()) names.push_back("optimize");
  return names;
}

bool is_among(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::string participle(const std::vector<std::string>& steps) {
  if (steps.size() > 1) return "changed";
  if (steps[0] == "quantize") return "quantized";
  if (steps[0] == "prune") return "pruned";
  if (steps[0] == "distill") return "learnt";
  if (steps[0] == "train") return "trained";
  return "optimized";
}

// Passes that do a step's work, as against tidying before and after it, or lifting the opset for
// it.
bool is_work(const PassRecord& pass, const std::vector<std::string>& steps) {
  if (!is_among(steps, pass.step) || pass.name == "raise_opset") return false;
  if (pass.step == "optimize") return true;
  for (const PassDef& row : all_passes()) {
    if (row.step == "optimize" && row.name == pass.name) return false;
  }
  return true;
}

// The reason that left most nodes alone.
std::string main_reason(const PipelineResult& result, const std::vector<std::string>& steps) {
  std::map<std::string, int> reasons;
  for (const PassRecord& pass : result.passes) {
    if (!is_work(pass, steps)) continue;
    for (const Skipped& skip : pass.skipped) ++reasons[skip.reason];
  }
  const auto most = std::max_element(reasons.begin(), reasons.end(),
                                     [](auto& a, auto& b) { return a.second < b.second; });
  return most == reasons.end() ? "no part of the model qualifies" : most->first;
}

class JobRun {
 public:
  JobRun(Job job, const CommonFlags& flags)
      : job_(std::move(job)),
        flags_(flags),
        progress_(!flags.quiet && !flags.no_progress),
        start_(std::chrono::steady_clock::now()) {}

  int run() {
    gates_ = read_gates(flags_);
    check_output(job_.model, flags_);
    const bool training = std::any_of(job_.recipe.steps.begin(), job_.recipe.steps.end(),
                                      [](const Step& step) { return trains(step.name); });
    if (!training) require_one_process(job_.command);
    input_ = read_onnx(job_.model);
    check_input_shapes(flags_, {&input_});
    if (training) ranks_ = join_ranks();
    if (!flags_.dry_run && ranks_.first()) {
      hash_ = std::async(std::launch::async, [path = job_.model] {
        const ThreadTaken mine;
        return sha256_file(path);
      });
    }
    steps_ = main_steps(job_.recipe);
    data_ = open_data(flags_, input_, may_calibrate(), training);
    choose_calibration(data_, flags_);
    choose_training(data_, flags_);
    if (quantizes_to_train()) calibrate_on_training(data_);
    check_measurable(gates_, flags_, data_.evaluation);
    Model model = input_;
    const PipelineResult result = run_passes(model, job_.recipe);
    leave_ranks();
    if (!ranks_.first()) return kDone;
    choose_evaluation(data_, flags_, calibrated_);
    fill_report(result);
    if (flags_.dry_run) {
      return finish_dry(model);
    }
    write(model, result);
    const Model written = read_onnx(flags_.output);
    report_.candidate = summarize(written, flags_.output);
    if (!flags_.no_verify) {
      verify(written);
      report_.activations = std::move(activations_);
      keep_quantized(report_.activations, written.graph);
    }
    return end();
  }

 private:
  // What cannot be run here may well be right: who reads the error learns that the file is there.
  void verify(const Model& written) {
    try {
      verify_models(input_, written, data_, flags_, progress_, report_);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::unsupported) throw;
      fail(ErrorCode::unsupported,
           "{}; {} is written but not verified (--no-verify leaves that out)", error.what(),
           flags_.output);
    }
  }

  // True where a step may want statistics of samples. Fails (usage) where one certainly does and
  // there is nothing to take them from.
  bool may_calibrate() const {
    bool may = false;
    for (const Step& step : job_.recipe.steps) {
      if (asks_qat(step)) may = may || !flags_.calibration_data.empty();
      if (step.name == "prune") may = check_prune(step) || may;
      if (step.name != "quantize") continue;
      const Json mode = step.options.value("mode", Json());
      may = may || mode != "dynamic";
      const bool nothing = flags_.data.empty() && flags_.calibration_data.empty() &&
                           flags_.statistics.empty() && !flags_.allow_random;
      if (mode == "static" && nothing) {
        fail(ErrorCode::usage,
             "static quantization is calibrated on samples, and there are none; give --data or "
             "--statistics, or choose --mode dynamic or weight-only (on noise: --allow-random)");
      }
    }
    return may && flags_.statistics.empty();
  }

  // True where the step ranks weights on samples. Fails (usage) where there are none.
  bool check_prune(const Step& step) const {
    const std::string method = step.options.value("method", "magnitude");
    if (method == "magnitude") return false;
    if (flags_.data.empty() && flags_.calibration_data.empty() && !flags_.allow_random) {
      fail(ErrorCode::usage,
           "--method {} measures what layers read, on samples, and there are none; give --data, or "
           "choose --method magnitude",
           method);
    }
    return true;
  }

  static bool asks_qat(const Step& step) {
    return step.name == "distill" && step.options.value("qat", "none") != "none";
  }

  bool quantizes_to_train() const {
    return std::any_of(job_.recipe.steps.begin(), job_.recipe.steps.end(), asks_qat);
  }

  PipelineResult run_passes(Model& model, const Recipe& recipe) {
    PipelineOptions options;
    options.disabled = flags_.disabled;
    options.stop_after = flags_.stop_after;
    options.dump_after = flags_.dump_after;
    options.lift_opset = convert_opset;
    options.sizes_only = flags_.dry_run;
    if (flags_.verbose || !flags_.dump_after.empty()) {
      const bool verbose = flags_.verbose;
      options.log = [verbose](std::string_view line) {
        const bool dump = line.find('\n') != std::string_view::npos;
        if (verbose || dump) say(line);
      };
    }
    if (!flags_.statistics.empty() || data_.calibration != nullptr) {
      options.statistics = [this](const Model& at, const StatisticsRequests& wanted,
                                  const Options&) { return statistics(at, wanted); };
    }
    if (data_.calibration != nullptr) {
      options.samples = [this] {
        calibrated_ = true;
        return CalibrationSamples{data_.calibration, data_.calibration_indices};
      };
    }
    const TrainingAccess training = training_access(data_, input_, flags_, progress_, ranks_);
    options.training = &training;
    return run_pipeline(model, recipe, options);
  }

  StatisticsSet statistics(const Model& model, const StatisticsRequests& wanted) {
    StatisticsSet set = wanted_statistics(model, wanted);
    activations_ = activation_ranges(set);
    return set;
  }

  StatisticsSet wanted_statistics(const Model& model, const StatisticsRequests& wanted) {
    if (!flags_.statistics.empty()) {
      StatisticsSet set = read_statistics(flags_.statistics, data_files());
      if (set.fingerprint != fingerprint(model)) {
        fail(ErrorCode::invalid_model,
             "{} belongs to another model, or to other settings of optimize; make it again with "
             "compress calibrate",
             flags_.statistics);
      }
      return set;
    }
    calibrated_ = true;
    const bool given = !flags_.data.empty() || !flags_.calibration_data.empty();
    if (flags_.allow_random && !given) {
      report_.notes.push_back("calibrated on noise (--allow-random): accuracy means little");
    }
    progress_.stage("calibrating");
    StatisticsSet set = collect_statistics(model, *data_.calibration, data_.calibration_indices,
                                           wanted, progress_.callback());
    set.seed = flags_.seed;
    progress_.clear();
    return set;
  }

  void fill_report(const PipelineResult& result) {
    report_.command = job_.command;
    report_.version = program_version();
    report_.build = program_build();
    report_.machine = machine_info();
    report_.seed = job_.recipe.seed;
    Recipe resolved = job_.recipe;
    report_.recipe = resolved.to_json();
    report_.recipe["steps"] = result.resolved_steps;
    if (!job_.verification.is_null()) report_.recipe["steps"].push_back(job_.verification);
    report_.reference = summarize(input_, job_.model);
    for (const PassRecord& pass : result.passes) {
      PassSummary row{pass.name, pass.step, pass.seconds, pass.changed, {}, pass.details};
      for (const Skipped& skip : pass.skipped) row.skipped.push_back({skip.node, skip.reason});
      report_.passes.push_back(std::move(row));
      explain_mode(pass);
      if (pass.details.contains("note")) {
        report_.notes.push_back(pass.details["note"].get<std::string>());
      }
      if (pass.details.contains("warning")) {
        const auto text = pass.details["warning"].get<std::string>();
        report_.notes.push_back(text);
        say("warning: " + printable(text));
      }
    }
    note_saturation(result, report_);
    changed_ = std::any_of(result.passes.begin(), result.passes.end(),
                           [&](const auto& pass) { return pass.changed && is_work(pass, steps_); });
  }

  // A mode that the user did not ask for is explained.
  void explain_mode(const PassRecord& pass) {
    if (!pass.details.contains("mode") || !pass.details.contains("why")) return;
    for (const Step& step : job_.recipe.steps) {
      if (step.name == pass.step && step.options.contains("mode")) return;
    }
    report_.notes.push_back(fmt::format("mode {}: {}", pass.details["mode"].get<std::string>(),
                                        pass.details["why"].get<std::string>()));
  }

  // Of the input; taken beside the passes, since it reads all of the file.
  const std::string& input_hash() {
    if (hash_.valid()) input_sha256_ = hash_.get();
    return input_sha256_;
  }

  std::string provenance(const PipelineResult& result) {
    Json json = {{"schema", "compress.recipe/1"},
                 {"version", program_version()},
                 {"steps", portable_steps(result.resolved_steps)},
                 {"seed", job_.recipe.seed},
                 {"input_sha256", input_hash()}};
    if (!flags_.disabled.empty()) json["disabled"] = flags_.disabled;
    if (!flags_.stop_after.empty()) json["stop_after"] = flags_.stop_after;
    if (!flags_.statistics.empty()) json["statistics_sha256"] = sha256_file(flags_.statistics);
    for (const PluginIdentity& plugin : plugins_in_use()) {
      json["plugins"].push_back(to_json(plugin));
    }
    if (calibrated_) {
      json["calibration_samples"] = data_.calibration_indices.size();
    }
    return json.dump();
  }

  // Pruning leaves zeros where weights were, and a lifted opset is wanted for itself; the others
  // promise a smaller file.
  bool must_shrink() const {
    for (const Step& step : job_.recipe.steps) {
      if (step.name != "optimize" && step.name != "quantize") return false;
      if (step.options.contains("opset")) return false;
    }
    return true;
  }

  void write(const Model& model, const PipelineResult& result) {
    WriteOptions options;
    options.overwrite = flags_.force;
    options.external_data = flags_.external_data;
    options.provenance = [&] { return provenance(result); };
    const uint64_t bytes = write_onnx(model, flags_.output, options);
    if (!changed_) {
      say_unchanged(main_reason(result, steps_));
    }
    if (!must_shrink() || bytes < input_.file_bytes) return;
    if (changed_) {
      say_unchanged(
          fmt::format("the result has {} bytes and the input {}", bytes, input_.file_bytes));
    }
    options.overwrite = true;
    if (!is_among(steps_, "optimize")) {
      Model optimized = input_;
      Recipe recipe = job_.recipe;
      recipe.steps = {{"optimize", Json::object()}};
      const PipelineResult plain = run_passes(optimized, recipe);
      options.provenance = [&] { return provenance(plain); };
      if (write_onnx(optimized, flags_.output, options) < input_.file_bytes) return;
    }
    restore_input(options);
  }

  void restore_input(WriteOptions options) {
    const auto file = MappedFile::open(job_.model);
    if (file->bytes().size() == input_.file_bytes) {
      AtomicFile copy(flags_.output, true);
      copy.write(file->bytes());
      copy.commit();
      return;
    }
    // Weights in other files are found by names relative to the model's folder.
    options.provenance = nullptr;
    options.external_data = true;
    write_onnx(input_, flags_.output, options);
  }

  void say_unchanged(const std::string& reason) {
    changed_ = false;
    report_.note = fmt::format("nothing {}: {}", participle(steps_), reason);
    say(printable(report_.note));
  }

  int finish_dry(const Model& model) {
    report_.candidate = summarize(model, flags_.output);
    report_.candidate->bytes = serialized_bytes(model);
    report_.notes.push_back("dry run: nothing was written");
    if (!changed_) report_.notes.push_back("nothing " + participle(steps_));
    return end();
  }

  int end() {
    report_.changed = changed_;
    report_.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    return finish(report_, gates_, flags_);
  }

  Job job_;
  const CommonFlags& flags_;
  Progress progress_;
  std::chrono::steady_clock::time_point start_;
  train::Ranks ranks_;
  GateSet gates_;
  Model input_;
  std::future<std::string> hash_;
  std::string input_sha256_;
  std::vector<std::string> steps_;
  bool calibrated_ = false;
  bool changed_ = false;
  std::vector<ActivationRange> activations_;
  JobData data_;
  Report report_;
};

}  // namespace

int run_job(Job job, const CommonFlags& flags) {
  apply(flags);
  return JobRun(std::move(job), flags).run();
}

}  // namespace compress
