#include "compress/runtime/lower_patterns.h"

#include <limits>
#include <utility>

#include "compress/runtime/lower.h"

namespace compress::runtime {

NodeId only_reader(const Graph& graph, ValueId id) {
  if (id == kNoValue || graph.is_output(id) || graph.uses(id).size() != 1) return kNoNode;
  // A body that captures the value reads it, too, but not as an operand.
  const Use use = graph.uses(id)[0];
  const Node& reader = graph.node(use.node);
  return static_cast<size_t>(use.slot) < reader.inputs.size() ? use.node : kNoNode;
}

NodeId producer_of(const Graph& graph, ValueId id, std::string_view op_type) {
  if (id == kNoValue) return kNoNode;
  const NodeId producer = graph.value(id).producer;
  if (producer == kNoNode || graph.node(producer).op_type != op_type) return kNoNode;
  return producer;
}

int rank_of(const Graph& graph, ValueId id) {
  if (id == kNoValue) return -1;
  const Value& value = graph.value(id);
  if (value.is_constant()) return value.constant.shape().rank();
  return value.type.has_shape ? value.type.shape.rank() : -1;
}

std::optional<double> scalar_constant(const Graph& graph, const Node& node, size_t slot) {
  const Tensor* constant = graph.constant_input(node, slot);
  if (constant == nullptr || constant->count() != 1) return std::nullopt;
  if (is_float(constant->dtype())) return constant->to_double();
  if (is_integer(constant->dtype())) return static_cast<double>(constant->to_int());
  return std::nullopt;
}

std::optional<Bounds> bounds_of(const Graph& graph, const Node& node) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  if (node.is("Relu")) return Bounds{0, kInfinity};
  if (!node.is("Clip")) return std::nullopt;
  Bounds bounds{node.float_or("min", -kInfinity), node.float_or("max", kInfinity)};
  for (size_t slot = 1; slot < node.inputs.size() && slot < 3; ++slot) {
    if (node.inputs[slot] == kNoValue) continue;
    const std::optional<double> bound = scalar_constant(graph, node, slot);
    if (!bound) return std::nullopt;
    (slot == 1 ? bounds.lo : bounds.hi) = static_cast<float>(*bound);
  }
  if (!(bounds.lo <= bounds.hi)) return std::nullopt;
  return bounds;
}

void erase_dead(Graph& graph) {
  const std::vector<NodeId> order = graph.order();
  for (auto id = order.rbegin(); id != order.rend(); ++id) {
    bool used = false;
    for (const ValueId output : graph.node(*id).outputs) {
      used |= output != kNoValue && !graph.is_unused(output);
    }
    if (!used) graph.erase(*id);
  }
}

NodeId add_internal(Graph& graph, std::string_view op_type, std::vector<ValueId> inputs,
                    std::vector<Attribute> attributes, ValueId like, DType dtype) {
  TypeInfo type = graph.value(like).type;
  if (dtype != DType::undefined) type.dtype = dtype;
  NodeSpec spec;
  spec.op_type = op_type;
  spec.inputs = std::move(inputs);
  spec.outputs = {graph.value(like).name + "/lowered"};
  spec.attributes = std::move(attributes);
  spec.domain = kInternalDomain;
  const NodeId id = graph.add(std::move(spec));
  graph.set_type(graph.node(id).outputs[0], std::move(type));
  return id;
}

void replace_parts(Graph& graph, std::string_view op_type, std::vector<ValueId> inputs,
                   std::vector<Attribute> attributes, ValueId out,
                   const std::vector<NodeId>& parts) {
  const NodeId fused = add_internal(graph, op_type, std::move(inputs), std::move(attributes), out);
  for (const NodeId part : parts) add_origin(graph, fused, part);
  graph.replace_uses(out, graph.node(fused).outputs[0]);
  for (auto part = parts.rbegin(); part != parts.rend(); ++part) graph.erase(*part);
}

}  // namespace compress::runtime
