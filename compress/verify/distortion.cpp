#include "compress/verify/distortion.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace compress {

void Distortion::add(std::span<const float> reference, std::span<const float> candidate) {
  assert(reference.size() == candidate.size());
  if (count_ == 0 && !reference.empty()) low_ = high_ = reference[0];
  for (size_t i = 0; i < reference.size(); ++i) {
    const double r = reference[i];
    const double c = candidate[i];
    ++count_;
    if (!std::isfinite(r)) {
      const bool same = r == c || (std::isnan(r) && std::isnan(c));
      if (!same) error_power_ = max_error_ = std::numeric_limits<double>::quiet_NaN();
      continue;
    }
    const double error = r - c;
    reference_power_ += r * r;
    candidate_power_ += c * c;
    product_ += r * c;
    error_power_ += error * error;
    // Not std::max: a NaN must stay.
    if (!(std::fabs(error) <= max_error_)) max_error_ = std::fabs(error);
    low_ = std::min(low_, r);
    high_ = std::max(high_, r);
  }
  if (std::isnan(error_power_)) max_error_ = error_power_;
}

double Distortion::sqnr_db() const {
  if (count_ == 0) return std::numeric_limits<double>::quiet_NaN();
  if (error_power_ == 0) return std::numeric_limits<double>::infinity();
  return 10 * std::log10(reference_power_ / error_power_);
}

double Distortion::psnr_db() const {
  if (count_ == 0) return std::numeric_limits<double>::quiet_NaN();
  if (error_power_ == 0) return std::numeric_limits<double>::infinity();
  return 10 * std::log10((high_ - low_) * (high_ - low_) / mse());
}

double Distortion::mse() const { return error_power_ / static_cast<double>(count_); }

double Distortion::cosine() const {
  if (count_ == 0 || std::isnan(error_power_)) return std::numeric_limits<double>::quiet_NaN();
  if (error_power_ == 0) return 1;
  const double power = reference_power_ * candidate_power_;
  return power == 0 ? 0 : product_ / std::sqrt(power);
}

bool is_comparable(DType dtype) {
  return is_float(dtype) || is_integer(dtype) || dtype == DType::boolean;
}

std::vector<float> to_floats(const TensorView& tensor) {
  if (tensor.dtype == DType::float32) {
    const float* data = tensor.as<float>();
    return {data, data + tensor.count()};
  }
  const Tensor borrowed = Tensor::borrow(tensor.dtype, tensor.shape, tensor.data, nullptr);
  const Tensor floats = convert(borrowed, DType::float32);
  const TensorData data = floats.read();
  const auto values = data.as<float>();
  return {values.begin(), values.end()};
}

}  // namespace compress
