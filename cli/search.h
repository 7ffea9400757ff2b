// `quantize --max-drop`: the smallest or fastest mixed precision within a limit of accuracy;
// `prune --max-drop`: the fewest weights; and what `sensitivity` shares with them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/data.h"
#include "cli/job.h"
#include "cli/progress.h"
#include "passes/search/search.h"

namespace compress {

struct SearchFlags {
  std::string max_drop;  // "0.5%", "0.005"; "": no search
  std::string minimize = "size";
  std::string budget = "10m";
  std::string metric;
  std::string plot;
};

// Of quantize or prune.
void add_search_flags(CLI::App& command, const std::string& step, SearchFlags& flags);
// The exit code; failures are thrown.
int run_search(Job job, const CommonFlags& flags, const SearchFlags& search);

// The metric by whose drop layers are judged where none is named, and whether the drop is relative.
struct MetricChoice {
  std::string name;
  bool relative = false;
};
MetricChoice choose_metric(const std::string& name, SampleSource& data, Damage damage);

// A pipeline for many runs on one data set: statistics of a value are collected once.
class SharedCalibration {
 public:
  SharedCalibration(JobData& data, const CommonFlags& flags, Progress& progress);
  PipelineOptions options() const;
  KeptSamples& samples() { return calibration_; }
  // What was collected so far, for reports.
  std::vector<ActivationRange> ranges() const;

 private:
  struct State;
  KeptSamples calibration_;
  std::shared_ptr<State> state_;
};

// Evaluation as the flags ask for it.
EvaluateOptions search_evaluate_options(const CommonFlags& flags);
// A figure as "0.5%" or "0.005". Fails (usage).
double fraction_from_text(const std::string& text, const char* flag);
void write_text(const std::string& path, std::string_view text);

}  // namespace compress
