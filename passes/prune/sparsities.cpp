#include "passes/prune/sparsities.h"

#include <cmath>

#include "compress/error.h"

namespace compress {
namespace {

// "0.3" or "30%".
double share_of(const std::string& text) {
  const OptionDef share = {"override", OptionType::number, "", "", "0..1"};
  return in_context([] { return "--override PATTERN=SPARSITY"; },
                    [&] { return option_from_text(share, text).get<double>(); });
}

}  // namespace

Sparsities::Sparsities(const Options& options, const Granularity& granularity)
    : all_(read_sparsity(options, granularity)), rows_(read_overrides(options, "SPARSITY")) {
  if (!rows_.empty() && options.text("scope") == "global") {
    fail(ErrorCode::usage,
         "--override gives layers a sparsity of their own; leave out --scope global");
  }
  constexpr double kWritten = 5e-4;  // as of --sparsity beside N:M
  for (const OverrideRow& row : rows_) {
    double share = share_of(row.value);
    if (granularity.unit == PruneUnit::n_of_m && share != 0) {
      if (std::fabs(share - all_) > kWritten) {
        fail(ErrorCode::usage,
             "--override PATTERN={}: with --granularity {}:{} a layer has {:.4g} or 0 (left as it "
             "is)",
             row.value, granularity.keep, granularity.of, all_);
      }
      share = all_;
    }
    values_.push_back(share);
  }
}

std::optional<double> Sparsities::own(const Graph& graph, const Node& node) const {
  const int row = find_override(rows_, graph, node);
  if (row < 0) return {};
  return values_[static_cast<size_t>(row)];
}

}  // namespace compress
