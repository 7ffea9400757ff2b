// Layer by layer: each block of a compressed copy learns to give what the block of the original
// gives, from what the (already trained) blocks before it feed it. Needs no labels, and hardly more
// samples than calibration.
#pragma once

#include <functional>
#include <string_view>
#include <vector>

#include "compress/runtime/sample_source.h"
#include "compress/train/trainer.h"
#include "passes/pass.h"

namespace compress {

struct BlockwiseOptions {
  train::TrainOptions train;
  // 0: several are tried on each block.
  double rate = 0;
  // They share the rates.
  train::Ranks ranks;
};

// Trains the weights of `student` in place, all blocks in a row and then once more one by one. Kept
// is what gives the best outputs on the samples held back, which may be the start.
PassResult distill_blockwise(Model& student, const Model& teacher, SampleSource& data,
                             const std::vector<int64_t>& indices, const BlockwiseOptions& options,
                             const std::function<void(std::string_view)>& log);

}  // namespace compress
