// --override PATTERN=VALUE: what single nodes get instead of what all others do.
#pragma once

#include <regex>
#include <string>
#include <string_view>
#include <vector>

#include "compress/graph/graph.h"
#include "compress/recipe.h"

namespace compress {

// The name by which patterns know a node: its own, or that of its first output.
std::string label_of(const Graph& graph, const Node& node);
// A pattern that matches this label alone.
std::string exact_pattern(std::string_view label);

struct OverrideRow {
  std::string pattern;
  std::regex regex;
  std::string value;
};
// The rows of "override"; `what` names values in errors ("PRECISION"). Fails (usage).
std::vector<OverrideRow> read_overrides(const Options& options, std::string_view what);
// The first that matches the node's label; its index, or -1.
int find_override(const std::vector<OverrideRow>& rows, const Graph& graph, const Node& node);

// Whether a node of the graph or of its bodies has such a label.
bool matches_any(const OverrideRow& row, const Graph& graph);
// " (did you mean 'conv1'?)": the node of the graph or its bodies whose label is nearest to a
// pattern that matches none; "" where none is near.
std::string nearest_label(const Graph& graph, std::string_view pattern);

}  // namespace compress
