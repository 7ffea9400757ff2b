// Optimizers and learning-rate schedules. One update is a pure function of its operands: no state
// hides anywhere but in the vectors that a checkpoint saves.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace compress::train {

enum class OptimizerKind { sgd, adam, adamw };

struct OptimizerOptions {
  OptimizerKind kind = OptimizerKind::adam;
  double momentum = 0.9;  // sgd
  bool nesterov = false;  // sgd
  double beta1 = 0.9;     // adam, adamw
  double beta2 = 0.999;
  double epsilon = 1e-8;    // beside the root, as in PyTorch
  double weight_decay = 0;  // adamw: off the weight itself; the others: added to the gradient
  double l1 = 0;            // added to the gradient: l1 sign(w)
};

// Moments of one parameter; empty where the optimizer has none.
struct Moments {
  std::vector<float> first;
  std::vector<float> second;
};

Moments make_moments(const OptimizerOptions& options, size_t count);

// One update of a parameter. `step` counts from 1. Where `mask` is given, weights whose mask is 0
// stay as they are, and so do their moments. `decay` is false for parameters that regularization
// leaves alone (biases, norms).
void update(const OptimizerOptions& options, double rate, int64_t step, bool decay,
            std::span<const float> gradient, std::span<const uint8_t> mask,
            std::span<float> parameter, Moments& moments);

enum class ScheduleKind { constant, cosine, step, linear };

struct ScheduleOptions {
  ScheduleKind kind = ScheduleKind::cosine;
  double rate = 1e-3;
  int64_t warmup = 0;   // steps that rise to the rate, in equal parts
  int64_t total = 1;    // steps in all
  int64_t every = 1;    // step: as many steps between two cuts
  double factor = 0.1;  // step: what a cut leaves
  double least = 0;     // cosine, linear: where they end, as a part of the rate
};

// The rate of update `step`, which counts from 0.
double rate_at(const ScheduleOptions& schedule, int64_t step);

}  // namespace compress::train
