#include "compress/quant/range.h"

#include <algorithm>
#include <catch2/catch.hpp>

#include "compress/error.h"
#include "tests/quant/distributions.h"

namespace compress {
namespace {

Statistics of(std::vector<float> values) {
  Statistics s;
  s.add({DType::float32, {static_cast<int64_t>(values.size())}, values.data()},
        {.histogram = true});
  return s;
}

Range range_of(std::string_view calibrator, const Statistics& s, CalibratorOptions options = {}) {
  return find_calibrator(calibrator).range(s, options);
}

constexpr size_t kMany = 2'000'000;

// Quantization noise to signal of the values under a range, by brute force.
double squared_error(const std::vector<float>& values, Range range, int bits) {
  const double step = (range.max - range.min) / (std::exp2(bits) - 1);
  double sum = 0;
  for (const float x : values) {
    const double clipped = std::clamp<double>(x, range.min, range.max);
    const double rounded = std::rint(clipped / step) * step;  // zero is representable
    sum += (x - rounded) * (x - rounded);
  }
  return sum / static_cast<double>(values.size());
}

}  // namespace

TEST_CASE("minmax and moving average") {
  Statistics s = of({-1, 3});
  std::vector<float> second = {-3, 7};
  s.add({DType::float32, {2}, second.data()}, {.histogram = true});
  CHECK(range_of("minmax", s).min == -3);
  CHECK(range_of("minmax", s).max == 7);
  CHECK(range_of("moving-average", s).min == -2);
  CHECK(range_of("moving-average", s).max == 5);
}

TEST_CASE("percentile of a normal distribution") {
  const Statistics s = of(draw(kMany, 1, &Random::normal));
  // The quantile of |N(0, 1)|: 4.417 at 99.999 % (20 of 2,000,000 values lie beyond), 2.576 at 99
  // %.
  const Range r = range_of("percentile", s);
  CHECK(r.max > 4.25);
  CHECK(r.max < 4.6);
  CHECK(r.min == -r.max);
  const Range p99 = range_of("percentile", s, {.percentile = 99});
  CHECK(p99.max == Approx(2.576).epsilon(0.005));
  const Range all = range_of("percentile", s, {.percentile = 100});
  CHECK(all.max == s.max);
  CHECK(all.min == s.min);
}

TEST_CASE("mse clips where theory says (ACIQ, Banner et al. 2019, table of optimal clipping)") {
  const Statistics normal = of(draw(kMany, 2, &Random::normal));
  const Statistics laplace = of(draw(kMany, 3, &Random::laplace));
  const auto threshold = [&](const Statistics& s, int bits) {
    const Range r = range_of("mse", s, {.bits = bits, .symmetric = true});
    CHECK(r.max == Approx(-r.min).epsilon(0.05));
    return r.max;
  };
  // In standard deviations: 2.55 and 3.92; in units of b: 5.03 and 9.89.
  CHECK(threshold(normal, 4) == Approx(2.55).epsilon(0.05));
  CHECK(threshold(normal, 8) == Approx(3.92).epsilon(0.05));
  CHECK(threshold(laplace, 4) == Approx(5.03).epsilon(0.05));
  CHECK(threshold(laplace, 8) == Approx(9.89).epsilon(0.06));
}

TEST_CASE("mse after Relu: exact zeros cost nothing, the lower end stays") {
  const auto values =
      draw(kMany, 4, &Random::laplace, [](double x) { return std::max(0.0, x - 1.0); });
  const Statistics s = of(values);
  const Range r = range_of("mse", s);
  CHECK(r.min == 0);
  CHECK(r.max < s.max);
  const double best = squared_error(values, r, 8);
  for (const double part : {0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4, 2.0}) {
    const double to = std::min<double>(r.max * part, s.max);
    CHECK(best <= squared_error(values, {0, to}, 8) * 1.03);
  }
}

TEST_CASE("mse moves each end on its own") {
  auto values = draw(kMany, 5, &Random::uniform, [](double x) { return x * 6 - 1; });
  for (size_t i = 0; i < 20; ++i) values[i * 1000] = -100;
  const Statistics s = of(values);
  const Range r = range_of("mse", s, {.bits = 4});
  CHECK(r.min > -12);
  CHECK(r.min < -0.8);
  CHECK(r.max > 4.5);
  CHECK(r.max <= 5.0);
}

TEST_CASE("balanced clips less than mse, and not at all where little lies outside") {
  const std::vector<float> values = draw(kMany, 3, &Random::laplace);
  const Statistics s = of(values);
  const double all = range_of("minmax", s, {.symmetric = true}).max;
  const double mse = range_of("mse", s, {.symmetric = true}).max;
  const double balanced = range_of("balanced", s, {.symmetric = true}).max;
  CHECK(mse < 0.95 * balanced);
  CHECK(balanced < 0.99 * all);
  // What it minimizes, by brute force: 32 times what is clipped, and the rounding of the rest.
  const auto loss = [&](double threshold) {
    const double step = 2 * threshold / 254;
    double sum = 0;
    for (const float x : values) {
      const double over = std::fabs(x) - threshold;
      sum += over > 0 ? 32 * over * over : step * step / 12;
    }
    return sum;
  };
  for (const double part : {0.8, 0.9, 1.1, 1.25}) CHECK(loss(balanced) < loss(balanced * part));
}

TEST_CASE("bytes scaled to [-1, 1] do not all fall half way between integers") {
  const auto pixels = [](double middle) {
    return draw(100'000, 5, &Random::uniform,
                [=](double x) { return (std::floor(x * 256) - middle) / 127.5; });
  };
  const std::vector<float> values = pixels(127.5);
  const double step = 2 / 255.0;
  CHECK(squared_error(values, {-1, 1}, 8) == Approx(step * step / 4).epsilon(0.02));
  for (const char* name : {"mse", "balanced"}) {
    const Range range = range_of(name, of(values));
    CHECK(squared_error(values, range, 8) < 1.1 * step * step / 12);
    CHECK(range.max < 1.021f);
    // A lattice that meets the integers, and what lies on none, keep their range.
    const std::vector<float> whole = pixels(127);
    CHECK(squared_error(whole, range_of(name, of(whole)), 8) < 0.02 * step * step / 12);
    const Range smooth =
        range_of(name, of(draw(100'000, 6, &Random::uniform, [](double x) { return 2 * x - 1; })));
    CHECK(smooth.max <= 1);
  }
}

TEST_CASE("entropy drops outliers and keeps the body") {
  auto values = draw(kMany, 6, &Random::normal);
  for (size_t i = 0; i < 10; ++i) values[i * 10'000] = i % 2 ? 60.0f : -50.0f;
  const Range clipped = range_of("entropy", of(values));
  CHECK(clipped.max > 3.0);
  CHECK(clipped.max < 16.0);
  CHECK(clipped.min == -clipped.max);
  // Without outliers nearly all of it stays.
  const Statistics uniform = of(draw(kMany, 7, &Random::uniform));
  CHECK(range_of("entropy", uniform).max > 0.95);
  CHECK(range_of("entropy", uniform).min >= 0);
}

TEST_CASE("entropy after Relu: a spike of exact zeros does not shrink the range") {
  const auto rectified = [](size_t every) {
    std::vector<float> values = draw(kMany, 7, &Random::laplace);
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = i % 10 < every ? 0.0f : std::abs(values[i]);
    }
    return values;
  };
  const double plain = range_of("entropy", of(rectified(0))).max;
  // Nine of ten exactly zero: the values that need levels are distributed as before.
  const double spiked = range_of("entropy", of(rectified(9))).max;
  CHECK(spiked > 0.7 * plain);
}

TEST_CASE("every calibrator stays inside of what was seen, on every kind of data") {
  std::vector<Statistics> cases;
  cases.push_back({});
  cases.push_back(of({0, 0, 0}));
  cases.push_back(of({5, 5}));
  cases.push_back(of({-3}));
  cases.push_back(of({1e-40f, 2e-40f}));
  cases.push_back(of({-3e38f, 3e38f}));
  cases.push_back(of({-1, -2, -3, -1000}));
  cases.push_back(of(draw(1000, 8, &Random::laplace, [](double x) { return x + 20; })));
  cases.push_back(of(draw(1000, 9, &Random::normal, [](double x) { return -std::abs(x); })));
  for (const CalibratorDef& calibrator : all_calibrators()) {
    for (const Statistics& s : cases) {
      for (const bool symmetric : {false, true}) {
        for (const int bits : {4, 8, 16}) {
          INFO(calibrator.name << " of [" << s.min << ", " << s.max << "]");
          const Range r = calibrator.range(s, {.bits = bits, .symmetric = symmetric});
          CHECK(std::isfinite(r.min));
          CHECK(std::isfinite(r.max));
          CHECK(r.min <= r.max);
          CHECK(r.min >= s.min);
          CHECK(r.max <= s.max);
        }
      }
    }
  }
}

TEST_CASE("an unknown calibrator is refused with the nearest name") {
  CHECK_THROWS_WITH(find_calibrator("percentil"), Catch::Contains("'percentile'"));
  CHECK(all_calibrators().size() == 6);
}

}  // namespace compress
