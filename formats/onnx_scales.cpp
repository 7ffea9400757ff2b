#include "formats/onnx_scales.h"

#include <cmath>
#include <initializer_list>
#include <string_view>

#include "compress/error.h"
#include "compress/graph/label.h"

namespace compress {
namespace {

struct ScaleSlots {
  std::string_view op_type;
  std::initializer_list<size_t> slots;
};

// clang-format off
const ScaleSlots kScaleSlots[] = {
    {"QuantizeLinear", {1}},
    {"DequantizeLinear", {1}},
    {"QLinearConv", {1, 4, 6}},
    {"QLinearMatMul", {1, 4, 6}},
    {"QGemm", {1, 4, 7}},
    {"QLinearAdd", {1, 4, 6}},
    {"QLinearMul", {1, 4, 6}},
    {"QLinearConcat", {0}},
    {"QLinearSigmoid", {1, 3}},
    {"QLinearLeakyRelu", {1, 3}},
    {"QLinearSoftmax", {1, 3}},
    {"QLinearAveragePool", {1, 3}},
    {"QLinearGlobalAveragePool", {1, 3}},
};
// clang-format on

bool is_good(float scale) { return std::isfinite(scale) && scale > 0; }

// Blocks of 4-bit weights: the scale is the signed largest value over -8, which uses all 16 codes,
// so it may be negative, and it is 0 for a block of zeros.
bool has_signed_scales(const Graph& graph, const Node& node) {
  if (node.op_type != "DequantizeLinear" || node.inputs.empty()) return false;
  const ValueId weight = node.inputs[0];
  if (weight == kNoValue) return false;
  const Value& value = graph.value(weight);
  return is_sub_byte(value.is_constant() ? value.constant.dtype() : value.type.dtype);
}

void check_slot(const Graph& graph, const Node& node, size_t slot, bool is_signed) {
  const Tensor* scale = graph.constant_input(node, slot);
  if (scale == nullptr || (scale->dtype() != DType::float32 && !is_half(scale->dtype()))) return;
  const TensorData data = convert(*scale, DType::float32).read();
  for (const float value : data.as<float>()) {
    if (is_good(value) || (is_signed && std::isfinite(value))) continue;
    fail(ErrorCode::invalid_model, "scale '{}' of {} is {}", graph.value(node.inputs[slot]).name,
         describe(graph, node), double{value});
  }
}

}  // namespace

void check_scales(const Graph& graph) {
  for (NodeId id = 0; id < graph.node_slots(); ++id) {
    const Node& node = graph.node(id);
    if (!node.alive) continue;
    for (const Body& body : node.bodies) check_scales(*body.graph);
    for (const ScaleSlots& row : kScaleSlots) {
      if (node.op_type != row.op_type) continue;
      for (const size_t slot : row.slots)
        check_slot(graph, node, slot, has_signed_scales(graph, node));
    }
    if (node.op_type == "MatMulNBits") check_slot(graph, node, 2, true);
  }
}

}  // namespace compress
