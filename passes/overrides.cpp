#include "passes/overrides.h"

#include "compress/core/nearest.h"
#include "compress/error.h"

namespace compress {
namespace {

// libstdc++ matches recursively: a hostile name must not exhaust the stack.
constexpr size_t kMaxLabelLength = 1024;

bool matches(const OverrideRow& row, const Graph& graph, const Node& node) {
  return std::regex_search(label_of(graph, node).substr(0, kMaxLabelLength), row.regex);
}

}  // namespace

std::string label_of(const Graph& graph, const Node& node) {
  if (!node.name.empty()) return node.name;
  for (const ValueId id : node.outputs) {
    if (id != kNoValue) return graph.value(id).name;
  }
  return "";
}

std::string exact_pattern(std::string_view label) {
  std::string out = "^";
  for (const char c : label) {
    if (std::string_view("\\^$.|?*+()[]{}").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out + "$";
}

std::vector<OverrideRow> read_overrides(const Options& options, std::string_view what) {
  std::vector<OverrideRow> rows;
  for (const std::string& text : options.list("override")) {
    const size_t at = text.rfind('=');
    if (at == std::string::npos || at == 0) {
      fail(ErrorCode::usage, "--override '{}': write PATTERN={}", text, what);
    }
    const std::string pattern = text.substr(0, at);
    try {
      rows.push_back({pattern, std::regex(pattern, std::regex::ECMAScript | std::regex::optimize),
                      text.substr(at + 1)});
    } catch (const std::regex_error& error) {
      fail(ErrorCode::usage, "--override '{}' is no regular expression: {}", pattern, error.what());
    }
  }
  return rows;
}

int find_override(const std::vector<OverrideRow>& rows, const Graph& graph, const Node& node) {
  if (rows.empty()) return -1;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (matches(rows[i], graph, node)) return static_cast<int>(i);
  }
  return -1;
}

bool matches_any(const OverrideRow& row, const Graph& graph) {
  for (NodeId id = 0; id < graph.node_slots(); ++id) {
    const Node& node = graph.node(id);
    if (!node.alive) continue;
    if (matches(row, graph, node)) return true;
    for (const Body& body : node.bodies) {
      if (matches_any(row, *body.graph)) return true;
    }
  }
  return false;
}

namespace {

void add_labels(const Graph& graph, std::vector<std::string>& labels) {
  for (NodeId id = 0; id < graph.node_slots(); ++id) {
    const Node& node = graph.node(id);
    if (!node.alive) continue;
    labels.push_back(label_of(graph, node));
    for (const Body& body : node.bodies) add_labels(*body.graph, labels);
  }
}

}  // namespace

std::string nearest_label(const Graph& graph, std::string_view pattern) {
  std::vector<std::string> labels;
  add_labels(graph, labels);
  std::vector<std::string_view> names;
  for (const std::string& label : labels) {
    // The search takes time in the product of lengths.
    if (label.size() <= 2 * pattern.size() + 8) names.push_back(label);
  }
  const std::string_view near = nearest(pattern, names);
  return near.empty() ? "" : fmt::format(" (did you mean '{}'?)", near);
}

}  // namespace compress
