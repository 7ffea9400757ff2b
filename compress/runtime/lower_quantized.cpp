// DequantizeLinear -> operator -> QuantizeLinear becomes one integer kernel; quantized operators of
// the QOperator form become the same kernels.
//
// docs/numbers.md: acc = sum (x - zx) * (w - zw) + bias in int32, y = saturate(rint(acc * m) + zy),
// m = float(double(sx) * sw / sy). The graph of Q/DQ nodes is the oracle; the two differ by at most
// one step, where the float32 sum of the oracle rounds.
#include "compress/runtime/lower_quantized.h"

#include <algorithm>
#include <array>
#include <utility>

#include "compress/runtime/inline.h"
#include "compress/runtime/lower.h"

namespace compress::runtime {
namespace {

// They move or select values, so they run on the integers as they are.
constexpr std::array<std::string_view, 11> kMoves = {
    "Reshape", "Transpose", "Squeeze",      "Unsqueeze",    "Flatten", "Slice",
    "Gather",  "Expand",    "DepthToSpace", "SpaceToDepth", "Tile"};

template <size_t N>
bool contains(const std::array<std::string_view, N>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

void QuantizedLowering::run() {
  widen_narrow_weights();
  for (const NodeId id : std::vector<NodeId>(graph_.order())) {
    if (graph_.node(id).alive) visit(id);
  }
  erase_dead(graph_);
  for (const NodeId id : std::vector<NodeId>(graph_.order())) {
    if (graph_.node(id).alive) lower_edge(id);
  }
  erase_dead(graph_);
}

void QuantizedLowering::widen_narrow_weights() {
  for (const NodeId id : std::vector<NodeId>(graph_.order())) {
    const Tensor* w = graph_.constant_input(node(id), 0);
    if (!node(id).is("DequantizeLinear") || node(id).int_or("block_size", 0) != 0 || w == nullptr ||
        !is_sub_byte(w->dtype()) || !is_integer(w->dtype())) {
      continue;
    }
    for (const size_t slot : {size_t{0}, size_t{2}}) {
      const Tensor* narrow = graph_.constant_input(node(id), slot);
      if (narrow == nullptr) continue;
      const std::vector<int64_t> values = narrow->to_ints();
      Tensor wide = Tensor::allocate(info(narrow->dtype()).is_signed ? DType::int8 : DType::uint8,
                                     narrow->shape());
      auto* bytes = reinterpret_cast<uint8_t*>(wide.mutable_data());
      for (size_t i = 0; i < values.size(); ++i) bytes[i] = static_cast<uint8_t>(values[i]);
      graph_.set_input(id, slot, graph_.add_constant("wide", std::move(wide)));
    }
  }
}

void QuantizedLowering::visit(NodeId id) {
  const Node& of = node(id);
  if (of.inputs.empty() || of.outputs.empty()) return;
  if (of.inputs[0] == kNoValue || of.outputs[0] == kNoValue) return;
  if (of.op_type.starts_with("QLinear") || of.op_type == "QGemm") return lower_qoperator(id);
  if (!of.domain.empty()) return;
  if (of.is("Conv")) return lower_conv(id);
  if (of.is("Gemm")) return lower_gemm(id);
  if (of.is("MatMul")) return lower_matmul(id);
  if (of.is("Add") || of.is("Mul")) {
    if (lower_binary(id)) return;
  }
  if (of.is("MaxPool") || of.is("AveragePool") || of.is("GlobalAveragePool")) {
    return lower_pool(id);
  }
  if (of.is("Concat") || contains(kMoves, of.op_type)) return lower_move(id);
  if (of.is("QuantizeLinear")) lower_function(id);
}

// --- Products ----------------------------------------------------------------------------------

void QuantizedLowering::lower_conv(NodeId id) {
  const Node& of = node(id);
  const int rank = rank_of(graph_, of.inputs[0]);
  const std::optional<Quantized> x = quantized(of.inputs[0]);
  if (!x || of.inputs.size() < 2 || (rank != 3 && rank != 4)) return;
  const std::optional<Weights> w = dequantized_weights(of.inputs[1], 0);
  if (!w || rank_of(graph_, w->value) != rank) return;
  const Exit exit = exit_of(of.outputs[0]);
  const ValueId bias_value = of.inputs.size() > 2 ? of.inputs[2] : kNoValue;
  const int64_t channels = graph_.value(w->value).constant.shape()[0];
  const std::optional<Bias> bias = bias_at(bias_value, x->params, *w, channels, !exit.params);
  if (!bias) return;
  std::vector<Attribute> attributes = product_attributes(x->params, *w, exit);
  attributes.insert(attributes.end(), of.attributes.begin(), of.attributes.end());
  finish("QConv", id, {x->value, w->value, bias->value}, std::move(attributes), exit,
         {x->node, w->node, bias->node});
}

void QuantizedLowering::lower_gemm(NodeId id) {
  const Node& of = node(id);
  const bool plain =
      of.int_or("transA", 0) == 0 && of.float_or("alpha", 1) == 1 && of.float_or("beta", 1) == 1;
  const std::optional<Quantized> x = quantized(of.inputs[0]);
  if (!plain || !x || of.inputs.size() < 2) return;
  lower_product(id, *x, of.inputs[1], of.int_or("transB", 0) != 0,
                of.inputs.size() > 2 ? of.inputs[2] : kNoValue, of.outputs[0], {});
}

void QuantizedLowering::lower_matmul(NodeId id) {
  const Node& of = node(id);
  const std::optional<Quantized> x = quantized(of.inputs[0]);
  if (!x || of.inputs.size() < 2 || rank_of(graph_, of.inputs[0]) < 2) return;
  // MatMul + Add of a constant row is a Gemm.
  const NodeId add = only_reader(graph_, of.outputs[0]);
  if (add != kNoNode && node(add).is("Add") && node(add).inputs.size() == 2) {
    const size_t slot = node(add).inputs[0] == of.outputs[0] ? 1 : 0;
    const ValueId bias = node(add).inputs[slot];
    if (rank_of(graph_, bias) == 1 &&
        lower_product(id, *x, of.inputs[1], false, bias, node(add).outputs[0], {add})) {
      return;
    }
  }
  lower_product(id, *x, of.inputs[1], false, kNoValue, of.outputs[0], {});
}

bool QuantizedLowering::lower_product(NodeId id, const Quantized& x, ValueId weights,
                                      bool transposed, ValueId bias_value, ValueId out,
                                      const std::vector<NodeId>& between) {
  const int axis = transposed ? 0 : 1;
  const std::optional<Weights> w = dequantized_weights(weights, axis);
  if (!w || rank_of(graph_, w->value) != 2) return false;
  Exit exit = exit_of(out);
  const int64_t columns = graph_.value(w->value).constant.shape()[axis];
  const std::optional<Bias> bias = bias_at(bias_value, x.params, *w, columns, !exit.params);
  if (!bias) return false;
  exit.parts.insert(exit.parts.begin(), between.begin(), between.end());
  std::vector<Attribute> attributes = product_attributes(x.params, *w, exit);
  attributes.push_back(number(kTransposed, transposed ? 1 : 0));
  finish("QMatMul", id, {x.value, w->value, bias->value}, std::move(attributes), exit,
         {x.node, w->node, bias->node});
  return true;
}

// --- Elementwise -------------------------------------------------------------------------------

bool QuantizedLowering::lower_binary(NodeId id) {
  const Node& of = node(id);
  if (of.inputs.size() != 2) return false;
  const std::optional<Quantized> a = quantized(of.inputs[0]);
  const std::optional<Quantized> b = quantized(of.inputs[1]);
  if (!a || !b) return false;
  const Exit exit = exit_of(of.outputs[0]);
  if (!exit.params) return false;
  finish(of.is("Add") ? "QAdd" : "QMul", id, {a->value, b->value},
         {number(kXZeroPoint, a->params.zero_point),
          {kXScale, a->params.scale, ""},
          number(kBZeroPoint, b->params.zero_point),
          {kBScale, b->params.scale, ""}},
         exit, {a->node, b->node});
  return true;
}

// --- Moves and pools ---------------------------------------------------------------------------

void QuantizedLowering::lower_move(NodeId id) {
  const Exit exit = exit_of(node(id).outputs[0]);
  if (!exit.params || exit.parts.size() != 1) return;
  const size_t data_inputs = node(id).is("Concat") ? node(id).inputs.size() : 1;
  std::vector<Quantized> sources;
  for (size_t i = 0; i < data_inputs; ++i) {
    const std::optional<Quantized> source = quantized(node(id).inputs[i]);
    if (!source) return;
    sources.push_back(*source);
  }
  for (size_t i = 0; i < data_inputs; ++i) {
    graph_.set_input(id, i, requantized(sources[i].value, sources[i].params, *exit.params));
  }
  const ValueId out = node(id).outputs[0];
  TypeInfo type = graph_.value(out).type;
  type.dtype = exit.params->dtype;
  add_origin(graph_, id, id);
  add_origin(graph_, id, exit.parts[0]);
  graph_.replace_uses(exit.out, out);
  graph_.erase(exit.parts[0]);
  graph_.set_type(out, std::move(type));
}

void QuantizedLowering::lower_pool(NodeId id) {
  const Node& of = node(id);
  const int rank = rank_of(graph_, of.inputs[0]);
  const std::optional<Quantized> x = quantized(of.inputs[0]);
  if (!x || of.outputs.size() != 1 || (rank != 3 && rank != 4)) return;
  const Exit exit = exit_of(of.outputs[0]);
  if (!exit.params || exit.parts.size() != 1) return;
  std::vector<Attribute> attributes = of.attributes;
  attributes.push_back(number(kOpsetAttribute, node_opset(of, model_)));
  if (of.is("MaxPool")) {
    // Quantizing is monotone: the maximum may be taken before or after it.
    const ValueId in = requantized(x->value, x->params, *exit.params);
    finish("QMaxPool", id, {in}, std::move(attributes), exit, {x->node});
    return;
  }
  attributes.push_back({kXScale, x->params.scale, ""});
  attributes.push_back(number(kXZeroPoint, x->params.zero_point));
  finish(of.is("AveragePool") ? "QAveragePool" : "QGlobalAveragePool", id, {x->value},
         std::move(attributes), exit, {x->node});
}

// --- Edges -------------------------------------------------------------------------------------

void QuantizedLowering::lower_edge(NodeId id) {
  const Node& of = node(id);
  if (of.inputs.empty() || of.inputs[0] == kNoValue || of.outputs.size() != 1) return;
  if (of.is("QuantizeLinear") && graph_.value(of.inputs[0]).type.dtype == DType::float32) {
    const std::optional<Params> y = params_at(of, 1, 2);
    if (y) finish("Quantize", id, {of.inputs[0]}, {}, whole_exit(of.outputs[0], *y), {});
  } else if (of.is("DequantizeLinear")) {
    const std::optional<Quantized> x = quantized(of.outputs[0]);
    if (!x) return;
    Exit exit;
    exit.out = of.outputs[0];
    finish("Dequantize", id, {x->value},
           {{kXScale, x->params.scale, ""}, number(kXZeroPoint, x->params.zero_point)}, exit, {});
  }
}

void lower_quantized(Graph& graph, const Model& model) { QuantizedLowering(graph, model).run(); }

}  // namespace compress::runtime
