#include "passes/prune/channels.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "compress/error.h"
#include "compress/graph/label.h"
#include "passes/prune/channel_walk.h"

namespace compress {

// --- Units ---------------------------------------------------------------------------------------

ChannelUnit ChannelUnits::add() {
  parents_.push_back(static_cast<ChannelUnit>(parents_.size()));
  return parents_.back();
}

ChannelUnit ChannelUnits::find(ChannelUnit unit) const {
  const auto parent = [&](ChannelUnit u) -> ChannelUnit& {
    return parents_[static_cast<size_t>(u)];
  };
  while (parent(unit) != unit) unit = parent(unit) = parent(parent(unit));
  return unit;
}

void ChannelUnits::tie(ChannelUnit a, ChannelUnit b) {
  a = find(a);
  b = find(b);
  if (a == b) return;
  if (b < a) std::swap(a, b);  // the oldest represents, whatever the order
  parents_[static_cast<size_t>(b)] = a;
  if (const auto row = reasons_.find(b); row != reasons_.end()) {
    reasons_.emplace(a, row->second);
    reasons_.erase(b);
  }
}

void ChannelUnits::lock(ChannelUnit unit, const std::string& reason) {
  reasons_.emplace(find(unit), reason);
}

const std::string& ChannelUnits::reason(ChannelUnit unit) const {
  static const std::string kNone;
  const auto row = reasons_.find(find(unit));
  return row == reasons_.end() ? kNone : row->second;
}

int64_t KeptChannels::count(const std::vector<ChannelUnit>& positions, size_t from,
                            size_t to) const {
  int64_t kept = 0;
  for (size_t i = from; i < to; ++i) kept += keeps(positions[i]);
  return kept;
}

// --- The walk ------------------------------------------------------------------------------------

const ChannelAxis* ChannelWalk::channels(ValueId id) const {
  const auto row = out.values.find(id);
  return row == out.values.end() ? nullptr : &row->second;
}

const Tensor* ChannelWalk::constant(const Node& node, size_t slot) const {
  return slot < node.inputs.size() ? graph.constant_input(node, slot) : nullptr;
}

std::optional<std::vector<int64_t>> ChannelWalk::ints(const Node& node, std::string_view attribute,
                                                      size_t slot) const {
  if (node.attribute(attribute) != nullptr) return node.ints_or(attribute, {});
  if (operand(node, slot) == kNoValue) return {};
  const Tensor* tensor = constant(node, slot);
  if (tensor == nullptr || !is_integer(tensor->dtype())) return {};
  return tensor->to_ints();
}

std::optional<Shape> ChannelWalk::shape(ValueId id) const {
  if (id == kNoValue) return {};
  const Value& value = graph.value(id);
  if (value.is_constant()) return value.constant.shape();
  if (!value.type.has_shape) return {};
  return value.type.shape;
}

void ChannelWalk::lock(const std::vector<ChannelUnit>& units, const std::string& reason) {
  for (const ChannelUnit unit : units) out.units.lock(unit, reason);
}

void ChannelWalk::lock_inputs(NodeId id, const std::string& why) {
  const Node& node = graph.node(id);
  const std::string reason =
      fmt::format("read by {}{}{}", describe(graph, node), why.empty() ? "" : ", ", why);
  Graph::for_each_operand(node, [&](int32_t, ValueId value) {
    if (const ChannelAxis* axis = channels(value)) lock(axis->units, reason);
  });
}

void ChannelWalk::tie(const std::vector<ChannelUnit>& a, const std::vector<ChannelUnit>& b) {
  for (size_t i = 0; i < a.size(); ++i) out.units.tie(a[i], b[i]);
}

std::vector<ChannelUnit> ChannelWalk::make(NodeId id, int64_t count) {
  std::vector<ChannelUnit> units(static_cast<size_t>(count));
  for (ChannelUnit& unit : units) unit = out.units.add();
  out.origins.push_back({id, units});
  const Node& node = graph.node(id);
  std::string reason = selection.wants_op(node.op_type, true) ? "" : "not among --op-types";
  if (reason.empty()) reason = selection.refusal(node);
  if (!reason.empty()) lock(units, reason);
  return units;
}

void ChannelWalk::bind(NodeId id, size_t slot, int axis, const std::vector<ChannelUnit>& units,
                       ChannelRole role) {
  const ValueId value = graph.node(id).inputs[slot];
  const auto [row, is_new] =
      bound_.emplace(std::pair(value, axis), Bound{out.constants.size(), {}});
  row->second.readers.emplace(id, static_cast<int32_t>(slot));
  if (is_new) {
    out.constants.push_back({value, role, {axis, units}, id});
  } else {
    tie(out.constants[row->second.row].axis.units, units);
  }
}

void ChannelWalk::set(ValueId id, int axis, std::vector<ChannelUnit> units) {
  if (id != kNoValue) out.values[id] = {axis, std::move(units)};
}

void ChannelWalk::skip(NodeId id, std::string reason) {
  out.skipped.push_back({label(graph, graph.node(id)), std::move(reason)});
}

void ChannelWalk::mark_heads(const std::vector<ChannelUnit>& units) {
  heads_.insert(heads_.end(), units.begin(), units.end());
}

void ChannelWalk::keep_all_but_heads() {
  std::set<ChannelUnit> found;
  for (const ChannelUnit unit : heads_) found.insert(out.units.find(unit));
  for (const ChannelOrigin& origin : out.origins) {
    for (const ChannelUnit unit : origin.units) {
      if (found.count(out.units.find(unit)) == 0) out.units.lock(unit, "no heads of attention");
    }
  }
}

void ChannelWalk::visit(NodeId id) {
  const Node& node = graph.node(id);
  bool reads_channels = false;
  Graph::for_each_operand(
      node, [&](int32_t, ValueId value) { reads_channels |= channels(value) != nullptr; });
  const bool is_plain = node.domain.empty() && node.bodies.empty() && !node.inputs.empty() &&
                        !node.outputs.empty() && model.find_function(node) == nullptr;
  const ChannelRule* rule = is_plain ? find_layer_rule(node.op_type) : nullptr;
  if (rule == nullptr && !reads_channels) return;
  if (rule == nullptr && is_plain) rule = find_channel_rule(node.op_type);
  if (rule == nullptr) return lock_inputs(id, "");
  for (size_t slot = 1; slot < node.inputs.size() && !rule->by_any_input; ++slot) {
    if (const ChannelAxis* axis = channels(node, slot)) {
      lock(axis->units, fmt::format("read by {}", describe(graph, node)));
    }
  }
  if (!rule->by_any_input && channels(node, 0) == nullptr && find_layer_rule(rule->op) == nullptr) {
    return;
  }
  rule->visit(*this, id);
}

// A constant that somebody else reads as well keeps its shape.
void ChannelWalk::check_constants() {
  for (const ChannelConstant& row : out.constants) {
    const auto& known = bound_.at({row.value, row.axis.axis}).readers;
    std::string reason = graph.is_output(row.value) ? "its weights are an output of the model"
                         : graph.value(row.value).is_input ? "its weights are an input of the model"
                                                           : "";
    for (const Use& use : graph.uses(row.value)) {
      if (known.count({use.node, use.slot}) > 0) continue;
      reason = "its weights are also read by " + describe(graph, graph.node(use.node));
    }
    if (!reason.empty()) lock(row.axis.units, reason);
  }
}

void ChannelWalk::run() {
  for (const NodeId id : graph.order()) visit(id);
  for (const ValueId id : graph.outputs()) {
    if (const ChannelAxis* axis = channels(id)) {
      lock(axis->units, fmt::format("channels of the output '{}'", graph.value(id).name));
    }
  }
  check_constants();
  check_asked();
  if (heads) keep_all_but_heads();
}

ChannelGraph find_channels(const Model& model, const Selection& selection, bool heads) {
  ChannelGraph out;
  ChannelWalk(model, selection, heads, out).run();
  return out;
}

// --- Cutting -------------------------------------------------------------------------------------

namespace {

// The positions of an axis that stay.
Tensor select_along(const Tensor& tensor, int axis, const std::vector<int64_t>& positions) {
  Shape shape = tensor.shape();
  const int64_t inner = shape.count(axis + 1, shape.rank()), size = shape[axis];
  const int64_t outer = shape.count(0, axis);
  shape[axis] = static_cast<int64_t>(positions.size());
  Tensor out = Tensor::allocate(tensor.dtype(), shape);
  const size_t run =
      static_cast<size_t>(inner) * static_cast<size_t>(info(tensor.dtype()).bits / 8);
  const TensorData data = tensor.read();
  const std::byte* from = data.bytes().data();
  std::byte* to = out.mutable_data();
  for (int64_t o = 0; o < outer && run > 0; ++o) {
    for (const int64_t position : positions) {
      std::memcpy(to, from + static_cast<size_t>(o * size + position) * run, run);
      to += run;
    }
  }
  return out;
}

}  // namespace

void cut_channels(Model& model, const ChannelGraph& channels, const KeptChannels& kept) {
  Graph& graph = model.graph;
  for (const auto& change : channels.edits) change(graph, kept);
  for (const ChannelConstant& row : channels.constants) {
    std::vector<int64_t> positions;
    for (size_t i = 0; i < row.axis.units.size(); ++i) {
      if (kept.keeps(row.axis.units[i])) positions.push_back(static_cast<int64_t>(i));
    }
    if (positions.size() == row.axis.units.size()) continue;
    graph.set_constant(row.value,
                       select_along(graph.value(row.value).constant, row.axis.axis, positions));
  }
  for (const auto& [id, axis] : channels.values) {
    const int64_t count = kept.count(axis.units);
    TypeInfo type = graph.value(id).type;
    if (!type.has_shape || type.shape[axis.axis] == count) continue;
    type.shape[axis.axis] = count;
    graph.set_type(id, type);
    graph.set_wire(id, "");
  }
}

}  // namespace compress
