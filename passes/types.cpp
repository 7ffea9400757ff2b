#include "passes/types.h"

#include "compress/ops/op.h"

namespace compress {

void infer_known_types(Model& model) {
  Graph& graph = model.graph;
  std::vector<TypeInfo> before;
  for (ValueId id = 0; id < graph.value_slots(); ++id) before.push_back(graph.value(id).type);
  infer_types(model);
  for (ValueId id = 0; id < static_cast<ValueId>(before.size()); ++id) {
    const Value& value = graph.value(id);
    const TypeInfo& declared = before[static_cast<size_t>(id)];
    if (!value.alive || value.is_constant() || declared.dtype == DType::undefined) continue;
    const bool unknown = value.type.dtype == DType::undefined;
    const bool less = value.type.dtype == declared.dtype && !value.type.has_shape;
    if (unknown || (less && declared.has_shape)) graph.set_type(id, declared);
  }
}

void forget_inferred_types(Graph& graph) {
  for (ValueId id = 0; id < graph.value_slots(); ++id) {
    const Value& value = graph.value(id);
    const bool is_inner = value.alive && value.producer != kNoNode && !graph.is_output(id);
    if (is_inner && value.wire.empty()) graph.set_type(id, {});
  }
  for (NodeId id = 0; id < graph.node_slots(); ++id) {
    for (const Body& body : graph.node(id).bodies) forget_inferred_types(*body.graph);
  }
}

}  // namespace compress
