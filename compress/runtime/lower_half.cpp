// A float16 graph runs in float32 between casts at its edges: no CPU kernel here works on halves,
// and a cast around each node would cost more than the node.
#include <algorithm>
#include <utility>
#include <variant>
#include <vector>

#include "compress/runtime/lower_patterns.h"

namespace compress::runtime {
namespace {

ValueId cast(Graph& graph, ValueId from, DType to) {
  TypeInfo type = graph.value(from).type;
  type.dtype = to;
  NodeSpec spec;
  spec.op_type = "Cast";
  spec.inputs = {from};
  spec.outputs = {graph.value(from).name + "/cast"};
  spec.attributes = {{"to", static_cast<int64_t>(to), ""}};
  const ValueId made = graph.node(graph.add(std::move(spec))).outputs[0];
  graph.set_type(made, std::move(type));
  return made;
}

// Plain nodes of known types only: what a body captures would change its type under it.
bool may_widen(const Graph& graph) {
  bool has_half = false;
  for (const NodeId id : graph.order()) {
    const Node& node = graph.node(id);
    if (!node.bodies.empty() || !node.domain.empty()) return false;
    for (const ValueId input : node.inputs) {
      if (input == kNoValue) continue;
      const Value& value = graph.value(input);
      has_half |=
          (value.is_constant() ? value.constant.dtype() : value.type.dtype) == DType::float16;
    }
  }
  return has_half;
}

void widen_attributes(Node& node) {
  constexpr auto kHalf = static_cast<int64_t>(DType::float16);
  constexpr auto kFloat = static_cast<int64_t>(DType::float32);
  for (const char* name : {"to", "dtype", "output_dtype"}) {
    if (node.attribute(name) != nullptr && node.int_or(name, 0) == kHalf) {
      node.set_attribute(name, kFloat);
    }
  }
  for (Attribute& attribute : node.attributes) {
    auto* tensor = std::get_if<Tensor>(&attribute.value);
    if (tensor != nullptr && tensor->dtype() == DType::float16) {
      *tensor = convert(*tensor, DType::float32);
    }
  }
}

}  // namespace

bool widen_half(Graph& graph) {
  if (!may_widen(graph)) return false;
  for (const NodeId id : std::vector<NodeId>(graph.order())) widen_attributes(graph.edit(id));
  const ValueId slots = graph.value_slots();
  std::vector<ValueId> outputs(graph.outputs().begin(), graph.outputs().end());
  std::vector<bool> was_half(static_cast<size_t>(slots), false);
  for (ValueId id = 0; id < slots; ++id) {
    const Value& value = graph.value(id);
    if (!value.alive) continue;
    if (value.is_constant()) {
      if (value.constant.dtype() == DType::float16 && !graph.is_output(id)) {
        graph.set_constant(id, convert(value.constant, DType::float32));
      }
      continue;
    }
    was_half[static_cast<size_t>(id)] = value.type.dtype == DType::float16;
  }
  for (ValueId id = 0; id < slots; ++id) {
    if (!was_half[static_cast<size_t>(id)]) continue;
    if (graph.value(id).is_input) {
      const std::vector<Use> uses(graph.uses(id).begin(), graph.uses(id).end());
      if (uses.empty()) continue;
      const ValueId wide = cast(graph, id, DType::float32);
      for (const Use& use : uses) graph.set_input(use.node, static_cast<size_t>(use.slot), wide);
      continue;
    }
    TypeInfo type = graph.value(id).type;
    type.dtype = DType::float32;
    graph.set_type(id, std::move(type));
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    const ValueId id = outputs[i];
    if (!was_half[static_cast<size_t>(id)] || graph.value(id).is_input) continue;
    graph.set_output(i, cast(graph, id, DType::float16));
  }
  return true;
}

}  // namespace compress::runtime
