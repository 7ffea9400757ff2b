// Calibrators: rows that turn statistics of a value into the range its integers shall cover.
#pragma once

#include <span>
#include <string_view>

#include "compress/quant/statistics.h"

namespace compress {

struct Range {
  double min = 0;
  double max = 0;
};

struct CalibratorOptions {
  double percentile = 99.999;  // of the absolute values' mass kept
  int bits = 8;
  bool symmetric = false;
};

struct CalibratorDef {
  std::string_view name;  // "minmax", "moving-average", "percentile", "entropy", "mse", "balanced"
  std::string_view summary;
  bool needs_histogram;
  Range (*range)(const Statistics&, const CalibratorOptions&);
};

std::span<const CalibratorDef> all_calibrators();
// Fails (usage) naming the nearest.
const CalibratorDef& find_calibrator(std::string_view name);

}  // namespace compress
