// What calibration stores about one value (an edge of the graph): plain data, streamed and merged.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "compress/core/tensor.h"

namespace compress {

// Counts over [-2^exponent, 2^exponent) in kBins equal bins. When a value falls outside, the
// exponent grows by one and bins merge in pairs, so the result does not depend on the order of the
// data and merging is exact and associative.
struct Histogram {
  static constexpr int kBins = 2048;
  int exponent = 0;
  bool empty = true;
  std::vector<int64_t> counts = std::vector<int64_t>(kBins, 0);

  // The smallest exponent whose range holds `magnitude`, at least -126.
  static int exponent_for(float magnitude);
  void grow_to(int exponent);
  void add(std::span<const float> values, float absmax);
  void merge(const Histogram& other);
  double bin_width() const;
  double lower_edge(int bin) const;
};

// Which statistics a pass wants of a value.
struct StatisticsRequest {
  bool histogram = false;
  bool channel_absmax = false;  // along `channel_axis`
  bool channel_sum = false;     // likewise; of finite runs
  int channel_axis = 1;         // from the end where negative
  bool gram = false;            // X'X over the last axis (GPTQ)
};
using StatisticsRequests = std::map<std::string, StatisticsRequest>;  // by value name

struct Statistics {
  float min = 0;
  float max = 0;
  int64_t count = 0;    // elements seen
  int64_t batches = 0;  // runs seen
  double sum_min = 0;   // of the runs' minima and maxima: the moving-average calibrator
  double sum_max = 0;
  bool finite = true;  // false: a NaN or infinity was seen
  Histogram histogram;
  std::vector<float> channel_absmax;
  std::vector<double> channel_sum;
  int64_t channel_count = 0;  // elements that each of the sums holds
  std::vector<double> gram;   // [k, k] row-major
  int64_t gram_rows = 0;

  // Adds one run's float32 tensor.
  void add(const TensorView& values, const StatisticsRequest& request);
  void merge(const Statistics& other);
};

// Of a whole run, by value name. `fingerprint` is the SHA-256 of the graph that was run.
struct StatisticsSet {
  std::string fingerprint;
  int64_t samples = 0;
  uint64_t seed = 0;
  std::string data_hash;
  std::map<std::string, Statistics> values;
};

}  // namespace compress
