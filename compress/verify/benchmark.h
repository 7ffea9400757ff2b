// Which of two models is faster, and how sure that is: both run alternately on the same input.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "compress/runtime/session.h"
#include "compress/verify/runner.h"

namespace compress {

struct BenchmarkOptions {
  double seconds = 30;  // at most, warm-up included; a started round is finished
  int64_t batch = 1;    // samples in a run, for the throughput
  int min_runs = 5;     // even where they take longer than `seconds`, up to four times that
  int max_runs = 1000;
  uint64_t seed = 0;  // of the bootstrap
};

struct Timing {
  double median_ms = 0;
  double median_low_ms = 0;  // 95 % confidence interval of the median, by order statistics
  double median_high_ms = 0;
  double p90_ms = 0;
  double p99_ms = 0;
  double min_ms = 0;
  double throughput = 0;  // samples a second, by the median
};

struct Benchmark {
  int64_t runs = 0;  // of each model
  Timing reference;
  Timing candidate;
  double speedup = 0;      // median of the reference / median of the candidate
  double speedup_low = 0;  // 95 % confidence interval: bootstrap over rounds
  double speedup_high = 0;
};

Timing timing_of(std::vector<double> milliseconds, int64_t batch);

// 2.5 % and 97.5 % of median(reference) / median(candidate) over resampled rounds.
std::pair<double, double> bootstrap_ratio(std::span<const double> reference,
                                          std::span<const double> candidate, uint64_t seed);

Benchmark benchmark(const Runner& reference, const Runner& candidate,
                    std::span<const NamedTensor> feeds, const BenchmarkOptions& options);
Benchmark benchmark(Session& reference, Session& candidate, std::span<const NamedTensor> feeds,
                    const BenchmarkOptions& options);

}  // namespace compress
