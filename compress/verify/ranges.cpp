#include "compress/verify/ranges.h"

#include <algorithm>

namespace compress {
namespace {

const Tensor* single(const Graph& graph, const std::string& name) {
  const ValueId id = graph.find_value(name);
  if (id == kNoValue || !graph.value(id).is_constant()) return nullptr;
  const Tensor& tensor = graph.value(id).constant;
  return tensor.count() == 1 ? &tensor : nullptr;
}

std::optional<std::pair<double, double>> covered(const Graph& graph, const std::string& value) {
  const Tensor* scale = single(graph, value + "_scale");
  const Tensor* zero = single(graph, value + "_zero_point");
  if (scale == nullptr || zero == nullptr || !is_float(scale->dtype()) ||
      !is_integer(zero->dtype())) {
    return {};
  }
  const DTypeInfo& type = info(zero->dtype());
  if (type.bits > 16) return {};
  const double levels = static_cast<double>(int64_t{1} << type.bits);
  const double low = type.is_signed ? -levels / 2 : 0;
  const double step = scale->to_double(), at = static_cast<double>(zero->to_int());
  return std::pair((low - at) * step, (low + levels - 1 - at) * step);
}

}  // namespace

std::vector<ActivationRange> activation_ranges(const StatisticsSet& statistics) {
  std::vector<ActivationRange> rows;
  for (const auto& [name, seen] : statistics.values) {
    if (seen.count == 0 || !seen.finite) continue;
    ActivationRange row{name, seen.min, seen.max};
    if (!seen.histogram.empty) row.histogram = bins_of(seen.histogram, seen.min, seen.max);
    rows.push_back(std::move(row));
  }
  return rows;
}

void keep_quantized(std::vector<ActivationRange>& rows, const Graph& quantized) {
  for (ActivationRange& row : rows) row.chosen = covered(quantized, row.value);
  std::erase_if(rows, [](const ActivationRange& row) { return !row.chosen; });
}

}  // namespace compress
