// What folds into the constants or the attributes of a convolution: BatchNormalization after it,
// a Pad of zeros before it. Also the transposes that are left, on a faster kernel.
#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "compress/core/mapped_pages.h"
#include "compress/runtime/lower.h"
#include "compress/runtime/lower_internal.h"
#include "compress/runtime/lower_patterns.h"

namespace compress::runtime {
namespace {

const Tensor* float_constant(const Graph& graph, const Node& node, size_t slot) {
  const Tensor* tensor = graph.constant_input(node, slot);
  return tensor != nullptr && tensor->dtype() == DType::float32 ? tensor : nullptr;
}

Tensor floats_of(const Shape& shape, const std::vector<double>& values) {
  Tensor tensor = Tensor::allocate(DType::float32, shape);
  for (size_t i = 0; i < values.size(); ++i) {
    tensor.mutable_as<float>()[i] = static_cast<float>(values[i]);
  }
  return tensor;
}

// y = x * scale + shift, a channel.
struct ChannelAffine {
  std::vector<double> scale, shift;
};

std::optional<ChannelAffine> affine_of(const Graph& graph, const Node& node) {
  if (!node.is("BatchNormalization") || node.inputs.size() != 5) return std::nullopt;
  if (node.int_or("training_mode", 0) != 0 || node.int_or("spatial", 1) == 0) return std::nullopt;
  for (size_t i = 1; i < node.outputs.size(); ++i) {
    if (node.outputs[i] != kNoValue && !graph.is_unused(node.outputs[i])) return std::nullopt;
  }
  std::array<std::vector<double>, 4> given;  // scale, bias, mean, variance
  for (size_t i = 0; i < 4; ++i) {
    const Tensor* tensor = float_constant(graph, node, i + 1);
    if (tensor == nullptr || tensor->shape().rank() != 1) return std::nullopt;
    given[i] = tensor->to_doubles();
    if (given[i].size() != given[0].size()) return std::nullopt;
  }
  const auto epsilon = static_cast<double>(node.float_or("epsilon", 1e-5f));
  ChannelAffine affine;
  for (size_t c = 0; c < given[0].size(); ++c) {
    affine.scale.push_back(given[0][c] / std::sqrt(given[3][c] + epsilon));
    affine.shift.push_back(given[1][c] - given[2][c] * affine.scale.back());
  }
  return affine;
}

// Weights times a factor a channel. Kernels pack them, so they are computed for the packing only.
Tensor scaled_channels(const Tensor& weights, const std::vector<double>& factors) {
  auto group = std::make_shared<DeferredGroup>([weights, factors] {
    const TensorData data = weights.read();
    const std::span<const float> from = data.as<float>();
    Tensor out = Tensor::allocate(DType::float32, weights.shape());
    const std::span<float> to = out.mutable_as<float>();
    const size_t each = from.size() / factors.size();
    for (size_t i = 0; i < from.size(); ++i) {
      to[i] = static_cast<float>(double{from[i]} * factors[i / each]);
    }
    drop_mapped_pages(data.bytes());
    return std::vector<Tensor>{std::move(out)};
  });
  return Tensor::deferred(DType::float32, weights.shape(), std::move(group), 0);
}

// Conv -> BatchNormalization: into the weights and the bias. The convolution stays a node, which
// stands for both.
bool fold_affine(Graph& graph, NodeId bn, const ChannelAffine& affine) {
  const ValueId x = graph.node(bn).inputs[0];
  const NodeId conv = producer_of(graph, x, "Conv");
  if (conv == kNoNode || only_reader(graph, x) != bn) return false;
  const Node& node = graph.node(conv);
  const Tensor* weights = float_constant(graph, node, 1);
  const size_t channels = affine.scale.size();
  if (weights == nullptr || weights->shape().rank() < 3) return false;
  if (static_cast<size_t>(weights->shape()[0]) != channels) return false;
  std::vector<double> bias(channels, 0.0);
  if (node.inputs.size() > 2 && node.inputs[2] != kNoValue) {
    const Tensor* given = float_constant(graph, node, 2);
    if (given == nullptr || static_cast<size_t>(given->count()) != channels) return false;
    bias = given->to_doubles();
  }
  for (size_t c = 0; c < channels; ++c) bias[c] = bias[c] * affine.scale[c] + affine.shift[c];
  const Tensor folded = scaled_channels(*weights, affine.scale);
  graph.set_input(conv, 1, graph.add_constant("weights", folded));
  const ValueId shift =
      graph.add_constant("bias", floats_of({static_cast<int64_t>(channels)}, bias));
  while (graph.node(conv).inputs.size() < 2) graph.set_input(conv, 1, kNoValue);
  graph.set_input(conv, 2, shift);
  add_origin(graph, conv, conv);
  add_origin(graph, conv, bn);
  graph.replace_uses(graph.node(bn).outputs[0], x);
  graph.erase(bn);
  return true;
}

// BatchNormalization that follows something else: a product and a sum, which chains take up.
void split_affine(Graph& graph, NodeId bn, const ChannelAffine& affine) {
  const ValueId x = graph.node(bn).inputs[0];
  const int rank = rank_of(graph, x);
  if (rank < 2 || graph.value(x).type.dtype != DType::float32) return;
  Shape shape{static_cast<int64_t>(affine.scale.size())};
  for (int i = 2; i < rank; ++i) shape.push_back(1);
  const auto insert = [&](const char* op, ValueId from, const std::vector<double>& values) {
    NodeSpec spec;
    spec.op_type = op;
    spec.inputs = {from, graph.add_constant("factors", floats_of(shape, values))};
    spec.outputs = {graph.value(graph.node(bn).outputs[0]).name + "/" + op};
    const NodeId id = graph.insert_before(bn, std::move(spec));
    graph.set_type(graph.node(id).outputs[0], graph.value(graph.node(bn).outputs[0]).type);
    return id;
  };
  const NodeId product = insert("Mul", x, affine.scale);
  const NodeId sum = insert("Add", graph.node(product).outputs[0], affine.shift);
  add_origin(graph, product, bn);
  add_origin(graph, sum, bn);
  graph.replace_uses(graph.node(bn).outputs[0], graph.node(sum).outputs[0]);
  graph.erase(bn);
}

// Pad of zeros -> Conv: into the convolution's pads.
void fold_pad(Graph& graph, NodeId conv) {
  const Node& node = graph.node(conv);
  const NodeId pad = producer_of(graph, node.inputs[0], "Pad");
  if (pad == kNoNode || only_reader(graph, node.inputs[0]) != conv) return;
  const Node& from = graph.node(pad);
  if (from.string_or("mode", "constant") != "constant" || from.inputs.size() > 3) return;
  const std::string mode = node.string_or("auto_pad", "NOTSET");
  if (mode != "NOTSET" && mode != "VALID" && !mode.empty()) return;
  if (from.inputs.size() == 3 && from.inputs[2] != kNoValue &&
      scalar_constant(graph, from, 2) != 0.0) {
    return;
  }
  if (from.float_or("value", 0.0f) != 0.0f) return;
  std::vector<int64_t> given = from.ints_or("pads", {});
  if (const Tensor* pads = graph.constant_input(from, 1)) given = pads->to_ints();
  const int rank = rank_of(graph, from.inputs[0]);
  if (rank < 3 || given.size() != static_cast<size_t>(2 * rank)) return;
  const auto dims = static_cast<size_t>(rank) - 2;
  std::vector<int64_t> own = node.ints_or("pads", std::vector<int64_t>(2 * dims, 0));
  if (mode == "VALID") own.assign(2 * dims, 0);
  if (own.size() != 2 * dims) return;
  constexpr int64_t kMost = 1 << 20;
  for (size_t i = 0; i < given.size(); ++i) {
    const size_t axis = i % (dims + 2);
    if (given[i] < 0 || given[i] > kMost || (axis < 2 && given[i] != 0)) return;
    if (axis >= 2) own[i / (dims + 2) * dims + axis - 2] += given[i];
  }
  const ValueId x = from.inputs[0];
  graph.set_input(conv, 0, x);
  Node& edited = graph.edit(conv);
  edited.set_attribute("pads", std::move(own));
  edited.remove_attribute("auto_pad");
  add_origin(graph, conv, conv);
  add_origin(graph, conv, pad);
  graph.erase(pad);
}

}  // namespace

void fold_into_convolutions(Graph& graph) {
  for (const NodeId id : std::vector<NodeId>(graph.order())) {
    const Node& node = graph.node(id);
    if (!node.alive || node.inputs.empty() || node.inputs[0] == kNoValue) continue;
    if (node.outputs.empty() || node.outputs[0] == kNoValue) continue;
    if (node.is("Conv")) {
      fold_pad(graph, id);
    } else if (const std::optional<ChannelAffine> affine = affine_of(graph, node)) {
      if (!fold_affine(graph, id, *affine)) split_affine(graph, id, *affine);
    }
  }
}

void lower_transposes(Graph& graph) {
  for (const NodeId id : std::vector<NodeId>(graph.order())) {
    const Node& node = graph.node(id);
    if (!node.is("Transpose") || node.inputs.size() != 1 || node.inputs[0] == kNoValue) continue;
    const int bits = info(graph.value(node.inputs[0]).type.dtype).bits;
    if (bits != 32 && bits != 8) continue;
    add_origin(graph, id, id);
    graph.edit(id).domain = kInternalDomain;
  }
}

}  // namespace compress::runtime
