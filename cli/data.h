// Which samples serve what: one set may calibrate and evaluate, but no sample does both.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cli/command.h"
#include "compress/runtime/sample_source.h"

namespace compress {

struct JobData {
  std::unique_ptr<SampleSource> first;  // owners
  std::unique_ptr<SampleSource> second;
  std::unique_ptr<SampleSource> third;
  SampleSource* calibration = nullptr;  // null: none
  SampleSource* evaluation = nullptr;
  SampleSource* training = nullptr;
  bool shared = false;           // one set serves calibration and evaluation
  bool training_shared = false;  // one set serves training and evaluation
  std::vector<std::string> notes;

  std::vector<int64_t> calibration_indices;
  std::vector<int64_t> evaluation_indices;
  std::vector<int64_t> training_indices;
};

// Data sets that live in this process, by the names that stand in for their paths: how the Python
// module hands in arrays. Empty in the program itself. Not while a command runs.
using OpenSource = std::function<std::unique_ptr<SampleSource>(const Model&)>;
void attach_data(std::map<std::string, OpenSource> sources);

// The data set at a path, or attached by that name. Fails (usage) where it holds no samples.
std::unique_ptr<SampleSource> open_source(const std::string& path, const std::string& labels,
                                          const Model& model);

// Opens what the flags name for this model. Without a path the pointers are null.
JobData open_data(const CommonFlags& flags, const Model& model, bool calibrates,
                  bool trains = false);

// Which samples calibrate. Of a small set that serves both, half is left to be measured on.
void choose_calibration(JobData& data, const CommonFlags& flags);
// Which samples are learnt from. Of a set that serves evaluation too, a fifth (at most as many as
// verification takes) is left to be measured on.
void choose_training(JobData& data, const CommonFlags& flags);
// Where nothing else calibrates, some of the samples that are learnt from do.
void calibrate_on_training(JobData& data);
// Which samples are measured on: not those that calibrated, where there are others.
void choose_evaluation(JobData& data, const CommonFlags& flags, bool calibrated);

// The indices [0, size) without `left_out` (sorted), evenly thinned to at most `most`. With pairs
// (2k, 2k + 1) both samples of a pair stay or go.
std::vector<int64_t> evaluation_samples(int64_t size, const std::vector<int64_t>& left_out,
                                        int64_t most, bool pairs);

}  // namespace compress
