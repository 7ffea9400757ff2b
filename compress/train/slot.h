// A parameter or state while it is trained.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "compress/core/tensor.h"
#include "compress/train/optimizer.h"

namespace compress::train {

// The session reads `values` in place.
struct Slot {
  std::string name;   // of the constant
  std::string input;  // of the graph
  Shape shape;
  Tensor tensor;  // borrows `values`
  std::shared_ptr<std::vector<float>> values;
  std::vector<float> best;
  std::span<float> gradient;  // of one update
  std::vector<uint8_t> mask;
  Moments moments;
  bool decays = false;
  bool is_scale = false;
  bool prunes = false;  // a weight, no bias or norm
  double rate = 1;      // part of the schedule's

  Slot(std::string constant, std::string graph_input, const Tensor& initial);
};

// Weights that are zero now are held at zero.
void mask_zeros(Slot& slot);

// Of layers with small weights, a part of the others' rate: see TrainOptions::relative_rates.
double relative_rate(const std::vector<float>& weights);

// What is learnt of a scale is its logarithm (Jain et al. 2020): a rate means the same for scales
// of any size, and they keep their sign.
void update_scale(const OptimizerOptions& options, double rate, int64_t step, Slot& slot);

}  // namespace compress::train
