// How far a candidate's tensors are from a reference's, streamed over samples.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "compress/core/tensor.h"

namespace compress {

// Sums over all elements that were added, in double precision. Elements that are equal count as
// exact even where both are infinite; those where the reference is not finite are otherwise left
// out of the power. A candidate that is not finite where the reference is makes everything NaN.
class Distortion {
 public:
  void add(std::span<const float> reference, std::span<const float> candidate);

  int64_t count() const { return count_; }
  // 10 log10(sum r^2 / sum (r - c)^2); infinite where nothing differs, NaN before anything came.
  double sqnr_db() const;
  // 10 log10(peak^2 / mse) with peak = max - min of the reference.
  double psnr_db() const;
  double mse() const;
  double cosine() const;  // 1 where nothing differs
  double max_abs_error() const { return max_error_; }

 private:
  int64_t count_ = 0;
  double reference_power_ = 0;
  double candidate_power_ = 0;
  double product_ = 0;
  double error_power_ = 0;
  double max_error_ = 0;
  double low_ = 0;
  double high_ = 0;
};

// The elements as float32; int64 and double lose what float32 cannot hold.
std::vector<float> to_floats(const TensorView& tensor);
// True for the types that to_floats takes: every number and bool, no strings or complex numbers.
bool is_comparable(DType dtype);

}  // namespace compress
