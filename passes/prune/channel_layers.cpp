// Layers with weights: what they read they sum over, what they make is new.
#include <algorithm>

#include "compress/error.h"
#include "passes/prune/channel_walk.h"

namespace compress {
namespace {

using Units = std::vector<ChannelUnit>;

// Weights that can be cut: floating-point constants of a known form.
const Tensor* weights_of(ChannelWalk& walk, NodeId id, int least_rank, int most_rank) {
  const Tensor* weights = walk.constant(walk.graph.node(id), 1);
  std::string reason;
  if (weights == nullptr) {
    reason = "its weights are computed or quantized";
  } else if (!is_float(weights->dtype()) || info(weights->dtype()).bits < 16) {
    reason = fmt::format("weights of type {}", info(weights->dtype()).name);
  } else if (weights->shape().rank() < least_rank || weights->shape().rank() > most_rank) {
    reason = fmt::format("weights of shape {}", weights->shape().to_string());
  } else if (weights->count() == 0) {
    reason = "empty weights";
  }
  if (reason.empty()) return weights;
  walk.lock_inputs(id, "whose weights cannot be cut");
  walk.skip(id, reason);
  return nullptr;
}

// The channels along `axis` of input 0, if there are `count` of them; others stay.
const ChannelAxis* inputs_of(ChannelWalk& walk, NodeId id, int axis, int64_t count) {
  const ChannelAxis* inputs = walk.channels(walk.graph.node(id), 0);
  if (inputs == nullptr) return nullptr;
  if (inputs->axis == axis && static_cast<int64_t>(inputs->units.size()) == count) return inputs;
  walk.lock(inputs->units, "a layer reads them along another axis");
  return nullptr;
}

// A bias [count] goes with what the layer makes; a computed one holds that whole.
void bind_bias(ChannelWalk& walk, NodeId id, const Units& made) {
  const Node& node = walk.graph.node(id);
  if (operand(node, 2) == kNoValue) return;
  const Tensor* bias = walk.constant(node, 2);
  if (bias != nullptr && bias->shape() == Shape{static_cast<int64_t>(made.size())}) {
    walk.bind(id, 2, 0, made, ChannelRole::follows);
  } else {
    walk.lock(made, "its bias is computed");
  }
}

Units repeated(const Units& units, int64_t each) {
  Units out;
  for (const ChannelUnit unit : units) out.insert(out.end(), static_cast<size_t>(each), unit);
  return out;
}

Units tiled(const Units& units, int64_t times) {
  Units out;
  for (int64_t i = 0; i < times; ++i) out.insert(out.end(), units.begin(), units.end());
  return out;
}

// One filter (or several) for each channel: as many groups as channels stay.
void depthwise(ChannelWalk& walk, NodeId id, int64_t multiplier, const ChannelAxis& inputs) {
  const Units made = repeated(inputs.units, multiplier);
  const bool transposed = walk.graph.node(id).is("ConvTranspose");
  walk.bind(id, 1, 0, transposed ? inputs.units : made, ChannelRole::makes);
  bind_bias(walk, id, made);
  walk.edit([id, units = inputs.units](Graph& graph, const KeptChannels& kept) {
    graph.edit(id).set_attribute("group", kept.count(units));
  });
  walk.set(walk.graph.node(id).outputs[0], 1, made);
}

void conv(ChannelWalk& walk, NodeId id) {
  const Node& node = walk.graph.node(id);
  const Tensor* weights = weights_of(walk, id, 3, kMaxRank);
  if (weights == nullptr) return;
  const int64_t groups = std::max<int64_t>(1, node.int_or("group", 1));
  const int64_t outputs = weights->shape()[0], group_inputs = weights->shape()[1];
  const ChannelAxis* inputs = inputs_of(walk, id, 1, group_inputs * groups);
  if (groups > 1 && group_inputs == 1) {
    if (inputs != nullptr) depthwise(walk, id, outputs / groups, *inputs);
    return;
  }
  if (inputs != nullptr) {
    // Each group loses the same of its inputs.
    const Units first(inputs->units.begin(), inputs->units.begin() + group_inputs);
    walk.tie(inputs->units, tiled(first, groups));
    walk.bind(id, 1, 1, first, ChannelRole::reads);
  }
  const Units made = tiled(walk.make(id, outputs / groups), groups);
  if (static_cast<int64_t>(made.size()) != outputs) return walk.lock(made, "uneven groups");
  walk.bind(id, 1, 0, made, ChannelRole::makes);
  bind_bias(walk, id, made);
  walk.set(node.outputs[0], 1, made);
}

void conv_transpose(ChannelWalk& walk, NodeId id) {
  const Node& node = walk.graph.node(id);
  const Tensor* weights = weights_of(walk, id, 3, kMaxRank);
  if (weights == nullptr) return;
  const int64_t groups = std::max<int64_t>(1, node.int_or("group", 1));
  const ChannelAxis* inputs = inputs_of(walk, id, 1, weights->shape()[0]);
  if (groups > 1) {
    if (weights->shape()[0] != groups) {
      walk.lock_inputs(id, "which has groups");
      return walk.skip(id, "a ConvTranspose of several groups");
    }
    if (inputs != nullptr) depthwise(walk, id, weights->shape()[1], *inputs);
    return;
  }
  if (inputs != nullptr) walk.bind(id, 1, 0, inputs->units, ChannelRole::reads);
  const Units made = walk.make(id, weights->shape()[1]);
  walk.bind(id, 1, 1, made, ChannelRole::makes);
  bind_bias(walk, id, made);
  walk.set(node.outputs[0], 1, made);
}

void gemm(ChannelWalk& walk, NodeId id) {
  const Node& node = walk.graph.node(id);
  if (node.int_or("transA", 0) != 0) {
    walk.lock_inputs(id, "which transposes them");
    return walk.skip(id, "its input is transposed");
  }
  const Tensor* weights = weights_of(walk, id, 2, 2);
  if (weights == nullptr) return;
  const int reduction = node.int_or("transB", 0) != 0 ? 1 : 0;
  if (const ChannelAxis* inputs = inputs_of(walk, id, 1, weights->shape()[reduction])) {
    walk.bind(id, 1, reduction, inputs->units, ChannelRole::reads);
  }
  const Units made = walk.make(id, weights->shape()[1 - reduction]);
  walk.bind(id, 1, 1 - reduction, made, ChannelRole::makes);
  if (operand(node, 2) != kNoValue) {
    const Tensor* bias = walk.constant(node, 2);
    const int rank = bias == nullptr ? -1 : bias->shape().rank();
    const int64_t last = rank > 0 ? bias->shape()[rank - 1] : 1;
    if (rank > 0 && last == static_cast<int64_t>(made.size())) {
      walk.bind(id, 2, rank - 1, made, ChannelRole::follows);
    } else if (rank < 0 || last != 1) {
      walk.lock(made, "its bias is computed");
      if (const ChannelAxis* added = walk.channels(node, 2)) {
        walk.lock(added->units, "a Gemm adds them as its bias");
      }
    }
  }
  walk.set(node.outputs[0], 1, made);
}

// A product of activations leaves its matrices as they are. Axes ahead of them are batches: heads
// of attention, which go together in both operands, or in one where the other is the same for all.
void product(ChannelWalk& walk, NodeId id) {
  const Node& node = walk.graph.node(id);
  if (!walk.heads) return walk.lock_inputs(id, "a product of activations");
  const Units* units = nullptr;
  int from_end = 0, rank = 0;
  for (size_t slot = 0; slot < 2; ++slot) {
    const std::optional<Shape> shape = walk.shape(node, slot);
    if (!shape) return walk.lock_inputs(id, "with an input of unknown rank");
    rank = std::max(rank, shape->rank());
    const ChannelAxis* own = walk.channels(node, slot);
    if (own == nullptr) continue;
    const int at = shape->rank() - own->axis;
    if (at <= 2 || own->units.size() == 1) {
      walk.lock(own->units, "a product of activations reads them within a head");
      continue;
    }
    if (units != nullptr && (at != from_end || units->size() != own->units.size())) {
      return walk.lock_inputs(id, "along different axes");
    }
    units = &own->units;
    from_end = at;
  }
  if (units == nullptr) return;
  for (size_t slot = 0; slot < 2; ++slot) {
    const Shape shape = *walk.shape(node, slot);
    if (shape.rank() < from_end || shape[shape.rank() - from_end] == 1) continue;
    const ChannelAxis* own = walk.channels(node, slot);
    if (own == nullptr || shape.rank() - own->axis != from_end) {
      return walk.lock_inputs(id, "beside what stays");
    }
    walk.tie(*units, own->units);
  }
  walk.mark_heads(*units);
  walk.set(node.outputs[0], rank - from_end, *units);
}

void matmul(ChannelWalk& walk, NodeId id) {
  const Node& node = walk.graph.node(id);
  if (walk.constant(node, 1) == nullptr) return product(walk, id);
  const Tensor* weights = weights_of(walk, id, 2, 2);
  if (weights == nullptr) return;
  const std::optional<Shape> input = walk.shape(node, 0);
  if (!input || input->rank() < 1) {
    walk.lock_inputs(id, "whose input has no known rank");
    return walk.skip(id, "the rank of its input is not known");
  }
  const int last = input->rank() - 1;
  if (const ChannelAxis* inputs = inputs_of(walk, id, last, weights->shape()[0])) {
    walk.bind(id, 1, 0, inputs->units, ChannelRole::reads);
  }
  const Units made = walk.make(id, weights->shape()[1]);
  walk.bind(id, 1, 1, made, ChannelRole::makes);
  walk.set(node.outputs[0], last, made);
}

constexpr ChannelRule kRules[] = {
    {"Conv", conv},
    {"ConvTranspose", conv_transpose},
    {"Gemm", gemm},
    {"MatMul", matmul, true},
};

}  // namespace

const ChannelRule* find_layer_rule(std::string_view op) {
  const auto row = std::find_if(std::begin(kRules), std::end(kRules),
                                [&](const ChannelRule& rule) { return rule.op == op; });
  return row == std::end(kRules) ? nullptr : row;
}

}  // namespace compress
