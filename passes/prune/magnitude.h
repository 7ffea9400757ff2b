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
  int64_t block_size = 0;           // 0: the whole slice
  std::vector<double> input_norms;  // empty: plain magnitudes
  std::vector<float> ranks;         // what counts instead of magnitudes, one an element; or empty
  struct Positions {                // of an element along an axis, in `step`s of it
    int64_t inner = 1, size = 1, step = 1;
    int64_t of(int64_t i) const { return i / inner % size / step; }
  };
  Positions input, group;

  // Which scale belongs to element i.
  size_t param_of(int64_t i) const;
  // From here on an element counts times the norm of the input that it multiplies: one a position
  // of the reduction axis, group by group of the output axis.
  void weigh_inputs(std::vector<double> norms, int reduction_axis, int output_axis, int64_t groups);
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
// What became of the target where other weights changed as well.
Zeroed count_zeros(const PruneTarget& target, Tensor tensor);

}  // namespace compress
