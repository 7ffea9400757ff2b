#include "compress/train/slot.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace compress::train {

Slot::Slot(std::string constant, std::string graph_input, const Tensor& initial)
    : name(std::move(constant)), input(std::move(graph_input)), shape(initial.shape()) {
  const TensorData data = initial.read();
  const auto from = data.as<float>();
  values = std::make_shared<std::vector<float>>(from.begin(), from.end());
  tensor = Tensor::borrow(DType::float32, shape, values->data(), values);
  best = *values;
}

void mask_zeros(Slot& slot) {
  slot.mask.resize(slot.values->size());
  for (size_t i = 0; i < slot.mask.size(); ++i) slot.mask[i] = (*slot.values)[i] != 0;
}

double relative_rate(const std::vector<float>& weights) {
  constexpr double kUsual = 0.05;
  double sum = 0, count = 0;  // of what is not pruned
  for (const float w : weights) {
    sum += static_cast<double>(w) * static_cast<double>(w);
    count += w != 0 ? 1 : 0;
  }
  return count > 0 ? std::clamp(std::sqrt(sum / count) / kUsual, 1e-4, 1.0) : 1.0;
}

void update_scale(const OptimizerOptions& options, double rate, int64_t step, Slot& slot) {
  std::vector<float>& values = *slot.values;
  for (size_t i = 0; i < values.size(); ++i) slot.gradient[i] *= values[i];
  std::vector<float> moved(values.size(), 0.0f);
  update(options, rate, step, false, slot.gradient, {}, moved, slot.moments);
  constexpr float kMost = 0.5f;  // of one step, whatever the rate
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] *= std::exp(std::clamp(moved[i], -kMost, kMost));
  }
}

}  // namespace compress::train
