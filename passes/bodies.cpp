#include "passes/bodies.h"

#include <algorithm>
#include <map>

namespace compress {

NodeId replace_with(Graph& graph, NodeId id, Node changed) {
  const std::vector<ValueId> before = changed.outputs;
  std::vector<std::string> names;
  for (ValueId& out : changed.outputs) {
    names.push_back(out == kNoValue ? "" : graph.value(out).name);
    if (out == kNoValue) continue;
    const Value old = graph.value(out);
    out = graph.add_value(graph.unique_value_name(old.name), old.type);
    graph.set_wire(out, old.wire);
  }
  const NodeId made = graph.add_node_raw(std::move(changed));
  const std::vector<ValueId> after = graph.node(made).outputs;
  for (size_t i = 0; i < before.size(); ++i) {
    if (before[i] != kNoValue) graph.replace_uses(before[i], after[i]);
  }
  graph.erase(id);
  for (size_t i = 0; i < after.size(); ++i) {
    if (after[i] != kNoValue && graph.value(after[i]).name != names[i]) {
      graph.rename(after[i], names[i]);
    }
  }
  return made;
}

bool drop_unused_captures(Graph& graph) {
  bool dropped = false;
  const NodeId slots = graph.node_slots();
  for (NodeId id = 0; id < slots; ++id) {
    if (graph.node(id).bodies.empty()) continue;
    Node changed = graph.node(id);
    bool is_less = false;
    for (Body& body : changed.bodies) {
      Graph& inner = *body.graph;
      dropped = drop_unused_captures(inner) || dropped;
      const auto unused = [&](const Body::Capture& capture) {
        return inner.is_unused(capture.inner);
      };
      for (const Body::Capture& capture : body.captures) {
        if (unused(capture)) inner.remove_input(capture.inner);
      }
      is_less = std::erase_if(body.captures, unused) > 0 || is_less;
    }
    if (is_less) replace_with(graph, id, std::move(changed));
    dropped = dropped || is_less;
  }
  return dropped;
}

namespace {

constexpr uint64_t kLeastShared = 64;  // bytes: a capture has a name, too

ValueId twin_of(const Graph& graph, const Tensor& tensor) {
  for (ValueId id = 0; id < graph.value_slots(); ++id) {
    const Value& value = graph.value(id);
    if (value.alive && value.is_constant() && !value.is_input && !value.constant.is_deferred() &&
        value.constant.dtype() == tensor.dtype() && value.constant.shape() == tensor.shape() &&
        same_content(value.constant, tensor)) {
      return id;
    }
  }
  return kNoValue;
}

int64_t share_with(const Graph& outer, Body& body) {
  Graph& graph = *body.graph;
  int64_t shared = 0;
  const ValueId slots = graph.value_slots();
  for (ValueId id = 0; id < slots; ++id) {
    const Value& value = graph.value(id);
    if (!value.alive || !value.is_constant() || value.is_input || graph.is_output(id)) continue;
    const Tensor& tensor = value.constant;
    if (tensor.dtype() == DType::string || tensor.is_deferred() || tensor.bytes() < kLeastShared) {
      continue;
    }
    const ValueId twin = twin_of(outer, tensor);
    if (twin == kNoValue) continue;
    const ValueId inner = graph.add_capture(graph.unique_value_name(value.name), value.type);
    graph.replace_uses(id, inner);
    graph.erase_value(id);
    body.captures.push_back({twin, inner});
    ++shared;
  }
  return shared;
}

}  // namespace

int64_t share_constants_with_bodies(Graph& graph) {
  int64_t shared = 0;
  const NodeId slots = graph.node_slots();
  for (NodeId id = 0; id < slots; ++id) {
    if (graph.node(id).bodies.empty()) continue;
    Node changed = graph.node(id);
    int64_t here = 0;
    for (Body& body : changed.bodies) {
      here += share_with(graph, body);
      shared += share_constants_with_bodies(*body.graph);
    }
    if (here > 0) replace_with(graph, id, std::move(changed));
    shared += here;
  }
  return shared;
}

}  // namespace compress
