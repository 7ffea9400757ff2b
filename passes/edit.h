// Small edits that several passes share.
#pragma once

#include <algorithm>

#include "compress/graph/graph.h"
#include "compress/graph/model.h"

namespace compress {

// True where every reader of `from`, graph outputs included, may read `to` instead without an input
// or a constant becoming a graph output, or one value becoming two outputs with different names.
inline bool can_replace(const Graph& graph, ValueId from, ValueId to) {
  if (!graph.is_output(from)) return true;
  return graph.value(to).producer != kNoNode && !graph.is_output(to);
}

// Removes a node whose single used output equals `to`. REQUIRES can_replace(output, to).
inline void bypass(Graph& graph, NodeId id, ValueId to) {
  graph.replace_uses(graph.node(id).outputs[0], to);
  graph.erase(id);
}

// Removes `follower`, whose work its producer now does: the producer's output `from` takes over the
// follower's readers and its name, so that a name keeps its meaning (statistics, comparison by
// layer). REQUIRES that `follower` alone reads `from`.
inline void absorb(Graph& graph, NodeId follower, ValueId from) {
  const ValueId out = graph.node(follower).outputs[0];
  const std::string name = graph.value(out).name;
  const TypeInfo type = graph.value(out).type;
  graph.replace_uses(out, from);
  graph.erase(follower);
  graph.set_type(from, type);
  if (graph.value(from).name != name && graph.find_value(name) == kNoValue) {
    graph.rename(from, name);
  }
}

// The only reader of `id` where it has exactly one and is no graph output, else kNoNode.
inline NodeId single_reader(const Graph& graph, ValueId id) {
  if (graph.is_output(id) || graph.uses(id).size() != 1) return kNoNode;
  return graph.uses(id)[0].node;
}

// The constant that a value is, or nullptr.
inline const Tensor* constant_of(const Model& model, ValueId id) {
  if (id == kNoValue || !model.graph.value(id).is_constant()) return nullptr;
  return &model.graph.value(id).constant;
}

// Erases the nodes that nothing reads, last ones first, and returns how many they were.
inline int64_t erase_unread_nodes(Graph& graph) {
  const std::vector<NodeId> order = graph.order();
  int64_t erased = 0;
  for (auto id = order.rbegin(); id != order.rend(); ++id) {
    const auto is_read = [&](ValueId out) { return out != kNoValue && !graph.is_unused(out); };
    const auto& outputs = graph.node(*id).outputs;
    if (std::any_of(outputs.begin(), outputs.end(), is_read)) continue;
    graph.erase(*id);
    ++erased;
  }
  return erased;
}

inline ValueId operand(const Node& node, size_t slot) {
  return slot < node.inputs.size() ? node.inputs[slot] : kNoValue;
}

// The DequantizeLinear of constants that operand `slot` comes from, or kNoNode.
inline NodeId constant_dequantize(const Graph& graph, const Node& node, size_t slot) {
  const ValueId id = operand(node, slot);
  const NodeId producer = id == kNoValue ? kNoNode : graph.value(id).producer;
  if (producer == kNoNode || !graph.node(producer).is("DequantizeLinear")) return kNoNode;
  return graph.constant_input(graph.node(producer), 0) != nullptr ? producer : kNoNode;
}

}  // namespace compress
