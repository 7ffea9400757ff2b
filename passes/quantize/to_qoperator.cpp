// --format qoperator: operators between DequantizeLinear and QuantizeLinear become QLinearConv and
// its kin, as ONNX Runtime fuses them when it loads the QDQ form. What has no such operator keeps
// its Q/DQ.
#include <algorithm>

#include "compress/error.h"
#include "compress/graph/label.h"
#include "passes/edit.h"
#include "passes/quantize/linear.h"
#include "passes/quantize/quantize.h"

namespace compress {
namespace {

// An operand behind DequantizeLinear.
struct Integers {
  ValueId value = kNoValue;
  ValueId scale = kNoValue;
  ValueId zero_point = kNoValue;
  std::optional<int64_t> axis;  // of more than one scale
};

class Fuser {
 public:
  Fuser(Model& model, PassResult& result) : model_(model), graph_(model.graph), result_(result) {}

  void run() {
    const std::vector<NodeId> order = graph_.order();
    int64_t fused = 0;
    for (const NodeId id : order) {
      const Node node = graph_.node(id);
      if (!node.alive || !node.domain.empty() || node.inputs.empty()) continue;
      if (node.is("QuantizeLinear") || node.is("DequantizeLinear")) continue;
      if (!integers(node, 0)) continue;
      if (!fuse(id, node)) {
        if (node.is("Conv") || node.is("MatMul") || node.is("Gemm")) {
          result_.skipped.push_back(
              {label(graph_, node),
               fmt::format("no integer operator for this {}: it keeps Q/DQ", node.op_type)});
        }
        continue;
      }
      ++fused;
    }
    result_.changed = fused > 0;
    result_.details["fused"] = fused;
  }

 private:
  std::optional<Integers> integers(const Node& node, size_t slot) const {
    const ValueId id = operand(node, slot);
    const NodeId producer = id == kNoValue ? kNoNode : graph_.value(id).producer;
    if (producer == kNoNode || !graph_.node(producer).is("DequantizeLinear")) return {};
    const Node& pair = graph_.node(producer);
    if (pair.inputs.size() != 3 || pair.int_or("block_size", 0) != 0) return {};
    const Tensor* scale = graph_.constant_input(pair, 1);
    const Tensor* zero = graph_.constant_input(pair, 2);
    if (scale == nullptr || zero == nullptr || scale->dtype() != DType::float32) return {};
    Integers out{pair.inputs[0], pair.inputs[1], pair.inputs[2], {}};
    if (scale->count() > 1) out.axis = pair.int_or("axis", 1);
    return out;
  }

  bool is_byte(const Integers& x) const {
    const DType dtype = graph_.value(x.zero_point).constant.dtype();
    return dtype == DType::uint8 || dtype == DType::int8;
  }

  // One scale, 8 bits.
  std::optional<Integers> bytes(const Node& node, size_t slot) const {
    std::optional<Integers> x = integers(node, slot);
    return x && !x->axis && is_byte(*x) ? x : std::nullopt;
  }

  // The QuantizeLinear that alone reads the value.
  NodeId quantize_of(ValueId id) const {
    const NodeId reader = single_reader(graph_, id);
    if (reader == kNoNode || !graph_.node(reader).is("QuantizeLinear")) return kNoNode;
    const Node& node = graph_.node(reader);
    if (node.inputs.size() != 3 || graph_.constant_input(node, 1) == nullptr) return kNoNode;
    const Tensor* zero = graph_.constant_input(node, 2);
    if (zero == nullptr || zero->count() != 1) return kNoNode;
    return zero->dtype() == DType::uint8 || zero->dtype() == DType::int8 ? reader : kNoNode;
  }

  bool fuse(NodeId id, const Node& node) {
    if (node.is("Conv")) return fuse_conv(id, node);
    if (node.is("MatMul")) return fuse_matmul(id, node);
    if (node.is("Gemm")) return fuse_gemm(id, node);
    if (node.is("Concat")) return fuse_concat(id, node);
    if (node.is("Add") || node.is("Mul")) return fuse_pair(id, node);
    for (const char* op : {"Sigmoid", "LeakyRelu", "Softmax", "AveragePool", "GlobalAveragePool"}) {
      if (node.is(op)) return fuse_single(id, node);
    }
    return move_integers(id, node);
  }

  static void push(std::vector<ValueId>& inputs, const Integers& x) {
    inputs.insert(inputs.end(), {x.value, x.scale, x.zero_point});
  }

  NodeSpec spec_of(const Node& node, std::string op, std::vector<ValueId> inputs) {
    NodeSpec spec{"QLinear" + op, std::move(inputs), {}, node.attributes, node.name + "_quant"};
    if (op == "Conv" || op == "MatMul") return spec;
    spec.domain = "com.microsoft";
    model_.opsets.emplace("com.microsoft", 1);
    return spec;
  }

  // `spec` takes the place of the node and of `quantize`, whose result it gives.
  void replace_with_bytes(NodeId id, NodeId quantize, NodeSpec spec) {
    const ValueId old = graph_.node(quantize).outputs[0];
    const std::string name = graph_.value(old).name;
    TypeInfo type = graph_.value(old).type;
    spec.outputs = {name + "_fused"};
    const NodeId fused = graph_.insert_before(id, std::move(spec));
    const ValueId out = graph_.node(fused).outputs[0];
    graph_.set_type(out, std::move(type));
    graph_.replace_uses(old, out);
    graph_.erase(quantize);
    graph_.erase(id);
    if (graph_.find_value(name) == kNoValue) graph_.rename(out, name);
  }

  bool fuse_conv(NodeId id, const Node& node) {
    const auto x = bytes(node, 0);
    const auto w = integers(node, 1);
    const NodeId quantize = quantize_of(node.outputs[0]);
    if (!x || !w || !is_byte(*w) || quantize == kNoNode || (w->axis && *w->axis != 0)) return false;
    std::vector<ValueId> inputs;
    push(inputs, *x);
    push(inputs, *w);
    const Node& q = graph_.node(quantize);
    inputs.insert(inputs.end(), {q.inputs[1], q.inputs[2]});
    if (operand(node, 2) != kNoValue) {
      const NodeId bias = constant_dequantize(graph_, node, 2);
      if (bias == kNoNode) return false;
      inputs.push_back(graph_.node(bias).inputs[0]);
      if (graph_.value(inputs.back()).constant.dtype() != DType::int32) return false;
    }
    replace_with_bytes(id, quantize, spec_of(node, "Conv", std::move(inputs)));
    return true;
  }

  bool fuse_matmul(NodeId id, const Node& node) {
    const auto a = bytes(node, 0);
    const auto b = integers(node, 1);
    if (!a || !b || !is_byte(*b)) return false;
    if (b->axis && graph_.value(b->value).constant.shape().rank() != 2) return false;
    if (b->axis && *b->axis != 1) return false;
    const NodeId quantize = quantize_of(node.outputs[0]);
    std::vector<ValueId> inputs;
    if (quantize != kNoNode) {
      push(inputs, *a);
      push(inputs, *b);
      const Node& q = graph_.node(quantize);
      inputs.insert(inputs.end(), {q.inputs[1], q.inputs[2]});
      replace_with_bytes(id, quantize, spec_of(node, "MatMul", std::move(inputs)));
      return true;
    }
    inputs = {a->value, b->value, a->scale, b->scale, a->zero_point, b->zero_point};
    NodeSpec spec{"MatMulIntegerToFloat", std::move(inputs), {}, {},
                  node.name + "_quant",   "com.microsoft"};
    model_.opsets.emplace("com.microsoft", 1);
    replace_node(graph_, id, std::move(spec));
    return true;
  }

  bool fuse_gemm(NodeId id, const Node& node) {
    const auto a = bytes(node, 0);
    const auto b = integers(node, 1);
    if (!a || !b || !is_byte(*b) || node.float_or("beta", 1) != 1) return false;
    if (b->axis && *b->axis != (node.int_or("transB", 0) != 0 ? 0 : 1)) return false;
    std::vector<ValueId> inputs = {a->value, a->scale, a->zero_point,
                                   b->value, b->scale, b->zero_point};
    const bool has_bias = operand(node, 2) != kNoValue;
    if (has_bias) {
      const NodeId bias = constant_dequantize(graph_, node, 2);
      if (bias == kNoNode) return false;
      inputs.push_back(graph_.node(bias).inputs[0]);
      if (graph_.value(inputs.back()).constant.dtype() != DType::int32) return false;
    }
    NodeSpec spec{"QGemm", {}, {}, node.attributes, node.name + "_quant", "com.microsoft"};
    std::erase_if(spec.attributes, [](const Attribute& row) { return row.name == "beta"; });
    model_.opsets.emplace("com.microsoft", 1);
    const NodeId quantize = quantize_of(node.outputs[0]);
    if (quantize == kNoNode) {
      spec.inputs = std::move(inputs);
      replace_node(graph_, id, std::move(spec));
      return true;
    }
    if (!has_bias) inputs.push_back(kNoValue);
    const Node& q = graph_.node(quantize);
    inputs.insert(inputs.end(), {q.inputs[1], q.inputs[2]});
    spec.inputs = std::move(inputs);
    replace_with_bytes(id, quantize, std::move(spec));
    return true;
  }

  bool fuse_pair(NodeId id, const Node& node) {
    const auto a = bytes(node, 0);
    const auto b = bytes(node, 1);
    const NodeId quantize = quantize_of(node.outputs[0]);
    if (!a || !b || quantize == kNoNode) return false;
    std::vector<ValueId> inputs;
    push(inputs, *a);
    push(inputs, *b);
    const Node& q = graph_.node(quantize);
    inputs.insert(inputs.end(), {q.inputs[1], q.inputs[2]});
    replace_with_bytes(id, quantize, spec_of(node, node.op_type, std::move(inputs)));
    return true;
  }

  bool fuse_concat(NodeId id, const Node& node) {
    const NodeId quantize = quantize_of(node.outputs[0]);
    if (quantize == kNoNode) return false;
    const Node& q = graph_.node(quantize);
    std::vector<ValueId> inputs = {q.inputs[1], q.inputs[2]};
    for (size_t slot = 0; slot < node.inputs.size(); ++slot) {
      const auto x = bytes(node, slot);
      if (!x) return false;
      push(inputs, *x);
    }
    replace_with_bytes(id, quantize, spec_of(node, "Concat", std::move(inputs)));
    return true;
  }

  bool fuse_single(NodeId id, const Node& node) {
    const auto x = bytes(node, 0);
    const NodeId quantize = quantize_of(node.outputs[0]);
    if (!x || quantize == kNoNode) return false;
    for (const int64_t step : node.ints_or("dilations", {})) {
      if (step != 1) return false;
    }
    std::vector<ValueId> inputs;
    push(inputs, *x);
    const Node& q = graph_.node(quantize);
    inputs.insert(inputs.end(), {q.inputs[1], q.inputs[2]});
    NodeSpec spec = spec_of(node, node.op_type, std::move(inputs));
    std::erase_if(spec.attributes, [](const Attribute& row) { return row.name == "dilations"; });
    const auto set = [&](const char* name, int64_t value) {
      std::erase_if(spec.attributes, [&](const Attribute& row) { return row.name == name; });
      spec.attributes.push_back({name, value, ""});
    };
    if (node.is("Softmax")) {
      set("opset", model_.opset());
      set("axis", node.int_or("axis", model_.opset() < 13 ? 1 : -1));
    }
    if (node.is("GlobalAveragePool")) set("channels_last", 0);
    replace_with_bytes(id, quantize, std::move(spec));
    return true;
  }

  // MaxPool, Reshape and the like work on the integers where all they make keeps the parameters.
  bool move_integers(NodeId id, const Node& node) {
    const auto x = bytes(node, 0);
    if (!x || !moves(node)) return false;
    std::vector<NodeId> pairs;
    for (const ValueId out : node.outputs) {
      const NodeId quantize = out == kNoValue ? kNoNode : quantize_of(out);
      if (quantize == kNoNode) return false;
      const Node& q = graph_.node(quantize);
      if (!same(q.inputs[1], x->scale) || !same(q.inputs[2], x->zero_point)) return false;
      pairs.push_back(quantize);
    }
    graph_.set_input(id, 0, x->value);
    for (size_t i = 0; i < pairs.size(); ++i) {
      const ValueId out = node.outputs[i];
      const ValueId old = graph_.node(pairs[i]).outputs[0];
      TypeInfo type = graph_.value(out).type;
      type.dtype = graph_.value(x->zero_point).constant.dtype();
      const std::string name = graph_.value(old).name;
      graph_.replace_uses(old, out);
      graph_.erase(pairs[i]);
      graph_.set_type(out, std::move(type));
      if (graph_.find_value(name) == kNoValue) graph_.rename(out, name);
    }
    return true;
  }

  bool same(ValueId a, ValueId b) const {
    return a == b || same_content(graph_.value(a).constant, graph_.value(b).constant);
  }

  bool moves(const Node& node) const {
    if (node.is("MaxPool")) return model_.opset() >= 12 && node.outputs.size() == 1;
    if (node.is("Resize")) return node.string_or("mode", "nearest") == "nearest";
    for (const char* op : {"Reshape", "Transpose", "Slice", "Split", "Gather", "Flatten", "Squeeze",
                           "Unsqueeze", "DepthToSpace"}) {
      if (node.is(op)) return true;
    }
    return false;
  }

  Model& model_;
  Graph& graph_;
  PassResult& result_;
};

}  // namespace

PassResult fuse_qoperators(Model& model, PassContext& context) {
  PassResult result;
  if (!context.options.has("format") || context.options.text("format") != "qoperator") {
    return result;
  }
  Fuser(model, result).run();
  return result;
}

}  // namespace compress
