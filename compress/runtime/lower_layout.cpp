// Channels-last layout, assigned in one pass: a value of a convolutional region gets a
// channels-last twin, and nodes that can work on twins do. Transposes remain only at the edges of
// the region.
#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "compress/ops/gradient_families.h"
#include "compress/runtime/inline.h"
#include "compress/runtime/lower.h"
#include "compress/runtime/lower_internal.h"
#include "compress/runtime/lower_patterns.h"

namespace compress::runtime {
namespace {

template <size_t N>
bool contains(const std::array<std::string_view, N>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// Element by element, one output, any layout.
constexpr std::array<std::string_view, 28> kElementwise = {
    "Abs",     "Cast",  "Ceil",     "Clip",        "Dropout",   "Elu",      "Erf",
    "Exp",     "Floor", "Gelu",     "HardSigmoid", "HardSwish", "Identity", "LeakyRelu",
    "Log",     "Mish",  "Neg",      "Reciprocal",  "Relu",      "Round",    "Selu",
    "Sigmoid", "Sign",  "Softplus", "Softsign",    "Sqrt",      "Tanh",     "ThresholdedRelu"};
constexpr std::array<std::string_view, 11> kBroadcasting = {
    "Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean", "PRelu", "Pow", "Where"};
constexpr std::array<std::string_view, 3> kInternalElementwise = {"Lookup", "Quantize",
                                                                  "Dequantize"};
constexpr std::array<std::string_view, 2> kInternalBroadcasting = {"QAdd", "QMul"};
constexpr std::array<std::string_view, 4> kPools = {"MaxPool", "AveragePool", "GlobalMaxPool",
                                                    "GlobalAveragePool"};

std::vector<int64_t> to_last(int rank) {
  std::vector<int64_t> perm = {0};
  for (int i = 2; i < rank; ++i) perm.push_back(i);
  perm.push_back(1);
  return perm;
}

std::vector<int64_t> to_first(int rank) {
  std::vector<int64_t> perm = {0, rank - 1};
  for (int i = 1; i + 1 < rank; ++i) perm.push_back(i);
  return perm;
}

// Where axis `axis` of the channels-first tensor is in the channels-last one.
int64_t axis_in_last(int64_t axis, int rank) {
  if (axis == 0) return 0;
  return axis == 1 ? rank - 1 : axis - 1;
}

// dims, permuted: out[i] = dims[perm[i]].
Shape permuted(const Shape& dims, const std::vector<int64_t>& perm) {
  Shape out;
  for (const int64_t axis : perm) out.push_back(dims[static_cast<int>(axis)]);
  return out;
}

// A small constant with its axes moved; element sizes of whole bytes.
Tensor transposed(const Tensor& tensor, const std::vector<int64_t>& perm) {
  const Shape shape = permuted(tensor.shape(), perm);
  Tensor out = Tensor::allocate(tensor.dtype(), shape);
  const TensorData data = tensor.read();
  const auto element = static_cast<size_t>(info(tensor.dtype()).bits / 8);
  const Shape strides = permuted(strides_of(tensor.shape()), perm);
  const auto* from = static_cast<const std::byte*>(data.view().data);
  std::byte* to = out.mutable_data();
  for (int64_t i = 0; i < out.count(); ++i) {
    int64_t rest = i;
    int64_t source = 0;
    for (int d = shape.rank() - 1; d >= 0; --d) {
      source += rest % shape[d] * strides[d];
      rest /= shape[d];
    }
    std::copy_n(from + static_cast<size_t>(source) * element, element,
                to + static_cast<size_t>(i) * element);
  }
  return out;
}

class Layouts {
 public:
  Layouts(Graph& graph, const Model& model) : graph_(graph), model_(model) {}

  void run() {
    const std::vector<NodeId> order = graph_.order();
    for (const NodeId id : order) visit(id);
    erase_dead(graph_);
  }

 private:
  const Node& node(NodeId id) const { return graph_.node(id); }

  bool has_twin(ValueId id) const { return twins_.contains(id); }

  // The channels-last twin; made by a transpose where there is none yet.
  ValueId twin(ValueId id) {
    if (const auto row = twins_.find(id); row != twins_.end()) return row->second;
    const int rank = rank_of(graph_, id);
    const ValueId made = transpose(id, to_last(rank), graph_.value(id).name + "/last");
    twins_[id] = made;
    return made;
  }

  ValueId transpose(ValueId from, std::vector<int64_t> perm, std::string name) {
    TypeInfo type = graph_.value(from).type;
    if (type.has_shape) type.shape = permuted(type.shape, perm);
    NodeSpec spec;
    spec.op_type = "Transpose";
    spec.inputs = {from};
    spec.outputs = {std::move(name)};
    spec.attributes = {{"perm", std::move(perm), ""}};
    const ValueId to = graph_.node(graph_.add(std::move(spec))).outputs[0];
    graph_.set_type(to, std::move(type));
    return to;
  }

  void visit(NodeId id) {
    if (!node(id).alive) return;
    if (node(id).domain == kInternalDomain && is_channels_last(node(id).op_type)) {
      convert(id, is_training(node(id)) ? images_of(id) : std::vector<ValueId>());
      return;
    }
    if (node(id).is("ConvWeightGradient", kInternalDomain)) {
      // Weights have no channels-last form.
      for (const size_t slot : {size_t{0}, size_t{1}}) {
        graph_.set_input(id, slot, twin(node(id).inputs[slot]));
      }
      return;
    }
    if (node(id).inputs.empty() || node(id).outputs.empty() || !node(id).bodies.empty()) return;
    if (node(id).inputs[0] == kNoValue || node(id).outputs[0] == kNoValue) return;
    if (node(id).is("Transpose")) return fold_transpose(id);
    if (!any_twin(id)) return;
    if (is_plain_elementwise(node(id))) return convert_elementwise(id);
    if (!node(id).domain.empty()) return;
    if (contains(kPools, node(id).op_type)) return convert_pool(id);
    if (node(id).is("Concat")) return convert_axis(id, "axis", true);
    if (node(id).is("Split")) return convert_axis(id, "axis", false);
    if (node(id).is("Pad")) return convert_pad(id);
    if (node(id).is("Slice")) return convert_slice(id);
    if (node(id).is("ReduceMean")) return convert_mean(id);
    if (node(id).is("Resize") || node(id).is("Upsample")) return convert_resize(id);
    if (node(id).is("Reshape")) return convert_shuffle(id);
  }

  static bool is_training(const Node& of) {
    return of.op_type == "TrainConv" || of.op_type == "ConvDataGradient";
  }

  // Operands of a convolution whose weights are no constants: only the first is an image.
  std::vector<ValueId> images_of(NodeId id) {
    std::vector<ValueId> inputs = node(id).inputs;
    inputs[0] = twin(inputs[0]);
    return inputs;
  }

  bool any_twin(NodeId id) const {
    const Node& of = node(id);
    return std::any_of(of.inputs.begin(), of.inputs.end(),
                       [&](ValueId input) { return has_twin(input); });
  }

  bool is_plain_elementwise(const Node& of) const {
    if (of.outputs.size() != 1) return false;
    if (of.is("ElementGradient", kGradientDomain)) return true;
    if (of.domain == kInternalDomain) {
      return contains(kInternalElementwise, of.op_type) ||
             contains(kInternalBroadcasting, of.op_type);
    }
    return of.domain.empty() &&
           (contains(kElementwise, of.op_type) || contains(kBroadcasting, of.op_type));
  }

  // Replaces the node by one on twins (`inputs`; empty: twins of all inputs that are no constants),
  // whose outputs have channels-first forms for readers that want those.
  NodeId convert(NodeId id, std::vector<ValueId> inputs) {
    if (inputs.empty()) {
      for (const ValueId input : node(id).inputs) {
        const bool plain = input == kNoValue || graph_.value(input).is_constant();
        inputs.push_back(plain ? input : twin(input));
      }
    }
    // Every such node keeps the rank of what it reads.
    int rank = -1;
    for (const ValueId input : node(id).inputs) {
      if (rank < 0 && input != kNoValue && has_twin(input)) rank = rank_of(graph_, input);
    }
    Node copy = node(id);
    copy.inputs = std::move(inputs);
    copy.name = graph_.unique_node_name(copy.name + "/last");
    for (ValueId& output : copy.outputs) {
      if (output == kNoValue) continue;
      TypeInfo type = graph_.value(output).type;
      type.has_shape = type.has_shape && type.shape.rank() == rank;
      if (type.has_shape) type.shape = channels_last(type.shape);
      output = graph_.add_value(graph_.unique_value_name(graph_.value(output).name + "/last"),
                                std::move(type));
    }
    const std::vector<ValueId> made = copy.outputs;
    const NodeId to = graph_.add_node_raw(std::move(copy));
    if (origins_of(node(id)).size() == 1) add_origin(graph_, to, id);  // else the copy has them
    const std::vector<ValueId> outputs = node(id).outputs;
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (outputs[i] == kNoValue) continue;
      const ValueId first =
          transpose(made[i], to_first(rank), graph_.value(outputs[i]).name + "/first");
      graph_.set_type(first, graph_.value(outputs[i]).type);
      twins_[first] = made[i];
      graph_.replace_uses(outputs[i], first);
    }
    graph_.erase(id);
    return to;
  }

  // Operands: values of the region's rank with twins, constants, and single elements.
  void convert_elementwise(NodeId id) {
    const Node& of = node(id);
    const int rank = rank_of(graph_, of.outputs[0]);
    if (rank < 3) return;
    std::vector<ValueId> inputs;
    const bool one_operand = of.domain == kInternalDomain
                                 ? contains(kInternalElementwise, of.op_type)
                                 : contains(kElementwise, of.op_type);
    for (size_t i = 0; i < of.inputs.size(); ++i) {
      const ValueId input = of.inputs[i];
      const bool is_setting = one_operand && i > 0;  // Clip's bounds
      if (input == kNoValue || is_setting) {
        inputs.push_back(input);
      } else if (graph_.value(input).is_constant()) {
        const std::optional<ValueId> constant = moved_constant(input, rank);
        if (!constant) return;
        inputs.push_back(*constant);
      } else if (has_twin(input) && rank_of(graph_, input) == rank) {
        inputs.push_back(twins_[input]);
      } else if (rank_of(graph_, input) == 0) {
        inputs.push_back(input);
      } else {
        return;
      }
    }
    convert(id, std::move(inputs));
  }

  // A constant operand that broadcasts against a channels-first tensor, for the channels-last one.
  std::optional<ValueId> moved_constant(ValueId id, int rank) {
    const Tensor constant = graph_.value(id).constant;
    if (constant.count() == 1 && constant.shape().rank() <= 1) return id;
    if (constant.shape().rank() > rank || constant.count() > (1 << 20)) return std::nullopt;
    if (info(constant.dtype()).bits < 8 || constant.dtype() == DType::string) return std::nullopt;
    Shape shape;
    for (int i = constant.shape().rank(); i < rank; ++i) shape.push_back(1);
    for (const int64_t dim : constant.shape()) shape.push_back(dim);
    return graph_.add_constant(graph_.value(id).name + "/last",
                               transposed(constant.reshaped(shape), to_last(rank)));
  }

  void convert_pool(NodeId id) {
    if (node(id).outputs.size() != 1) return;
    const int rank = rank_of(graph_, node(id).inputs[0]);
    if (rank != 3 && rank != 4) return;
    if (graph_.value(node(id).inputs[0]).type.dtype != DType::float32) return;
    const int opset = node_opset(node(id), model_);
    const NodeId made = convert(id, {});
    graph_.edit(made).domain = kInternalDomain;
    graph_.edit(made).set_attribute(kOpsetAttribute, static_cast<int64_t>(opset));
  }

  // Concat and Split: the axis moves.
  void convert_axis(NodeId id, const char* attribute, bool all_inputs) {
    const int rank = rank_of(graph_, node(id).inputs[0]);
    int64_t axis = node(id).int_or(attribute, 0);
    if (axis < 0) axis += rank;
    if (rank < 3 || axis < 0 || axis >= rank) return;
    std::vector<ValueId> inputs;
    for (size_t i = 0; i < node(id).inputs.size(); ++i) {
      const ValueId input = node(id).inputs[i];
      if (i > 0 && !all_inputs) {
        inputs.push_back(input);  // Split's sizes
        continue;
      }
      if (!has_twin(input)) return;
      inputs.push_back(twins_[input]);
    }
    const NodeId made = convert(id, std::move(inputs));
    graph_.edit(made).set_attribute(attribute, axis_in_last(axis, rank));
  }

  void convert_pad(NodeId id) {
    const Node& of = node(id);
    const int rank = rank_of(graph_, of.inputs[0]);
    const Tensor* pads = graph_.constant_input(of, 1);
    if (rank < 3 || pads == nullptr || of.inputs.size() > 3) return;
    const std::vector<int64_t> given = pads->to_ints();
    if (given.size() != static_cast<size_t>(2 * rank)) return;
    std::vector<int64_t> moved;
    for (const int offset : {0, rank}) {
      for (const int64_t axis : to_last(rank)) {
        moved.push_back(given[static_cast<size_t>(offset + axis)]);
      }
    }
    std::vector<ValueId> inputs = of.inputs;
    inputs[0] = twins_[inputs[0]];
    inputs[1] = graph_.add_constant("pads", Tensor::from<int64_t>({2 * rank}, moved));
    convert(id, std::move(inputs));
  }

  void convert_slice(NodeId id) {
    const Node& of = node(id);
    const int rank = rank_of(graph_, of.inputs[0]);
    const Tensor* axes = graph_.constant_input(of, 3);
    if (rank < 3 || axes == nullptr) return;
    std::vector<int64_t> moved = axes->to_ints();
    for (int64_t& axis : moved) {
      if (axis < 0) axis += rank;
      if (axis < 0 || axis >= rank) return;
      axis = axis_in_last(axis, rank);
    }
    std::vector<ValueId> inputs = of.inputs;
    inputs[0] = twins_[inputs[0]];
    inputs[3] = graph_.add_constant(
        "axes", Tensor::from<int64_t>({static_cast<int64_t>(moved.size())}, moved));
    convert(id, std::move(inputs));
  }

  // A mean over all spatial axes is a global pool; without the axes, the same numbers in the same
  // order whichever layout they were read from.
  void convert_mean(NodeId id) {
    const Node& of = node(id);
    const int rank = rank_of(graph_, of.inputs[0]);
    if (rank != 4 && rank != 3) return;
    std::vector<int64_t> axes = of.ints_or("axes", {});
    if (const Tensor* given = graph_.constant_input(of, 1)) axes = given->to_ints();
    for (int64_t& axis : axes) axis = axis < 0 ? axis + rank : axis;
    std::sort(axes.begin(), axes.end());
    std::vector<int64_t> spatial;
    for (int i = 2; i < rank; ++i) spatial.push_back(i);
    if (axes != spatial || graph_.value(of.inputs[0]).type.dtype != DType::float32) return;
    const bool keep = of.int_or("keepdims", 1) != 0;
    if (!keep) return;
    Node& edited = graph_.edit(id);
    edited.op_type = "GlobalAveragePool";
    edited.domain = kInternalDomain;
    edited.attributes.clear();
    convert(id, {twins_[edited.inputs[0]]});
  }

  // Scales and sizes are constants, one a dimension.
  void convert_resize(NodeId id) {
    const Node& of = node(id);
    const int rank = rank_of(graph_, of.inputs[0]);
    if (rank < 3 || of.attribute("axes") != nullptr || of.attribute("scales") != nullptr) return;
    std::vector<ValueId> inputs = of.inputs;
    inputs[0] = twins_[inputs[0]];
    for (size_t i = 1; i < inputs.size(); ++i) {
      if (inputs[i] == kNoValue) continue;
      const Tensor* given = graph_.constant_input(of, i);
      if (given == nullptr) return;
      if (given->count() == 0) continue;
      if (given->count() != rank || given->shape().rank() != 1) return;
      Tensor moved = Tensor::allocate(given->dtype(), given->shape());
      const std::vector<int64_t> perm = to_last(rank);
      const TensorData data = given->read();
      const auto element = static_cast<size_t>(info(given->dtype()).bits / 8);
      for (size_t k = 0; k < perm.size(); ++k) {
        std::memcpy(moved.mutable_data() + k * element,
                    static_cast<const std::byte*>(data.view().data) +
                        static_cast<size_t>(perm[k]) * element,
                    element);
      }
      inputs[i] = graph_.add_constant("sizes", std::move(moved));
    }
    convert(id, std::move(inputs));
  }

  // Reshape [N, C, H, W] -> [N, g, C / g, H, W], Transpose of the middle, Reshape back: channels
  // change places, which in channels-last form happens within a pixel.
  void convert_shuffle(NodeId id) {
    const ValueId x = node(id).inputs[0];
    const NodeId turn = only_reader(graph_, node(id).outputs[0]);
    if (!has_twin(x) || turn == kNoNode || !node(turn).is("Transpose")) return;
    const NodeId back = only_reader(graph_, node(turn).outputs[0]);
    if (back == kNoNode || !node(back).is("Reshape")) return;
    const TypeInfo from = graph_.value(x).type;
    const TypeInfo apart = graph_.value(node(id).outputs[0]).type;
    const TypeInfo to = graph_.value(node(back).outputs[0]).type;
    if (!from.has_shape || !apart.has_shape || !to.has_shape || !(from.shape == to.shape)) return;
    if (from.shape.rank() != 4 || apart.shape.rank() != 5) return;
    for (const int i : {1, 2, 3}) {
      if (from.shape[i] < 0) return;
    }
    const int64_t groups = apart.shape[1], each = apart.shape[2];
    const bool splits = groups > 0 && each > 0 && groups * each == from.shape[1] &&
                        apart.shape[0] == from.shape[0] && apart.shape[3] == from.shape[2] &&
                        apart.shape[4] == from.shape[3];
    if (!splits || node(turn).ints_or("perm", {}) != std::vector<int64_t>{0, 2, 1, 3, 4}) return;
    const int64_t height = from.shape[2], width = from.shape[3];
    const auto reshape = [&](ValueId value, std::vector<int64_t> dims) {
      NodeSpec spec;
      spec.op_type = "Reshape";
      const auto rank = static_cast<int64_t>(dims.size());
      spec.inputs = {value, graph_.add_constant("shape", Tensor::from<int64_t>({rank}, dims))};
      spec.outputs = {graph_.value(value).name + "/shuffle"};
      const ValueId made = graph_.node(graph_.add(std::move(spec))).outputs[0];
      TypeInfo type = from;
      type.shape = Shape(dims);
      type.shape[0] = from.shape[0];
      graph_.set_type(made, std::move(type));
      return made;
    };
    const ValueId split = reshape(twins_[x], {0, height, width, groups, each});
    const ValueId turned = transpose(split, {0, 1, 2, 4, 3}, graph_.value(x).name + "/turned");
    const ValueId joined = reshape(turned, {0, height, width, groups * each});
    add_origin(graph_, graph_.value(turned).producer, turn);
    const ValueId out = node(back).outputs[0];
    const ValueId first = transpose(joined, to_first(4), graph_.value(out).name + "/first");
    graph_.set_type(first, to);
    twins_[first] = joined;
    graph_.replace_uses(out, first);
    graph_.erase(back);
    graph_.erase(turn);
    graph_.erase(id);
  }

  // A transpose of a value with a twin reads the twin: often nothing is left to move.
  void fold_transpose(NodeId id) {
    const ValueId from = node(id).inputs[0];
    if (!has_twin(from)) return;
    const int rank = rank_of(graph_, from);
    std::vector<int64_t> perm = node(id).ints_or("perm", {});
    if (perm.empty()) {
      for (int i = rank - 1; i >= 0; --i) perm.push_back(i);
    }
    if (perm.size() != static_cast<size_t>(rank)) return;
    bool identity = true;
    for (size_t i = 0; i < perm.size(); ++i) {
      if (perm[i] < 0 || perm[i] >= rank) return;
      perm[i] = axis_in_last(perm[i], rank);
      identity &= perm[i] == static_cast<int64_t>(i);
    }
    const ValueId to = node(id).outputs[0];
    if (identity && !graph_.is_output(to)) {
      graph_.replace_uses(to, twins_[from]);
      graph_.erase(id);
      return;
    }
    graph_.set_input(id, 0, twins_[from]);
    graph_.edit(id).set_attribute("perm", std::move(perm));
  }

  Graph& graph_;
  const Model& model_;
  std::map<ValueId, ValueId> twins_;  // channels-first value -> channels-last value
};

}  // namespace

void assign_layouts(Graph& graph, const Model& model) { Layouts(graph, model).run(); }

}  // namespace compress::runtime
