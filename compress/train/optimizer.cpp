#include "compress/train/optimizer.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numbers>

#include "compress/core/parallel.h"

namespace compress::train {
namespace {

constexpr int64_t kGrain = 1 << 14;

// Calls body(i, gradient with regularization) for the weights that may move.
template <class Body>
void for_each_weight(const OptimizerOptions& o, bool decay, std::span<const float> gradient,
                     std::span<const uint8_t> mask, std::span<float> parameter, Body&& body) {
  const auto coupled =
      static_cast<float>(decay && o.kind != OptimizerKind::adamw ? o.weight_decay : 0);
  const auto l1 = static_cast<float>(decay ? o.l1 : 0);
  parallel_for(0, static_cast<int64_t>(parameter.size()), kGrain, [&](int64_t from, int64_t to) {
    for (auto i = static_cast<size_t>(from); i < static_cast<size_t>(to); ++i) {
      if (!mask.empty() && mask[i] == 0) continue;
      float g = gradient[i];
      if (coupled != 0) g += coupled * parameter[i];
      if (l1 != 0) g += parameter[i] > 0 ? l1 : parameter[i] < 0 ? -l1 : 0.0f;
      body(i, g);
    }
  });
}

}  // namespace

Moments make_moments(const OptimizerOptions& options, size_t count) {
  Moments moments;
  const bool sgd = options.kind == OptimizerKind::sgd;
  if (!sgd || options.momentum != 0) moments.first.assign(count, 0.0f);
  if (!sgd) moments.second.assign(count, 0.0f);
  return moments;
}

void update(const OptimizerOptions& o, double rate, int64_t step, bool decay,
            std::span<const float> gradient, std::span<const uint8_t> mask,
            std::span<float> parameter, Moments& moments) {
  assert(gradient.size() == parameter.size());
  const auto lr = static_cast<float>(rate);
  if (o.kind == OptimizerKind::sgd) {
    const auto momentum = static_cast<float>(o.momentum);
    for_each_weight(o, decay, gradient, mask, parameter, [&](size_t i, float g) {
      if (momentum != 0) {
        float& v = moments.first[i];
        // PyTorch's form: the first step takes the gradient as it is.
        v = step == 1 ? g : momentum * v + g;
        g = o.nesterov ? g + momentum * v : v;
      }
      parameter[i] -= lr * g;
    });
    return;
  }
  const auto beta1 = static_cast<float>(o.beta1), beta2 = static_cast<float>(o.beta2);
  const double bias1 = 1 - std::pow(o.beta1, static_cast<double>(step));
  const double bias2 = 1 - std::pow(o.beta2, static_cast<double>(step));
  const auto size = static_cast<float>(rate / bias1);
  const auto root = static_cast<float>(1 / std::sqrt(bias2));
  const auto epsilon = static_cast<float>(o.epsilon);
  const auto shrink =
      static_cast<float>(o.kind == OptimizerKind::adamw && decay ? 1 - rate * o.weight_decay : 1);
  for_each_weight(o, decay, gradient, mask, parameter, [&](size_t i, float g) {
    float& m = moments.first[i];
    float& v = moments.second[i];
    m = beta1 * m + (1 - beta1) * g;
    v = beta2 * v + (1 - beta2) * g * g;
    parameter[i] = parameter[i] * shrink - size * m / (std::sqrt(v) * root + epsilon);
  });
}

double rate_at(const ScheduleOptions& s, int64_t step) {
  if (step < s.warmup) {
    return s.rate * static_cast<double>(step + 1) / static_cast<double>(s.warmup);
  }
  const double span = static_cast<double>(std::max<int64_t>(s.total - s.warmup, 1));
  const double done = std::clamp(static_cast<double>(step - s.warmup) / span, 0.0, 1.0);
  switch (s.kind) {
    case ScheduleKind::constant:
      return s.rate;
    case ScheduleKind::cosine:
      return s.rate * (s.least + (1 - s.least) * (1 + std::cos(std::numbers::pi * done)) / 2);
    case ScheduleKind::linear:
      return s.rate * (1 - (1 - s.least) * done);
    case ScheduleKind::step:
      return s.rate * std::pow(s.factor, static_cast<double>((step - s.warmup) /
                                                             std::max<int64_t>(s.every, 1)));
  }
  return s.rate;
}

}  // namespace compress::train
