#include "passes/distill/unfold.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

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
                 graph.value(node.inputs[0]).name, true});
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
  out.push_back({graph.value(constant).name, graph.value(node.outputs[0]).name,
                 graph.value(node.inputs[0]).name, false});
}

constexpr std::string_view kDequantized = "_DequantizeLinear_Output";

// The constant of `before` that the quantizer made this DequantizeLinear from; else null.
const Tensor* origin_of(const FakeQuantization& how, const Graph& graph, const Node& node) {
  const std::string& name = graph.value(node.outputs[0]).name;
  if (how.before == nullptr || !name.ends_with(kDequantized)) return nullptr;
  const Graph& before = how.before->graph;
  const ValueId id = before.find_value(name.substr(0, name.size() - kDequantized.size()));
  if (id == kNoValue || !before.value(id).is_constant()) return nullptr;
  const Tensor& tensor = before.value(id).constant;
  const bool same = tensor.dtype() == DType::float32 &&
                    tensor.shape() == graph.value(node.inputs[0]).constant.shape();
  return same ? &tensor : nullptr;
}

// The scale of the DequantizeLinear that makes an operand; null where none does.
const Tensor* scale_of(const Graph& graph, const Node& node, size_t slot) {
  const NodeId id = graph.value(node.inputs[slot]).producer;
  if (id == kNoNode || graph.node(id).op_type != "DequantizeLinear") return nullptr;
  return graph.constant_input(graph.node(id), 1);
}

// Operand `slot` becomes the constant `name` with another content; one of its own where others read
// that.
void put_back(Graph& graph, NodeId node, size_t slot, const std::string& name, Tensor content) {
  ValueId id = graph.find_value(name);
  graph.set_input(node, slot, kNoValue);
  if (graph.is_unused(id)) {
    graph.set_constant(id, std::move(content));
  } else {
    id = graph.add_constant(name, std::move(content));
  }
  graph.set_input(node, slot, id);
}

// Learnt scales move that of the bias behind them.
void renew_bias_scale(Graph& graph, NodeId dequantize) {
  const Node node = graph.node(dequantize);
  const auto uses = graph.uses(node.outputs[0]);
  if (uses.empty() || uses[0].slot != 2) return;
  const Node& layer = graph.node(uses[0].node);
  const Tensor* input = scale_of(graph, layer, 0);
  const Tensor* weights = scale_of(graph, layer, 1);
  const Tensor& old = graph.value(node.inputs[1]).constant;
  if (input == nullptr || weights == nullptr || weights->count() != old.count()) return;
  Tensor made = Tensor::allocate(DType::float32, old.shape());
  const auto x = static_cast<float>(input->to_double());
  const TensorData w = weights->read();
  std::transform(w.as<float>().begin(), w.as<float>().end(), made.mutable_as<float>().begin(),
                 [&](float scale) { return x * scale; });
  put_back(graph, dequantize, 1, graph.value(node.inputs[1]).name, std::move(made));
}

// Weights keep to [-127, 127], as everywhere.
void clamp_int8(Tensor& integers) {
  if (integers.dtype() != DType::int8) return;
  for (int8_t& q : integers.mutable_as<int8_t>()) q = std::max<int8_t>(q, -127);
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

std::vector<Unfolded> unfold_quantized(Model& model, const FakeQuantization& how) {
  Graph& graph = model.graph;
  std::vector<Unfolded> out;
  for (const NodeId id : std::vector<NodeId>(graph.order())) {
    const Node& node = graph.node(id);
    if (node.op_type != "DequantizeLinear") continue;
    const std::vector<Tensor> inputs = constants_of(graph, node);
    if (inputs.empty() || inputs[1].dtype() != DType::float32) continue;
    const Tensor* origin = origin_of(how, graph, node);
    Tensor values = origin != nullptr ? *origin : evaluate(node, model, inputs, kMostBytes)[0];
    if (inputs[0].dtype() == DType::int32) {
      unfold_bias(graph, id, std::move(values), out);
    } else {
      unfold_weights(graph, id, std::move(values), out);
    }
  }
  return out;
}

void fold_quantized(Model& model, const std::vector<Unfolded>& unfolded,
                    const FakeQuantization& how) {
  Graph& graph = model.graph;
  for (const Unfolded& part : unfolded) {
    const ValueId weights = graph.find_value(part.weights);
    const ValueId result = graph.find_value(part.dequantize);
    const NodeId dequantize = graph.value(result).producer;
    if (part.bias) {
      graph.replace_uses(weights, result, false);
      if (how.learn_scales) renew_bias_scale(graph, dequantize);
      const Tensor& scale = graph.value(graph.node(dequantize).inputs[1]).constant;
      Tensor integers = rounded_bias(graph.value(weights).constant, scale);
      put_back(graph, dequantize, 0, part.integers, std::move(integers));
    } else {
      const NodeId quantize = graph.value(graph.node(dequantize).inputs[0]).producer;
      const Node node = graph.node(quantize);
      std::vector<Tensor> inputs = constants_of(graph, node);
      Tensor integers = evaluate(node, model, inputs, kMostBytes)[0];
      if (how.learn_scales) clamp_int8(integers);
      put_back(graph, dequantize, 0, part.integers, std::move(integers));
      graph.erase(quantize);
      for (const ValueId id : std::set<ValueId>(node.inputs.begin(), node.inputs.end())) {
        if (id == kNoValue || id == weights) continue;
        if (graph.value(id).alive && graph.is_unused(id)) graph.erase_value(id);
      }
    }
    if (graph.is_unused(weights)) graph.erase_value(weights);
  }
}

}  // namespace compress
