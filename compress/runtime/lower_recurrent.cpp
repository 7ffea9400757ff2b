// Recurrent nodes with constant weights and the usual activations get packed kernels.
#include <string>
#include <utility>
#include <vector>

#include "compress/ops/recurrent_loops.h"
#include "compress/runtime/fold.h"
#include "compress/runtime/lower.h"
#include "compress/runtime/lower_internal.h"
#include "compress/runtime/lower_patterns.h"

namespace compress::runtime {
namespace {

bool has(const Node& node, size_t slot) {
  return slot < node.inputs.size() && node.inputs[slot] != kNoValue;
}

bool is_constant(const Graph& graph, const Node& node, size_t slot, DType dtype) {
  const Tensor* tensor = graph.constant_input(node, slot);
  return tensor != nullptr && (dtype == DType::undefined || tensor->dtype() == dtype);
}

// Sigmoid, Tanh and Relu, which vectorize, and no option that few models use.
bool is_usual(const Node& node) {
  if (has(node, recurrent::kPeepholes) || node.float_or("clip", 0) != 0 ||
      node.int_or("input_forget", 0) != 0) {
    return false;
  }
  const AttributeValue* value = node.attribute("activations");
  const auto* names = value != nullptr ? std::get_if<std::vector<std::string>>(value) : nullptr;
  if (value != nullptr && names == nullptr) return false;
  for (size_t i = 0; names != nullptr && i < names->size(); ++i) {
    const auto kind = activation_kind((*names)[i]);
    if (kind != ActivationKind::sigmoid && kind != ActivationKind::tanh &&
        kind != ActivationKind::relu) {
      return false;
    }
  }
  return true;
}

bool can_lower(const Graph& graph, const Node& node) {
  const bool integer = node.is("DynamicQuantizeLSTM", "com.microsoft");
  if (!integer && !node.is("LSTM") && !node.is("GRU") && !node.is("RNN")) return false;
  if (!has(node, recurrent::kX) ||
      graph.value(node.inputs[recurrent::kX]).type.dtype != DType::float32) {
    return false;
  }
  const DType weights = integer ? DType::undefined : DType::float32;
  if (!is_constant(graph, node, recurrent::kW, weights) ||
      !is_constant(graph, node, recurrent::kR, weights)) {
    return false;
  }
  if (has(node, recurrent::kB) && !is_constant(graph, node, recurrent::kB, DType::float32)) {
    return false;
  }
  for (const size_t slot :
       {recurrent::kWScale, recurrent::kWZeroPoint, recurrent::kRScale, recurrent::kRZeroPoint}) {
    if (has(node, slot) && !is_constant(graph, node, slot, DType::undefined)) return false;
  }
  return is_usual(node);
}

// Weights that are stored as integers: a float product reads them many times, so they become floats
// once.
void dequantize_weights(Graph& graph, const Model& model, NodeId id) {
  for (const size_t slot : {recurrent::kW, recurrent::kR}) {
    const Node& node = graph.node(id);
    if (!has(node, slot) || graph.value(node.inputs[slot]).producer == kNoNode) continue;
    const Node& source = graph.node(graph.value(node.inputs[slot]).producer);
    if (!source.is("DequantizeLinear")) continue;
    std::vector<Tensor> inputs;
    for (size_t i = 0; i < source.inputs.size(); ++i) {
      const Tensor* input = graph.constant_input(source, i);
      if (input == nullptr && source.inputs[i] != kNoValue) break;
      inputs.push_back(input != nullptr ? *input : Tensor());
    }
    if (inputs.size() != source.inputs.size()) continue;
    const std::string name = graph.value(source.outputs[0]).name;
    Tensor weights = std::move(evaluate(source, model, inputs)[0]);
    graph.set_input(id, static_cast<int>(slot), graph.add_constant(name, std::move(weights)));
  }
}

}  // namespace

void lower_recurrent(Graph& graph, const Model& model) {
  for (const NodeId id : std::vector<NodeId>(graph.order())) {
    const Node& node = graph.node(id);
    if (!node.alive) continue;
    if (node.is("LSTM") || node.is("GRU") || node.is("RNN")) dequantize_weights(graph, model, id);
    if (!can_lower(graph, graph.node(id))) continue;
    add_origin(graph, id, id);
    graph.edit(id).domain = kInternalDomain;
  }
  erase_dead(graph);
}

}  // namespace compress::runtime
