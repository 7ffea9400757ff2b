// A model in float16 or bfloat16 computes in float32 before it is quantized: integers, their scales
// and what stays between them are float32's on CPUs. Its inputs and outputs keep their types.
#include <algorithm>

#include "passes/quantize/precision.h"

namespace compress {
namespace {

constexpr auto kFloat = static_cast<int64_t>(DType::float32);

bool is_half_code(int64_t code) {
  return code == static_cast<int64_t>(DType::float16) ||
         code == static_cast<int64_t>(DType::bfloat16);
}

void widen_attributes(Node& node) {
  for (Attribute& attribute : node.attributes) {
    if (Tensor* tensor = std::get_if<Tensor>(&attribute.value)) {
      if (is_half(tensor->dtype())) *tensor = convert(*tensor, DType::float32);
    } else if (int64_t* number = std::get_if<int64_t>(&attribute.value)) {
      // The element type that a node makes: Cast's "to"; "dtype" of random values, EyeLike, ...
      if ((attribute.name == "to" || attribute.name == "dtype") && is_half_code(*number)) {
        *number = kFloat;
      }
    }
  }
}

int64_t widen_values(Graph& graph) {
  int64_t widened = 0;
  for (ValueId id = 0; id < graph.value_slots(); ++id) {
    const Value& value = graph.value(id);
    if (!value.alive) continue;
    if (value.is_constant()) {
      if (!is_half(value.constant.dtype())) continue;
      graph.set_constant(id, convert(value.constant, DType::float32));
      ++widened;
    } else if (is_half(value.type.dtype)) {
      TypeInfo type = value.type;
      type.dtype = DType::float32;
      graph.set_type(id, std::move(type));
    } else {
      continue;
    }
    graph.set_wire(id, "");
  }
  for (NodeId id = 0; id < graph.node_slots(); ++id) {
    if (!graph.node(id).alive) continue;
    widen_attributes(graph.edit(id));
    for (const Body& body : graph.node(id).bodies) widened += widen_values(*body.graph);
  }
  return widened;
}

ValueId cast(Graph& graph, ValueId from, DType to, const std::string& name, const Shape* shape) {
  const NodeId id =
      graph.add({"Cast", {from}, {name}, {{"to", static_cast<int64_t>(to), ""}}, name + "_Cast"});
  const ValueId out = graph.node(id).outputs[0];
  graph.set_type(out, shape == nullptr ? TypeInfo{to, false, {}} : TypeInfo{to, true, *shape});
  return out;
}

void keep_inputs(Graph& graph, const std::vector<std::pair<ValueId, TypeInfo>>& inputs) {
  for (const auto& [id, type] : inputs) {
    const std::string name = graph.value(id).name;
    const ValueId wide =
        cast(graph, id, DType::float32, name + "_float32", type.has_shape ? &type.shape : nullptr);
    graph.replace_uses(id, wide, false);
    graph.set_input(graph.value(wide).producer, 0, id);
    graph.set_type(id, type);
  }
}

void keep_outputs(Graph& graph, const std::vector<std::pair<size_t, TypeInfo>>& outputs) {
  for (const auto& [index, type] : outputs) {
    const ValueId id = graph.outputs()[index];
    const std::string name = graph.value(id).name;
    if (graph.value(id).is_input) continue;  // handed through: it has its type again
    graph.rename(id, graph.unique_value_name(name + "_float32"));
    const ValueId half = cast(graph, id, type.dtype, name, type.has_shape ? &type.shape : nullptr);
    for (size_t i = 0; i < graph.outputs().size(); ++i) {
      if (graph.outputs()[i] == id) graph.set_output(i, half);
    }
  }
}

}  // namespace

PassResult widen_half(Model& model, PassContext& context) {
  const ModeChoice choice = choose_mode(model, context.options, context.has_data);
  PassResult result;
  if (choice.mode == QuantMode::none || choice.mode == QuantMode::half ||
      !has_half_weights(model) ||
      (choice.mode == QuantMode::weight_only &&
       is_half(weight_dtype(context.options, choice.mode)))) {
    return result;
  }
  Graph& graph = model.graph;
  std::vector<std::pair<ValueId, TypeInfo>> inputs;
  for (const ValueId id : graph.inputs()) {
    const Value& value = graph.value(id);
    if (!value.is_constant() && is_half(value.type.dtype)) inputs.emplace_back(id, value.type);
  }
  std::vector<std::pair<size_t, TypeInfo>> outputs;
  for (size_t i = 0; i < graph.outputs().size(); ++i) {
    const Value& value = graph.value(graph.outputs()[i]);
    const bool is_first =
        std::find(graph.outputs().begin(), graph.outputs().begin() + static_cast<std::ptrdiff_t>(i),
                  graph.outputs()[i]) == graph.outputs().begin() + static_cast<std::ptrdiff_t>(i);
    if (is_first && is_half(value.type.dtype)) outputs.emplace_back(i, value.type);
  }
  const int64_t widened = widen_values(graph);
  keep_inputs(graph, inputs);
  keep_outputs(graph, outputs);
  result.changed = true;
  result.details = {{"widened_constants", widened}};
  return result;
}

}  // namespace compress
