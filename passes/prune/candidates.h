// The weight tensors that pruning may zero, and why others stay.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "passes/pass.h"
#include "passes/prune/granularity.h"
#include "passes/prune/magnitude.h"
#include "passes/prune/sparsities.h"
#include "passes/select.h"
#include "passes/weights.h"

namespace compress {

// One constant and all who read it as a weight.
struct Candidate {
  Graph* home;
  ValueId value;
  std::vector<WeightRead> reads;
  PruneTarget target;
  std::optional<WeightAxes> axes;  // where all reads agree
};

struct Candidates {
  std::vector<Candidate> chosen;
  std::vector<Skipped> skipped;
};

// Every weight in execution order, sorted into those that the options want and the others. With
// `needs_axes`, tensors without them are left as well.
Candidates find_candidates(Model& model, const Options& options, bool needs_axes);

// "node" of reports: the first reader.
std::string label_of(const Candidate& candidate);
// That of its first reader.
double sparsity_of(const Candidate& candidate, const Sparsities& sparsities);

// Puts tensors into the model and counts what became of them.
class PruneReport {
 public:
  void set(Candidate& candidate, Zeroed zeroed);
  PassResult result(std::vector<Skipped> skipped);

 private:
  int64_t tensors_ = 0;
  int64_t weights_ = 0;
  int64_t zeros_ = 0;
  int64_t changed_ = 0;
  Json layers_ = Json::array();
};

// How many of `count` units go.
int64_t wanted_zeros(double sparsity, int64_t count);

}  // namespace compress
