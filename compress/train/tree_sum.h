// The sum of numbered vectors, added pair by pair in a binary tree over their numbers: the same
// bits whoever computes them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "compress/core/function_ref.h"
#include "compress/train/ranks.h"

namespace compress::train {

class TreeSum {
 public:
  explicit TreeSum(size_t width) : buffers_(1, std::vector<float>(width)) {}

  // fill(part, out) writes a part; it is called for this rank's, in order. The sum of all is then
  // on every rank. REQUIRES parts >= 1. Takes up to log2(parts of this rank) + 2 times the width.
  void run(const Ranks& ranks, int64_t parts,
           FunctionRef<void(int64_t part, std::span<float> out)> fill);

  // Always the same memory.
  std::span<float> total() { return buffers_[0]; }

 private:
  struct Work;
  std::span<float> buffer(size_t depth);
  void add(const Work& work, int64_t first, int64_t end, size_t depth);

  std::vector<std::vector<float>> buffers_;
};

}  // namespace compress::train
