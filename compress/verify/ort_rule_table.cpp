// Source: measured on ONNX Runtime 1.32 (CPU execution provider, x86-64) by saving the optimized
// graph of small models, one pattern each; its own description is
// https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html and the selectors
// in onnxruntime/core/optimizer/qdq_transformer.
#include "compress/verify/ort_rule_table.h"

#include <array>

namespace compress {
namespace {

constexpr std::string_view kMicrosoft = "com.microsoft";

constexpr std::array kRules = {
    OrtRule{"", "Conv", OrtKind::conv, "QLinearConv"},
    OrtRule{"", "MatMul", OrtKind::matmul, "QLinearMatMul"},
    OrtRule{"", "Gemm", OrtKind::gemm, "QGemm"},
    OrtRule{"", "Add", OrtKind::elementwise, "QLinearAdd"},
    OrtRule{"", "Mul", OrtKind::elementwise, "QLinearMul"},
    OrtRule{"", "Concat", OrtKind::elementwise, "QLinearConcat"},
    OrtRule{"", "AveragePool", OrtKind::elementwise, "QLinearAveragePool"},
    OrtRule{"", "GlobalAveragePool", OrtKind::elementwise, "QLinearGlobalAveragePool"},
    OrtRule{"", "Sigmoid", OrtKind::elementwise, "QLinearSigmoid"},
    OrtRule{"", "LeakyRelu", OrtKind::elementwise, "QLinearLeakyRelu"},
    OrtRule{"", "Softmax", OrtKind::elementwise, "QLinearSoftmax"},
    OrtRule{"", "MaxPool", OrtKind::moves, "MaxPool"},
    OrtRule{"", "Reshape", OrtKind::moves, "Reshape"},
    OrtRule{"", "Transpose", OrtKind::moves, "Transpose"},
    OrtRule{"", "Squeeze", OrtKind::moves, "Squeeze"},
    OrtRule{"", "Unsqueeze", OrtKind::moves, "Unsqueeze"},
    OrtRule{"", "Flatten", OrtKind::moves, "Flatten"},
    OrtRule{"", "Slice", OrtKind::moves, "Slice"},
    OrtRule{"", "Split", OrtKind::moves, "Split"},
    OrtRule{"", "Gather", OrtKind::moves, "Gather"},
    OrtRule{"", "GatherElements", OrtKind::moves, ""},
    OrtRule{"", "GatherND", OrtKind::moves, ""},
    OrtRule{"", "ReduceMax", OrtKind::moves, "ReduceMax"},
    OrtRule{"", "DepthToSpace", OrtKind::moves, "DepthToSpace"},
    OrtRule{"", "SpaceToDepth", OrtKind::moves, ""},
    OrtRule{"", "Identity", OrtKind::moves, ""},
    OrtRule{"", "Expand", OrtKind::moves, ""},
    OrtRule{"", "Tile", OrtKind::moves, ""},
    OrtRule{"", "Shape", OrtKind::moves, ""},
    OrtRule{"", "Size", OrtKind::moves, ""},
    OrtRule{"", "Constant", OrtKind::moves, ""},
    OrtRule{"", "Dropout", OrtKind::moves, ""},
    OrtRule{"", "Sub", OrtKind::no_integer, ""},
    OrtRule{"", "Div", OrtKind::no_integer, ""},
    OrtRule{"", "Tanh", OrtKind::no_integer, ""},
    OrtRule{"", "Erf", OrtKind::no_integer, ""},
    OrtRule{"", "Gelu", OrtKind::no_integer, ""},
    OrtRule{"", "Exp", OrtKind::no_integer, ""},
    OrtRule{"", "Sqrt", OrtKind::no_integer, ""},
    OrtRule{"", "HardSwish", OrtKind::no_integer, ""},
    OrtRule{"", "HardSigmoid", OrtKind::no_integer, ""},
    OrtRule{"", "Relu", OrtKind::no_integer, ""},
    OrtRule{"", "Clip", OrtKind::no_integer, ""},
    OrtRule{"", "ReduceMean", OrtKind::no_integer, ""},
    OrtRule{"", "Pad", OrtKind::no_integer, ""},
    OrtRule{"", "Resize", OrtKind::no_integer, ""},
    OrtRule{"", "ConvTranspose", OrtKind::no_integer, ""},
    OrtRule{"", "LayerNormalization", OrtKind::no_integer, ""},
    OrtRule{"", "InstanceNormalization", OrtKind::no_integer, ""},
    OrtRule{"", "BatchNormalization", OrtKind::no_integer, ""},
    OrtRule{"", "QLinearConv", OrtKind::integer, "QLinearConv"},
    OrtRule{"", "QLinearMatMul", OrtKind::integer, "QLinearMatMul"},
    OrtRule{"", "MatMulInteger", OrtKind::integer, "MatMulInteger"},
    OrtRule{"", "ConvInteger", OrtKind::slow_integer, "ConvInteger"},
    OrtRule{"", "DynamicQuantizeLinear", OrtKind::dynamic_quantize, "DynamicQuantizeLinear"},
    OrtRule{kMicrosoft, "QLinearConv", OrtKind::integer, "QLinearConv"},
    OrtRule{kMicrosoft, "QGemm", OrtKind::integer, "QGemm"},
    OrtRule{kMicrosoft, "QLinearAdd", OrtKind::integer, "QLinearAdd"},
    OrtRule{kMicrosoft, "QLinearMul", OrtKind::integer, "QLinearMul"},
    OrtRule{kMicrosoft, "QLinearConcat", OrtKind::integer, "QLinearConcat"},
    OrtRule{kMicrosoft, "QLinearAveragePool", OrtKind::integer, "QLinearAveragePool"},
    OrtRule{kMicrosoft, "QLinearGlobalAveragePool", OrtKind::integer, "QLinearGlobalAveragePool"},
    OrtRule{kMicrosoft, "QLinearSigmoid", OrtKind::integer, "QLinearSigmoid"},
    OrtRule{kMicrosoft, "QLinearLeakyRelu", OrtKind::integer, "QLinearLeakyRelu"},
    OrtRule{kMicrosoft, "QLinearSoftmax", OrtKind::integer, "QLinearSoftmax"},
    OrtRule{kMicrosoft, "QLinearWhere", OrtKind::integer, "QLinearWhere"},
    OrtRule{kMicrosoft, "MatMulIntegerToFloat", OrtKind::integer, "MatMulIntegerToFloat"},
    OrtRule{kMicrosoft, "DynamicQuantizeMatMul", OrtKind::integer, "DynamicQuantizeMatMul"},
    OrtRule{kMicrosoft, "DynamicQuantizeLSTM", OrtKind::integer, "DynamicQuantizeLSTM"},
    OrtRule{kMicrosoft, "QAttention", OrtKind::integer, "QAttention"},
    OrtRule{kMicrosoft, "MatMulNBits", OrtKind::packed, "MatMulNBits"},
    OrtRule{kMicrosoft, "GatherBlockQuantized", OrtKind::packed, "GatherBlockQuantized"},
};

bool in_linear_domain(const Node& node) { return node.domain.empty() || node.domain == kMicrosoft; }
// Other domains are not checked when a model is read: operands may be missing.
bool has_operands(const Node& node) {
  return node.inputs.size() >= 2 && node.inputs[0] != kNoValue && !node.outputs.empty() &&
         node.outputs[0] != kNoValue;
}

}  // namespace

std::span<const OrtRule> ort_rule_table() { return kRules; }

const OrtRule* ort_rule_of(const Node& node) {
  for (const OrtRule& rule : kRules) {
    if (rule.op == node.op_type && rule.domain == node.domain) return &rule;
  }
  return nullptr;
}

std::string ort_op_name(const Node& node) {
  return node.domain.empty() ? node.op_type : node.domain + "." + node.op_type;
}

bool is_quantize(const Node& node) {
  return node.op_type == "QuantizeLinear" && in_linear_domain(node) && has_operands(node);
}
bool is_dequantize(const Node& node) {
  return node.op_type == "DequantizeLinear" && in_linear_domain(node) && has_operands(node);
}

}  // namespace compress
