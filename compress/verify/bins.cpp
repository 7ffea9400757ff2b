#include "compress/verify/bins.h"

#include <algorithm>
#include <cmath>

namespace compress {
namespace {

Bins empty_bins(double low, double high) {
  if (!(high > low)) high = low + std::max(std::fabs(low), 1.0) * 1e-6;
  return {low, high, std::vector<int64_t>(kShownBins, 0)};
}

void add(Bins& bins, double value, int64_t count) {
  const double at = (value - bins.low) / (bins.high - bins.low) * kShownBins;
  bins.counts[static_cast<size_t>(std::clamp(at, 0.0, kShownBins - 1.0))] += count;
}

}  // namespace

Bins bins_of(std::span<const float> values, double low, double high) {
  Bins bins = empty_bins(low, high);
  for (const float value : values) {
    if (!std::isnan(value)) add(bins, value, 1);
  }
  return bins;
}

Bins bins_of(const Histogram& histogram, double low, double high) {
  Bins bins = empty_bins(low, high);
  const double half = histogram.bin_width() / 2;
  for (int i = 0; i < Histogram::kBins; ++i) {
    const int64_t count = histogram.counts[static_cast<size_t>(i)];
    if (count > 0) add(bins, histogram.lower_edge(i) + half, count);
  }
  return bins;
}

}  // namespace compress
