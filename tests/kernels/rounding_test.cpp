#include "compress/kernels/rounding/rounding.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <limits>

#include "compress/quant/qparams.h"
#include "kernel_test_util.h"

namespace compress::kernels {
namespace {

constexpr int64_t kRows = kRoundingRows;

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

// A panel with memory of its own.
struct Panel {
  Panel(testing::Random& random, int64_t columns)
      : width(columns),
        weights(random.floats(columns * kRows, -40, 40)),
        errors(weights.size(), 0),
        integers(weights.size(), 0),
        spread(random.floats(columns * (columns + 3), -0.5f, 0.5f)),
        scale(random.floats(kRows, 0.2f, 3)),
        zero(kRows, 0) {
    for (int64_t c = 0; c < columns; ++c) spread[at(c, c)] = random.real(0.5f, 2);
  }
  size_t at(int64_t c, int64_t j) const { return static_cast<size_t>(c * (width + 3) + j); }

  void round(const RoundingKernel& kernel, int64_t begin, int64_t end, bool spreads) {
    RoundingPanel panel{};
    panel.weights = weights.data();
    panel.integers = integers.data();
    panel.errors = errors.data();
    panel.spread = spreads ? spread.data() : nullptr;
    panel.spread_stride = width + 3;
    panel.begin = begin;
    panel.end = end;
    panel.width = width;
    panel.scale = scale.data();
    panel.zero = zero.data();
    panel.range = {-8, 7};
    kernel.round_columns(panel);
  }

  int64_t width;
  std::vector<float> weights, errors;
  std::vector<int32_t> integers;
  std::vector<float> spread, scale, zero;
};

}  // namespace

TEST_CASE("scales are judged by the same numbers on every instruction set") {
  testing::Random random(3);
  for (const RoundingKernel* kernel : rounding_kernels()) {
    if (!runs_here(kernel->isa)) continue;
    for (const int64_t n : {1, 7, 8, 31, 32, 33, 128}) {
      CAPTURE(kernel->name, n);
      const std::vector<float> values = random.floats(n, -2, 2), weights = random.floats(n, 0, 3);
      const std::vector<RoundingTrial> trials = {{0.25f, 0}, {-0.25f, 0}, {0.1f, 7}, {1e-3f, 3}};
      std::vector<float> expected(trials.size()), actual(trials.size());
      const RoundingRange range{0, 15};
      kRoundingRef.losses(values.data(), weights.data(), n, trials.data(), 4, range,
                          expected.data());
      kernel->losses(values.data(), weights.data(), n, trials.data(), 4, range, actual.data());
      CHECK(same_bits(actual, expected));
      double exact = 0;
      for (size_t i = 0; i < values.size(); ++i) {
        const double q = std::clamp(std::nearbyint(values[i] / 0.25), 0.0, 15.0);
        exact += double{weights[i]} * std::pow(values[i] - q * 0.25, 2);
      }
      CHECK(double{actual[0]} == Approx(exact).epsilon(1e-5));
    }
  }
}

TEST_CASE("columns are rounded to the same integers on every instruction set, by the one rule") {
  for (const RoundingKernel* kernel : rounding_kernels()) {
    if (!runs_here(kernel->isa)) continue;
    for (const bool spreads : {true, false}) {
      CAPTURE(kernel->name, spreads);
      testing::Random random(5);
      Panel expected(random, 21);
      for (size_t r = 0; r < kRows; ++r) expected.zero[r] = static_cast<float>(r % 3) - 1;
      expected.weights[3] = std::numeric_limits<float>::quiet_NaN();
      expected.weights[4] = std::numeric_limits<float>::infinity();
      expected.weights[5] = -3e38f;
      const std::vector<float> first(expected.weights.begin(), expected.weights.begin() + kRows);
      Panel actual = expected;
      for (const auto& [begin, end] : {std::pair(0, 5), std::pair(5, 21)}) {
        expected.round(kRoundingRef, begin, end, spreads);
        actual.round(*kernel, begin, end, spreads);
      }
      CHECK(actual.integers == expected.integers);
      // The bits of a NaN are nobody's concern.
      for (Panel* panel : {&expected, &actual}) {
        for (auto* values : {&panel->weights, &panel->errors}) {
          for (float& x : *values) x = std::isnan(x) ? 0 : x;
        }
      }
      CHECK(same_bits(actual.weights, expected.weights));
      CHECK(same_bits(actual.errors, expected.errors));
      for (size_t r = 0; r < kRows; ++r) {
        CHECK(actual.integers[r] == quantize_value(first[r], actual.scale[r],
                                                   static_cast<int32_t>(actual.zero[r]), {-8, 7}));
      }
    }
  }
}

TEST_CASE("an error moves to the columns behind it, as the spread says") {
  testing::Random random(9);
  for (const RoundingKernel* kernel : rounding_kernels()) {
    if (!runs_here(kernel->isa)) continue;
    Panel panel(random, 4);
    const std::vector<float> before = panel.weights;
    panel.round(*kernel, 1, 2, true);
    for (size_t r = 0; r < kRows; ++r) {
      const float kept = static_cast<float>(panel.integers[kRows + r]) * panel.scale[r];
      const float error = (before[kRows + r] - kept) / panel.spread[panel.at(1, 1)];
      CHECK(panel.errors[kRows + r] == error);
      CHECK(panel.weights[r] == before[r]);
      for (size_t j = 2; j < 4; ++j) {
        const float part = error * panel.spread[panel.at(1, static_cast<int64_t>(j))];
        CHECK(panel.weights[j * kRows + r] == before[j * kRows + r] - part);
      }
    }
  }
}

}  // namespace compress::kernels
