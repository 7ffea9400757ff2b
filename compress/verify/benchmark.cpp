#include "compress/verify/benchmark.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace compress {
namespace {

using Clock = std::chrono::steady_clock;

double since_ms(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// Nearest rank: the smallest value that at least `part` of the values do not exceed.
double percentile(const std::vector<double>& sorted, double part) {
  const double rank = std::ceil(part * static_cast<double>(sorted.size()));
  return sorted[static_cast<size_t>(std::max(rank, 1.0)) - 1];
}

double median_of(std::vector<double>& values) {
  const auto middle = values.begin() + static_cast<int64_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

// SplitMix64 (Steele, Lea, Flood 2014): the same numbers everywhere.
uint64_t next_random(uint64_t& state) {
  uint64_t z = (state += 0x9E3779B97F4A7C15);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

}  // namespace

Timing timing_of(std::vector<double> milliseconds, int64_t batch) {
  Timing out;
  if (milliseconds.empty()) return out;
  out.median_ms = median_of(milliseconds);
  std::sort(milliseconds.begin(), milliseconds.end());
  out.p90_ms = percentile(milliseconds, 0.90);
  out.p99_ms = percentile(milliseconds, 0.99);
  out.min_ms = milliseconds.front();
  // How many of n values lie below the median is binomial: n / 2 +- 1.96 sqrt(n) / 2.
  const double n = static_cast<double>(milliseconds.size());
  const double reach = 0.98 * std::sqrt(n);
  out.median_low_ms = milliseconds[static_cast<size_t>(std::max(std::floor(n / 2 - reach), 0.0))];
  out.median_high_ms = milliseconds[static_cast<size_t>(std::min(std::ceil(n / 2 + reach), n - 1))];
  out.throughput = static_cast<double>(batch) * 1000 / out.median_ms;
  return out;
}

std::pair<double, double> bootstrap_ratio(std::span<const double> reference,
                                          std::span<const double> candidate, uint64_t seed) {
  constexpr int kResamples = 1000;
  const size_t n = reference.size();
  std::vector<double> ratios, a(n), b(n);
  uint64_t state = seed;
  for (int k = 0; k < kResamples; ++k) {
    for (size_t i = 0; i < n; ++i) {
      const size_t at = next_random(state) % n;
      a[i] = reference[at];
      b[i] = candidate[at];
    }
    ratios.push_back(median_of(a) / median_of(b));
  }
  std::sort(ratios.begin(), ratios.end());
  return {ratios[kResamples * 25 / 1000], ratios[kResamples * 975 / 1000 - 1]};
}

Benchmark benchmark(Session& reference, Session& candidate, std::span<const NamedTensor> feeds,
                    const BenchmarkOptions& options) {
  return benchmark(runner_of(reference), runner_of(candidate), feeds, options);
}

Benchmark benchmark(const Runner& reference, const Runner& candidate,
                    std::span<const NamedTensor> feeds, const BenchmarkOptions& options) {
  const auto start = Clock::now();
  const auto elapsed = [&] { return since_ms(start) / 1000; };
  // The first run makes plans; the rest of the warm-up fills caches and lets the clock rise.
  reference.prepare(feeds);
  candidate.prepare(feeds);
  const double warm_up = std::min(options.seconds / 10, 0.5);
  for (int i = 0; i < 100 && (i < 2 || elapsed() < warm_up) && elapsed() < options.seconds; ++i) {
    reference.time();
    candidate.time();
  }
  // Enough for a narrow interval: a budget is a limit, not a duty.
  const double enough = std::min(options.seconds, 5.0);
  std::vector<double> ours, theirs;
  for (int round = 0; round < options.max_runs; ++round) {
    if (round >= options.min_runs && elapsed() >= options.seconds) break;
    if (round >= 2 && elapsed() >= 4 * options.seconds) break;
    if (round >= 200 && elapsed() >= enough) break;
    // Who goes first alternates, so that neither always finds the other's cache.
    if (round % 2 == 0) {
      ours.push_back(reference.time());
      theirs.push_back(candidate.time());
    } else {
      theirs.push_back(candidate.time());
      ours.push_back(reference.time());
    }
  }
  Benchmark out;
  out.runs = static_cast<int64_t>(ours.size());
  out.reference = timing_of(ours, options.batch);
  out.candidate = timing_of(theirs, options.batch);
  out.speedup = out.reference.median_ms / out.candidate.median_ms;
  std::tie(out.speedup_low, out.speedup_high) = bootstrap_ratio(ours, theirs, options.seed);
  return out;
}

}  // namespace compress
