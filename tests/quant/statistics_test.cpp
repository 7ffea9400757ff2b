#include "compress/quant/statistics.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

#include "compress/core/parallel.h"
#include "tests/quant/distributions.h"

namespace compress {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

TensorView view_of(std::vector<float>& values, const Shape& shape) {
  return {DType::float32, shape, values.data()};
}

Statistics of(std::vector<float> values, const StatisticsRequest& request = {.histogram = true}) {
  Statistics s;
  s.add(view_of(values, {static_cast<int64_t>(values.size())}), request);
  return s;
}

// The definition, in double.
std::vector<int64_t> naive_counts(const std::vector<float>& values, int exponent) {
  std::vector<int64_t> counts(Histogram::kBins, 0);
  const double width = std::ldexp(2.0 / Histogram::kBins, exponent);
  for (const float x : values) {
    if (!std::isfinite(x)) continue;
    ++counts[static_cast<size_t>(std::floor(x / width) + Histogram::kBins / 2)];
  }
  return counts;
}

void require_same(const Statistics& a, const Statistics& b) {
  CHECK(a.min == b.min);
  CHECK(a.max == b.max);
  CHECK(std::signbit(a.min) == std::signbit(b.min));
  CHECK(a.count == b.count);
  CHECK(a.batches == b.batches);
  CHECK(a.finite == b.finite);
  CHECK(a.histogram.exponent == b.histogram.exponent);
  CHECK(a.histogram.counts == b.histogram.counts);
  CHECK(a.channel_absmax == b.channel_absmax);
  CHECK(a.gram == b.gram);
}

}  // namespace

TEST_CASE("histogram bins are the definition's, at every magnitude") {
  for (const double scale : {1e-42, 1e-30, 0.01, 1.0, 1e5, 1e30}) {
    std::vector<float> values =
        draw(10'007, 1, &Random::normal, [&](double x) { return x * scale; });
    values.insert(values.end(), {0.0f, -0.0f, static_cast<float>(-scale)});
    const Statistics s = of(values);
    INFO("scale " << scale);
    CHECK(s.histogram.counts == naive_counts(values, s.histogram.exponent));
    const float absmax = std::max(-s.min, s.max);
    CHECK(std::ldexp(1.0, s.histogram.exponent) > absmax);
    if (s.histogram.exponent > -126) {
      CHECK(std::ldexp(1.0, s.histogram.exponent - 1) <= absmax);
    }
  }
}

TEST_CASE("histogram edges: powers of two, bin borders, largest and smallest floats") {
  const float largest = std::numeric_limits<float>::max();
  const float tiny = std::numeric_limits<float>::denorm_min();
  std::vector<float> values = {largest, -largest, tiny, -tiny, 1.0f, -1.0f, 0.0f};
  for (int e = -149; e < 128; ++e) {
    values.push_back(std::ldexp(1.0f, e));
    values.push_back(-std::ldexp(1.0f, e));
  }
  const Statistics s = of(values);
  CHECK(s.histogram.exponent == 128);
  CHECK(s.histogram.counts == naive_counts(values, 128));

  std::vector<float> borders;
  for (int i = -1023; i < 1024; ++i) {
    borders.push_back(static_cast<float>(i));
    borders.push_back(std::nextafter(static_cast<float>(i), -2000.0f));
  }
  const Statistics b = of(borders);
  Statistics grown = of({-0.9999f, 0.9999f, -0.5f});
  grown.merge(of({1e6f}));
  CHECK(grown.histogram.counts ==
        naive_counts({-0.9999f, 0.9999f, -0.5f, 1e6f}, grown.histogram.exponent));
  Statistics once = of({-0.9999f, 0.9999f});
  once.merge(of({-1.5f}));
  CHECK(once.histogram.counts == naive_counts({-0.9999f, 0.9999f, -1.5f}, 1));
  CHECK(b.histogram.exponent == 10);
  CHECK(b.histogram.counts == naive_counts(borders, 10));
}

TEST_CASE("adding in any order and merging in any grouping give the same") {
  std::vector<std::vector<float>> parts;
  const StatisticsRequest request{.histogram = true, .channel_absmax = true, .channel_axis = 1};
  for (uint64_t i = 0; i < 6; ++i) {
    const double scale = std::ldexp(1.0, static_cast<int>(i * 5) - 12);
    parts.push_back(draw(3000, i, &Random::laplace, [&](double x) { return x * scale; }));
  }
  const auto add = [&](Statistics& s, size_t part) {
    s.add(view_of(parts[part], {10, 3, 100}), request);
  };
  Statistics forwards, backwards;
  for (size_t i = 0; i < parts.size(); ++i) {
    add(forwards, i);
    add(backwards, parts.size() - 1 - i);
  }
  require_same(forwards, backwards);

  std::vector<Statistics> single(parts.size());
  for (size_t i = 0; i < parts.size(); ++i) add(single[i], i);
  Statistics left, right, inner;
  for (size_t i = 0; i < 6; ++i) left.merge(single[i]);
  for (size_t i = 3; i < 6; ++i) inner.merge(single[i]);
  for (size_t i = 3; i-- > 0;) right.merge(single[i]);
  inner.merge(right);
  require_same(left, forwards);
  require_same(inner, forwards);
  // Sums of 24-bit values over 30 binades: exact in double up to its last bits.
  CHECK(inner.sum_max == Approx(forwards.sum_max).epsilon(1e-14));
  CHECK(forwards.sum_max > forwards.max);
}

TEST_CASE("any number of threads gives the same statistics") {
  std::vector<float> values = draw(3 * 64 * 1111, 5, &Random::normal);
  values[12345] = kNan;
  const StatisticsRequest request{
      .histogram = true, .channel_absmax = true, .channel_axis = 1, .gram = false};
  const int before = thread_count();
  std::vector<Statistics> results(3);
  for (int threads = 1; threads <= 3; ++threads) {
    set_thread_count(threads);
    auto& s = results[static_cast<size_t>(threads) - 1];
    s.add(view_of(values, {3, 64, 1111}), request);
    auto gram_values = draw(40 * 33, 6, &Random::normal);
    Statistics g;
    g.add(view_of(gram_values, {40, 33}), {.gram = true});
    s.gram = g.gram;
  }
  set_thread_count(before);
  CHECK_FALSE(results[0].finite);
  require_same(results[0], results[1]);
  require_same(results[0], results[2]);
}

TEST_CASE("what is not finite is skipped and reported") {
  const Statistics s = of({1.0f, kNan, -2.0f, kInfinity, 0.5f, -kInfinity});
  CHECK_FALSE(s.finite);
  CHECK(s.min == -2.0f);
  CHECK(s.max == 1.0f);
  CHECK(s.count == 3);
  CHECK(s.histogram.counts == naive_counts({1.0f, -2.0f, 0.5f}, s.histogram.exponent));
  CHECK(of({1.0f, 2.0f}).finite);

  const Statistics none = of({kNan, kNan});
  CHECK(none.count == 0);
  CHECK(none.batches == 0);
  CHECK(none.histogram.empty);
  CHECK(of({}).count == 0);
  // Which zero is the smallest must not depend on the order.
  CHECK_FALSE(std::signbit(of({-0.0f}).min));
  CHECK_FALSE(std::signbit(of({-0.0f}).max));

  std::vector<float> values = {1, kNan, -7, 4, kInfinity, 2};
  Statistics c;
  c.add(view_of(values, {2, 3}), {.channel_absmax = true, .channel_axis = 1});
  CHECK(c.channel_absmax == std::vector<float>{4, 0, 7});
}

TEST_CASE("sums of long channels keep their bits, merge, and skip runs that are not finite") {
  constexpr int64_t kCount = 100'003;
  std::vector<float> values(2 * kCount, 0.1f);  // float sums alone would be off in the third digit
  Statistics s;
  const StatisticsRequest request{.channel_sum = true, .channel_axis = 0};
  s.add(view_of(values, {2, kCount}), request);
  CHECK(s.channel_sum[1] == Approx(kCount * double{0.1f}).epsilon(1e-6));
  std::vector<float> broken(2 * kCount, kInfinity);
  s.add(view_of(broken, {2, kCount}), request);
  CHECK(s.channel_count == kCount);
  Statistics twice = s;
  twice.merge(s);
  CHECK(twice.channel_count == 2 * kCount);
  CHECK(twice.channel_sum[0] == 2 * s.channel_sum[0]);
}

TEST_CASE("runs are counted and their extremes summed") {
  Statistics s;
  std::vector<float> a = {-1, 3}, b = {2, 5};
  s.add(view_of(a, {2}), {});
  s.add(view_of(b, {2}), {});
  CHECK(s.batches == 2);
  CHECK(s.sum_min == 1.0);
  CHECK(s.sum_max == 8.0);
  CHECK(s.histogram.empty);
}

TEST_CASE("channel maxima along any axis and X'X are the definition's") {
  const Shape shape{2, 3, 4};
  auto values = draw(24, 9, &Random::normal);
  for (int axis = -3; axis < 3; ++axis) {
    Statistics s;
    s.add(view_of(values, shape), {.channel_absmax = true, .channel_axis = axis});
    const int a = axis < 0 ? axis + 3 : axis;
    std::vector<float> wanted(static_cast<size_t>(shape[a]), 0.0f);
    for (int64_t i = 0; i < 24; ++i) {
      const int64_t index[] = {i / 12, i / 4 % 3, i % 4};
      float& slot = wanted[static_cast<size_t>(index[a])];
      slot = std::max(slot, std::abs(values[static_cast<size_t>(i)]));
    }
    CHECK(s.channel_absmax == wanted);
  }
  for (int axis = -3; axis < 3; ++axis) {
    Statistics s;
    const StatisticsRequest request{.channel_sum = true, .channel_axis = axis};
    s.add(view_of(values, shape), request);
    s.add(view_of(values, shape), request);
    const int a = axis < 0 ? axis + 3 : axis;
    std::vector<double> wanted(static_cast<size_t>(shape[a]), 0.0);
    for (int64_t i = 0; i < 24; ++i) {
      const int64_t index[] = {i / 12, i / 4 % 3, i % 4};
      wanted[static_cast<size_t>(index[a])] += 2 * double{values[static_cast<size_t>(i)]};
    }
    REQUIRE(s.channel_sum.size() == wanted.size());
    CHECK(s.channel_count == 2 * 24 / shape[a]);
    for (size_t c = 0; c < wanted.size(); ++c) {
      CHECK(s.channel_sum[c] == Approx(wanted[c]).margin(1e-6));
    }
  }
  Statistics g;
  g.add(view_of(values, shape), {.gram = true});
  g.add(view_of(values, shape), {.gram = true});
  REQUIRE(g.gram.size() == 16);
  CHECK(g.gram_rows == 12);
  for (size_t i = 0; i < 4; ++i) {
    for (size_t j = 0; j < 4; ++j) {
      double sum = 0;
      for (size_t r = 0; r < 6; ++r) sum += double{values[r * 4 + i]} * values[r * 4 + j];
      CHECK(g.gram[i * 4 + j] == Approx(2 * sum));
    }
  }
}

}  // namespace compress
