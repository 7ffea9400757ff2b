// The table of metrics: what gates, reports and help texts iterate.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace compress {

// What must be at hand for a metric to be measured.
enum class MetricNeeds {
  nothing,      // the two files
  timing,       // both models run here
  memory,       // both models run in a process of their own
  data,         // samples
  labels,       // samples with labels
  positions,    // samples with a label for every position (next tokens)
  pair_scores,  // samples in pairs with a score each
  generation,   // text that both models were asked to generate
};

struct MetricDef {
  std::string_view name;
  bool higher_is_better;
  MetricNeeds needs;
  std::string_view unit;  // "fraction", "dB", "ms", "1/s", "bytes", "ratio", "" (none)
  std::string_view summary;
};

std::span<const MetricDef> all_metrics();
// Fails (usage) naming the nearest.
const MetricDef& find_metric(std::string_view name);
// "samples with labels (--labels)": the end of an error about a metric that cannot be measured.
std::string_view describe(MetricNeeds needs);

// A metric of both models. What compares the two (sqnr, agreement, speedup) has as reference what
// the reference would get against itself.
struct Measured {
  double reference = 0;
  double candidate = 0;
  // 95 % confidence interval of the candidate's, where timing gives one.
  std::optional<std::pair<double, double>> interval = {};
};
using Measurements = std::map<std::string, Measured, std::less<>>;

// reference - candidate, or candidate - reference where less is better: positive is worse.
double drop(const MetricDef& metric, const Measured& value);
// The drop as a part of the reference's magnitude.
double relative_drop(const MetricDef& metric, const Measured& value);

}  // namespace compress
