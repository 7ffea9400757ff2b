// Float convolutions and products become library kernels with bias, residual and clamp inside.
#include <algorithm>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "compress/runtime/lower.h"
#include "compress/runtime/lower_elements.h"
#include "compress/runtime/lower_internal.h"
#include "compress/runtime/lower_patterns.h"

namespace compress::runtime {
namespace {

class FloatLowering {
 public:
  explicit FloatLowering(Graph& graph) : graph_(graph) {}

  void run() {
    const std::vector<NodeId> order = graph_.order();
    for (size_t i = 0; i < order.size(); ++i) position_[order[i]] = i;
    for (const NodeId id : order) {
      const Node& node = graph_.node(id);
      if (!node.alive || node.inputs.size() < 2 || node.outputs.size() != 1) continue;
      if (node.is("Conv")) {
        lower_conv(id);
      } else if (node.is("Gemm")) {
        lower_gemm(id);
      } else if (node.is("MatMul")) {
        lower_matmul(id);
      }
    }
  }

 private:
  const Tensor* float_constant(const Node& node, size_t slot) const {
    const Tensor* tensor = graph_.constant_input(node, slot);
    return tensor != nullptr && tensor->dtype() == DType::float32 ? tensor : nullptr;
  }

  bool is_sum(NodeId id) const {
    return id != kNoNode && graph_.node(id).is("Add") && graph_.node(id).inputs.size() == 2 &&
           graph_.node(id).inputs[0] != kNoValue && graph_.node(id).inputs[1] != kNoValue;
  }

  bool is_float_value(ValueId id) const {
    return id != kNoValue && graph_.value(id).type.dtype == DType::float32;
  }

  void lower_conv(NodeId id) {
    const Node& node = graph_.node(id);
    const int rank = rank_of(graph_, node.inputs.empty() ? kNoValue : node.inputs[0]);
    const Tensor* weights = float_constant(node, 1);
    if (weights == nullptr || weights->shape().rank() != rank || (rank != 3 && rank != 4)) return;
    if (!is_float_value(node.inputs[0]) || rank_of(graph_, node.outputs[0]) != rank) return;
    const bool has_bias = node.inputs.size() > 2 && node.inputs[2] != kNoValue;
    if (has_bias && float_constant(node, 2) == nullptr) return;
    std::vector<ValueId> inputs = {node.inputs[0], node.inputs[1],
                                   has_bias ? node.inputs[2] : kNoValue};
    std::vector<Attribute> attributes = node.attributes;
    ValueId out = node.outputs[0];
    std::vector<NodeId> parts = {id};
    if (!has_bias) fuse_channel_bias(weights->shape()[0], inputs, out, parts);
    fuse_residual(inputs, out, parts);
    fuse_activation(attributes, out, parts);
    finish("Conv", std::move(inputs), std::move(attributes), out, parts);
  }

  // Conv + Add of a constant [1, C, 1, 1] (or [C, 1, 1]).
  void fuse_channel_bias(int64_t channels, std::vector<ValueId>& inputs, ValueId& out,
                         std::vector<NodeId>& parts) {
    const NodeId add = only_reader(graph_, out);
    if (!is_sum(add)) return;
    const int rank = rank_of(graph_, out);
    for (size_t slot = 0; slot < 2; ++slot) {
      const Tensor* bias = float_constant(graph_.node(add), slot);
      if (bias == nullptr || bias->count() != channels) continue;
      const int missing = rank - bias->shape().rank();
      const int axis = 1 - missing;  // of the channels, in the constant
      if (missing < 0 || axis < 0 || bias->shape()[axis] != channels) continue;
      inputs[2] = graph_.add_constant("bias", bias->reshaped({channels}));
      out = graph_.node(add).outputs[0];
      parts.push_back(add);
      return;
    }
  }

  // Conv + Add of another activation of the same shape. The Add is the only reader of the
  // convolution, so the other operand cannot depend on it.
  void fuse_residual(std::vector<ValueId>& inputs, ValueId& out, std::vector<NodeId>& parts) {
    const NodeId add = only_reader(graph_, out);
    if (!is_sum(add)) return;
    const Node& node = graph_.node(add);
    const ValueId other = node.inputs[0] == out ? node.inputs[1] : node.inputs[0];
    if (other == out || graph_.value(other).is_constant() || !is_float_value(other)) return;
    // Where shapes are not fully known, equal symbols have to say that nothing broadcasts.
    const TypeInfo& a = graph_.value(out).type;
    const TypeInfo& b = graph_.value(other).type;
    if (!a.has_shape || !b.has_shape || a.shape.rank() != b.shape.rank()) return;
    for (int i = 0; i < a.shape.rank(); ++i) {
      if (a.shape[i] != b.shape[i] || a.shape[i] == kUnknownDim) return;
    }
    inputs.resize(4, kNoValue);
    inputs[3] = other;
    out = node.outputs[0];
    parts.push_back(add);
  }

  // Bounds go into the kernel's clamp; other activations follow it.
  void fuse_activation(std::vector<Attribute>& attributes, ValueId& out,
                       std::vector<NodeId>& parts) {
    const std::optional<FusedActivation> found = activation_after(graph_, out);
    if (!found) return;
    const kernels::ActivationF32& activation = found->activation;
    if (activation.op == kernels::ElementOp::clip) {
      attributes.push_back({kLo, activation.p, ""});
      attributes.push_back({kHi, activation.q, ""});
    } else {
      attributes.push_back({kActivation, static_cast<int64_t>(activation.op), ""});
      attributes.push_back({kActivationP, activation.p, ""});
      attributes.push_back({kActivationQ, activation.q, ""});
    }
    out = found->out;
    parts.insert(parts.end(), found->parts.begin(), found->parts.end());
  }

  // `parts` make `out`; some of them may be listed out of order.
  void finish(const char* op, std::vector<ValueId> inputs, std::vector<Attribute> attributes,
              ValueId out, std::vector<NodeId> parts) {
    std::sort(parts.begin() + 1, parts.end(),
              [&](NodeId a, NodeId b) { return position_.at(a) < position_.at(b); });
    replace_parts(graph_, op, std::move(inputs), std::move(attributes), out, parts);
  }

  void lower_gemm(NodeId id) {
    const Node& node = graph_.node(id);
    const Tensor* weights = float_constant(node, 1);
    if (weights == nullptr || weights->shape().rank() != 2 || node.int_or("transA", 0) != 0) return;
    if (!is_float_value(node.inputs[0]) || rank_of(graph_, node.inputs[0]) != 2) return;
    const bool transposed = node.int_or("transB", 0) != 0;
    const int64_t columns = weights->shape()[transposed ? 0 : 1];
    const bool has_bias = node.inputs.size() > 2 && node.inputs[2] != kNoValue;
    const float beta = node.float_or("beta", 1.0f);
    if (has_bias) {
      const Tensor* bias = float_constant(node, 2);
      if (bias == nullptr || bias->count() != columns || beta != 1.0f || bias->shape().rank() < 1 ||
          bias->shape()[bias->shape().rank() - 1] != columns) {
        return;
      }
    }
    std::vector<Attribute> attributes = {{kTransposed, int64_t{transposed ? 1 : 0}, ""},
                                         {kAlpha, node.float_or("alpha", 1.0f), ""}};
    std::vector<ValueId> inputs = node.inputs;
    ValueId out = node.outputs[0];
    std::vector<NodeId> parts = {id};
    fuse_residual(inputs, out, parts);
    fuse_activation(attributes, out, parts);
    finish("MatMul", std::move(inputs), std::move(attributes), out, parts);
  }

  void lower_matmul(NodeId id) {
    const Node& node = graph_.node(id);
    const int rank_a = rank_of(graph_, node.inputs[0]);
    const int rank_b = rank_of(graph_, node.inputs[1]);
    if (!is_float_value(node.inputs[0]) || rank_a < 2 || rank_a > 6) return;
    if (rank_b < 2 || rank_b > 6 || !is_float_value(node.inputs[1])) return;
    std::vector<ValueId> inputs = node.inputs;
    std::vector<Attribute> attributes;
    ValueId out = node.outputs[0];
    std::vector<NodeId> parts = {id};
    const Tensor* weights = float_constant(node, 1);
    if (weights != nullptr && rank_b == 2) {
      fuse_column_bias(weights->shape()[1], inputs, out, parts);
      fuse_residual(inputs, out, parts);
      fuse_activation(attributes, out, parts);
    } else {
      fuse_scale(attributes, out, parts);
    }
    finish("MatMul", std::move(inputs), std::move(attributes), out, parts);
  }

  // A product of activations, times a number.
  void fuse_scale(std::vector<Attribute>& attributes, ValueId& out, std::vector<NodeId>& parts) {
    const NodeId reader = only_reader(graph_, out);
    if (reader == kNoNode) return;
    const std::optional<Element> element = element_of(graph_, graph_.node(reader));
    if (!element || element->operands.size() != 1) return;
    float alpha = element->p;
    if (element->op == kernels::ElementOp::divide_by) {
      alpha = 1.0f / element->p;
    } else if (element->op != kernels::ElementOp::scale) {
      return;
    }
    attributes.push_back({kAlpha, alpha, ""});
    out = graph_.node(reader).outputs[0];
    parts.push_back(reader);
  }

  // MatMul + Add of a constant [N].
  void fuse_column_bias(int64_t columns, std::vector<ValueId>& inputs, ValueId& out,
                        std::vector<NodeId>& parts) {
    const NodeId add = only_reader(graph_, out);
    if (!is_sum(add)) return;
    for (size_t slot = 0; slot < 2; ++slot) {
      const Tensor* bias = float_constant(graph_.node(add), slot);
      if (bias == nullptr || bias->shape().rank() != 1 || bias->count() != columns) continue;
      inputs.push_back(graph_.node(add).inputs[slot]);
      out = graph_.node(add).outputs[0];
      parts.push_back(add);
      return;
    }
  }

  Graph& graph_;
  std::map<NodeId, size_t> position_;  // in the order of execution
};

}  // namespace

void lower_float(Graph& graph, const Model&) { FloatLowering(graph).run(); }

}  // namespace compress::runtime
