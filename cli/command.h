// What the subcommands share: common flags, one function a command, exit codes.
#pragma once

#include <CLI/CLI.hpp>

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <map>
#include <string>
#include <vector>

#include "compress/core/shape.h"
#include "compress/graph/model.h"
#include "compress/recipe.h"
#include "compress/report/gate.h"
#include "compress/report/report.h"

namespace compress {

enum ExitCode { kDone = 0, kError = 1, kUsage = 2, kGateFailed = 3 };

// Flags that mean the same everywhere; each command offers those that mean something for it.
struct CommonFlags {
  int threads = 0;  // 0: the machine's
  uint64_t seed = 0;
  std::string device = "cpu";
  std::vector<std::string> reports;
  std::vector<std::string> gates;
  std::string baseline;
  bool json = false;
  bool quiet = false;
  bool verbose = false;
  bool no_progress = false;
  bool no_verify = false;
  bool no_lower = false;
  bool dry_run = false;
  bool force = false;
  bool require_change = false;
  bool external_data = false;
  bool allow_random = false;
  double time_budget = 30;
  int64_t batch = 1;
  int64_t samples = 0;       // for calibration; 0: the default
  int64_t eval_samples = 0;  // 0: the default
  std::string max_memory;
  std::vector<std::string> input_shapes;
  std::string metric_output;
  std::string data;
  std::string labels;
  std::string calibration_data;
  std::string eval_data;
  std::string train_data;
  std::string statistics;  // a file of `compress calibrate`
  std::string output;
  std::vector<std::string> disabled;
  std::string stop_after;
  std::string dump_after;
};

// Groups of flags.
void add_run_flags(CLI::App& command, CommonFlags& flags);     // threads, seed, quiet, ...
void add_model_flags(CLI::App& command, CommonFlags& flags);   // input-shape, batch, no-lower
void add_report_flags(CLI::App& command, CommonFlags& flags);  // report, gate, baseline, json
void add_data_flags(CLI::App& command, CommonFlags& flags, bool calibrates);
void add_training_flags(CLI::App& command, CommonFlags& flags);  // train-data
void add_output_flags(CLI::App& command, CommonFlags& flags);  // -o, force, dry-run, require-change

// Applies --threads; fails (usage) where a value cannot be. To be called first.
void apply(const CommonFlags& flags);

std::map<std::string, Shape> input_shapes(const CommonFlags& flags);
// Fails (usage) where --input-shape names what is no input of any of the models, or a shape that
// the declared one does not allow.
void check_input_shapes(const CommonFlags& flags, std::initializer_list<const Model*> models);
uint64_t max_memory_bytes(const CommonFlags& flags);  // 0: no limit

// Flags of a step, made from its rows; names in `taken` are left to the common flags.
class StepFlags {
 public:
  void add(CLI::App& command, std::span<const OptionDef> defs);
  // What was given, in the rows' JSON types.
  Json given() const;

 private:
  struct Row {
    const OptionDef* def;
    CLI::Option* option;
    std::vector<std::string> texts;
    bool flag = false;
  };
  std::vector<std::unique_ptr<Row>> rows_;
};

// How --help looks; commands take it from the program.
std::shared_ptr<CLI::FormatterBase> help_formatter();

// A command: adds itself to the program; run() is what happens when it was chosen.
using Run = std::function<int()>;
std::vector<Run> add_steps(CLI::App& program);  // one a row of all_steps()
Run add_calibrate(CLI::App& program);
Run add_sensitivity(CLI::App& program);
Run add_verify(CLI::App& program);
Run add_infer(CLI::App& program);
Run add_inspect(CLI::App& program);
Run add_diff(CLI::App& program);
Run add_run(CLI::App& program);
Run add_batch(CLI::App& program);
Run add_merge_reports(CLI::App& program);
Run add_report(CLI::App& program);
Run add_recipes(CLI::App& program);
Run add_schema(CLI::App& program);
Run add_completion(CLI::App& program);
Run add_man(CLI::App& program);
// Hidden: runs one model alone and prints what it cost (compress/verify/resources.h).
Run add_measure(CLI::App& program);

}  // namespace compress
