#include "compress/runtime/lower.h"

#include "compress/runtime/lower_patterns.h"

namespace compress::runtime {
namespace {

// "name\0operator" pairs of what a fused node stands for.
constexpr const char* kOrigins = "compress_origins";

// Identity, and Cast to the type that its operand has: exporters of quantized models leave many.
void drop_copies(Graph& graph) {
  for (const NodeId id : std::vector<NodeId>(graph.order())) {
    const Node& node = graph.node(id);
    if (!node.is("Identity") && !node.is("Cast")) continue;
    if (node.inputs.size() != 1 || node.outputs.size() != 1 || node.inputs[0] == kNoValue) continue;
    const ValueId from = node.inputs[0], to = node.outputs[0];
    const Value& value = graph.value(from);
    const DType dtype = value.is_constant() ? value.constant.dtype() : value.type.dtype;
    const bool same = dtype != DType::undefined && node.int_or("to", 0) == static_cast<int>(dtype);
    if (graph.is_output(to) || (node.is("Cast") && !same)) continue;
    graph.replace_uses(to, from);
    graph.erase(id);
  }
}

// A body as a model of its own. What it captures has the types of the graph around; of what a loop
// hands from step to step, sizes may differ from what the file declares of the first.
void lower_body(const Model& outer, const Node& node, const Body& body) {
  Model inner;
  inner.ir_version = outer.ir_version;
  inner.opsets = outer.opsets;
  inner.graph = std::move(*body.graph);
  for (const Body::Capture& capture : body.captures) {
    if (inner.graph.value(capture.inner).is_constant()) continue;
    TypeInfo type = outer.graph.value(capture.outer).type;
    for (int i = 0; type.has_shape && i < type.shape.rank(); ++i) {
      if (type.shape[i] < 0) type.shape[i] = kUnknownDim;  // symbols belong to a graph
    }
    inner.graph.set_type(capture.inner, std::move(type));
  }
  if (!node.is("If")) {
    for (const ValueId id : inner.graph.inputs()) {
      TypeInfo type = inner.graph.value(id).type;
      for (int i = 0; type.has_shape && i < type.shape.rank(); ++i) type.shape[i] = kUnknownDim;
      inner.graph.set_type(id, std::move(type));
    }
  }
  lower(inner);
  *body.graph = std::move(inner.graph);
}

}  // namespace

std::vector<std::pair<std::string, std::string>> origins_of(const Node& node) {
  std::vector<std::pair<std::string, std::string>> origins;
  const AttributeValue* value = node.attribute(kOrigins);
  if (value == nullptr) return {{node.name, node.op_type}};
  const auto& names = std::get<std::vector<std::string>>(*value);
  for (size_t i = 0; i + 1 < names.size(); i += 2) origins.emplace_back(names[i], names[i + 1]);
  return origins;
}

void add_origin(Graph& graph, NodeId fused, NodeId part) {
  std::vector<std::string> names;
  if (const AttributeValue* value = graph.node(fused).attribute(kOrigins)) {
    if (fused == part) return;  // it is among them
    names = std::get<std::vector<std::string>>(*value);
  }
  for (const auto& [name, op] : origins_of(graph.node(part))) {
    names.push_back(name);
    names.push_back(op);
  }
  graph.edit(fused).set_attribute(kOrigins, std::move(names));
}

void lower(Model& model) {
  erase_dead(model.graph);
  infer_types(model);
  if (widen_half(model.graph)) infer_types(model);
  drop_copies(model.graph);
  lower_quantized(model.graph, model);
  lower_weight_only(model.graph, model);
  fold_into_convolutions(model.graph);
  lower_attention(model.graph, model);
  lower_norms(model.graph, model);
  lower_training(model.graph);
  lower_recurrent(model.graph, model);
  lower_float(model.graph, model);
  assign_layouts(model.graph, model);
  lower_elements(model.graph, model);
  lower_transposes(model.graph);
  for (NodeId id = 0; id < model.graph.node_slots(); ++id) {
    const Node& node = model.graph.node(id);
    for (const Body& body : node.bodies) lower_body(model, node, body);
  }
}

}  // namespace compress::runtime
