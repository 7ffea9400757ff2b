// Seeded values of known distributions.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <numbers>
#include <vector>

namespace compress {

// SplitMix64 (Steele et al., 2014): the same numbers with every standard library.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t bits() {
    uint64_t z = (state_ += 0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
  }
  double uniform() { return (static_cast<double>(bits() >> 11) + 0.5) * 0x1p-53; }  // (0, 1)
  double normal() {
    return std::sqrt(-2 * std::log(uniform())) * std::cos(2 * std::numbers::pi * uniform());
  }
  double laplace() {
    const double u = uniform() - 0.5;
    return std::copysign(std::log(1 - 2 * std::abs(u)), -u);
  }

 private:
  uint64_t state_;
};

inline std::vector<float> draw(size_t count, uint64_t seed, double (Random::*next)(),
                               const std::function<double(double)>& shape = {}) {
  Random random(seed);
  std::vector<float> values(count);
  for (float& value : values) {
    const double x = (random.*next)();
    value = static_cast<float>(shape ? shape(x) : x);
  }
  return values;
}

}  // namespace compress
