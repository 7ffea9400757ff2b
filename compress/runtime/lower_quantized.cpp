// DequantizeLinear -> operator -> QuantizeLinear becomes one integer kernel; quantized operators of
// the QOperator form become the same kernels.
//
// docs/numbers.md: acc = sum (x - zx) * (w - zw) + bias in int32, y = saturate(rint(acc * m) + zy),
// m = float(double(sx) * sw / sy). The graph of Q/DQ nodes is the oracle; the two differ by at most
// one step, where the float32 sum of the oracle rounds.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "compress/error.h"
#include "compress/quant/qparams.h"
#include "compress/runtime/fold.h"
#include "compress/runtime/inline.h"
#include "compress/runtime/lower.h"
#include "compress/runtime/lower_internal.h"
#include "compress/runtime/lower_patterns.h"

namespace compress::runtime {
namespace {

bool is_byte(DType dtype) { return dtype == DType::uint8 || dtype == DType::int8; }

// Parameters of a per-tensor quantized value.
struct Params {
  float scale = 0;
  int32_t zero_point = 0;
  DType dtype = DType::undefined;
  bool operator==(const Params&) const = default;
};

struct Quantized {
  ValueId value = kNoValue;
  Params params;
  NodeId node = kNoNode;  // the DequantizeLinear
};

// Weights: scales per tensor or per output channel.
struct Weights {
  ValueId value = kNoValue;
  std::vector<float> scales;
  std::optional<Tensor> zero_point;  // where one is not 0
  NodeId node = kNoNode;
};

// How an operator's result leaves: quantized, after bounds, or as float.
struct Exit {
  ValueId out = kNoValue;        // the value that the integer node replaces
  std::vector<NodeId> parts;     // bounds and QuantizeLinear nodes
  std::optional<Params> params;  // nullopt: float
  int32_t lo = 0, hi = 255;
};

IntegerRange byte_range(DType dtype) {
  return dtype == DType::int8 ? IntegerRange{-128, 127} : IntegerRange{0, 255};
}

Attribute number(const char* name, int64_t value) { return {name, value, ""}; }

// Operators of one activation, element by element, that a table of 256 entries stands for.
constexpr std::array<std::string_view, 22> kTableOps = {
    "Abs",       "Clip",      "Elu",      "Erf",  "Exp",  "Gelu",     "HardSigmoid",
    "HardSwish", "LeakyRelu", "Log",      "Mish", "Neg",  "Relu",     "Selu",
    "Sigmoid",   "Softplus",  "Softsign", "Sqrt", "Tanh", "Identity", "ThresholdedRelu",
    "Reciprocal"};
// The same for two operands that are both functions of the activation, or one a single constant.
constexpr std::array<std::string_view, 7> kTableBinary = {"Add", "Sub", "Mul", "Div",
                                                          "Pow", "Min", "Max"};
constexpr size_t kMaxFunctionNodes = 32;
// They move or select values, so they run on the integers as they are.
constexpr std::array<std::string_view, 11> kMoves = {
    "Reshape", "Transpose", "Squeeze",      "Unsqueeze",    "Flatten", "Slice",
    "Gather",  "Expand",    "DepthToSpace", "SpaceToDepth", "Tile"};

template <size_t N>
bool contains(const std::array<std::string_view, N>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

class QuantizedLowering {
 public:
  QuantizedLowering(Graph& graph, const Model& model) : graph_(graph), model_(model) {}

  void run() {
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

 private:
  const Node& node(NodeId id) const { return graph_.node(id); }

  // Kernels of static quantization read bytes: weights of 4 or 2 bits stand in them as they are.
  void widen_narrow_weights() {
    for (const NodeId id : std::vector<NodeId>(graph_.order())) {
      const Tensor* w = graph_.constant_input(node(id), 0);
      if (!node(id).is("DequantizeLinear") || node(id).int_or("block_size", 0) != 0 ||
          w == nullptr || !is_sub_byte(w->dtype()) || !is_integer(w->dtype())) {
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

  void visit(NodeId id) {
    const Node& of = node(id);
    if (!of.domain.empty() || of.inputs.empty() || of.outputs.empty()) return;
    if (of.inputs[0] == kNoValue || of.outputs[0] == kNoValue) return;
    if (of.is("Conv")) return lower_conv(id);
    if (of.is("Gemm")) return lower_gemm(id);
    if (of.is("MatMul")) return lower_matmul(id);
    if (of.is("QLinearConv")) return lower_qlinear_conv(id);
    if (of.is("QLinearMatMul")) return lower_qlinear_matmul(id);
    if (of.is("Add") || of.is("Mul")) {
      if (lower_binary(id)) return;
    }
    if (of.is("MaxPool") || of.is("AveragePool") || of.is("GlobalAveragePool")) {
      return lower_pool(id);
    }
    if (of.is("Concat") || contains(kMoves, of.op_type)) return lower_move(id);
    if (of.is("QuantizeLinear")) lower_function(id);
  }

  // --- Reading Q and DQ --------------------------------------------------------------------------

  std::optional<Params> params_at(const Node& of, size_t scale, size_t zero_point) const {
    const std::optional<double> s = scalar_constant(graph_, of, scale);
    if (!s || !(*s > 0) || !std::isfinite(*s)) return std::nullopt;
    Params params{static_cast<float>(*s), 0, DType::uint8};
    if (zero_point < of.inputs.size() && of.inputs[zero_point] != kNoValue) {
      const Tensor* z = graph_.constant_input(of, zero_point);
      if (z == nullptr || z->count() != 1 || !is_byte(z->dtype())) return std::nullopt;
      params.zero_point = static_cast<int32_t>(z->to_int());
      params.dtype = z->dtype();
    }
    return params;
  }

  // The integers that a DequantizeLinear of an activation reads.
  std::optional<Quantized> quantized(ValueId id) const {
    const NodeId dq = producer_of(graph_, id, "DequantizeLinear");
    if (dq == kNoNode || graph_.value(id).type.dtype != DType::float32) return std::nullopt;
    const Node& of = node(dq);
    const Value& from = graph_.value(of.inputs[0]);
    if (from.is_constant()) return std::nullopt;
    std::optional<Params> params = params_at(of, 1, 2);
    if (!params) return std::nullopt;
    const bool has_zero_point = of.inputs.size() > 2 && of.inputs[2] != kNoValue;
    if (!has_zero_point) params->dtype = from.type.dtype;
    if (!is_byte(params->dtype)) return std::nullopt;
    return Quantized{of.inputs[0], *params, dq};
  }

  // Scales and zero points beside a constant of integers; `axis` is that of the output channels.
  std::optional<Weights> weights_at(const Node& of, size_t slot, size_t scale, size_t zero_point,
                                    int axis, bool axis_given) const {
    const Tensor* w = graph_.constant_input(of, slot);
    const Tensor* s = graph_.constant_input(of, scale);
    if (w == nullptr || s == nullptr || !is_byte(w->dtype()) || s->dtype() != DType::float32) {
      return std::nullopt;
    }
    const int rank = w->shape().rank();
    if (axis >= rank || rank < 2) return std::nullopt;
    const int64_t channels = w->shape()[axis];
    if (s->count() != 1 && (s->shape().rank() != 1 || s->count() != channels || !axis_given)) {
      return std::nullopt;
    }
    Weights weights;
    weights.value = of.inputs[slot];
    const TensorData scales = s->read();
    weights.scales.assign(scales.as<float>().begin(), scales.as<float>().end());
    for (const float value : weights.scales) {
      if (!(value > 0) || !std::isfinite(value)) return std::nullopt;
    }
    if (zero_point < of.inputs.size() && of.inputs[zero_point] != kNoValue) {
      const Tensor* z = graph_.constant_input(of, zero_point);
      if (z == nullptr || z->dtype() != w->dtype()) return std::nullopt;
      if (z->count() != 1 && z->count() != channels) return std::nullopt;
      for (const int64_t value : z->to_ints()) {
        if (value != 0) weights.zero_point = *z;
      }
    }
    return weights;
  }

  std::optional<Weights> dequantized_weights(ValueId id, int axis) const {
    const NodeId dq = producer_of(graph_, id, "DequantizeLinear");
    if (dq == kNoNode || node(dq).int_or("block_size", 0) != 0) return std::nullopt;
    const Tensor* w = graph_.constant_input(node(dq), 0);
    if (w == nullptr) return std::nullopt;
    int64_t given = node(dq).int_or("axis", 1);
    if (given < 0) given += w->shape().rank();
    std::optional<Weights> weights = weights_at(node(dq), 0, 1, 2, axis, given == axis);
    if (weights) weights->node = dq;
    return weights;
  }

  // Follows `out` through bounds to its QuantizeLinear nodes. Where there are none, the result
  // leaves as float before the bounds.
  Exit exit_of(ValueId out) const {
    Exit exit;
    exit.out = out;
    std::vector<NodeId> parts;
    std::optional<Bounds> bounds;
    ValueId last = out;
    const NodeId reader = only_reader(graph_, out);
    if (reader != kNoNode && node(reader).inputs[0] == out) {
      bounds = bounds_of(graph_, node(reader));
      if (bounds) {
        parts.push_back(reader);
        last = node(reader).outputs[0];
      }
    }
    const NodeId q = only_reader(graph_, last);
    if (q == kNoNode || !node(q).is("QuantizeLinear") || node(q).inputs[0] != last) return exit;
    const std::optional<Params> params = params_at(node(q), 1, 2);
    if (!params) return exit;
    const IntegerRange range = byte_range(params->dtype);
    exit.lo = range.min;
    exit.hi = range.max;
    if (bounds) {
      // Rounding is monotone, so bounds may be applied to the integers; they have to include 0.
      if (bounds->lo > 0 || bounds->hi < 0) return exit;
      exit.lo = quantize_value(bounds->lo, params->scale, params->zero_point, range);
      exit.hi = quantize_value(bounds->hi, params->scale, params->zero_point, range);
    }
    parts.push_back(q);
    exit.out = node(q).outputs[0];
    exit.parts = std::move(parts);
    exit.params = params;
    return exit;
  }

  // --- Building ----------------------------------------------------------------------------------

  // Puts an internal node in the place of `main`, what it reads through DQ, and the exit's nodes.
  NodeId finish(std::string_view op, NodeId main, std::vector<ValueId> inputs,
                std::vector<Attribute> attributes, const Exit& exit,
                const std::vector<NodeId>& dequantizers) {
    const DType dtype = exit.params ? exit.params->dtype : DType::float32;
    attributes.push_back(number(kYType, static_cast<int64_t>(dtype)));
    if (exit.params) {
      attributes.push_back(number(kYZeroPoint, exit.params->zero_point));
      attributes.push_back({kYScale, exit.params->scale, ""});
      attributes.push_back(number(kLo, exit.lo));
      attributes.push_back(number(kHi, exit.hi));
    }
    const NodeId fused =
        add_internal(graph_, op, std::move(inputs), std::move(attributes), exit.out, dtype);
    add_origin(graph_, fused, main);
    for (const NodeId part : exit.parts) add_origin(graph_, fused, part);
    for (const NodeId dq : dequantizers) {
      if (dq != kNoNode && graph_.uses(node(dq).outputs[0]).size() == 1) {
        add_origin(graph_, fused, dq);
      }
    }
    graph_.replace_uses(exit.out, node(fused).outputs[0]);
    for (auto part = exit.parts.rbegin(); part != exit.parts.rend(); ++part) graph_.erase(*part);
    graph_.erase(main);
    for (const NodeId dq : dequantizers) {
      if (dq != kNoNode && node(dq).alive && graph_.is_unused(node(dq).outputs[0])) {
        graph_.erase(dq);
      }
    }
    return fused;
  }

  // m = float(double(sx) * sw / sy), one a channel; sx * sw where the output is float.
  static Tensor multiplier(const Params& x, const std::vector<float>& scales,
                           const std::optional<Params>& y) {
    std::vector<float> values;
    for (const float scale : scales) {
      const double product = static_cast<double>(x.scale) * static_cast<double>(scale);
      values.push_back(static_cast<float>(y ? product / static_cast<double>(y->scale) : product));
    }
    return Tensor::from<float>({static_cast<int64_t>(values.size())},
                               std::span<const float>(values));
  }

  // The bias in units of sx * sw[c], or as float where the output is float. A bias that int32
  // cannot hold gives nullopt.
  struct Bias {
    ValueId value = kNoValue;
    NodeId node = kNoNode;
  };
  std::optional<Bias> bias_at(ValueId id, const Params& x, const Weights& w, int64_t channels,
                              bool as_float) {
    Bias result;
    if (id == kNoValue) return result;
    std::vector<double> values;
    if (const NodeId dq = producer_of(graph_, id, "DequantizeLinear"); dq != kNoNode) {
      const Tensor* q = graph_.constant_input(node(dq), 0);
      const Tensor* s = graph_.constant_input(node(dq), 1);
      if (q == nullptr || s == nullptr || q->dtype() != DType::int32) return std::nullopt;
      if (s->count() != 1 && s->count() != q->count()) return std::nullopt;
      if (const Tensor* z = graph_.constant_input(node(dq), 2)) {
        for (const int64_t zero : z->to_ints()) {
          if (zero != 0) return std::nullopt;
        }
      }
      const std::vector<int64_t> integers = q->to_ints();
      const std::vector<double> scales = s->to_doubles();
      for (size_t i = 0; i < integers.size(); ++i) {
        values.push_back(static_cast<double>(integers[i]) * scales[scales.size() == 1 ? 0 : i]);
      }
      result.node = dq;
    } else if (graph_.value(id).is_constant() &&
               graph_.value(id).constant.dtype() == DType::float32) {
      values = graph_.value(id).constant.to_doubles();
    } else {
      return std::nullopt;
    }
    if (static_cast<int64_t>(values.size()) != channels) return std::nullopt;
    if (as_float) {
      const std::vector<float> floats(values.begin(), values.end());
      result.value = graph_.add_constant(
          "bias", Tensor::from<float>({channels}, std::span<const float>(floats)));
      return result;
    }
    std::vector<int32_t> integers;
    for (size_t i = 0; i < values.size(); ++i) {
      const double unit = static_cast<double>(x.scale) *
                          static_cast<double>(w.scales[w.scales.size() == 1 ? 0 : i]);
      const double value = std::nearbyint(values[i] / unit);
      if (!(std::abs(value) < 2147483647.0)) return std::nullopt;
      integers.push_back(static_cast<int32_t>(value));
    }
    result.value = graph_.add_constant(
        "bias", Tensor::from<int32_t>({channels}, std::span<const int32_t>(integers)));
    return result;
  }

  std::vector<Attribute> product_attributes(const Params& x, const Weights& w, const Exit& exit) {
    std::vector<Attribute> attributes = {number(kXZeroPoint, x.zero_point),
                                         {kMultiplier, multiplier(x, w.scales, exit.params), ""}};
    if (w.zero_point) attributes.push_back({kWZeroPoint, *w.zero_point, ""});
    return attributes;
  }

  // --- Products ----------------------------------------------------------------------------------

  void lower_conv(NodeId id) {
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

  void lower_gemm(NodeId id) {
    const Node& of = node(id);
    const bool plain =
        of.int_or("transA", 0) == 0 && of.float_or("alpha", 1) == 1 && of.float_or("beta", 1) == 1;
    const std::optional<Quantized> x = quantized(of.inputs[0]);
    if (!plain || !x || of.inputs.size() < 2) return;
    lower_product(id, *x, of.inputs[1], of.int_or("transB", 0) != 0,
                  of.inputs.size() > 2 ? of.inputs[2] : kNoValue, of.outputs[0], {});
  }

  void lower_matmul(NodeId id) {
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

  bool lower_product(NodeId id, const Quantized& x, ValueId weights, bool transposed,
                     ValueId bias_value, ValueId out, const std::vector<NodeId>& between) {
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

  // --- QOperator form ----------------------------------------------------------------------------

  // x, sx, zx, w, sw, zw, sy, zy, [bias int32].
  void lower_qlinear_conv(NodeId id) {
    const Node& of = node(id);
    if (of.inputs.size() < 8 || graph_.value(of.inputs[0]).is_constant()) return;
    const int rank = rank_of(graph_, of.inputs[0]);
    const std::optional<Params> x = params_at(of, 1, 2);
    const std::optional<Params> y = params_at(of, 6, 7);
    const std::optional<Weights> w = weights_at(of, 3, 4, 5, 0, true);
    if (!x || !y || !w || (rank != 3 && rank != 4) || rank_of(graph_, w->value) != rank) return;
    const ValueId bias = of.inputs.size() > 8 ? of.inputs[8] : kNoValue;
    if (bias != kNoValue && !graph_.value(bias).is_constant()) return;
    Exit exit = whole_exit(of.outputs[0], *y);
    std::vector<Attribute> attributes = product_attributes(*x, *w, exit);
    attributes.insert(attributes.end(), of.attributes.begin(), of.attributes.end());
    finish("QConv", id, {of.inputs[0], w->value, bias}, std::move(attributes), exit, {});
  }

  // a, sa, za, b, sb, zb, sy, zy.
  void lower_qlinear_matmul(NodeId id) {
    const Node& of = node(id);
    if (of.inputs.size() < 8 || graph_.value(of.inputs[0]).is_constant()) return;
    const std::optional<Params> x = params_at(of, 1, 2);
    const std::optional<Params> y = params_at(of, 6, 7);
    const std::optional<Weights> w = weights_at(of, 3, 4, 5, 1, true);
    if (!x || !y || !w || rank_of(graph_, w->value) != 2) return;
    Exit exit = whole_exit(of.outputs[0], *y);
    finish("QMatMul", id, {of.inputs[0], w->value, kNoValue}, product_attributes(*x, *w, exit),
           exit, {});
  }

  static Exit whole_exit(ValueId out, const Params& y) {
    const IntegerRange range = byte_range(y.dtype);
    return {out, {}, y, range.min, range.max};
  }

  // --- Elementwise -------------------------------------------------------------------------------

  bool lower_binary(NodeId id) {
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

  // A value that is a function of one quantized activation, element by element.
  struct Function {
    std::vector<NodeId> nodes;  // in order of execution
    ValueId argument = kNoValue;
  };

  bool is_table_constant(const Node& of, size_t slot) const {
    const Tensor* constant = graph_.constant_input(of, slot);
    if (constant == nullptr) return false;
    if (contains(kTableOps, of.op_type)) return slot > 0;
    return constant->count() == 1 && constant->shape().rank() <= 1;
  }

  // Adds what computes `value`; false where anything but one activation and constants goes in.
  bool collect(ValueId value, Function& function, size_t depth = 0) const {
    if (quantized(value)) {
      if (function.argument == kNoValue) function.argument = value;
      return function.argument == value;
    }
    const NodeId id = graph_.value(value).producer;
    if (id == kNoNode || depth == kMaxFunctionNodes) return false;
    std::vector<NodeId>& nodes = function.nodes;
    if (std::find(nodes.begin(), nodes.end(), id) != nodes.end()) return true;
    const Node& of = node(id);
    const bool known = contains(kTableOps, of.op_type) || contains(kTableBinary, of.op_type);
    if (!known || !of.domain.empty() || of.outputs.size() != 1) return false;
    for (size_t i = 0; i < of.inputs.size(); ++i) {
      if (of.inputs[i] == kNoValue || is_table_constant(of, i)) continue;
      if (!collect(of.inputs[i], function, depth + 1)) return false;
    }
    nodes.push_back(id);
    return nodes.size() <= kMaxFunctionNodes;
  }

  // Whether what the nodes compute, but for the last one's output, is read by themselves alone.
  bool is_closed(const std::vector<NodeId>& nodes) const {
    for (const NodeId id : nodes) {
      if (id == nodes.back()) continue;
      const ValueId out = node(id).outputs[0];
      if (graph_.is_output(out)) return false;
      for (const Use& use : graph_.uses(out)) {
        if (std::find(nodes.begin(), nodes.end(), use.node) == nodes.end()) return false;
      }
    }
    return true;
  }

  // The function's values at `values` of its argument, through the rows of its own operators.
  std::optional<Tensor> evaluate_function(const Function& function, const Tensor& values) const {
    std::map<ValueId, Tensor> known = {{function.argument, values}};
    for (const NodeId id : function.nodes) {
      const Node& of = node(id);
      std::vector<Tensor> inputs;
      for (size_t i = 0; i < of.inputs.size(); ++i) {
        const auto row = known.find(of.inputs[i]);
        const Tensor* constant = graph_.constant_input(of, i);
        inputs.push_back(row != known.end() ? row->second
                                            : (constant != nullptr ? *constant : Tensor()));
      }
      const int opset = node_opset(of, model_);
      const OpDef* op = find_op("", of.op_type, opset);
      if (op == nullptr) return std::nullopt;
      try {
        known[of.outputs[0]] = evaluate(*op, of, opset, inputs, 1 << 20)[0];
      } catch (const Error&) {
        return std::nullopt;
      }
      const Tensor& result = known[of.outputs[0]];
      if (result.dtype() != DType::float32 || result.count() != values.count()) return std::nullopt;
    }
    return function.nodes.empty() ? values : known[node(function.nodes.back()).outputs[0]];
  }

  // DQ -> any function of a single element -> Q: a table of its values at all 256 integers. A
  // HardSwish spelled out as Add, Clip, Mul and Div is one too.
  void lower_function(NodeId id) {
    Function function;
    const ValueId from = node(id).inputs[0];
    if (!collect(from, function) || !is_closed(function.nodes)) return;
    if (!function.nodes.empty() && only_reader(graph_, from) != id) return;
    const std::optional<Quantized> x = quantized(function.argument);
    const std::optional<Params> y = params_at(node(id), 1, 2);
    if (!x || !y) return;
    Exit exit = whole_exit(node(id).outputs[0], *y);
    if (function.nodes.empty() && x->params == *y && !graph_.is_output(exit.out)) {
      graph_.replace_uses(exit.out, x->value);
      graph_.erase(id);
      return;
    }
    const std::optional<Tensor> values = evaluate_function(function, all_values(x->params));
    if (!values) return;
    const std::vector<Attribute> table = {{kTable, table_of(*values, *y), ""}};
    if (function.nodes.empty()) {
      finish("Lookup", id, {x->value}, table, exit, {x->node});
      return;
    }
    exit.parts.assign(function.nodes.begin() + 1, function.nodes.end());
    exit.parts.push_back(id);
    finish("Lookup", function.nodes[0], {x->value}, table, exit, {x->node});
  }

  // What each of the 256 bytes stands for.
  static Tensor all_values(const Params& params) {
    Tensor values = Tensor::allocate(DType::float32, {256});
    for (int i = 0; i < 256; ++i) {
      const int32_t q = params.dtype == DType::int8 && i > 127 ? i - 256 : i;
      values.mutable_as<float>()[static_cast<size_t>(i)] =
          dequantize_value(q, params.scale, params.zero_point);
    }
    return values;
  }

  static Tensor table_of(const Tensor& values, const Params& y) {
    Tensor table = Tensor::allocate(DType::uint8, {256});
    const TensorData data = values.read();
    for (size_t i = 0; i < 256; ++i) {
      table.mutable_as<uint8_t>()[i] = static_cast<uint8_t>(
          quantize_value(data.as<float>()[i], y.scale, y.zero_point, byte_range(y.dtype)));
    }
    return table;
  }

  // The integers of `x` in the parameters `y`.
  ValueId requantized(const Quantized& x, const Params& y) {
    if (x.params == y) return x.value;
    return node(add_internal(graph_, "Lookup", {x.value},
                             {{kTable, table_of(all_values(x.params), y), ""},
                              number(kYType, static_cast<int64_t>(y.dtype))},
                             x.value, y.dtype))
        .outputs[0];
  }

  // --- Moves and pools ---------------------------------------------------------------------------

  void lower_move(NodeId id) {
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
      graph_.set_input(id, i, requantized(sources[i], *exit.params));
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

  void lower_pool(NodeId id) {
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
      const ValueId in = requantized(*x, *exit.params);
      finish("QMaxPool", id, {in}, std::move(attributes), exit, {x->node});
      return;
    }
    attributes.push_back({kXScale, x->params.scale, ""});
    attributes.push_back(number(kXZeroPoint, x->params.zero_point));
    finish(of.is("AveragePool") ? "QAveragePool" : "QGlobalAveragePool", id, {x->value},
           std::move(attributes), exit, {x->node});
  }

  // --- Edges -------------------------------------------------------------------------------------

  // Q and DQ that remain between float and integer regions.
  void lower_edge(NodeId id) {
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

  Graph& graph_;
  const Model& model_;
};

}  // namespace

void lower_quantized(Graph& graph, const Model& model) { QuantizedLowering(graph, model).run(); }

}  // namespace compress::runtime
