#include "passes/weights.h"

#include <algorithm>

namespace compress {
namespace {

// Where the values of a body come from: the bodies around it, outermost first.
struct Scope {
  Graph* graph;
  const Scope* outer = nullptr;
  const Body* body = nullptr;
};

struct Source {
  Graph* home = nullptr;
  ValueId value = kNoValue;
  NodeId dequantize = kNoNode;
};

// Follows a value up to the constant it is made of; `home` is null where there is none.
Source resolve(const Scope& scope, ValueId id) {
  Source source;
  const Scope* at = &scope;
  while (id != kNoValue) {
    const Value& value = at->graph->value(id);
    if (value.is_constant()) {
      source.home = at->graph;
      source.value = id;
      return source;
    }
    if (value.is_capture && at->outer != nullptr) {
      const auto capture = std::find_if(at->body->captures.begin(), at->body->captures.end(),
                                        [&](const Body::Capture& row) { return row.inner == id; });
      if (capture == at->body->captures.end()) return {};
      id = capture->outer;
      at = at->outer;
      source.dequantize = kNoNode;
      continue;
    }
    if (value.producer == kNoNode) return {};
    const Node& producer = at->graph->node(value.producer);
    if (!passes_weights(producer) || producer.inputs.empty()) return {};
    source.dequantize = producer.is("DequantizeLinear") && at == &scope ? value.producer : kNoNode;
    id = producer.inputs[0];
  }
  return {};
}

void collect(const Scope& scope, bool gather, std::vector<WeightRead>& out) {
  for (const NodeId id : scope.graph->order()) {
    const Node& node = scope.graph->node(id);
    for (const int slot : weight_slots(node, gather)) {
      if (static_cast<size_t>(slot) >= node.inputs.size()) continue;
      const Source source = resolve(scope, node.inputs[static_cast<size_t>(slot)]);
      if (source.home == nullptr) continue;
      out.push_back({scope.graph, id, slot, source.home, source.value, source.dequantize});
    }
    for (const Body& body : node.bodies) {
      collect({body.graph.get(), &scope, &body}, gather, out);
    }
  }
}

}  // namespace

bool passes_weights(const Node& node) {
  for (const char* op : {"Reshape", "Transpose", "QuantizeLinear", "DequantizeLinear", "Cast",
                         "Identity", "Squeeze", "Unsqueeze", "Flatten"}) {
    if (node.is(op)) return true;
  }
  return false;
}

std::vector<int> weight_slots(const Node& node, bool gather) {
  if (!node.domain.empty()) return {};
  const std::string& op = node.op_type;
  if (op == "Conv" || op == "ConvTranspose" || op == "Gemm" || op == "MatMul") return {1};
  if (op == "LSTM" || op == "GRU") return {1, 2};
  if (op == "Gather" && gather) return {0};
  return {};
}

std::vector<WeightRead> find_weights(Model& model, bool gather) {
  std::vector<WeightRead> out;
  collect({&model.graph}, gather, out);
  return out;
}

Tensor constant_node_value(const Node& node) {
  if (const Tensor* tensor = node.tensor_or_null("value")) return *tensor;
  if (node.attribute("value_float")) return Tensor::scalar(node.float_or("value_float", 0));
  if (node.attribute("value_int")) return Tensor::scalar(node.int_or("value_int", 0));
  if (node.attribute("value_floats")) {
    const std::vector<float> values = node.floats_or("value_floats", {});
    return Tensor::from<float>({static_cast<int64_t>(values.size())}, values);
  }
  if (node.attribute("value_ints")) {
    const std::vector<int64_t> values = node.ints_or("value_ints", {});
    return Tensor::from<int64_t>({static_cast<int64_t>(values.size())}, values);
  }
  return {};
}

void adopt_constant_nodes(Graph& graph) {
  for (NodeId id = 0; id < graph.node_slots(); ++id) {
    const Node& node = graph.node(id);
    if (!node.alive) continue;
    for (const Body& body : node.bodies) adopt_constant_nodes(*body.graph);
    if (!node.is("Constant") || node.outputs.empty() || node.outputs[0] == kNoValue ||
        graph.is_output(node.outputs[0])) {
      continue;
    }
    Tensor tensor = constant_node_value(node);
    if (!tensor) continue;
    graph.set_constant(node.outputs[0], std::move(tensor));
    graph.erase(id);
  }
}

}  // namespace compress
