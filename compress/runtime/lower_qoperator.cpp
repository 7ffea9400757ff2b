// Operators of the QOperator form (ONNX's and com.microsoft's) become the kernels of the QDQ form.
#include <algorithm>
#include <cmath>
#include <utility>

#include "compress/ops/support.h"
#include "compress/runtime/lower.h"
#include "compress/runtime/lower_quantized.h"

namespace compress::runtime {
namespace {

constexpr int kPoolOpset = 11;  // whose pools have the attributes that com.microsoft's have

}  // namespace

void QuantizedLowering::lower_qoperator(NodeId id) {
  const Node& of = node(id);
  if (of.is("QLinearConv")) return lower_qlinear_conv(id);
  if (of.is("QLinearMatMul")) return lower_qlinear_matmul(id);
  if (of.domain != "com.microsoft") return;
  if (of.op_type == "QGemm") return lower_qgemm(id);
  if (of.op_type == "QLinearAdd" || of.op_type == "QLinearMul") return lower_qlinear_binary(id);
  if (of.op_type == "QLinearConcat") return lower_qlinear_concat(id);
  if (of.op_type == "QLinearAveragePool" || of.op_type == "QLinearGlobalAveragePool") {
    return lower_qlinear_pool(id);
  }
  if (of.op_type == "QLinearSigmoid" || of.op_type == "QLinearLeakyRelu") {
    return lower_qlinear_table(id);
  }
}

// A value with its scale and zero point in the two slots after it; the zero point may be omitted.
std::optional<QuantizedLowering::Quantized> QuantizedLowering::operand_at(const Node& of,
                                                                          size_t slot) const {
  if (slot + 1 >= of.inputs.size() || of.inputs[slot] == kNoValue) return std::nullopt;
  const Value& value = graph_.value(of.inputs[slot]);
  const DType dtype = value.is_constant() ? value.constant.dtype() : value.type.dtype;
  std::optional<Params> params = params_at(of, slot + 1, slot + 2);
  if (!params || !is_byte(dtype)) return std::nullopt;
  const bool has_zero_point = slot + 2 < of.inputs.size() && of.inputs[slot + 2] != kNoValue;
  if (has_zero_point && params->dtype != dtype) return std::nullopt;
  params->dtype = dtype;
  return Quantized{of.inputs[slot], *params, kNoNode};
}

// The same of an output, which has the type of its zero point, or else `dtype`.
std::optional<QuantizedLowering::Exit> QuantizedLowering::exit_at(const Node& of, size_t scale,
                                                                  DType dtype) const {
  std::optional<Params> params = params_at(of, scale, scale + 1);
  if (!params) return std::nullopt;
  const bool has_zero_point = scale + 1 < of.inputs.size() && of.inputs[scale + 1] != kNoValue;
  if (!has_zero_point) params->dtype = dtype;
  return whole_exit(of.outputs[0], *params);
}

// x, sx, zx, w, sw, zw, sy, zy, [bias int32].
void QuantizedLowering::lower_qlinear_conv(NodeId id) {
  const Node& of = node(id);
  if (of.inputs.size() < 8 || graph_.value(of.inputs[0]).is_constant()) return;
  const int rank = rank_of(graph_, of.inputs[0]);
  const std::optional<Params> x = params_at(of, 1, 2);
  const std::optional<Params> y = params_at(of, 6, 7);
  const std::optional<Weights> w = weights_at(of, 3, 4, 5, 0, true);
  if (!x || !y || !w || (rank != 3 && rank != 4) || rank_of(graph_, w->value) != rank) return;
  const ValueId bias = of.inputs.size() > 8 ? of.inputs[8] : kNoValue;
  if (bias != kNoValue && !graph_.value(bias).is_constant()) return;
  const Exit exit = whole_exit(of.outputs[0], *y);
  std::vector<Attribute> attributes = product_attributes(*x, *w, exit);
  attributes.insert(attributes.end(), of.attributes.begin(), of.attributes.end());
  finish("QConv", id, {of.inputs[0], w->value, bias}, std::move(attributes), exit, {});
}

// a, sa, za, b, sb, zb, sy, zy.
void QuantizedLowering::lower_qlinear_matmul(NodeId id) {
  const Node& of = node(id);
  if (of.inputs.size() < 8 || graph_.value(of.inputs[0]).is_constant()) return;
  const std::optional<Params> x = params_at(of, 1, 2);
  const std::optional<Params> y = params_at(of, 6, 7);
  const std::optional<Weights> w = weights_at(of, 3, 4, 5, 1, true);
  if (!x || !y || !w || rank_of(graph_, w->value) != 2) return;
  const Exit exit = whole_exit(of.outputs[0], *y);
  finish("QMatMul", id, {of.inputs[0], w->value, kNoValue}, product_attributes(*x, *w, exit), exit,
         {});
}

// a, sa, za, b, sb, zb, [bias int32], [sy, zy]; float without sy.
void QuantizedLowering::lower_qgemm(NodeId id) {
  const Node& of = node(id);
  const std::optional<Quantized> a = operand_at(of, 0);
  const bool transposed = of.int_or("transB", 0) != 0;
  const std::optional<Weights> w = weights_at(of, 3, 4, 5, transposed ? 0 : 1, true);
  if (!a || !w || rank_of(graph_, w->value) != 2 || graph_.value(a->value).is_constant()) return;
  if (rank_of(graph_, a->value) != 2 || of.int_or("transA", 0) != 0) return;
  if (of.float_or("alpha", 1) != 1) return;
  const ValueId bias = of.inputs.size() > 6 ? of.inputs[6] : kNoValue;
  const int64_t columns = graph_.value(w->value).constant.shape()[transposed ? 0 : 1];
  if (bias != kNoValue) {
    const Value& given = graph_.value(bias);
    if (!given.is_constant() || given.constant.dtype() != DType::int32) return;
    if (given.constant.count() != columns) return;
  }
  Exit exit;
  exit.out = of.outputs[0];
  if (of.inputs.size() > 7 && of.inputs[7] != kNoValue) {
    const std::optional<Exit> given = exit_at(of, 7, DType::uint8);
    if (!given) return;
    exit = *given;
  }
  std::vector<Attribute> attributes = product_attributes(a->params, *w, exit);
  attributes.push_back(number(kTransposed, transposed ? 1 : 0));
  finish("QMatMul", id, {a->value, w->value, bias}, std::move(attributes), exit, {});
}

// a, sa, za, b, sb, zb, sy, [zy].
void QuantizedLowering::lower_qlinear_binary(NodeId id) {
  const Node& of = node(id);
  const std::optional<Quantized> a = operand_at(of, 0), b = operand_at(of, 3);
  if (!a || !b) return;
  const std::optional<Exit> exit = exit_at(of, 6, a->params.dtype);
  if (!exit) return;
  finish(of.op_type == "QLinearAdd" ? "QAdd" : "QMul", id, {a->value, b->value},
         {number(kXZeroPoint, a->params.zero_point),
          {kXScale, a->params.scale, ""},
          number(kBZeroPoint, b->params.zero_point),
          {kBScale, b->params.scale, ""}},
         *exit, {});
}

// x, sx, zx, sy, [zy]. Channels-first ones alone.
void QuantizedLowering::lower_qlinear_pool(NodeId id) {
  const Node& of = node(id);
  const std::optional<Quantized> x = operand_at(of, 0);
  if (!x || of.int_or("channels_last", 0) != 0) return;
  const int rank = rank_of(graph_, x->value);
  if ((rank != 3 && rank != 4) || graph_.value(x->value).is_constant()) return;
  const std::optional<Exit> exit = exit_at(of, 3, x->params.dtype);
  if (!exit) return;
  std::vector<Attribute> attributes = of.attributes;
  attributes.push_back(number(kOpsetAttribute, kPoolOpset));
  attributes.push_back({kXScale, x->params.scale, ""});
  attributes.push_back(number(kXZeroPoint, x->params.zero_point));
  const bool global = of.op_type == "QLinearGlobalAveragePool";
  finish(global ? "QGlobalAveragePool" : "QAveragePool", id, {x->value}, std::move(attributes),
         *exit, {});
}

// sy, zy, then x, sx, zx of each operand.
void QuantizedLowering::lower_qlinear_concat(NodeId id) {
  const std::optional<Params> y = params_at(node(id), 0, 1);
  if (!y || !model_.opsets.contains("")) return;
  std::vector<Quantized> operands;
  for (size_t slot = 2; slot < node(id).inputs.size(); slot += 3) {
    const std::optional<Quantized> x = operand_at(node(id), slot);
    if (!x) return;
    operands.push_back(*x);
  }
  if (operands.empty()) return;
  NodeSpec spec;
  spec.op_type = "Concat";
  for (const Quantized& x : operands) spec.inputs.push_back(requantized(x.value, x.params, *y));
  const ValueId out = node(id).outputs[0];
  const TypeInfo type = graph_.value(out).type;
  spec.outputs = {graph_.value(out).name + "/lowered"};
  spec.attributes = {number("axis", node(id).int_or("axis", 0))};
  const NodeId joined = graph_.add(std::move(spec));
  graph_.set_type(node(joined).outputs[0], type);
  add_origin(graph_, joined, id);
  graph_.replace_uses(out, node(joined).outputs[0]);
  graph_.erase(id);
}

// x, sx, zx, sy, [zy].
void QuantizedLowering::lower_qlinear_table(NodeId id) {
  const Node& of = node(id);
  const std::optional<Quantized> x = operand_at(of, 0);
  if (!x || graph_.value(x->value).is_constant()) return;
  const std::optional<Exit> exit = exit_at(of, 3, x->params.dtype);
  if (!exit) return;
  Tensor values = all_values(x->params);
  const float alpha = of.float_or("alpha", 0.01f);
  const bool sigmoid = of.op_type == "QLinearSigmoid";
  for (float& v : values.mutable_as<float>()) {
    if (sigmoid) {
      v = 1.0f / (1.0f + std::exp(-v));
    } else if (v < 0) {
      v *= alpha;
    }
  }
  finish("Lookup", id, {x->value}, {{kTable, table_of(values, *exit->params), ""}}, *exit, {});
}

}  // namespace compress::runtime
