// Float convolutions and products become library kernels with bias, residual and clamp inside.
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "compress/runtime/lower.h"
#include "compress/runtime/lower_internal.h"
#include "compress/runtime/lower_patterns.h"

namespace compress::runtime {
namespace {

class FloatLowering {
 public:
  explicit FloatLowering(Graph& graph) : graph_(graph) {}

  void run() {
    for (const NodeId id : std::vector<NodeId>(graph_.order())) {
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
    fuse_bounds(attributes, out, parts);
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

  void fuse_bounds(std::vector<Attribute>& attributes, ValueId& out, std::vector<NodeId>& parts) {
    const NodeId reader = only_reader(graph_, out);
    if (reader == kNoNode || graph_.node(reader).inputs[0] != out) return;
    const std::optional<Bounds> bounds = bounds_of(graph_, graph_.node(reader));
    if (!bounds) return;
    attributes.push_back({kLo, bounds->lo, ""});
    attributes.push_back({kHi, bounds->hi, ""});
    out = graph_.node(reader).outputs[0];
    parts.push_back(reader);
  }

  // Puts an internal node in the place of `parts`, the last of which produces `out`.
  void finish(const char* op, std::vector<ValueId> inputs, std::vector<Attribute> attributes,
              ValueId out, const std::vector<NodeId>& parts) {
    const NodeId fused = add_internal(graph_, op, std::move(inputs), std::move(attributes), out);
    for (const NodeId part : parts) add_origin(graph_, fused, part);
    graph_.replace_uses(out, graph_.node(fused).outputs[0]);
    for (auto part = parts.rbegin(); part != parts.rend(); ++part) graph_.erase(*part);
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
    fuse_bounds(attributes, out, parts);
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
      fuse_bounds(attributes, out, parts);
    }
    finish("MatMul", std::move(inputs), std::move(attributes), out, parts);
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
};

}  // namespace

void lower_float(Graph& graph, const Model&) { FloatLowering(graph).run(); }

}  // namespace compress::runtime
