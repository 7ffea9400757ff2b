// Where samples come from, for everything that runs a model over data. Implemented by calibration/.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "compress/core/tensor.h"

namespace compress {

// One sample: a tensor for each model input, whose axis 0 is the batch (size 1), except constants.
struct Sample {
  std::vector<NamedTensor> inputs;
  std::optional<Tensor> label;  // int64; one number, or one a position
};

class SampleSource {
 public:
  virtual ~SampleSource() = default;
  virtual int64_t size() const = 0;
  // REQUIRES 0 <= index < size(). Decodes on demand; one sample is in memory at a time.
  virtual Sample get(int64_t index) = 0;
  virtual bool labelled() const = 0;
  // A score a pair of consecutive samples (the spearman metric); empty where there are none.
  virtual std::vector<double> pair_scores() const { return {}; }
  // Names of inputs that are the same for every batch and are not joined on axis 0.
  virtual std::vector<std::string> constants() const { return {}; }
  // One line for reports ("imagenet500, 500 images"), and a hash of spec and file list.
  virtual std::string description() const = 0;
};

// Joins samples [first, first + n) on axis 0; labels too.
Sample join(SampleSource& source, const std::vector<int64_t>& indices);

// N evenly spaced indices of [0, size), never the first N: folders are sorted by class.
std::vector<int64_t> evenly_spaced(int64_t size, int64_t n);

}  // namespace compress
