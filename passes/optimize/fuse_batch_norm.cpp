// BatchNormalization at inference is y = x * s + t per channel, with s = scale / sqrt(var +
// epsilon) and t = bias - mean * s. It moves into the Conv, ConvTranspose or Gemm before it, or,
// where no padding lies between (a padded zero would have become t), into the Conv after it.
//
// A bias that an Add puts on a Conv joins the Conv in the same way, with s = 1; on a MatMul it
// makes a Gemm.
#include <cmath>
#include <optional>

#include "compress/graph/label.h"
#include "passes/edit.h"
#include "passes/optimize/optimize.h"
#include "passes/types.h"

namespace compress {
namespace {

struct Affine {
  std::vector<double> s;
  std::vector<double> t;
};

std::optional<Affine> affine_of(const Model& model, const Node& node) {
  if (node.int_or("training_mode", 0) != 0 || node.int_or("spatial", 1) != 1) return {};
  if (model.opset() < 7 && node.int_or("is_test", 0) == 0) return {};
  for (size_t i = 1; i < node.outputs.size(); ++i) {
    if (node.outputs[i] != kNoValue && !model.graph.is_unused(node.outputs[i])) return {};
  }
  std::vector<std::vector<double>> rows;
  for (size_t slot = 1; slot < 5; ++slot) {
    const Tensor* tensor = constant_of(model, operand(node, slot));
    if (tensor == nullptr || !is_float(tensor->dtype())) return {};
    rows.push_back(tensor->to_doubles());
    if (rows.back().size() != rows.front().size()) return {};
  }
  const double epsilon = node.float_or("epsilon", 1e-5f);
  Affine out;
  for (size_t c = 0; c < rows[0].size(); ++c) {
    const double s = rows[0][c] / std::sqrt(rows[3][c] + epsilon);
    out.s.push_back(s);
    out.t.push_back(rows[1][c] - rows[2][c] * s);
    if (!std::isfinite(s) || !std::isfinite(out.t.back())) return {};
  }
  return out;
}

// An Add of one constant a channel: [C, 1, 1] or [1, C, 1, 1] onto a value of `rank` dimensions.
std::optional<Affine> bias_of(const Model& model, const Node& add, ValueId conv_out, int rank) {
  if (add.inputs.size() != 2) return {};
  const ValueId other = add.inputs[0] == conv_out ? add.inputs[1] : add.inputs[0];
  const Tensor* tensor = constant_of(model, other);
  if (tensor == nullptr || !is_float(tensor->dtype()) || tensor->shape().rank() > rank) return {};
  const int lead = rank - tensor->shape().rank();
  for (int i = 0; i < tensor->shape().rank(); ++i) {
    if (i + lead != 1 && tensor->shape()[i] != 1) return {};
  }
  return Affine{{}, tensor->to_doubles()};
}

Tensor narrowed(const std::vector<double>& values, DType dtype, const Shape& shape) {
  return convert(Tensor::from<double>(shape, values), dtype);
}

// Output channels of a weight tensor: element i belongs to channel_of(i).
struct Channels {
  int64_t count = 0;
  int64_t stride = 1;  // elements between neighbours along the channel axis
  int64_t axis_size = 1;
  int64_t group_size = 0;  // ConvTranspose: elements of the slices that one group takes
  int64_t of(int64_t i) const {
    const int64_t along = i / stride % axis_size;
    return group_size == 0 ? along : i / group_size * axis_size + along;
  }
};

std::optional<Channels> output_channels(const Node& node, const Shape& w) {
  Channels out;
  if (node.is("Conv") && w.rank() >= 3) {
    out.stride = w.count(1, w.rank());
    out.count = out.axis_size = w[0];
    return out;
  }
  if (node.is("ConvTranspose") && w.rank() >= 3) {
    const int64_t group = node.int_or("group", 1);
    if (group < 1 || w[0] % group != 0) return {};
    out.stride = w.count(2, w.rank());
    out.axis_size = w[1];
    out.count = w[1] * group;
    out.group_size = w[0] / group * w.count(1, w.rank());
    return out;
  }
  if (node.is("Gemm") && w.rank() == 2 && node.float_or("alpha", 1) == 1 &&
      node.float_or("beta", 1) == 1) {
    const bool transposed = node.int_or("transB", 0) != 0;
    out.stride = transposed ? w[1] : 1;
    out.count = out.axis_size = w[transposed ? 0 : 1];
    return out;
  }
  return {};
}

// The node's weights and bias with y' = y * s + t applied. False where it does not fit.
bool scale_outputs(Model& model, NodeId id, const Affine& affine) {
  Graph& graph = model.graph;
  const Node node = graph.node(id);
  const Tensor* weight = constant_of(model, operand(node, 1));
  if (weight == nullptr || !is_float(weight->dtype())) return false;
  const auto channels = output_channels(node, weight->shape());
  if (!channels || static_cast<int64_t>(affine.t.size()) != channels->count) return false;
  std::vector<double> bias(affine.t.size(), 0.0);
  if (operand(node, 2) != kNoValue) {
    const Tensor* old = constant_of(model, node.inputs[2]);
    if (old == nullptr || !is_float(old->dtype())) return false;
    const std::vector<double> values = old->to_doubles();
    if (values.size() != bias.size() && values.size() != 1) return false;
    // A Gemm's C of shape [M, 1] runs over rows; [N], [1, N] and one element over columns.
    if (values.size() > 1 && old->shape()[old->shape().rank() - 1] != channels->count) return false;
    for (size_t c = 0; c < bias.size(); ++c) bias[c] = values[values.size() == 1 ? 0 : c];
  }
  for (size_t c = 0; c < bias.size(); ++c) {
    bias[c] = bias[c] * (affine.s.empty() ? 1.0 : affine.s[c]) + affine.t[c];
  }
  const DType dtype = weight->dtype();
  if (!affine.s.empty()) {
    std::vector<double> values = weight->to_doubles();
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] *= affine.s[static_cast<size_t>(channels->of(static_cast<int64_t>(i)))];
    }
    const Tensor scaled = narrowed(values, dtype, weight->shape());
    const std::string name = graph.value(node.inputs[1]).name;
    if (graph.uses(node.inputs[1]).size() == 1 && !graph.is_output(node.inputs[1])) {
      graph.set_constant(node.inputs[1], scaled);
    } else {
      graph.set_input(id, 1, graph.add_constant(name + "_fused", scaled));
    }
  }
  const Tensor new_bias = narrowed(bias, dtype, {channels->count});
  const ValueId old_bias = operand(node, 2);
  if (old_bias != kNoValue && graph.uses(old_bias).size() == 1 && !graph.is_output(old_bias) &&
      graph.value(old_bias).constant.shape() == new_bias.shape()) {
    graph.set_constant(old_bias, new_bias);
  } else {
    const std::string stem = graph.value(node.inputs[1]).name;
    graph.set_input(id, 2, graph.add_constant(stem + "_bias", new_bias));
  }
  return true;
}

// BatchNormalization then Conv: W'[o, i] = W[o, i] * s[i], b'[o] = b[o] + sum W[o, i] * t[i].
bool scale_inputs(Model& model, NodeId id, const Affine& affine) {
  Graph& graph = model.graph;
  const Node conv = graph.node(id);
  const std::string mode = conv.string_or("auto_pad", "NOTSET");
  const std::vector<int64_t> pads = conv.ints_or("pads", {});
  for (const int64_t pad : pads) {
    if (pad != 0) return false;
  }
  if ((mode != "NOTSET" && mode != "VALID") || conv.int_or("group", 1) != 1) return false;
  const Tensor* weight = constant_of(model, operand(conv, 1));
  if (weight == nullptr || !is_float(weight->dtype()) || weight->shape().rank() < 3) return false;
  const Shape w = weight->shape();
  if (w[1] != static_cast<int64_t>(affine.s.size()) || w[0] == 0) return false;
  std::vector<double> bias(static_cast<size_t>(w[0]), 0.0);
  if (operand(conv, 2) != kNoValue) {
    const Tensor* old = constant_of(model, conv.inputs[2]);
    if (old == nullptr || old->count() != w[0]) return false;
    bias = old->to_doubles();
  }
  std::vector<double> values = weight->to_doubles();
  const int64_t inner = w.count(2, w.rank());
  for (size_t i = 0; i < values.size(); ++i) {
    const auto at = static_cast<int64_t>(i);
    const auto in = static_cast<size_t>(at / inner % w[1]);
    bias[static_cast<size_t>(at / (inner * w[1]))] += values[i] * affine.t[in];
    values[i] *= affine.s[in];
  }
  const std::string name = graph.value(conv.inputs[1]).name;
  const DType dtype = weight->dtype();
  graph.set_input(id, 1, graph.add_constant(name + "_fused", narrowed(values, dtype, w)));
  graph.set_input(id, 2, graph.add_constant(name + "_bias", narrowed(bias, dtype, {w[0]})));
  return true;
}

// MatMul by a matrix and an Add of one constant a column is a Gemm, whose bias quantizes with it.
bool fuse_gemm(Model& model, NodeId add, ValueId product) {
  Graph& graph = model.graph;
  const NodeId id = graph.value(product).producer;
  const Node& node = graph.node(id);
  const Tensor* weight = constant_of(model, operand(node, 1));
  const Node& sum = graph.node(add);
  if (!node.is("MatMul") || weight == nullptr || weight->shape().rank() != 2) return false;
  if (sum.inputs.size() != 2 || single_reader(graph, product) != add) return false;
  const TypeInfo& input = graph.value(node.inputs[0]).type;
  if (!input.has_shape || input.shape.rank() != 2) return false;
  const ValueId other = sum.inputs[0] == product ? sum.inputs[1] : sum.inputs[0];
  const Tensor* bias = constant_of(model, other);
  if (bias == nullptr || bias->dtype() != weight->dtype()) {
    return false;
  }
  if (!is_float(bias->dtype()) || bias->count() != weight->shape()[1] || bias->shape().rank() > 2 ||
      bias->shape().rank() == 0 || bias->shape()[bias->shape().rank() - 1] != bias->count()) {
    return false;
  }
  ValueId c = other;
  if (bias->shape().rank() == 2) {
    const Tensor flat = bias->reshaped({bias->count()});
    c = graph.add_constant(graph.value(other).name + "_flat", flat);
  }
  graph.edit(id).op_type = "Gemm";
  graph.set_input(id, 2, c);
  absorb(graph, add, product);
  return true;
}

bool takes_bias(const Node& node) { return node.is("Conv") || node.is("ConvTranspose"); }

// "" where it was fused, else the reason.
std::string fuse(Model& model, NodeId id, const Affine& affine, ValueId in) {
  Graph& graph = model.graph;
  const NodeId producer = graph.value(in).producer;
  if (producer != kNoNode && single_reader(graph, in) == id &&
      scale_outputs(model, producer, affine)) {
    absorb(graph, id, in);
    return "";
  }
  if (affine.s.empty()) return "its Conv cannot take it";
  const ValueId out = graph.node(id).outputs[0];
  const NodeId reader = single_reader(graph, out);
  if (reader != kNoNode && graph.node(reader).is("Conv") && operand(graph.node(reader), 0) == out &&
      graph.uses(out).size() == 1 && scale_inputs(model, reader, affine)) {
    graph.set_input(reader, 0, in);
    return "";
  }
  return "no Conv, ConvTranspose or Gemm beside it can take it";
}

}  // namespace

PassResult fuse_batch_norm(Model& model, PassContext&) {
  infer_known_types(model);
  Graph& graph = model.graph;
  PassResult result;
  int64_t fused = 0;
  int64_t biases = 0;
  const std::vector<NodeId> order = graph.order();
  for (const NodeId id : order) {
    const Node& node = graph.node(id);
    if (!node.alive) continue;
    if (node.is("BatchNormalization") && operand(node, 0) != kNoValue) {
      const std::string name = label(graph, node);
      const auto affine = affine_of(model, node);
      const std::string reason =
          affine ? fuse(model, id, *affine, node.inputs[0]) : "its parameters are no constants";
      if (reason.empty()) ++fused;
      if (!reason.empty()) result.skipped.push_back({name, reason});
    } else if (node.is("Add")) {
      for (const ValueId in : std::vector<ValueId>(node.inputs)) {
        if (in == kNoValue || graph.value(in).producer == kNoNode) continue;
        if (fuse_gemm(model, id, in)) {
          ++biases;
          break;
        }
        const Node& conv = graph.node(graph.value(in).producer);
        const Tensor* weight = constant_of(model, operand(conv, 1));
        if (!takes_bias(conv) || weight == nullptr) continue;
        const auto bias = bias_of(model, node, in, weight->shape().rank());
        if (bias && fuse(model, id, *bias, in).empty()) ++biases;
        break;
      }
    }
  }
  result.changed = fused + biases > 0;
  if (result.changed) result.details = {{"fused", fused}, {"biases", biases}};
  return result;
}

}  // namespace compress
