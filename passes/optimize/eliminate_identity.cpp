// Removes nodes whose output equals one of their inputs: Identity, Dropout at inference, casts to
// the same type, reshapes to the same shape, empty pads and slices, lists of one; and a Relu beside
// a Clip that does its work.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "compress/ops/op.h"
#include "passes/edit.h"
#include "passes/optimize/optimize.h"
#include "passes/types.h"

namespace compress {
namespace {

// Both shapes are known and equal; symbols equal themselves, an unknown dimension equals nothing.
bool same_known_shape(const TypeInfo& a, const TypeInfo& b) {
  if (!a.has_shape || !b.has_shape || !(a.shape == b.shape)) return false;
  return std::none_of(a.shape.begin(), a.shape.end(),
                      [](int64_t dim) { return dim == kUnknownDim; });
}

const Tensor* constant_operand(const Model& model, const Node& node, size_t slot) {
  return constant_of(model, operand(node, slot));
}

bool all_zero(const std::vector<int64_t>& values) {
  return std::all_of(values.begin(), values.end(), [](int64_t v) { return v == 0; });
}

bool is_inference_dropout(const Model& model, const Node& node) {
  if (node.outputs.size() > 1 && node.outputs[1] != kNoValue &&
      !model.graph.is_unused(node.outputs[1])) {
    return false;
  }
  if (model.opset() < 7) return node.int_or("is_test", 0) != 0;
  if (operand(node, 2) == kNoValue) return true;
  const Tensor* training = constant_operand(model, node, 2);
  return training != nullptr && training->count() == 1 && training->to_int() == 0;
}

bool is_empty_pad(const Model& model, const Node& node) {
  if (model.opset() < 11) return node.attribute("pads") && all_zero(node.ints_or("pads", {1}));
  const Tensor* pads = constant_operand(model, node, 1);
  return pads != nullptr && all_zero(pads->to_ints());
}

bool is_whole_slice(const Model& model, const Node& node, const TypeInfo& in, const TypeInfo& out) {
  if (!in.is_concrete() || !same_known_shape(in, out)) return false;
  if (operand(node, 4) == kNoValue) return true;
  const Tensor* steps = constant_operand(model, node, 4);
  if (steps == nullptr) return false;
  const std::vector<int64_t> values = steps->to_ints();
  return std::all_of(values.begin(), values.end(), [](int64_t step) { return step > 0; });
}

bool is_identity_permutation(const Node& node) {
  const std::vector<int64_t> perm = node.ints_or("perm", {});
  if (perm.empty()) return false;
  std::vector<int64_t> straight(perm.size());
  std::iota(straight.begin(), straight.end(), 0);
  return perm == straight;
}

bool is_identity(const Model& model, const Node& node) {
  if (!node.domain.empty() || node.inputs.empty() || node.inputs[0] == kNoValue) return false;
  const TypeInfo& in = model.graph.value(node.inputs[0]).type;
  const TypeInfo& out = model.graph.value(node.outputs[0]).type;
  const std::string& op = node.op_type;
  if (op == "Identity") return true;
  if (op == "Dropout") return is_inference_dropout(model, node);
  if (op == "Cast") {
    return in.dtype != DType::undefined && node.int_or("to", 0) == static_cast<int64_t>(in.dtype);
  }
  if (op == "Reshape" || op == "Flatten" || op == "Squeeze" || op == "Unsqueeze" ||
      op == "Expand") {
    return same_known_shape(in, out);
  }
  if (op == "Transpose") return is_identity_permutation(node);
  if (op == "Pad") return is_empty_pad(model, node);
  if (op == "Slice") return is_whole_slice(model, node, in, out);
  if (op == "Concat" || op == "Sum" || op == "Max" || op == "Min" || op == "Mean") {
    return node.inputs.size() == 1;
  }
  return false;
}

// Every value of `from` is exactly a value of `to`.
bool is_lossless(DType from, DType to) {
  const DTypeInfo& a = info(from);
  const DTypeInfo& b = info(to);
  if (from == to) return true;
  if (from == DType::boolean) return b.bits > 0 && to != DType::boolean;
  if (a.bits == 0 || b.bits == 0 || to == DType::boolean) return false;
  const auto mantissa = [](DType dtype) {
    switch (dtype) {
      case DType::float16:
        return 11;
      case DType::bfloat16:
        return 8;
      case DType::float32:
        return 24;
      case DType::float64:
        return 53;
      default:
        return 0;
    }
  };
  if (is_integer(from) && is_integer(to)) {
    if (a.is_signed && !b.is_signed) return false;
    return b.bits > a.bits || (b.bits == a.bits && a.is_signed == b.is_signed);
  }
  if (is_integer(from)) {  // float16 overflows above 65504: only 8-bit integers surely fit
    return mantissa(to) >= a.bits && (to != DType::float16 || a.bits <= 8);
  }
  if (from == DType::float16) return to == DType::float32 || to == DType::float64;
  if (from == DType::bfloat16) return to == DType::float32 || to == DType::float64;
  return from == DType::float32 && to == DType::float64;
}

// Cast(Cast(x)) reads x directly where the inner cast loses nothing.
bool shorten_cast(Graph& graph, NodeId id) {
  const Node& node = graph.node(id);
  if (!node.is("Cast") || node.inputs.empty() || node.inputs[0] == kNoValue) return false;
  const NodeId inner = graph.value(node.inputs[0]).producer;
  if (inner == kNoNode || !graph.node(inner).is("Cast")) return false;
  const ValueId source = operand(graph.node(inner), 0);
  if (source == kNoValue) return false;
  const DType from = graph.value(source).type.dtype;
  const DType middle = static_cast<DType>(graph.node(inner).int_or("to", 0));
  if (from == DType::undefined || !is_lossless(from, middle)) return false;
  graph.set_input(id, 0, source);
  return true;
}

// The smallest value that a Clip or Relu lets through, or nothing.
std::optional<double> lower_bound_of(const Model& model, const Node& node) {
  if (node.is("Relu")) return 0;
  if (!node.is("Clip")) return {};
  if (model.opset() < 11) return node.float_or("min", -HUGE_VALF);
  const Tensor* bound = constant_operand(model, node, 1);
  if (bound == nullptr || bound->count() != 1) return {};
  return bound->to_double();
}

// A Relu that alone feeds a Clip from 0 or more changes nothing that the Clip would not; and the
// Relu after such a Clip does nothing at all.
bool is_repeated_activation(const Model& model, NodeId id) {
  const Graph& graph = model.graph;
  if (!graph.node(id).is("Relu")) return false;
  const NodeId next = single_reader(graph, graph.node(id).outputs[0]);
  if (next != kNoNode && graph.node(next).is("Clip")) {
    const auto low = lower_bound_of(model, graph.node(next));
    if (low && *low >= 0) return true;
  }
  const ValueId in = operand(graph.node(id), 0);
  const NodeId before = in == kNoValue ? kNoNode : graph.value(in).producer;
  if (before == kNoNode) return false;
  const auto low = lower_bound_of(model, graph.node(before));
  return low && *low >= 0;
}

}  // namespace

PassResult eliminate_identity(Model& model, PassContext&) {
  infer_known_types(model);
  Graph& graph = model.graph;
  int64_t removed = 0;
  int64_t casts = 0;
  const std::vector<NodeId> order = graph.order();
  for (const NodeId id : order) {
    if (!graph.node(id).alive || graph.node(id).outputs.empty()) continue;
    if (shorten_cast(graph, id)) ++casts;
    const Node& node = graph.node(id);
    if (node.outputs[0] == kNoValue) continue;
    if (!is_identity(model, node) && !is_repeated_activation(model, id)) continue;
    if (!can_replace(graph, node.outputs[0], node.inputs[0])) continue;
    bypass(graph, id, node.inputs[0]);
    ++removed;
  }
  PassResult result;
  result.changed = removed + casts > 0;
  if (result.changed) result.details = {{"removed", removed}, {"shortened_casts", casts}};
  return result;
}

}  // namespace compress
