#pragma once

#include "compress/recipe.h"
#include "compress/train/trainer.h"

namespace compress {

// The trainer's options by the flags of distill or train.
train::TrainOptions read_train_options(const Options& options, uint64_t seed);

}  // namespace compress
