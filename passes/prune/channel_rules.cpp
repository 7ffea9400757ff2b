// Operators that pass channels on, each in its own way.
#include <algorithm>
#include <numeric>

#include "compress/error.h"
#include "passes/prune/channel_walk.h"

namespace compress {
namespace {

using Units = std::vector<ChannelUnit>;

// Operators on elements, broadcasting as NumPy does: channels are counted from the last axis.
void elementwise(ChannelWalk& walk, NodeId id) {
  const Node& node = walk.graph.node(id);
  if (node.attribute("broadcast") != nullptr) return walk.lock_inputs(id, "of an old opset");
  const Units* units = nullptr;
  int from_end = 0, rank = 0;
  for (size_t slot = 0; slot < node.inputs.size(); ++slot) {
    if (node.inputs[slot] == kNoValue) continue;
    const std::optional<Shape> shape = walk.shape(node, slot);
    if (!shape) return walk.lock_inputs(id, "with an input of unknown rank");
    rank = std::max(rank, shape->rank());
    const ChannelAxis* axis = walk.channels(node, slot);
    if (axis == nullptr) continue;
    if (axis->units.size() == 1) {  // may be broadcast
      walk.lock(axis->units, "a single channel");
      continue;
    }
    const int at = shape->rank() - axis->axis;
    if (units != nullptr && (at != from_end || units->size() != axis->units.size())) {
      return walk.lock_inputs(id, "along different axes");
    }
    units = units == nullptr ? &axis->units : units;
    from_end = at;
  }
  if (units == nullptr) return;
  const auto count = static_cast<int64_t>(units->size());
  for (size_t slot = 0; slot < node.inputs.size(); ++slot) {
    if (node.inputs[slot] == kNoValue) continue;
    const Shape shape = *walk.shape(node, slot);
    if (shape.rank() < from_end || shape[shape.rank() - from_end] == 1) continue;
    const int axis = shape.rank() - from_end;
    if (const ChannelAxis* own = walk.channels(node, slot)) {
      walk.tie(*units, own->units);
    } else if (walk.constant(node, slot) != nullptr && shape[axis] == count) {
      walk.bind(id, slot, axis, *units, ChannelRole::follows);
    } else {
      return walk.lock_inputs(
          id, fmt::format("beside '{}', which stays", walk.graph.value(node.inputs[slot]).name));
    }
  }
  for (const ValueId value : node.outputs) walk.set(value, rank - from_end, *units);
}

// Scales and biases along axis 1.
void channel_norm(ChannelWalk& walk, NodeId id) {
  const Node& node = walk.graph.node(id);
  const ChannelAxis* inputs = walk.channels(node, 0);
  const bool trains = node.int_or("training_mode", 0) != 0;
  if (inputs == nullptr || inputs->axis != 1 || trains) return walk.lock_inputs(id, "");
  const Units units = inputs->units;
  for (size_t slot = 1; slot < node.inputs.size(); ++slot) {
    const Tensor* tensor = walk.constant(node, slot);
    if (tensor == nullptr || tensor->shape() != Shape{static_cast<int64_t>(units.size())}) {
      return walk.lock_inputs(id, "whose parameters are computed");
    }
  }
  for (size_t slot = 1; slot < node.inputs.size(); ++slot) {
    walk.bind(id, slot, 0, units, ChannelRole::follows);
  }
  walk.set(node.outputs[0], 1, units);
}

// Windows over what comes after axis 1.
void pool(ChannelWalk& walk, NodeId id) {
  const Node& node = walk.graph.node(id);
  const ChannelAxis* inputs = walk.channels(node, 0);
  const bool indices = node.outputs.size() > 1 && node.outputs[1] != kNoValue &&
                       !walk.graph.is_unused(node.outputs[1]);
  if (inputs == nullptr || inputs->axis != 1 || indices) return walk.lock_inputs(id, "");
  walk.set(node.outputs[0], 1, inputs->units);
}

void transpose(ChannelWalk& walk, NodeId id) {
  const Node& node = walk.graph.node(id);
  const ChannelAxis inputs = *walk.channels(node, 0);
  const std::optional<Shape> shape = walk.shape(node, 0);
  if (!shape) return walk.lock_inputs(id, "with an input of unknown rank");
  std::vector<int64_t> order(static_cast<size_t>(shape->rank()));
  std::iota(order.rbegin(), order.rend(), 0);
  order = node.ints_or("perm", order);
  const auto at = std::find(order.begin(), order.end(), inputs.axis);
  if (at == order.end()) return walk.lock_inputs(id, "");
  walk.set(node.outputs[0], static_cast<int>(at - order.begin()), inputs.units);
}

// Softmax and its kin mix along an axis, or from one on.
void mixes_along(ChannelWalk& walk, NodeId id) {
  const Node& node = walk.graph.node(id);
  const ChannelAxis* inputs = walk.channels(node, 0);
  const std::optional<Shape> shape = walk.shape(node, 0);
  const bool is_norm = node.is("LayerNormalization");
  const bool from_axis = is_norm || walk.model.opset() < 13;
  if (inputs == nullptr || !shape) return walk.lock_inputs(id, "");
  const int axis =
      normalize_axis(node.int_or("axis", from_axis && !is_norm ? 1 : -1), shape->rank());
  if (from_axis ? inputs->axis >= axis : inputs->axis == axis) {
    return walk.lock_inputs(id, "which mixes them");
  }
  walk.set(node.outputs[0], inputs->axis, inputs->units);
}

// The axes as numbers in [0, rank), or nullopt where they are not known.
std::optional<std::vector<int>> axes_of(ChannelWalk& walk, const Node& node, size_t slot,
                                        int rank) {
  const auto given = walk.ints(node, "axes", slot);
  if (!given) return {};
  std::vector<int> axes;
  for (const int64_t axis : *given) axes.push_back(normalize_axis(axis, rank));
  return axes;
}

void reduce(ChannelWalk& walk, NodeId id) {
  const Node& node = walk.graph.node(id);
  const ChannelAxis* inputs = walk.channels(node, 0);
  const std::optional<Shape> shape = walk.shape(node, 0);
  if (inputs == nullptr || !shape) return walk.lock_inputs(id, "");
  const auto axes = axes_of(walk, node, 1, shape->rank());
  if (!axes || axes->empty() || std::count(axes->begin(), axes->end(), inputs->axis) > 0) {
    return walk.lock_inputs(id, "which mixes them");
  }
  int axis = inputs->axis;
  if (node.int_or("keepdims", 1) == 0) {
    axis -= static_cast<int>(
        std::count_if(axes->begin(), axes->end(), [&](int a) { return a < inputs->axis; }));
  }
  walk.set(node.outputs[0], axis, inputs->units);
}

void squeeze(ChannelWalk& walk, NodeId id) {
  const Node& node = walk.graph.node(id);
  const ChannelAxis* inputs = walk.channels(node, 0);
  const std::optional<Shape> shape = walk.shape(node, 0);
  if (inputs == nullptr || !shape) return walk.lock_inputs(id, "");
  const auto axes = axes_of(walk, node, 1, shape->rank());
  if (!axes || std::count(axes->begin(), axes->end(), inputs->axis) > 0) {
    return walk.lock_inputs(id, "");
  }
  const auto before =
      std::count_if(axes->begin(), axes->end(), [&](int a) { return a < inputs->axis; });
  walk.set(node.outputs[0], inputs->axis - static_cast<int>(before), inputs->units);
}

void unsqueeze(ChannelWalk& walk, NodeId id) {
  const Node& node = walk.graph.node(id);
  const ChannelAxis* inputs = walk.channels(node, 0);
  const std::optional<Shape> shape = walk.shape(node, 0);
  const auto given = walk.ints(node, "axes", 1);
  if (inputs == nullptr || !shape || !given) return walk.lock_inputs(id, "");
  const int rank = shape->rank() + static_cast<int>(given->size());
  std::set<int> added;
  for (const int64_t axis : *given) added.insert(normalize_axis(axis, rank));
  int axis = -1;
  for (int left = inputs->axis; left >= 0; --left) {
    do ++axis;
    while (added.count(axis) > 0);
  }
  walk.set(node.outputs[0], axis, inputs->units);
}

void concat(ChannelWalk& walk, NodeId id) {
  const Node& node = walk.graph.node(id);
  const std::optional<Shape> made = walk.shape(node.outputs[0]);
  if (!made) return walk.lock_inputs(id, "of unknown rank");
  const int along = normalize_axis(node.int_or("axis", 0), made->rank());
  int axis = -1;
  for (size_t slot = 0; slot < node.inputs.size(); ++slot) {
    const ChannelAxis* own = walk.channels(node, slot);
    if (own == nullptr) continue;
    if (axis >= 0 && own->axis != axis) return walk.lock_inputs(id, "along different axes");
    axis = own->axis;
  }
  Units units;
  for (size_t slot = 0; slot < node.inputs.size(); ++slot) {
    const ChannelAxis* own = walk.channels(node, slot);
    const std::optional<Shape> shape = walk.shape(node, slot);
    if (axis == along) {
      if (own == nullptr && (!shape || (*shape)[axis] < 0)) {
        return walk.lock_inputs(id, "of unknown size");
      }
      if (own != nullptr) {
        units.insert(units.end(), own->units.begin(), own->units.end());
        continue;
      }
      for (int64_t i = 0; i < (*shape)[axis]; ++i) {
        units.push_back(walk.out.units.add());
        walk.out.units.lock(units.back(), "joined to channels that stay");
      }
    } else if (own == nullptr || (!units.empty() && units.size() != own->units.size())) {
      return walk.lock_inputs(id, "beside what stays");
    } else if (units.empty()) {
      units = own->units;
    } else {
      walk.tie(units, own->units);
    }
  }
  walk.set(node.outputs[0], axis, units);
}

// Pieces along channels keep what is left of each; their sizes are then written out.
void split(ChannelWalk& walk, NodeId id) {
  const Node& node = walk.graph.node(id);
  const ChannelAxis inputs = *walk.channels(node, 0);
  const std::optional<Shape> shape = walk.shape(node, 0);
  if (!shape) return walk.lock_inputs(id, "with an input of unknown rank");
  if (normalize_axis(node.int_or("axis", 0), shape->rank()) != inputs.axis) {
    for (const ValueId piece : node.outputs) walk.set(piece, inputs.axis, inputs.units);
    return;
  }
  std::vector<int64_t> sizes;
  int64_t sum = 0;
  for (const ValueId piece : node.outputs) {
    const std::optional<Shape> of_piece = walk.shape(piece);
    if (!of_piece || (*of_piece)[inputs.axis] < 0) return walk.lock_inputs(id, "of unknown sizes");
    sizes.push_back((*of_piece)[inputs.axis]);
    sum += sizes.back();
  }
  if (sum != static_cast<int64_t>(inputs.units.size())) return walk.lock_inputs(id, "");
  auto from = inputs.units.begin();
  for (size_t i = 0; i < sizes.size(); ++i) {
    walk.set(node.outputs[i], inputs.axis, Units(from, from + sizes[i]));
    from += sizes[i];
  }
  const bool as_input = walk.model.opset() >= 13;
  walk.edit([id, units = inputs.units, sizes, as_input](Graph& graph, const KeptChannels& kept) {
    std::vector<int64_t> left;
    size_t at = 0;
    for (const int64_t size : sizes) {
      left.push_back(kept.count(units, at, at + static_cast<size_t>(size)));
      at += static_cast<size_t>(size);
    }
    if (left == sizes) return;
    if (!as_input) return graph.edit(id).set_attribute("split", left);
    graph.edit(id).remove_attribute("num_outputs");
    const auto count = static_cast<int64_t>(left.size());
    graph.set_input(
        id, 1,
        graph.add_constant(graph.node(id).name + "_sizes", Tensor::from<int64_t>({count}, left)));
  });
}

void slice(ChannelWalk& walk, NodeId id) {
  const Node& node = walk.graph.node(id);
  const ChannelAxis inputs = *walk.channels(node, 0);
  const std::optional<Shape> shape = walk.shape(node, 0);
  const auto starts = walk.ints(node, "starts", 1), ends = walk.ints(node, "ends", 2);
  if (!shape || !starts || !ends || starts->size() != ends->size()) {
    return walk.lock_inputs(id, "with computed bounds");
  }
  std::vector<int> axes(starts->size());
  std::iota(axes.begin(), axes.end(), 0);
  if (node.attribute("axes") != nullptr || operand(node, 3) != kNoValue) {
    const auto given = axes_of(walk, node, 3, shape->rank());
    if (!given || given->size() != starts->size()) {
      return walk.lock_inputs(id, "with computed bounds");
    }
    axes = *given;
  }
  const auto at =
      static_cast<size_t>(std::find(axes.begin(), axes.end(), inputs.axis) - axes.begin());
  if (at == axes.size()) return walk.set(node.outputs[0], inputs.axis, inputs.units);
  const auto steps = walk.ints(node, "steps", 4);
  const bool has_steps = operand(node, 4) != kNoValue;
  if (has_steps && (!steps || steps->size() != axes.size() || (*steps)[at] != 1)) {
    return walk.lock_inputs(id, "with steps");
  }
  const auto size = static_cast<int64_t>(inputs.units.size());
  const auto bounded = [&](int64_t bound) {
    return std::clamp<int64_t>(bound < 0 ? bound + size : bound, 0, size);
  };
  const auto from = static_cast<size_t>(bounded((*starts)[at]));
  const size_t to = std::max(from, static_cast<size_t>(bounded((*ends)[at])));
  if (from == to) return walk.lock_inputs(id, "which takes none");
  walk.set(node.outputs[0], inputs.axis,
           Units(inputs.units.begin() + static_cast<int64_t>(from),
                 inputs.units.begin() + static_cast<int64_t>(to)));
  walk.edit([=, units = inputs.units, starts = *starts, ends = *ends](
                Graph& graph, const KeptChannels& kept) mutable {
    starts[at] = kept.count(units, 0, from);
    ends[at] = starts[at] + kept.count(units, from, to);
    const auto count = static_cast<int64_t>(starts.size());
    if (graph.node(id).attribute("starts") != nullptr) {
      graph.edit(id).set_attribute("starts", starts);
      return graph.edit(id).set_attribute("ends", ends);
    }
    const std::string name = graph.node(id).name;
    for (size_t slot = 1; slot <= 2; ++slot) {
      const Tensor* before = graph.constant_input(graph.node(id), slot);
      const DType dtype = before->dtype();
      const Tensor bounds = Tensor::from<int64_t>({count}, slot == 1 ? starts : ends);
      graph.set_input(
          id, slot,
          graph.add_constant(name + (slot == 1 ? "_starts" : "_ends"), convert(bounds, dtype)));
    }
  });
}

void pad(ChannelWalk& walk, NodeId id) {
  const Node& node = walk.graph.node(id);
  const ChannelAxis* inputs = walk.channels(node, 0);
  const std::optional<Shape> shape = walk.shape(node, 0);
  const char* name = node.attribute("paddings") != nullptr ? "paddings" : "pads";
  const auto pads = walk.ints(node, name, 1);
  if (inputs == nullptr || !shape || !pads || operand(node, 3) != kNoValue ||
      static_cast<int>(pads->size()) != 2 * shape->rank()) {
    return walk.lock_inputs(id, "with computed pads");
  }
  const auto at = static_cast<size_t>(inputs->axis);
  if ((*pads)[at] != 0 || (*pads)[at + static_cast<size_t>(shape->rank())] != 0) {
    return walk.lock_inputs(id, "which adds to them");
  }
  walk.set(node.outputs[0], inputs->axis, inputs->units);
}

// Sizes of images change, by scales.
void resize(ChannelWalk& walk, NodeId id) {
  const Node& node = walk.graph.node(id);
  const ChannelAxis* inputs = walk.channels(node, 0);
  const size_t slot = node.is("Upsample") || walk.model.opset() < 11 ? 1 : 2;
  const Tensor* scales = walk.constant(node, slot);
  std::vector<double> factors;
  if (scales != nullptr && is_float(scales->dtype())) factors = scales->to_doubles();
  const std::vector<float> given = node.floats_or("scales", {});
  if (!given.empty()) factors.assign(given.begin(), given.end());
  if (inputs == nullptr || node.attribute("axes") != nullptr ||
      factors.size() <= static_cast<size_t>(inputs->axis) ||
      factors[static_cast<size_t>(inputs->axis)] != 1) {
    return walk.lock_inputs(id, "whose scales are not plain");
  }
  walk.set(node.outputs[0], inputs->axis, inputs->units);
}

// A table lookup along another axis.
void gather(ChannelWalk& walk, NodeId id) {
  const Node& node = walk.graph.node(id);
  const ChannelAxis* inputs = walk.channels(node, 0);
  const std::optional<Shape> shape = walk.shape(node, 0), indices = walk.shape(node, 1);
  if (inputs == nullptr || !shape || !indices) return walk.lock_inputs(id, "");
  const int along = normalize_axis(node.int_or("axis", 0), shape->rank());
  if (along == inputs->axis) return walk.lock_inputs(id, "which picks some of them");
  const int shift = along < inputs->axis ? indices->rank() - 1 : 0;
  walk.set(node.outputs[0], inputs->axis + shift, inputs->units);
}

constexpr ChannelRule kRules[] = {
    {"Abs", elementwise, true},
    {"Add", elementwise, true},
    {"AveragePool", pool},
    {"BatchNormalization", channel_norm},
    {"Cast", elementwise, true},
    {"Ceil", elementwise, true},
    {"Celu", elementwise, true},
    {"Clip", elementwise, true},
    {"Concat", concat, true},
    {"Cos", elementwise, true},
    {"Div", elementwise, true},
    {"Dropout", elementwise, true},
    {"Elu", elementwise, true},
    {"Equal", elementwise, true},
    {"Erf", elementwise, true},
    {"Exp", elementwise, true},
    {"Expand", expand_channels},
    {"Flatten", reshape_channels},
    {"Floor", elementwise, true},
    {"Gather", gather},
    {"Gelu", elementwise, true},
    {"GlobalAveragePool", pool},
    {"GlobalLpPool", pool},
    {"GlobalMaxPool", pool},
    {"Greater", elementwise, true},
    {"HardSigmoid", elementwise, true},
    {"HardSwish", elementwise, true},
    {"Identity", elementwise, true},
    {"InstanceNormalization", channel_norm},
    {"LayerNormalization", mixes_along},
    {"LeakyRelu", elementwise, true},
    {"Less", elementwise, true},
    {"Log", elementwise, true},
    {"LogSoftmax", mixes_along},
    {"LpPool", pool},
    {"Max", elementwise, true},
    {"MaxPool", pool},
    {"Mean", elementwise, true},
    {"Min", elementwise, true},
    {"Mish", elementwise, true},
    {"Mul", elementwise, true},
    {"Neg", elementwise, true},
    {"PRelu", elementwise, true},
    {"Pad", pad},
    {"Pow", elementwise, true},
    {"Reciprocal", elementwise, true},
    {"ReduceL1", reduce},
    {"ReduceL2", reduce},
    {"ReduceMax", reduce},
    {"ReduceMean", reduce},
    {"ReduceMin", reduce},
    {"ReduceSum", reduce},
    {"Relu", elementwise, true},
    {"Reshape", reshape_channels},
    {"Resize", resize},
    {"Round", elementwise, true},
    {"Selu", elementwise, true},
    {"Shape", shape_of_channels},
    {"Sigmoid", elementwise, true},
    {"Sign", elementwise, true},
    {"Sin", elementwise, true},
    {"Slice", slice},
    {"Softmax", mixes_along},
    {"Softplus", elementwise, true},
    {"Softsign", elementwise, true},
    {"Split", split},
    {"Sqrt", elementwise, true},
    {"Squeeze", squeeze},
    {"Sub", elementwise, true},
    {"Sum", elementwise, true},
    {"Swish", elementwise, true},
    {"Tanh", elementwise, true},
    {"ThresholdedRelu", elementwise, true},
    {"Transpose", transpose},
    {"Unsqueeze", unsqueeze},
    {"Upsample", resize},
    {"Where", elementwise, true},
};

}  // namespace

const ChannelRule* find_channel_rule(std::string_view op) {
  const auto row = std::find_if(std::begin(kRules), std::end(kRules),
                                [&](const ChannelRule& rule) { return rule.op == op; });
  return row == std::end(kRules) ? nullptr : row;
}

}  // namespace compress
