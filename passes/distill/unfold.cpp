#include "passes/distill/unfold.h"

#include <cmath>
#include <limits>

#include "compress/error.h"
#include "compress/runtime/fold.h"
#include "passes/edit.h"

namespace compress {
namespace {

constexpr uint64_t kMostBytes = uint64_t{4} << 30;

// The constants of a DequantizeLinear; empty where one is none.
std::vector<Tensor> constants_of(const Graph& graph, const Node& node) {
  std::vector<Tensor> out;
  for (const ValueId id : node.inputs) {
    if (id != kNoValue && !graph.value(id).is_constant()) return {};
    out.push_back(id == kNoValue ? Tensor() : graph.value(id).constant);
  }
  return out;
}

void unfold_bias(Graph& graph, NodeId id, Tensor values, std::vector<Unfolded>& out) {
  const Node node = graph.node(id);
  const ValueId result = node.outputs[0];
  const ValueId constant = graph.add_constant(graph.value(result).name + "/float", values);
  out.push_back({graph.value(constant).name, graph.value(result).name,
                 graph.value(node.inputs[0]).constant, true});
  // The node stays, unread: folding needs it again.
  graph.replace_uses(result, constant, false);
}

void unfold_weights(Graph& graph, NodeId id, Tensor values, std::vector<Unfolded>& out) {
  const Node node = graph.node(id);
  const ValueId constant =
      graph.add_constant(graph.value(node.outputs[0]).name + "/float", std::move(values));
  const Tensor integers = graph.value(node.inputs[0]).constant;
  NodeSpec spec{"QuantizeLinear", node.inputs, {graph.value(node.outputs[0]).name + "/integers"},
                node.attributes,  "",          node.domain};
  spec.inputs[0] = constant;
  if (spec.inputs.size() < 3 || spec.inputs[2] == kNoValue) {
    // Without a zero point QuantizeLinear would make uint8.
    spec.inputs.resize(3);
    spec.inputs[2] = graph.add_constant(
        "zero", Tensor::zeros(integers.dtype(), graph.value(node.inputs[1]).constant.shape()));
  }
  const ValueId made = graph.node(graph.insert_before(id, std::move(spec))).outputs[0];
  graph.set_input(id, 0, made);
  out.push_back({graph.value(constant).name, graph.value(node.outputs[0]).name, integers, false});
}

// round(b / s), saturated.
Tensor rounded_bias(const Tensor& bias, const Tensor& scale) {
  const std::vector<double> values = bias.to_doubles(), scales = scale.to_doubles();
  Tensor out = Tensor::allocate(DType::int32, bias.shape());
  for (size_t i = 0; i < values.size(); ++i) {
    const double q = std::nearbyint(values[i] / scales[scales.size() == 1 ? 0 : i]);
    constexpr double kLeast = std::numeric_limits<int32_t>::min();
    constexpr double kMost = std::numeric_limits<int32_t>::max();
    out.mutable_as<int32_t>()[i] = static_cast<int32_t>(std::min(std::max(q, kLeast), kMost));
  }
  return out;
}

}  // namespace

std::vector<Unfolded> unfold_quantized(Model& model) {
  Graph& graph = model.graph;
  std::vector<Unfolded> out;
  for (const NodeId id : std::vector<NodeId>(graph.order())) {
    const Node& node = graph.node(id);
    if (node.op_type != "DequantizeLinear") continue;
    const std::vector<Tensor> inputs = constants_of(graph, node);
    if (inputs.empty() || inputs[1].dtype() != DType::float32) continue;
    Tensor values = evaluate(node, model, inputs, kMostBytes)[0];
    if (inputs[0].dtype() == DType::int32) {
      unfold_bias(graph, id, std::move(values), out);
    } else {
      unfold_weights(graph, id, std::move(values), out);
    }
  }
  return out;
}

void fold_quantized(Model& model, const std::vector<Unfolded>& unfolded) {
  Graph& graph = model.graph;
  for (const Unfolded& part : unfolded) {
    const ValueId weights = graph.find_value(part.weights);
    const ValueId result = graph.find_value(part.dequantize);
    const NodeId dequantize = graph.value(result).producer;
    if (part.bias) {
      const Tensor& scale = graph.value(graph.node(dequantize).inputs[1]).constant;
      Tensor integers = rounded_bias(graph.value(weights).constant, scale);
      graph.replace_uses(weights, result, false);
      graph.set_input(dequantize, 0, graph.add_constant(part.weights + "/int32", integers));
    } else {
      const NodeId quantize = graph.value(graph.node(dequantize).inputs[0]).producer;
      const Node node = graph.node(quantize);
      std::vector<Tensor> inputs = constants_of(graph, node);
      Tensor integers = evaluate(node, model, inputs, kMostBytes)[0];
      graph.set_input(dequantize, 0,
                      graph.add_constant(part.weights + "/integers", std::move(integers)));
      graph.erase(quantize);
    }
    if (graph.is_unused(weights)) graph.erase_value(weights);
  }
}

}  // namespace compress
