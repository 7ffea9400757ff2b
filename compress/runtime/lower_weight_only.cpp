// MatMulNBits, and DynamicQuantizeLinear -> MatMulInteger -> Cast -> Mul (-> Add), on the kernels
// that work on their integers.
#include <optional>
#include <utility>
#include <vector>

#include "compress/runtime/lower.h"
#include "compress/runtime/lower_internal.h"
#include "compress/runtime/lower_patterns.h"

namespace compress::runtime {
namespace {

bool has(const Node& node, size_t slot) {
  return slot < node.inputs.size() && node.inputs[slot] != kNoValue;
}

void replace(Graph& graph, NodeId fused, ValueId out, const std::vector<NodeId>& parts) {
  for (const NodeId part : parts) add_origin(graph, fused, part);
  graph.replace_uses(out, graph.node(fused).outputs[0]);
  for (auto part = parts.rbegin(); part != parts.rend(); ++part) graph.erase(*part);
}

const Tensor* constant_of(const Graph& graph, const Node& node, size_t slot, DType dtype) {
  const Tensor* tensor = graph.constant_input(node, slot);
  return tensor != nullptr && tensor->dtype() == dtype ? tensor : nullptr;
}

// a, b, scales, [zero points], [g_idx], [bias].
void lower_nbits(Graph& graph, NodeId id) {
  const Node& node = graph.node(id);
  if (!has(node, 0) || !has(node, 1) || !has(node, 2) || node.outputs.size() != 1) return;
  const int64_t bits = node.int_or("bits", 4);
  const int64_t block = node.int_or("block_size", 0);
  const bool sizes = (bits == 4 || bits == 8) && block >= 16 && block <= 256 &&
                     (block & (block - 1)) == 0 && node.int_or("K", 0) > 0 &&
                     node.int_or("N", 0) > 0;
  // The scales below have the type of the input, where that is not known (in bodies).
  const DType dtype = graph.value(node.inputs[0]).type.dtype;
  if (!sizes || has(node, 4) || (dtype != DType::float32 && dtype != DType::undefined)) return;
  const int64_t blocks = (node.int_or("K", 0) + block - 1) / block;
  const int64_t n = node.int_or("N", 0);
  const Tensor* data = constant_of(graph, node, 1, DType::uint8);
  const Tensor* scales = constant_of(graph, node, 2, DType::float32);
  if (data == nullptr || data->count() != n * blocks * block * bits / 8) return;
  if (scales == nullptr || scales->count() != n * blocks) return;
  if (has(node, 3)) {
    const Tensor* zeros = constant_of(graph, node, 3, DType::uint8);
    if (zeros == nullptr || zeros->count() != n * ((blocks * bits + 7) / 8)) return;
  }
  if (has(node, 5)) {
    const Tensor* bias = constant_of(graph, node, 5, DType::float32);
    if (bias == nullptr || bias->count() != n) return;
  }
  const auto slot = [&](size_t i) { return has(node, i) ? node.inputs[i] : kNoValue; };
  const ValueId out = node.outputs[0];
  const NodeId fused = add_internal(
      graph, "MatMulNBits", {slot(0), slot(1), slot(2), slot(3), slot(5)}, node.attributes, out);
  replace(graph, fused, out, {id});
}

// The other operand of a node with two; kNoValue where it has not two.
ValueId other_operand(const Node& node, ValueId one) {
  if (node.inputs.size() != 2) return kNoValue;
  return node.inputs[0] == one ? node.inputs[1] : node.inputs[0];
}

void lower_matmul_integer(Graph& graph, NodeId id) {
  const Node& node = graph.node(id);
  const Tensor* weights = graph.constant_input(node, 1);
  if (weights == nullptr || weights->shape().rank() != 2) return;
  if (!has(node, 0) || !has(node, 2) || node.outputs.size() != 1) return;
  if (weights->dtype() != DType::int8 && weights->dtype() != DType::uint8) return;
  const int64_t columns = weights->shape()[1];
  const NodeId quantize = graph.value(node.inputs[0]).producer;
  if (quantize == kNoNode || graph.node(quantize).outputs.size() != 3) return;
  const Node& source = graph.node(quantize);
  const bool dynamic =
      source.is("DynamicQuantizeLinear") || source.is("DynamicQuantize", kInternalDomain);
  if (!dynamic || source.outputs[0] != node.inputs[0] || source.outputs[2] != node.inputs[2]) {
    return;
  }
  std::vector<Attribute> attributes;
  if (has(node, 3)) {
    const Tensor* zeros = graph.constant_input(node, 3);
    if (zeros == nullptr || zeros->dtype() != weights->dtype()) return;
    if (zeros->count() != 1 && zeros->count() != columns) return;
    attributes.push_back({kWZeroPoint, *zeros, ""});
  }
  const NodeId cast = only_reader(graph, node.outputs[0]);
  if (cast == kNoNode || !graph.node(cast).is("Cast") || graph.node(cast).int_or("to", 0) != 1) {
    return;
  }
  const ValueId sum = graph.node(cast).outputs[0];
  const NodeId mul = only_reader(graph, sum);
  if (mul == kNoNode || !graph.node(mul).is("Mul")) return;
  const ValueId product = other_operand(graph.node(mul), sum);
  const NodeId scales = producer_of(graph, product, "Mul");
  if (scales == kNoNode) return;
  const ValueId step = source.outputs[1];
  const Node& both = graph.node(scales);
  if (both.inputs.size() != 2 || (both.inputs[0] != step && both.inputs[1] != step)) return;
  const ValueId w_scale = other_operand(both, step);
  if (w_scale == kNoValue || !graph.value(w_scale).is_constant()) return;
  const Tensor& steps = graph.value(w_scale).constant;
  if (steps.dtype() != DType::float32 || steps.shape().rank() > 1) return;
  if (steps.count() != 1 && steps.count() != columns) return;

  std::vector<NodeId> parts = {id, cast, mul};
  ValueId out = graph.node(mul).outputs[0];
  ValueId bias = kNoValue;
  const NodeId add = only_reader(graph, out);
  if (add != kNoNode && graph.node(add).is("Add")) {
    const ValueId other = other_operand(graph.node(add), out);
    const Value& value = graph.value(other == kNoValue ? w_scale : other);
    if (other != kNoValue && value.is_constant() && value.constant.dtype() == DType::float32 &&
        value.constant.shape().rank() == 1 && value.constant.count() == columns) {
      bias = other;
      parts.push_back(add);
      out = graph.node(add).outputs[0];
    }
  }
  const NodeId fused = add_internal(
      graph, "DynamicMatMul", {node.inputs[0], step, node.inputs[2], node.inputs[1], w_scale, bias},
      std::move(attributes), out, DType::float32);
  replace(graph, fused, out, parts);
}

}  // namespace

void lower_weight_only(Graph& graph, const Model&) {
  for (const NodeId id : std::vector<NodeId>(graph.order())) {
    if (!graph.node(id).alive) continue;
    if (graph.node(id).is("MatMulNBits", "com.microsoft")) {
      lower_nbits(graph, id);
    } else if (graph.node(id).is("MatMulInteger")) {
      lower_matmul_integer(graph, id);
    } else if (graph.node(id).is("DynamicQuantizeLinear") && has(graph.node(id), 0) &&
               graph.node(id).outputs.size() == 3) {
      // The same node on faster loops; its order of operations is ONNX's.
      add_origin(graph, id, id);
      Node& node = graph.edit(id);
      node.op_type = "DynamicQuantize";
      node.domain = kInternalDomain;
    }
  }
  erase_dead(graph);
}

}  // namespace compress::runtime
