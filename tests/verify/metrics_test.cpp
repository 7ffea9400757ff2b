#include <catch2/catch.hpp>

#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "compress/error.h"
#include "compress/verify/accuracy.h"
#include "compress/verify/benchmark.h"
#include "compress/verify/bins.h"
#include "compress/verify/distortion.h"
#include "compress/verify/metric.h"

using namespace compress;

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

Rows rows(int64_t classes, std::vector<float> values) {
  Rows out;
  out.classes = classes;
  out.values = std::move(values);
  return out;
}

Distortion distortion(std::vector<float> a, std::vector<float> b) {
  Distortion out;
  out.add(a, b);
  return out;
}

}  // namespace

TEST_CASE("distortion of known pairs") {
  // Power 25, error power 1: 10 log10 25. Range of the reference 7, mse 0.5.
  const Distortion d = distortion({3, -4}, {3, -3});
  CHECK(d.sqnr_db() == Approx(10 * std::log10(25.0)));
  CHECK(d.mse() == Approx(0.5));
  CHECK(d.psnr_db() == Approx(10 * std::log10(49 / 0.5)));
  CHECK(d.max_abs_error() == 1);
  CHECK(d.cosine() == Approx((9.0 + 12) / std::sqrt(25.0 * 18)));
}

TEST_CASE("distortion is streamed: two halves are the whole") {
  const std::vector<float> a = {1, 2, -3, 4}, b = {1.5, 2, -2, 4.25};
  Distortion halves;
  halves.add(std::span(a).first(2), std::span(b).first(2));
  halves.add(std::span(a).last(2), std::span(b).last(2));
  CHECK(halves.sqnr_db() == distortion(a, b).sqnr_db());
  CHECK(halves.psnr_db() == distortion(a, b).psnr_db());
}

TEST_CASE("distortion where something is not finite") {
  CHECK(std::isinf(distortion({1, -kInf, kNaN}, {1, -kInf, kNaN}).sqnr_db()));
  CHECK(std::isnan(distortion({1, 2}, {1, kNaN}).sqnr_db()));
  CHECK(std::isnan(distortion({1, 2}, {1, kNaN}).max_abs_error()));
  CHECK(std::isnan(distortion({1, kInf}, {1, 2}).cosine()));
  CHECK(std::isnan(Distortion().sqnr_db()));
  CHECK(distortion({0, 0}, {0, 0}).cosine() == 1);
  CHECK(distortion({0, 0}, {1, 0}).cosine() == 0);
}

TEST_CASE("rows move the class axis last") {
  const Tensor tensor = Tensor::from<float>({1, 2, 3}, {1, 2, 3, 4, 5, 6});
  const TensorData data = tensor.read();
  const Rows last = rows_of(data.view());
  CHECK(last.classes == 3);
  CHECK(last.count() == 2);
  const Rows middle = rows_of(data.view(), 1);
  CHECK(middle.classes == 2);
  CHECK(middle.values == std::vector<float>{1, 4, 2, 5, 3, 6});
  CHECK_THROWS_AS(rows_of(data.view(), 3), Error);
}

TEST_CASE("arg-max takes the first of equal ones and no NaN") {
  CHECK(argmax(std::vector<float>{1, 3, 3}) == 1);
  CHECK(argmax(std::vector<float>{kNaN, 0}) == 1);
  CHECK(argmax(std::vector<float>{kNaN}) == -1);
}

TEST_CASE("accuracy of a hand-made confusion") {
  Accuracy accuracy;
  // Predictions 0, 1, 1, 2 for labels 0, 0, 1, 2; the last row's label is left out.
  const std::vector<int64_t> labels = {0, 0, 1, 2, -1};
  accuracy.add(rows(3, {9, 1, 0, 1, 9, 0, 0, 9, 1, 0, 1, 9, 9, 9, 9}), labels);
  CHECK(accuracy.count() == 4);
  CHECK(accuracy.top1() == Approx(0.75));
  CHECK(accuracy.top5() == 1);
  const auto macro = accuracy.macro();
  CHECK(macro.precision == Approx((1 + 0.5 + 1) / 3));
  CHECK(macro.recall == Approx((0.5 + 1 + 1) / 3));
  CHECK(macro.f1 == Approx((2.0 / 3 + 2.0 / 3 + 1) / 3));
  CHECK_THROWS_AS(accuracy.add(rows(3, {1, 2, 3}), std::vector<int64_t>{3}), Error);
}

TEST_CASE("top five counts ties as arg-max breaks them") {
  Accuracy accuracy;
  const std::vector<float> equal(7, 1.0f);
  accuracy.add(rows(7, equal), std::vector<int64_t>{4});
  CHECK(accuracy.top5() == 1);
  accuracy.add(rows(7, equal), std::vector<int64_t>{5});
  CHECK(accuracy.top5() == Approx(0.5));
  CHECK(accuracy.top1() == 0);
}

TEST_CASE("perplexity of scores and of probabilities") {
  Accuracy scores, probabilities;
  scores.add(rows(4, {1, 1, 1, 1}), std::vector<int64_t>{2});  // softmax is uniform
  CHECK(scores.perplexity() == Approx(4));
  probabilities.add(rows(2, {0.25, 0.75, 0.5, 0.5}), std::vector<int64_t>{0, 0});
  CHECK(probabilities.perplexity() == Approx(std::sqrt(8.0)));
}

TEST_CASE("KL of scores and of probabilities") {
  const std::vector<float> p = {0.5, 0.5}, q = {0.25, 0.75};
  const double expected = 0.5 * std::log(2.0) + 0.5 * std::log(0.5 / 0.75);
  CHECK(kl_divergence(p, q) == Approx(expected));
  CHECK(kl_divergence(p, p) == 0);
  // Scores with the same softmax; a constant shift changes nothing.
  const std::vector<float> a = {2, 2}, b = {1 + std::log(0.25f), 1 + std::log(0.75f)};
  CHECK(kl_divergence(a, b) == Approx(expected).epsilon(1e-5));
  CHECK(std::isfinite(kl_divergence(p, std::vector<float>{1, 0})));
  CHECK(std::isnan(kl_divergence(a, std::vector<float>{kNaN, 1})));
}

TEST_CASE("Spearman with ties, and where there is no rank") {
  const std::vector<double> a = {1, 2, 2, 4};
  CHECK(spearman(a, std::vector<double>{10, 20, 20, 90}) == Approx(1));
  CHECK(spearman(a, std::vector<double>{4, 3, 2, 1}) == Approx(-0.9486832981));
  CHECK(std::isnan(spearman(a, std::vector<double>{1, 1, 1, 1})));
  CHECK(std::isnan(spearman(a, std::vector<double>{1, 2, 3, std::nan("")})));
}

TEST_CASE("pooling weighs positions by the mask") {
  const Tensor hidden = Tensor::from<float>({1, 3, 2}, {1, 2, 3, 4, 100, 100});
  const TensorData data = hidden.read();
  CHECK(mean_pool(data.view(), std::vector<float>{1, 1, 0}) == std::vector<float>{2, 3});
  CHECK(mean_pool(data.view(), {}).front() == Approx(104.0 / 3));
}

TEST_CASE("drops are positive where the candidate is worse") {
  CHECK(drop(find_metric("top1"), {0.9, 0.8}) == Approx(0.1));
  CHECK(drop(find_metric("perplexity"), {4, 5}) == Approx(1));
  CHECK(relative_drop(find_metric("perplexity"), {4, 5}) == Approx(0.25));
  CHECK_THROWS_WITH(find_metric("top_1"), Catch::Contains("did you mean 'top1'"));
  for (const MetricDef& metric : all_metrics()) CHECK_FALSE(describe(metric.needs).empty());
}

TEST_CASE("percentiles by nearest rank") {
  std::vector<double> times;
  for (int i = 100; i >= 1; --i) times.push_back(i);
  const Timing timing = timing_of(times, 4);
  CHECK(timing.median_ms == 50.5);
  CHECK(timing.p90_ms == 90);
  CHECK(timing.p99_ms == 99);
  CHECK(timing.min_ms == 1);
  CHECK(timing.throughput == Approx(4 * 1000 / 50.5));
  // Ranks of binomial(100, 1/2): 40 and 61 of 1..100.
  CHECK(timing.median_low_ms == 41);
  CHECK(timing.median_high_ms == 61);
  const Timing one = timing_of({7}, 1);
  CHECK((one.median_low_ms == 7 && one.median_high_ms == 7));
}

TEST_CASE("intervals of shares and of their paired drops") {
  // Wilson (1927), worked out by hand for 8 of 10.
  const auto [low, high] = share_interval(0.8, 10);
  CHECK(low == Approx(0.4902).margin(1e-4));
  CHECK(high == Approx(0.9433).margin(1e-4));
  CHECK(share_interval(1, 50).second == Approx(1));
  CHECK(share_interval(0, 50).first == Approx(0).margin(1e-12));
  // Nothing lost, nothing won: no drop, and not known beyond the samples.
  const auto none = drop_interval(0, 0, 100);
  CHECK(none.first == Approx(-none.second));
  CHECK(none.second < 0.03);
  const auto lost = drop_interval(30, 5, 100);
  CHECK(lost.first > 0.1);
  CHECK((lost.first < 0.25 && 0.25 < lost.second));
  CHECK(drop_interval(30, 5, 100).second - lost.first >
        drop_interval(300, 50, 1000).second - drop_interval(300, 50, 1000).first);
}

TEST_CASE("a confusion matrix counts labels in rows, and only few classes") {
  Accuracy accuracy;
  accuracy.add({3, {1, 0, 0, 0, 1, 0, 0, 1, 0}}, std::vector<int64_t>{0, 1, 2});
  const std::vector<int64_t> counts(accuracy.confusion().begin(), accuracy.confusion().end());
  CHECK(counts == std::vector<int64_t>{1, 0, 0, 0, 1, 0, 0, 1, 0});
  Accuracy many;
  many.add({1000, std::vector<float>(1000, 0.0f)}, std::vector<int64_t>{3});
  CHECK(many.confusion().empty());
}

TEST_CASE("few bins hold every value once") {
  const std::vector<float> values = {-1, -0.5, 0, 0.25, 1, 1, std::nanf("")};
  const Bins bins = bins_of(values, -1, 1);
  CHECK(std::accumulate(bins.counts.begin(), bins.counts.end(), int64_t{0}) == 6);
  CHECK(bins.counts.front() == 1);
  CHECK(bins.counts.back() == 2);
  Histogram histogram;
  histogram.add(std::span(values).first(6), 1);
  CHECK(bins_of(histogram, -1, 1).counts.back() == 2);
  CHECK(bins_of(std::vector<float>{3, 3}, 3, 3).counts.front() == 2);
}

TEST_CASE("the interval holds the ratio, narrows with runs and repeats") {
  std::vector<double> slow, fast;
  for (int i = 0; i < 400; ++i) {
    slow.push_back(20 + i % 7);
    fast.push_back(10 + i % 5);
  }
  const auto [low, high] = bootstrap_ratio(slow, fast, 1);
  CHECK(low <= 23.0 / 12);
  CHECK(high >= 23.0 / 12);
  CHECK(high - low < 0.4);
  const auto few = bootstrap_ratio(std::span(slow).first(6), std::span(fast).first(6), 1);
  CHECK(few.second - few.first > high - low);
  CHECK(bootstrap_ratio(slow, fast, 1) == std::pair(low, high));
}
