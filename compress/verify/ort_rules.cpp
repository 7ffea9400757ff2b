// Source: measured on ONNX Runtime 1.32 (CPU execution provider, x86-64) by saving the optimized
// graph of small models, one pattern each; its own description is
// https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html and the selectors
// in onnxruntime/core/optimizer/qdq_transformer.
#include "compress/verify/ort_rules.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <set>

#include "compress/error.h"
#include "compress/ops/op.h"
#include "compress/runtime/prepare_graph.h"
#include "compress/verify/multiply_adds.h"
#include "compress/verify/ort_rule_table.h"

namespace compress {
namespace {

bool is_8_bit(DType dtype) { return dtype == DType::uint8 || dtype == DType::int8; }

// A DequantizeLinear that a node reads.
struct Dequantized {
  NodeId node = kNoNode;
  DType dtype = DType::undefined;
  bool constant = false;  // of a constant, or of what follows from constants
  bool direct = true;     // no Transpose or the like between
};

// A QuantizeLinear that alone reads a node's output.
struct Quantized {
  NodeId node = kNoNode;
  std::vector<NodeId> passed;
  std::string obstacle;  // why there is none
};

class Rules {
 public:
  explicit Rules(const Graph& graph) : graph_(graph) {
    claims_.resize(static_cast<size_t>(graph.node_slots()), 0);
    rows_.resize(static_cast<size_t>(graph.node_slots()));
  }

  // Of all nodes of `original`, whose constant parts `graph` has computed.
  std::vector<OrtNode> run(const Graph& original) {
    for (const NodeId id : original.order()) {
      row(id).node = original.node(id).name;
      row(id).op = ort_op_name(original.node(id));
      if (!graph_.node(id).alive) set(id, OrtRuns::folded, "");
    }
    for (const NodeId id : graph_.order()) {
      const Node& node = graph_.node(id);
      if (!is_quantize(node) && !is_dequantize(node)) decide(id);
    }
    for (const NodeId id : graph_.order()) {
      const Node& node = graph_.node(id);
      if (is_quantize(node) || is_dequantize(node)) decide_linear(id);
    }
    std::vector<OrtNode> out;
    for (const NodeId id : original.order()) {
      const Node& node = graph_.node(id);
      if (node.alive) row(id).macs = multiply_adds(graph_, node);
      out.push_back(std::move(row(id)));
    }
    return out;
  }

 private:
  OrtNode& row(NodeId id) { return rows_[static_cast<size_t>(id)]; }
  bool is_folded(ValueId id) const { return graph_.value(id).is_constant(); }

  DType dtype_of_value(ValueId id) const {
    const Value& value = graph_.value(id);
    return value.is_constant() ? value.constant.dtype() : value.type.dtype;
  }

  // Quantized type of a Q or DQ node: of its zero point, else of what it reads or the default.
  DType quantized_type(const Node& node) const {
    if (node.inputs.size() > 2 && node.inputs[2] != kNoValue) {
      const DType dtype = dtype_of_value(node.inputs[2]);
      if (dtype != DType::undefined) return dtype;
    }
    if (is_dequantize(node)) return dtype_of_value(node.inputs[0]);
    const int64_t asked = node.int_or("output_dtype", 0);
    return asked > 0 && asked < 64 ? static_cast<DType>(asked) : DType::uint8;
  }

  // Values pass these unchanged: a Q/DQ pair moves to their other side.
  static bool lets_through(const Node& node) {
    constexpr std::array<std::string_view, 8> kOps = {
        "MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Identity"};
    return node.domain.empty() && std::find(kOps.begin(), kOps.end(), node.op_type) != kOps.end();
  }

  std::optional<Dequantized> dequantized(ValueId id) const {
    Dequantized out;
    for (int hops = 0; hops < 16 && id != kNoValue; ++hops) {
      const NodeId producer = graph_.value(id).producer;
      if (producer == kNoNode) return std::nullopt;
      const Node& node = graph_.node(producer);
      if (is_dequantize(node)) {
        out.node = producer;
        out.dtype = quantized_type(node);
        out.constant = is_folded(node.inputs[0]);
        return out;
      }
      if (!lets_through(node) || node.inputs.empty()) return std::nullopt;
      if (!node.is("Identity")) out.direct = false;
      id = node.inputs[0];
    }
    return std::nullopt;
  }

  // True where the activation leaves nothing to do behind the rounding to `quantize`'s range.
  bool is_absorbed(const Node& activation, const Node& quantize) const {
    const DType dtype = quantized_type(quantize);
    if (!is_8_bit(dtype)) return false;
    const Tensor* scale = graph_.constant_input(quantize, 1);
    if (scale == nullptr || scale->count() != 1) return false;
    double zero = 0;
    if (quantize.inputs.size() > 2 && quantize.inputs[2] != kNoValue) {
      const Tensor* point = graph_.constant_input(quantize, 2);
      if (point == nullptr || point->count() != 1) return false;
      zero = static_cast<double>(point->to_int());
    }
    const double low = (static_cast<double>(min_value(dtype)) - zero) * scale->to_double();
    const double high = (static_cast<double>(max_value(dtype)) - zero) * scale->to_double();
    if (activation.is("Relu")) return low >= 0;
    std::array<double, 2> bounds = {-3.4e38, 3.4e38};
    bounds[0] = activation.float_or("min", static_cast<float>(bounds[0]));
    bounds[1] = activation.float_or("max", static_cast<float>(bounds[1]));
    for (size_t i = 1; i < activation.inputs.size() && i < 3; ++i) {
      if (activation.inputs[i] == kNoValue) continue;
      const Tensor* bound = graph_.constant_input(activation, i);
      if (bound == nullptr || bound->count() != 1) return false;
      bounds[i - 1] = bound->to_double();
    }
    const double slack = 1e-5 * std::max(1.0, std::fabs(high));
    return bounds[0] <= low + slack && bounds[1] >= high - slack;
  }

  Quantized quantized(const Node& node, bool activations) const {
    Quantized out;
    ValueId id = node.outputs.empty() ? kNoValue : node.outputs[0];
    NodeId activation = kNoNode;
    for (int hops = 0; hops < 16 && id != kNoValue; ++hops) {
      if (graph_.is_output(id)) {
        out.obstacle = "its output leaves the graph without QuantizeLinear";
        return out;
      }
      const auto uses = graph_.uses(id);
      if (uses.size() != 1) {
        out.obstacle = uses.empty() ? "nothing reads its output"
                                    : "its output is read more than once, not by one "
                                      "QuantizeLinear alone";
        return out;
      }
      const NodeId reader = uses[0].node;
      const Node& next = graph_.node(reader);
      if (is_quantize(next) && uses[0].slot == 0) {
        if (activation != kNoNode && !is_absorbed(graph_.node(activation), next)) {
          out.obstacle =
              fmt::format("the {} behind it is not covered by the range of the QuantizeLinear",
                          graph_.node(activation).op_type);
          return out;
        }
        out.node = reader;
        return out;
      }
      const bool bounded = next.is("Relu") || next.is("Clip");
      if (activations && bounded && activation == kNoNode && uses[0].slot == 0) {
        activation = reader;
      } else if (!lets_through(next) || uses[0].slot != 0) {
        out.obstacle = fmt::format("{} reads its output before any QuantizeLinear", next.op_type);
        return out;
      }
      if (!next.is("Identity")) out.passed.push_back(reader);
      id = next.outputs.empty() ? kNoValue : next.outputs[0];
    }
    out.obstacle = "no QuantizeLinear follows";
    return out;
  }

  void claim(NodeId id) { ++claims_[static_cast<size_t>(id)]; }
  void claim(const Dequantized& from) { claim(from.node); }
  // The Q behind a node and the activation between become part of its kernel.
  void claim(const Quantized& to) {
    claim(to.node);
    for (const NodeId id : to.passed) {
      if (!lets_through(graph_.node(id))) absorb(id);
    }
  }

  uint64_t stored_bytes(NodeId dequantize) const {
    const Value& value = graph_.value(graph_.node(dequantize).inputs[0]);
    return value.is_constant() ? value.constant.bytes() : 0;
  }

  void set(NodeId id, OrtRuns runs, std::string_view kernel, std::string reason = "") {
    OrtNode& out = row(id);
    out.runs = runs;
    out.kernel = kernel;
    out.reason = std::move(reason);
  }

  // Float arithmetic; on weights that are dequantized first where there are such.
  void set_float(NodeId id, std::string reason) {
    set(id, OrtRuns::floating, graph_.node(id).op_type, std::move(reason));
    OrtNode& out = row(id);
    for (const ValueId input : graph_.node(id).inputs) {
      if (input == kNoValue) continue;
      const auto from = dequantized(input);
      // A bias is small and not worth a word.
      if (!from || !from->constant || from->dtype == DType::int32) continue;
      out.runs = OrtRuns::dequantized;
      out.weight_bytes += stored_bytes(from->node);
    }
  }

  void decide(NodeId id) {
    const Node& node = graph_.node(id);
    if (absorbed_.count(id) > 0) return;
    const OrtRule* rule = ort_rule_of(node);
    if (rule == nullptr) return decide_unknown(id);
    switch (rule->kind) {
      case OrtKind::conv:
        return decide_conv(id, rule->kernel);
      case OrtKind::matmul:
      case OrtKind::gemm:
        return decide_product(id, rule->kernel);
      case OrtKind::elementwise:
        return decide_elementwise(id, rule->kernel);
      case OrtKind::moves:
        return decide_moves(id);
      case OrtKind::no_integer:
        return decide_unknown(id);
      case OrtKind::integer:
        return decide_integer(id, rule->kernel);
      case OrtKind::slow_integer:
        return set(id, OrtRuns::integer, rule->kernel,
                   "this integer operator is 3 to 10 times slower than the float one");
      case OrtKind::packed:
        return decide_packed(id, rule->kernel);
      case OrtKind::dynamic_quantize:
        return set(id, OrtRuns::overhead, rule->kernel,
                   "finds the range of its input and quantizes it on each run");
    }
  }

  void decide_conv(NodeId id, std::string_view kernel) {
    const Node& node = graph_.node(id);
    if (node.inputs.size() < 2) return set_float(id, "");
    const auto x = dequantized(node.inputs[0]);
    const auto w = dequantized(node.inputs[1]);
    if (!x && !w) return set_float(id, plain_reason(id));
    if (!x || x->constant) {
      return set_float(id,
                       "only the weights are quantized, and convolutions have no kernel for "
                       "packed weights");
    }
    if (!w) return set_float(id, "its weights are not quantized");
    if (!is_8_bit(x->dtype)) {
      return set_float(
          id, fmt::format("{} activations have no integer convolution", info(x->dtype).name));
    }
    if (!is_8_bit(w->dtype)) {
      return set_float(id,
                       fmt::format("{} weights have no integer convolution", info(w->dtype).name));
    }
    const Quantized q = quantized(node, true);
    if (q.node == kNoNode) return set_float(id, q.obstacle);
    if (quantized_type(graph_.node(q.node)) != x->dtype) {
      return set_float(id, "input and output are quantized to different types");
    }
    set(id, OrtRuns::integer, kernel);
    claim(*x);
    claim(*w);
    if (node.inputs.size() > 2 && node.inputs[2] != kNoValue) {
      if (const auto bias = dequantized(node.inputs[2])) claim(*bias);
    }
    claim(q);
  }

  // Whether a dequantized constant alone becomes MatMulNBits; "" or the obstacle.
  std::string packing_obstacle(const Node& product, const Dequantized& w) const {
    const Node& node = graph_.node(w.node);
    const int bits = info(w.dtype).bits;
    if (bits != 2 && bits != 4 && bits != 8) return "its weights have an unusual number of bits";
    if (!w.direct) return "a node stands between DequantizeLinear and the product";
    if (product.op_type == "Gemm" && product.int_or("transB", 0) != 0) {
      return "transB turns the weights over";
    }
    if (graph_.uses(node.outputs[0]).size() != 1) {
      return "one DequantizeLinear feeds several nodes";
    }
    const Value& value = graph_.value(node.inputs[0]);
    const int rank = value.is_constant()    ? value.constant.shape().rank()
                     : value.type.has_shape ? value.type.shape.rank()
                                            : 2;
    if (rank != 2) return "its weights are no matrix";
    const Tensor* scale = graph_.constant_input(node, 1);
    const int64_t block = node.int_or("block_size", 0);
    int64_t axis = node.int_or("axis", 1);
    if (axis < 0) axis += 2;
    if (block > 0) {
      if (axis != 0) return "the blocks run along axis 1";
      if (block < 16 || (block & (block - 1)) != 0) {
        return "the block size is no power of two from 16 on";
      }
      return "";
    }
    const bool by_tensor = scale != nullptr && scale->count() == 1;
    if (!by_tensor && axis != 1) return "the scales run along axis 0";
    return "";
  }

  void decide_product(NodeId id, std::string_view kernel) {
    const Node& node = graph_.node(id);
    if (node.inputs.size() < 2) return set_float(id, "");
    const auto a = dequantized(node.inputs[0]);
    const auto b = dequantized(node.inputs[1]);
    if (!a && !b) return set_float(id, plain_reason(id));
    if (node.op_type == "Gemm" && node.float_or("beta", 1) != 1) {
      return set_float(id, "beta is not 1");
    }
    const bool activations = a && !a->constant;
    if (activations && b && is_8_bit(a->dtype) && is_8_bit(b->dtype)) {
      const Quantized q = quantized(node, false);
      const bool gemm = node.op_type == "Gemm";
      set(id, OrtRuns::integer, q.node != kNoNode || gemm ? kernel : "MatMulIntegerToFloat");
      claim(*a);
      claim(*b);
      if (gemm && node.inputs.size() > 2 && node.inputs[2] != kNoValue) {
        if (const auto bias = dequantized(node.inputs[2])) claim(*bias);
      }
      if (q.node != kNoNode) claim(q);
      return;
    }
    if (!b) return set_float(id, "its second operand is not quantized");
    if (!b->constant) {
      return set_float(id, activations ? fmt::format("{} activations have no integer product",
                                                     info(a->dtype).name)
                                       : "its first operand is not quantized");
    }
    if (activations && info(b->dtype).bits < 8) {
      return set_float(id, fmt::format("{} weights with quantized activations have no kernel",
                                       info(b->dtype).name));
    }
    const std::string obstacle = packing_obstacle(node, *b);
    if (!obstacle.empty()) return set_float(id, obstacle);
    set(id, OrtRuns::packed, "MatMulNBits");
    row(id).weight_bytes = stored_bytes(b->node);
    claim(*b);
  }

  void decide_elementwise(NodeId id, std::string_view kernel) {
    const Node& node = graph_.node(id);
    if (is_integer_value(node)) return set(id, OrtRuns::moves, node.op_type);
    std::vector<Dequantized> sources;
    size_t wanted = 0;
    for (const ValueId input : node.inputs) {
      if (input == kNoValue) continue;
      ++wanted;
      if (auto from = dequantized(input)) sources.push_back(std::move(*from));
    }
    if (sources.empty()) {
      return node.is("Concat") ? set(id, OrtRuns::moves, node.op_type) : set_float(id, "");
    }
    if (sources.size() < wanted) return set_float(id, "not all of its inputs are quantized");
    for (const Dequantized& from : sources) {
      if (is_8_bit(from.dtype)) continue;
      return set_float(id, fmt::format("{} has no integer kernel", info(from.dtype).name));
    }
    const Quantized q = quantized(node, false);
    if (q.node == kNoNode) return set_float(id, q.obstacle);
    set(id, OrtRuns::integer, kernel);
    for (const Dequantized& from : sources) claim(from);
    claim(q);
  }

  void decide_moves(NodeId id) {
    const Node& node = graph_.node(id);
    const auto from = node.inputs.empty() || node.inputs[0] == kNoValue
                          ? std::nullopt
                          : dequantized(node.inputs[0]);
    if (from && from->constant && from->dtype != DType::int32) {
      return set_float(
          id, node.is("Gather") ? "the whole table is dequantized to read a few rows of it" : "");
    }
    set(id, OrtRuns::moves, node.op_type);
    if (!from) return;
    const Quantized q = quantized(node, false);
    if (q.node == kNoNode || !share_parameters(from->node, q.node)) return;
    claim(*from);
    claim(q);
  }

  bool share_parameters(NodeId dequantize, NodeId quantize) const {
    const Node& a = graph_.node(dequantize);
    const Node& b = graph_.node(quantize);
    if (quantized_type(a) != quantized_type(b)) return false;
    for (size_t i = 1; i < 3; ++i) {
      const Tensor* x = graph_.constant_input(a, i);
      const Tensor* y = graph_.constant_input(b, i);
      if ((x == nullptr) != (y == nullptr)) return false;
      if (x != nullptr && !same_content(*x, *y)) return false;
    }
    return true;
  }

  void decide_integer(NodeId id, std::string_view kernel) {
    set(id, OrtRuns::integer, kernel);
    const Node& node = graph_.node(id);
    if (!node.is("MatMulInteger")) return;
    // The Cast and the Mul with the scales behind it become part of the kernel.
    const auto only = [&](const Node& from) -> NodeId {
      if (from.outputs.empty() || from.outputs[0] == kNoValue) return kNoNode;
      const auto uses = graph_.uses(from.outputs[0]);
      return uses.size() == 1 && !graph_.is_output(from.outputs[0]) ? uses[0].node : kNoNode;
    };
    const NodeId cast = only(node);
    if (cast == kNoNode || !graph_.node(cast).is("Cast")) return;
    const NodeId scaled = only(graph_.node(cast));
    if (scaled == kNoNode || !graph_.node(scaled).is("Mul")) return;
    row(id).kernel = "MatMulIntegerToFloat";
    absorb(cast);
    absorb(scaled);
    for (const ValueId input : graph_.node(scaled).inputs) {
      if (input == kNoValue) continue;
      const NodeId scales = graph_.value(input).producer;
      if (scales != kNoNode && scales != cast && graph_.node(scales).is("Mul")) absorb(scales);
    }
  }

  void absorb(NodeId id) {
    absorbed_.insert(id);
    OrtNode& out = row(id);
    out.runs = OrtRuns::fused;
    out.kernel.clear();
    out.reason.clear();
  }

  void decide_packed(NodeId id, std::string_view kernel) {
    const Node& node = graph_.node(id);
    set(id, OrtRuns::packed, kernel);
    const size_t slot = node.op_type == "MatMulNBits" ? 1 : 0;
    if (const Tensor* weights = graph_.constant_input(node, slot)) {
      row(id).weight_bytes = weights->bytes();
    }
    if (node.op_type != "MatMulNBits" || node.int_or("accuracy_level", 0) == 4) return;
    row(id).reason = node.int_or("bits", 4) == 8
                         ? "8 bits without accuracy_level 4 are computed in float, up to 20 times "
                           "slower than float weights"
                         : "without accuracy_level 4 it computes in float";
  }

  bool is_integer_value(const Node& node) const {
    if (node.outputs.empty() || node.outputs[0] == kNoValue) return false;
    const DType dtype = graph_.value(node.outputs[0]).type.dtype;
    return dtype != DType::undefined && !is_float(dtype);
  }

  std::string plain_reason(NodeId id) const {
    const Node& node = graph_.node(id);
    const ValueId out = node.outputs.empty() ? kNoValue : node.outputs[0];
    if (out != kNoValue && is_half(graph_.value(out).type.dtype)) {
      return fmt::format("{}: computed in float32 between casts",
                         info(graph_.value(out).type.dtype).name);
    }
    const bool weighted = node.inputs.size() > 1 && node.inputs[1] != kNoValue &&
                          (is_folded(node.inputs[1]) || is_folded(node.inputs[0]));
    return weighted ? "it is not quantized" : "both operands are activations in float";
  }

  void decide_unknown(NodeId id) {
    const Node& node = graph_.node(id);
    if (node.is("If") || node.is("Loop") || node.is("Scan")) {
      return set(id, OrtRuns::moves, node.op_type);
    }
    if (is_integer_value(node)) return set(id, OrtRuns::moves, node.op_type);
    bool quantized_inputs = false;
    for (const ValueId input : node.inputs) {
      quantized_inputs = quantized_inputs || (input != kNoValue && dequantized(input));
    }
    set_float(id, quantized_inputs
                      ? fmt::format("{} has no integer kernel on the CPU", node.op_type)
                      : "");
  }

  void decide_linear(NodeId id) {
    const Node& node = graph_.node(id);
    const int claims = claims_[static_cast<size_t>(id)];
    if (is_quantize(node)) {
      if (claims > 0) return set(id, OrtRuns::fused, "");
      return set(id, OrtRuns::overhead, node.op_type);
    }
    const auto uses = graph_.uses(node.outputs[0]);
    const int readers = static_cast<int>(uses.size()) + (graph_.is_output(node.outputs[0]) ? 1 : 0);
    if (readers > 0 && claims >= readers) return set(id, OrtRuns::fused, "");
    const bool constant = is_folded(node.inputs[0]);
    set(id, constant ? OrtRuns::dequantized : OrtRuns::overhead, node.op_type);
    if (constant) row(id).weight_bytes = stored_bytes(id);
  }

  const Graph& graph_;
  std::vector<int> claims_;  // by node: readers that took it into their kernel
  std::vector<OrtNode> rows_;
  std::set<NodeId> absorbed_;
};

void rule_graphs(const Graph& original, const Graph& typed, std::vector<OrtNode>& out) {
  std::vector<OrtNode> rows = Rules(typed).run(original);
  out.insert(out.end(), std::make_move_iterator(rows.begin()), std::make_move_iterator(rows.end()));
  for (const NodeId id : original.order()) {
    const Node& node = original.node(id);
    for (size_t i = 0; i < node.bodies.size(); ++i) {
      rule_graphs(*node.bodies[i].graph, *typed.node(id).bodies[i].graph, out);
    }
  }
}

}  // namespace

std::string_view name_of(OrtRuns runs) {
  constexpr std::array<std::string_view, 8> kNames = {"integer",  "packed", "float", "dequantized",
                                                      "overhead", "fused",  "moves", "folded"};
  return kNames[static_cast<size_t>(runs)];
}

std::vector<OrtNode> ort_rules(const Model& model, const std::map<std::string, Shape>& shapes) {
  Model typed = model;
  uint64_t foldable = runtime::foldable_bytes(typed);
  runtime::fold_constants(typed.graph, typed, true, foldable);
  try {
    infer_types(typed, shapes);
  } catch (const Error&) {
    // Guessed sizes may not fit the model; the rules need none, only the multiply-adds do.
  }
  std::vector<OrtNode> out;
  rule_graphs(model.graph, typed.graph, out);
  return out;
}

}  // namespace compress
