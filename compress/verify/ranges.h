// Activations as calibration saw them, and the ranges that a quantized model covers.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "compress/graph/graph.h"
#include "compress/verify/bins.h"

namespace compress {

struct ActivationRange {
  std::string value;
  double min = 0;  // seen
  double max = 0;
  std::optional<std::pair<double, double>> chosen = {};  // what the integers cover
  Bins histogram = {};                                   // no counts where none were taken
};

// By name.
std::vector<ActivationRange> activation_ranges(const StatisticsSet& statistics);
// Fills in `chosen` from the constants {value}_scale and {value}_zero_point; values that have none
// (they stayed in float) are removed.
void keep_quantized(std::vector<ActivationRange>& rows, const Graph& quantized);

}  // namespace compress
