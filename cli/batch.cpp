// Many models by many recipes: a process a run, so that one that fails, or takes too much memory,
// harms no other.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <deque>
#include <filesystem>
#include <set>

#include "cli/batch_manifest.h"
#include "cli/batch_plan.h"
#include "cli/command.h"
#include "cli/machine.h"
#include "cli/progress.h"
#include "cli/verification.h"
#include "cli/workers.h"
#include "compress/error.h"
#include "compress/report/batch.h"
#include "compress/verify/resources.h"
#include "formats/file.h"
#include "passes/plugin/plugin.h"

namespace compress {
namespace {

namespace fs = std::filesystem;

// What a run is expected to need before it is known: model, result, and the values of both.
constexpr uint64_t kBaseBytes = uint64_t{150} << 20;
constexpr uint64_t kBytesPerModelByte = 4;

struct Command {
  BatchRequest request;
  CommonFlags flags;
  std::string shard;
  std::string memory;
  int workers = 1;
};

// "2/4".
void read_shard(const std::string& text, BatchRequest& request) {
  if (text.empty()) return;
  long long shard = 0, shards = 0;
  int read = 0;
  if (std::sscanf(text.c_str(), "%lld/%lld%n", &shard, &shards, &read) != 2 ||
      static_cast<size_t>(read) != text.size() || shard < 1 || shards < shard || shards > 1000000) {
    fail(ErrorCode::usage, "--shard {}: I/N with 1 <= I <= N, as 2/4", text);
  }
  request.shard = shard;
  request.shards = shards;
}

// The last line that starts with "error: ", else the last line; what a user would have seen.
std::string last_words(const std::string& log) {
  std::string text;
  try {
    text = read_file(log, kMaxReportBytes);
  } catch (const Error&) {
    return "";
  }
  const size_t error = text.rfind("error: ");
  if (error != std::string::npos && (error == 0 || text[error - 1] == '\n')) {
    text.erase(0, error + std::string_view("error: ").size());
    return text.substr(0, text.find('\n'));
  }
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text.substr(text.rfind('\n') + 1);
}

class Batch {
 public:
  explicit Batch(const Command& command)
      : command_(command),
        jobs_(plan_batch(command.request)),
        memory_(command.memory.empty() ? 0 : memory_bytes()),
        progress_(!command.flags.quiet),
        start_(std::chrono::steady_clock::now()) {}

  int run() {
    if (command_.flags.dry_run) return list();
    const BatchRequest& request = command_.request;
    progress_.stage("batch");
    BatchManifest manifest(
        request.folder, request.shards == 1
                            ? "manifest.json"
                            : fmt::format("manifest-{}-of-{}.json", request.shard, request.shards));
    std::deque<size_t> waiting;
    for (size_t i = 0; i < jobs_.size(); ++i) {
      const BatchRow* row = command_.flags.force ? nullptr : manifest.find(jobs_[i].key);
      if (row == nullptr) {
        waiting.push_back(i);
        continue;
      }
      BatchRow kept = *row;
      if (kept.status == BatchStatus::done) kept.status = BatchStatus::kept;
      finish(std::move(kept));
    }
    // A run is one process, however many of this one were started.
    setenv("COMPRESS_MPI", "off", 1);
    Workers workers;
    while (!waiting.empty() || workers.running() > 0) {
      while (!waiting.empty() && may_start(workers, waiting.front())) {
        start(workers, waiting.front());
        waiting.pop_front();
      }
      const auto ended = workers.wait(std::chrono::milliseconds(100));
      if (ended) {
        running_.erase(ended->job);
        BatchRow row = row_of(*ended);
        if (row.wrote() && !jobs_[ended->job].key.empty()) manifest.add(jobs_[ended->job].key, row);
        finish(std::move(row));
      }
      watch_memory(workers, waiting);
      show(waiting.size());
    }
    progress_.clear();
    return end();
  }

 private:
  uint64_t memory_bytes() const {
    CommonFlags flags;
    flags.max_memory = command_.memory;
    return max_memory_bytes(flags);
  }

  int list() const {
    std::string text;
    for (const BatchJob& job : jobs_) {
      text += fmt::format("{} by {} -> {}{}\n", job.model, job.recipe, job.output,
                          job.data.empty() ? "" : " with " + job.data);
    }
    print(printable_lines(text));
    return kDone;
  }

  static std::string printable_lines(const std::string& text) {
    std::string out;
    for (size_t from = 0; from < text.size();) {
      const size_t to = text.find('\n', from);
      out += printable(std::string_view(text).substr(from, to - from)) + "\n";
      from = to + 1;
    }
    return out;
  }

  uint64_t expected_bytes(size_t job) const {
    if (alone_.count(job) > 0) return memory_;
    return kBaseBytes + kBytesPerModelByte * jobs_[job].input_bytes;
  }

  bool may_start(const Workers& workers, size_t job) const {
    if (workers.running() == 0) return true;
    if (workers.running() >= static_cast<size_t>(command_.workers)) return false;
    if (memory_ == 0) return true;
    uint64_t sum = expected_bytes(job);
    for (const size_t other : running_) sum += expected_bytes(other);
    return sum <= memory_;
  }

  void start(Workers& workers, size_t index) {
    const BatchJob& job = jobs_[index];
    std::error_code ignored;
    fs::create_directories(fs::path(job.output).parent_path(), ignored);
    fs::remove(job.report(), ignored);
    std::vector<std::string> argv = self_command();
    argv.insert(argv.end(), {"run", job.model, "--recipe", job.recipe, "-o", job.output, "--force",
                             "--quiet", "--report", job.report()});
    if (!job.data.empty()) argv.insert(argv.end(), {"--data", job.data});
    if (!job.labels.empty()) argv.insert(argv.end(), {"--labels", job.labels});
    for (const auto* flags : {&command_.request.flags, &command_.request.running}) {
      argv.insert(argv.end(), flags->begin(), flags->end());
    }
    workers.start(index, argv, job.log());
    running_.insert(index);
  }

  BatchRow row_of(const Workers::Ended& ended) const {
    const BatchJob& job = jobs_[ended.job];
    BatchRow row = start_row(job);
    row.seconds = ended.seconds;
    row.peak_memory_bytes = ended.peak_bytes;
    if (ended.exit_code == kDone || ended.exit_code == kGateFailed) {
      try {
        read_report(parse_json(read_file(job.report(), kMaxReportBytes), job.report()), row);
        row.status = ended.exit_code == kDone ? BatchStatus::done : BatchStatus::gate_failed;
      } catch (const Error& error) {
        row.message = error.what();
      }
      return row;
    }
    row.message = last_words(job.log());
    if (ended.exit_code > 128) {
      row.message = fmt::format("ended by signal {}{}{}", ended.exit_code - 128,
                                row.message.empty() ? "" : ": ", row.message);
    }
    return row;
  }

  BatchRow start_row(const BatchJob& job) const {
    BatchRow row;
    row.model = job.model;
    row.recipe = job.recipe;
    row.output = job.output;
    row.input_bytes = job.input_bytes;
    return row;
  }

  // The run that was started last gives way; one that breaks the budget alone cannot be done.
  void watch_memory(Workers& workers, std::deque<size_t>& waiting) {
    const uint64_t resident = workers.resident_bytes();
    peak_ = std::max(peak_, resident);
    if (memory_ == 0 || resident <= memory_ || workers.running() == 0) return;
    const size_t job = workers.youngest();
    const bool was_alone = workers.running() == 1;
    workers.stop(job);
    running_.erase(job);
    if (!was_alone) {
      alone_.insert(job);
      waiting.push_back(job);
      return;
    }
    BatchRow row = start_row(jobs_[job]);
    row.message = fmt::format("needs more memory than the budget of {}", human_bytes(memory_));
    finish(std::move(row));
  }

  // What runs now, on a terminal.
  void show(size_t waiting) {
    std::string note;
    for (const size_t job : running_) {
      note += (note.empty() ? "" : ", ") + fs::path(jobs_[job].output).filename().string();
    }
    if (waiting > 0) note += fmt::format("; {} waiting", waiting);
    progress_.update(static_cast<int64_t>(summary_.rows.size()), static_cast<int64_t>(jobs_.size()),
                     printable(note));
  }

  void finish(BatchRow row) {
    progress_.clear();
    summary_.rows.push_back(std::move(row));
    const BatchRow& last = summary_.rows.back();
    if (command_.flags.quiet) return;
    std::fprintf(stderr, "[%zu/%zu] %-11s %s%s%s\n", summary_.rows.size(), jobs_.size(),
                 std::string(status_name(last.status)).c_str(), printable(last.output).c_str(),
                 last.message.empty() ? "" : ": ", printable(last.message).c_str());
  }

  int end() {
    std::sort(summary_.rows.begin(), summary_.rows.end(), [](const BatchRow& a, const BatchRow& b) {
      return std::tie(a.model, a.recipe) < std::tie(b.model, b.recipe);
    });
    summary_.version = program_version();
    summary_.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    summary_.peak_memory_bytes = peak_;
    return report_batch(summary_, command_.flags);
  }

 public:
  static int report_batch(const BatchSummary& summary, const CommonFlags& flags) {
    for (const std::string& path : flags.reports) {
      AtomicFile file(path, true);
      file.write(render(summary, path));
      file.commit();
    }
    if (flags.json) {
      print(render(summary, "-.json"));
    } else if (!flags.quiet) {
      print(to_table(summary));
    }
    if (summary.count(BatchStatus::failed) > 0) return kError;
    return summary.count(BatchStatus::gate_failed) > 0 ? kGateFailed : kDone;
  }

 private:
  const Command& command_;
  std::vector<BatchJob> jobs_;
  uint64_t memory_;  // 0: no budget
  Progress progress_;
  std::chrono::steady_clock::time_point start_;
  std::set<size_t> running_;
  std::set<size_t> alone_;  // broke the budget beside others
  uint64_t peak_ = 0;
  BatchSummary summary_;
};

// What each run gets as it is. Threads, time and memory do not decide what it makes.
void pass_on(const CommonFlags& flags, const CLI::App& command, BatchRequest& request) {
  const auto value = [&](const char* name, const std::string& text, std::vector<std::string>& out) {
    if (command.count(name) > 0) out.insert(out.end(), {name, text});
  };
  value("--threads", std::to_string(flags.threads), request.running);
  value("--time-budget", fmt::format("{}", flags.time_budget), request.running);
  value("--max-memory", flags.max_memory, request.running);
  value("--seed", std::to_string(flags.seed), request.flags);
  value("--samples", std::to_string(flags.samples), request.flags);
  value("--eval-samples", std::to_string(flags.eval_samples), request.flags);
  for (const std::string& gate : flags.gates) {
    request.flags.insert(request.flags.end(), {"--gate", gate});
  }
  for (const auto& [name, set] :
       {std::pair("--no-verify", flags.no_verify), std::pair("--allow-random", flags.allow_random),
        std::pair("--external-data", flags.external_data)}) {
    if (set) request.flags.push_back(name);
  }
  // Where a plug-in lies does not decide what it does.
  if (const CLI::Option* plugins = command.get_option_no_throw("--plugin")) {
    for (const std::string& path : plugins->results()) {
      request.running.insert(request.running.end(), {"--plugin", path});
    }
  }
  for (const PluginIdentity& plugin : plugins_in_use()) request.plugins.push_back(plugin.sha256);
}

void add_summary_flags(CLI::App& command, CommonFlags& flags) {
  command
      .add_option("--report", flags.reports,
                  "write the summary; .json, .csv, .md, .html or .xml (JUnit) by extension "
                  "(repeatable)")
      ->expected(1)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->type_name("FILE");
  command.add_flag("--json", flags.json, "print the JSON summary instead of the table");
  command.add_flag("-q,--quiet", flags.quiet, "print errors only");
}

}  // namespace

Run add_batch(CLI::App& program) {
  CLI::App* command =
      program.add_subcommand("batch", "convert many models: a folder, a list or a manifest");
  command->footer(
      "Examples:\n"
      "  compress batch zoo/ --recipe cpu-int8 --recipe cpu-int4-llm -o out \\\n"
      "      --data 'data/{stem}.npz' --workers 4 --memory 8G --report summary.html\n"
      "  compress batch models.txt --recipe mine.json -o out --shard 2/4\n"
      "A rerun does what is missing, torn or changed; what failed is tried again. One model that\n"
      "fails does not stop the others. Beside each output lie its report and its log.\n"
      "Exit codes: 1 where a model failed, else 3 where a gate failed.\n");
  auto state = std::make_shared<Command>();
  CommonFlags& flags = state->flags;
  BatchRequest& request = state->request;
  command
      ->add_option("SOURCE", request.source,
                   "a folder of .onnx files, a list (a path a line), or a manifest (.json)")
      ->required();
  command->add_option("-o,--output", request.folder, "the folder for the outputs, made if missing")
      ->required()
      ->type_name("FOLDER");
  command
      ->add_option("--recipe", request.recipes,
                   "a recipe file, or one of `compress recipes` (repeatable)")
      ->expected(1)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->type_name("FILE|NAME");
  command
      ->add_option("-d,--data", request.data,
                   "data of each model; {stem}, {name} and {folder} are the model's; models whose "
                   "file is not there go without")
      ->type_name("PATTERN");
  command->add_option("--labels", request.labels, "labels of the data, as --data")
      ->type_name("PATTERN");
  command->add_option("--workers", state->workers, "runs at a time (default 1)")
      ->check(CLI::Range(1, 1024))
      ->type_name("N");
  command
      ->add_option("--memory", state->memory,
                   "most memory of all runs together, as 8G: runs wait for each other")
      ->type_name("BYTES");
  command->add_option("--shard", state->shard, "do part I of N, beside other processes or machines")
      ->type_name("I/N");
  command->add_flag("-f,--force", flags.force, "do again what is done");
  command->add_flag("--dry-run", flags.dry_run, "list what would be made");
  add_summary_flags(*command, flags);
  command->add_option("--gate", flags.gates, "a condition on every run (repeatable)")
      ->expected(1)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->type_name("EXPR");
  command->add_flag("--no-verify", flags.no_verify, "do not run the models afterwards");
  command->add_flag("--allow-random", flags.allow_random,
                    "calibrate on noise where there is no data");
  command->add_flag("--external-data", flags.external_data, "weights in files beside the models");
  command->add_option("--threads", flags.threads, "of each run (default: the machine's by workers)")
      ->check(CLI::Range(1, 1024))
      ->type_name("N");
  command->add_option("--seed", flags.seed, "of everything random")->type_name("S");
  command->add_option("--samples", flags.samples, "samples for calibration")->type_name("N");
  command->add_option("--eval-samples", flags.eval_samples, "samples for verification")
      ->type_name("N");
  command->add_option("--time-budget", flags.time_budget, "most seconds for timing in each run")
      ->type_name("SECONDS");
  command->add_option("--max-memory", flags.max_memory, "most memory for the values of a run")
      ->type_name("BYTES");
  return [state, command] {
    for (const std::string& path : state->flags.reports) check_summary_path(path);
    read_shard(state->shard, state->request);
    for (const std::string& gate : state->flags.gates) parse_gate(gate);
    pass_on(state->flags, *command, state->request);
    if (command->count("--threads") == 0 && state->workers > 1) {
      const int each = std::max(1, machine_info().threads / state->workers);
      state->request.running.insert(state->request.running.end(),
                                    {"--threads", std::to_string(each)});
    }
    return Batch(*state).run();
  };
}

Run add_merge_reports(CLI::App& program) {
  CLI::App* command =
      program.add_subcommand("merge-reports", "one summary of the shards of a batch");
  command->footer("Example:\n  compress merge-reports shard1.json shard2.json --report all.html\n");
  struct State {
    std::vector<std::string> parts;
    CommonFlags flags;
  };
  auto state = std::make_shared<State>();
  command->add_option("SUMMARY", state->parts, "JSON summaries of compress batch")->required();
  add_summary_flags(*command, state->flags);
  return [state] {
    for (const std::string& path : state->flags.reports) check_summary_path(path);
    std::vector<BatchSummary> parts;
    for (const std::string& path : state->parts) {
      parts.push_back(read_summary(read_file(path, kMaxReportBytes), path));
    }
    return Batch::report_batch(merge(parts), state->flags);
  };
}

}  // namespace compress
