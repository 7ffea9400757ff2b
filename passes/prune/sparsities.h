// How much of each layer goes: --sparsity, and what --override says of single layers.
#pragma once

#include <optional>
#include <vector>

#include "passes/overrides.h"
#include "passes/prune/granularity.h"

namespace compress {

class Sparsities {
 public:
  // Fails (usage) where an override is no share, would break N:M, or stands beside --scope global.
  Sparsities(const Options& options, const Granularity& granularity);

  double all() const { return all_; }
  // What an override says of the node.
  std::optional<double> own(const Graph& graph, const Node& node) const;
  double of(const Graph& graph, const Node& node) const { return own(graph, node).value_or(all_); }

 private:
  double all_;
  std::vector<OverrideRow> rows_;
  std::vector<double> values_;  // one a row
};

}  // namespace compress
