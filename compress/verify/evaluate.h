// Runs two models over the same samples and measures both: similarity always, accuracy where there
// are labels or scores of pairs. One batch is in memory at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "compress/runtime/sample_source.h"
#include "compress/runtime/session.h"
#include "compress/verify/metric.h"
#include "compress/verify/runner.h"

namespace compress {

struct EvaluateOptions {
  std::string metric_output;  // whose arg-max and labels count; "": the first output
  int64_t metric_axis = -1;   // of the classes
  int64_t batch = 1;
  // False: labels that do not fit the metric output are left out with a note. They came with the
  // data, and nobody asked for them.
  bool needs_labels = true;
  std::function<void(int64_t done, int64_t total)> progress;  // may be empty
};

struct OutputSimilarity {
  std::string name;
  double sqnr_db = 0;
  double psnr_db = 0;
  double cosine = 0;
  double mse = 0;
  double max_abs_error = 0;
  double agreement = 0;
  double kl = 0;
};

// 95 % confidence intervals; that of the drop knows that both models saw the same samples.
struct AccuracyIntervals {
  std::pair<double, double> reference;
  std::pair<double, double> candidate;
  std::optional<std::pair<double, double>> drop;
};

// Counts [label, arg-max], row-major.
struct Confusion {
  int64_t classes = 0;
  std::vector<int64_t> reference;
  std::vector<int64_t> candidate;
};

struct Evaluation {
  int64_t samples = 0;
  bool labelled = false;
  Measurements accuracy;  // rows of the metric table with needs labels, positions, pair_scores
  std::map<std::string, AccuracyIntervals, std::less<>> intervals;  // of top1 and top5
  std::optional<Confusion> confusion;                               // of a few classes
  std::vector<OutputSimilarity> outputs;
  std::vector<std::string> notes;  // what could not be compared and why
  // mse, psnr, sqnr, cosine, agreement, kl: of several outputs the worst; agreement is that of the
  // metric output.
  Measurements similarity;
};

// Fails (usage) where labels that are needed do not fit the metric output; (invalid_model) where an
// output's shapes differ. Scores of pairs are used for those pairs whose both samples are among
// `indices`.
Evaluation evaluate(const Runner& reference, const Runner& candidate, SampleSource& data,
                    const std::vector<int64_t>& indices, const EvaluateOptions& options);
Evaluation evaluate(Session& reference, Session& candidate, SampleSource& data,
                    const std::vector<int64_t>& indices, const EvaluateOptions& options);

// The metrics that evaluate() will give for this data, so that a gate on another is refused first.
bool can_measure(MetricNeeds needs, SampleSource* data);

}  // namespace compress
