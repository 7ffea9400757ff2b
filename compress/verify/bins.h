// Few counts in equal bins: what a picture shows of a distribution.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "compress/quant/statistics.h"

namespace compress {

constexpr int kShownBins = 48;

struct Bins {
  double low = 0;
  double high = 0;
  std::vector<int64_t> counts;
};

// What lies outside counts at the edges; what is no number is left out.
Bins bins_of(std::span<const float> values, double low, double high);
// Bins of the histogram between the extremes that were seen, merged.
Bins bins_of(const Histogram& histogram, double low, double high);

}  // namespace compress
