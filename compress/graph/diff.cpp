#include "compress/graph/diff.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace compress {
namespace {

std::string op_of(const Node& node) {
  return node.domain.empty() ? node.op_type : node.domain + "." + node.op_type;
}

std::string key_of(const Graph& graph, const Node& node) {
  if (!node.name.empty()) return node.name;
  for (const ValueId id : node.outputs) {
    if (id != kNoValue) return "makes " + graph.value(id).name;
  }
  return "";
}

std::vector<std::pair<std::string, const Node*>> nodes_of(const Graph& graph) {
  std::vector<std::pair<std::string, const Node*>> rows;
  for (const NodeId id : graph.order()) {
    rows.emplace_back(key_of(graph, graph.node(id)), &graph.node(id));
  }
  return rows;
}

std::map<std::string, const Tensor*> constants_of(const Graph& graph) {
  std::map<std::string, const Tensor*> rows;
  for (ValueId id = 0; id < graph.value_slots(); ++id) {
    const Value& value = graph.value(id);
    if (value.alive && value.is_constant()) rows[value.name] = &value.constant;
  }
  return rows;
}

std::string type_of(const Tensor& tensor) {
  return std::string(info(tensor.dtype()).name) + tensor.shape().to_string();
}

std::string operand_text(const Graph& graph, const Node& node, size_t slot) {
  const bool given = slot < node.inputs.size() && node.inputs[slot] != kNoValue;
  return given ? graph.value(node.inputs[slot]).name : "none";
}

std::vector<std::string> changes_of(const Graph& graph_a, const Node& a, const Graph& graph_b,
                                    const Node& b) {
  std::vector<std::string> out;
  if (op_of(a) != op_of(b)) out.push_back(fmt::format("{} -> {}", op_of(a), op_of(b)));
  for (const Attribute& attribute : a.attributes) {
    const AttributeValue* other = b.attribute(attribute.name);
    if (other == nullptr) {
      out.push_back(fmt::format("{} {} -> none", attribute.name, describe(attribute.value)));
    } else if (!same_attribute(attribute.value, *other)) {
      out.push_back(
          fmt::format("{} {} -> {}", attribute.name, describe(attribute.value), describe(*other)));
    }
  }
  for (const Attribute& attribute : b.attributes) {
    if (a.attribute(attribute.name) != nullptr) continue;
    out.push_back(fmt::format("{} none -> {}", attribute.name, describe(attribute.value)));
  }
  for (size_t slot = 0; slot < std::max(a.inputs.size(), b.inputs.size()); ++slot) {
    const std::string before = operand_text(graph_a, a, slot);
    const std::string after = operand_text(graph_b, b, slot);
    if (before != after) out.push_back(fmt::format("input {} '{}' -> '{}'", slot, before, after));
  }
  for (size_t i = 0; i < std::max(a.bodies.size(), b.bodies.size()); ++i) {
    if (i >= a.bodies.size() || i >= b.bodies.size() ||
        !same_graph(*a.bodies[i].graph, *b.bodies[i].graph)) {
      out.push_back(fmt::format(
          "body {}", i < a.bodies.size() ? a.bodies[i].attribute : b.bodies[i].attribute));
    }
  }
  return out;
}

void diff_nodes(const Graph& before, const Graph& after, GraphDiff& out) {
  std::map<std::string, const Node*> left;
  for (const auto& [key, node] : nodes_of(before)) {
    left.emplace(key, node);
    ++out.operators[op_of(*node)].first;
  }
  std::map<std::string, const Node*> right;
  for (const auto& [key, node] : nodes_of(after)) {
    right.emplace(key, node);
    ++out.operators[op_of(*node)].second;
    const auto row = left.find(key);
    if (row == left.end()) {
      out.added.push_back({key, op_of(*node), {}});
      continue;
    }
    std::vector<std::string> changes = changes_of(before, *row->second, after, *node);
    if (!changes.empty()) out.changed.push_back({key, op_of(*node), std::move(changes)});
  }
  for (const auto& [key, node] : nodes_of(before)) {
    if (right.count(key) == 0) out.removed.push_back({key, op_of(*node), {}});
  }
}

std::string difference_of(const Tensor& a, const Tensor& b) {
  if (a.count() != b.count() || a.dtype() == DType::string || b.dtype() == DType::string) return "";
  const std::vector<double> x = a.to_doubles(), y = b.to_doubles();
  int64_t differ = 0;
  double most = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const bool same = x[i] == y[i] || (std::isnan(x[i]) && std::isnan(y[i]));
    differ += same ? 0 : 1;
    if (!same) most = std::max(most, std::fabs(x[i] - y[i]));
  }
  if (differ == 0) return "the same numbers";
  return fmt::format("{} of {} elements differ, by up to {:.4g}", differ, x.size(), most);
}

void diff_constants(const Graph& before, const Graph& after, GraphDiff& out) {
  const auto left = constants_of(before), right = constants_of(after);
  for (const auto& [name, tensor] : left) {
    const auto bytes = static_cast<int64_t>(tensor->bytes());
    const auto row = right.find(name);
    if (row == right.end()) {
      out.removed_constants.push_back({name, type_of(*tensor), bytes, ""});
    } else if (!same_content(*tensor, *row->second)) {
      const Tensor& other = *row->second;
      out.changed_constants.push_back(
          {name,
           type_of(*tensor) == type_of(other) ? type_of(other)
                                              : type_of(*tensor) + " -> " + type_of(other),
           static_cast<int64_t>(other.bytes()) - bytes, difference_of(*tensor, other)});
    }
  }
  for (const auto& [name, tensor] : right) {
    if (left.count(name) > 0) continue;
    out.added_constants.push_back(
        {name, type_of(*tensor), static_cast<int64_t>(tensor->bytes()), ""});
  }
}

void diff_interface(const Graph& a, const Graph& b, GraphDiff& out) {
  const auto compare = [&](std::span<const ValueId> left, std::span<const ValueId> right,
                           const char* what) {
    const auto text = [](const Graph& graph, std::span<const ValueId> ids, size_t i) {
      if (i >= ids.size()) return std::string("none");
      const Value& value = graph.value(ids[i]);
      return fmt::format("'{}' {}", value.name, describe(graph, value.type));
    };
    for (size_t i = 0; i < std::max(left.size(), right.size()); ++i) {
      const std::string before = text(a, left, i), after = text(b, right, i);
      if (before != after) {
        out.interface.push_back(fmt::format("{} {}: {} -> {}", what, i, before, after));
      }
    }
  };
  compare(a.inputs(), b.inputs(), "input");
  compare(a.outputs(), b.outputs(), "output");
}

}  // namespace

bool GraphDiff::empty() const {
  return removed.empty() && added.empty() && changed.empty() && removed_constants.empty() &&
         added_constants.empty() && changed_constants.empty() && interface.empty();
}

GraphDiff diff_graphs(const Graph& before, const Graph& after) {
  GraphDiff out;
  diff_interface(before, after, out);
  diff_nodes(before, after, out);
  diff_constants(before, after, out);
  return out;
}

}  // namespace compress
