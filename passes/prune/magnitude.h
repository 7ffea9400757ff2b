// Magnitudes of weights as integers that order like them, for exact selection without sorting.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "compress/core/tensor.h"

namespace compress {

// A weight tensor as pruning sees it. Quantized weights carry the parameters of their
// DequantizeLinear: zero is then the zero point, and magnitude counts in real units.
struct PruneTarget {
  Tensor tensor;
  std::vector<double> scales;        // empty: not quantized
  std::vector<int32_t> zero_points;  // one a scale
  int64_t inner = 1;                 // elements between neighbours along the quantization axis
  int64_t axis_size = 1;
  int64_t block_size = 0;  // 0: the whole slice

  // Which scale belongs to element i.
  size_t param_of(int64_t i) const;
  // The magnitude of element i as an integer that orders like it, which is its bits as a double.
  uint64_t key_at(const TensorView& content, int64_t i) const;
};

// Everything below this goes, and of what equals it the first `ties`, in the order of the targets.
struct Threshold {
  uint64_t key = 0;
  int64_t ties = 0;
};

bool can_prune(DType dtype, bool is_quantized);

// The threshold below which exactly `count` elements of all targets together fall. REQUIRES
// 0 <= count <= number of elements. Four passes of 16 bits: time is linear, memory constant.
Threshold select_smallest(const std::vector<const PruneTarget*>& targets, int64_t count);

struct Zeroed {
  Tensor tensor;
  int64_t zeros = 0;    // in the result
  int64_t changed = 0;  // elements that were not zero before
};

// The target with its smallest weights set to zero; takes the ties that it uses from `threshold`.
Zeroed zero_smallest(const PruneTarget& target, Threshold& threshold);

// The same where mask[i] is not 0.
Zeroed zero_masked(const PruneTarget& target, const std::vector<uint8_t>& mask);

}  // namespace compress
