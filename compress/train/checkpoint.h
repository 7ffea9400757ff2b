// Everything that a training run stands on, as named tensors: who stores them is the caller's
// business.
#pragma once

#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "compress/core/tensor.h"
#include "compress/train/trainer.h"

namespace compress::train {

// Where a run is. Random numbers are functions of seed, epoch and step, so these are all.
struct Progress {
  int64_t epoch = 0;  // that are done
  int64_t batch = 0;  // of the current one, done: whole updates
  int64_t step = 0;   // updates
  int64_t best_epoch = 0;
  double best_loss = std::numeric_limits<double>::infinity();
  double loss_sum = 0;  // over the samples of the current epoch
  double first_loss = 0;
};

struct Checkpoint {
  Progress progress;
  std::vector<EpochRecord> epochs;
  // What a run has to have in common with the one that goes on from here, by option.
  std::vector<std::pair<std::string, int64_t>> run;
  // Borrowed vectors of one parameter or state.
  struct Slot {
    std::string name;
    Shape shape;
    std::vector<float>* values;
    std::vector<float>* best;
    std::vector<float>* first;
    std::vector<float>* second;
    std::vector<uint8_t>* mask;  // empty: nothing is masked
  };
  std::vector<Slot> slots;
};

std::vector<NamedTensor> pack_checkpoint(const Checkpoint& checkpoint);
// Fills in what was packed. Fails (usage) where it is of another model or run.
void unpack_checkpoint(const std::vector<NamedTensor>& saved, Checkpoint& checkpoint);

}  // namespace compress::train
