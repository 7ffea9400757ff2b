#include "compress/verify/metric.h"

#include <cmath>
#include <vector>

#include "compress/core/nearest.h"
#include "compress/error.h"

namespace compress {
namespace {

// clang-format off
constexpr MetricDef kMetrics[] = {
    {"top1", true, MetricNeeds::labels, "fraction", "arg-max is the label"},
    {"top5", true, MetricNeeds::labels, "fraction", "the label is among the five largest"},
    {"precision", true, MetricNeeds::labels, "fraction", "macro average over the classes present"},
    {"recall", true, MetricNeeds::labels, "fraction", "macro average over the classes present"},
    {"f1", true, MetricNeeds::labels, "fraction", "macro average over the classes present"},
    {"perplexity", false, MetricNeeds::positions, "", "exp of the cross-entropy of the next token"},
    {"spearman", true, MetricNeeds::pair_scores, "",
     "rank correlation of cosines of mean-pooled pairs with their scores"},
    {"mse", false, MetricNeeds::data, "", "mean squared difference of the outputs"},
    {"psnr", true, MetricNeeds::data, "dB", "peak (max - min of the reference) to difference"},
    {"sqnr", true, MetricNeeds::data, "dB", "power of the reference to power of the difference"},
    {"cosine", true, MetricNeeds::data, "", "cosine of the outputs"},
    {"agreement", true, MetricNeeds::data, "fraction", "both models have the same arg-max"},
    {"kl", false, MetricNeeds::data, "nat", "KL(reference || candidate), mean over rows"},
    {"speedup", true, MetricNeeds::timing, "ratio", "median time of the reference / candidate"},
    {"latency_ms", false, MetricNeeds::timing, "ms", "median time of one run"},
    {"throughput", true, MetricNeeds::timing, "1/s", "samples a second"},
    {"prompt_ms", false, MetricNeeds::generation, "ms", "median time to the first token"},
    {"tokens_per_second", true, MetricNeeds::generation, "1/s", "tokens generated after the first"},
    {"size_ratio", false, MetricNeeds::nothing, "ratio", "size of the candidate / reference"},
    {"size_bytes", false, MetricNeeds::nothing, "bytes", "size of the files"},
    {"peak_memory_bytes", false, MetricNeeds::memory, "bytes",
     "largest resident memory of a process that runs the model alone, minus start-up"},
};
// clang-format on

}  // namespace

std::span<const MetricDef> all_metrics() { return kMetrics; }

const MetricDef& find_metric(std::string_view name) {
  std::vector<std::string_view> names;
  for (const MetricDef& metric : kMetrics) {
    if (metric.name == name) return metric;
    names.push_back(metric.name);
  }
  fail(ErrorCode::usage, "unknown metric '{}'{}", name, suggestion(name, names));
}

std::string_view describe(MetricNeeds needs) {
  switch (needs) {
    case MetricNeeds::nothing:
      return "nothing";
    case MetricNeeds::timing:
      return "timing; leave out --no-verify and --time-budget 0";
    case MetricNeeds::memory:
      return "verification; leave out --no-verify";
    case MetricNeeds::data:
      return "samples; give --data";
    case MetricNeeds::labels:
      return "labelled samples; give --data with labels, or --labels";
    case MetricNeeds::positions:
      return "a next-token label for every position; give such --data";
    case MetricNeeds::pair_scores:
      return "scores of consecutive pairs; name \"scores\" in the spec";
    case MetricNeeds::generation:
      return "text to be generated; give --generate";
  }
  return "";
}

double drop(const MetricDef& metric, const Measured& value) {
  return metric.higher_is_better ? value.reference - value.candidate
                                 : value.candidate - value.reference;
}

double relative_drop(const MetricDef& metric, const Measured& value) {
  return drop(metric, value) / std::fabs(value.reference);
}

}  // namespace compress
