// Trains a model on samples: labels, or a teacher's outputs, or both.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "compress/graph/model.h"
#include "compress/runtime/sample_source.h"
#include "compress/train/augment.h"
#include "compress/train/loss.h"
#include "compress/train/optimizer.h"
#include "compress/train/ranks.h"
#include "compress/train/sparsity.h"

namespace compress::train {

struct TrainOptions {
  int64_t epochs = 1;
  int64_t batch = 32;
  int64_t accumulate = 1;  // batches whose gradients add up to one update: what ranks share
  OptimizerOptions optimizer;
  ScheduleOptions schedule;  // `total` and `every` are set by the trainer
  int64_t warmup_epochs = 0;
  int64_t step_epochs = 1;  // schedule step: epochs between cuts
  LossOptions loss;
  double clip_norm = 0;     // largest norm of all gradients together; 0: any
  double validation = 0.1;  // part of the samples that is held back; 0: none
  int64_t patience = 0;     // epochs without a better one before it stops; 0: never stops early
  bool keep_best = true;    // of all epochs by held-back loss, the start included
  bool batch_statistics = true;  // BatchNormalization learns from the batch; else it stays
  bool dropout = false;          // Dropout nodes of the model draw
  bool decay_all = false;        // weight decay and l1 also on biases and norms
  SparsitySchedule sparsity;     // weights that are cut on the way
  bool keep_sparsity = false;    // weights that are zero at the start stay zero
  bool learn_scales = true;      // of fake quantization
  // The rate of weights behind fake quantization, in steps of their integers, where the schedule's
  // is 1e-3; 0: they have the rate of all others.
  double integer_rate = 0;
  // Layers whose weights are smaller than 0.05 (root of their mean square) learn slower in
  // proportion: they read large values, so that the same move changes more.
  bool relative_rates = false;
  bool recompute = false;  // activations are computed again instead of kept: slower, less memory
  AugmentOptions augment;
  uint64_t seed = 0;
};

struct EpochRecord {
  int64_t epoch = 0;  // 0: before training
  double loss = 0;    // mean over the epoch's batches, as they were trained; NaN for epoch 0
  double validation_loss = 0;  // NaN where nothing is held back
  double accuracy = 0;         // on what is held back; NaN without labels
  double rate = 0;             // at its end
};

struct TrainProgress {
  int64_t epoch = 0, epochs = 0;
  int64_t step = 0, steps = 0;  // of all
  double loss = 0;              // of the last batch
  double rate = 0;
};

// Called from the thread that trains. `save` gets everything that a later run needs to go on
// exactly where this one stands; what it wrote last is given back as `resume`.
struct TrainHooks {
  std::function<void(const TrainProgress&)> progress;
  std::function<void(const EpochRecord&)> epoch;
  std::function<void(const std::vector<NamedTensor>&)> save;
  double save_seconds = 60;  // between two calls within an epoch; each epoch's end is saved as well
  // Who else runs the same train() with the same operands: the result is that of one process. Only
  // rank 0's `save` is called; `teacher_outputs` and whether there is a `save_teacher` are the same
  // on all.
  Ranks ranks;
  // The teacher's outputs for all samples, as `save_teacher` of an earlier run was given them.
  std::vector<NamedTensor> teacher_outputs;
  std::function<void(const std::vector<NamedTensor>&)> save_teacher;
};

struct TrainResult {
  std::vector<NamedTensor> values;  // constants of the model and what they became
  std::vector<EpochRecord> epochs;
  int64_t best_epoch = 0;
  int64_t steps = 0;
  int64_t parameters = 0;  // elements
  int64_t held_back = 0;   // samples
  std::string stopped;     // why it ended before its last epoch; empty
  bool diverged = false;
};

// `teacher` is null without one. `indices` are the samples to learn from. Fails (unsupported) ahead
// of any work where a node has no derivative, (usage) where the data, the loss and the models do
// not fit each other or `resume` belongs to another run.
TrainResult train(const Model& student, const Model* teacher, SampleSource& data,
                  std::vector<int64_t> indices, const TrainOptions& options,
                  const TrainHooks& hooks = {}, const std::vector<NamedTensor>& resume = {});

// Fails (usage) where an update of so many batches has none for some ranks; train() does so, too.
void require_batches(const Ranks& ranks, int64_t accumulate);

// Sets the model's constants to what training made of them.
void apply_result(Model& model, const TrainResult& result);

}  // namespace compress::train
