#include "compress/graph/graph.h"

#include <algorithm>
#include <cassert>

#include "compress/error.h"
#include "compress/graph/label.h"

namespace compress {
namespace {

size_t operand_count(const Node& node) {
  size_t count = node.inputs.size();
  for (const Body& body : node.bodies) count += body.captures.size();
  return count;
}

}  // namespace

Graph::Graph(const Graph& other) { *this = other; }

Graph& Graph::operator=(const Graph& other) {
  if (this == &other) return *this;
  name = other.name;
  doc_string = other.doc_string;
  unknown_fields = other.unknown_fields;
  nodes_ = other.nodes_;
  values_ = other.values_;
  uses_ = other.uses_;
  use_slots_ = other.use_slots_;
  output_counts_ = other.output_counts_;
  inputs_ = other.inputs_;
  outputs_ = other.outputs_;
  value_names_ = other.value_names_;
  node_names_ = other.node_names_;
  symbols_ = other.symbols_;
  order_ = other.order_;
  sorted_slots_ = other.sorted_slots_;
  order_dirty_ = other.order_dirty_;
  live_nodes_ = other.live_nodes_;
  for (Node& node : nodes_) {
    for (Body& body : node.bodies) body.graph = std::make_shared<Graph>(*body.graph);
  }
  return *this;
}

ValueId Graph::find_value(std::string_view value_name) const {
  const auto entry = value_names_.find(std::string(value_name));
  return entry == value_names_.end() ? kNoValue : entry->second;
}

const Tensor* Graph::constant_input(const Node& node, size_t slot) const {
  if (slot >= node.inputs.size() || node.inputs[slot] == kNoValue) return nullptr;
  const Value& input = value(node.inputs[slot]);
  return input.is_constant() ? &input.constant : nullptr;
}

ValueId& Graph::operand(Node& node, int32_t slot) {
  size_t index = static_cast<size_t>(slot);
  if (index < node.inputs.size()) return node.inputs[index];
  index -= node.inputs.size();
  for (Body& body : node.bodies) {
    if (index < body.captures.size()) return body.captures[index].outer;
    index -= body.captures.size();
  }
  assert(false && "operand slot out of range");
  return node.inputs[0];
}

// --- Order ---------------------------------------------------------------------------------------

// Depth first from each node in the order of before: what a node reads is emitted ahead of it. An
// order that is valid already stays as it is, and a new node lands just before its first reader.
const std::vector<NodeId>& Graph::order() const {
  if (!order_dirty_) return order_;
  enum : uint8_t { kNew, kOpen, kDone };
  std::vector<uint8_t> state(nodes_.size(), kNew);
  std::vector<NodeId> sorted;
  sorted.reserve(static_cast<size_t>(live_nodes_));
  struct Frame {
    NodeId node;
    size_t next;
  };
  std::vector<Frame> stack;
  auto& self = const_cast<Graph&>(*this);
  const auto visit = [&](NodeId root) {
    if (!node(root).alive || state[static_cast<size_t>(root)] != kNew) return;
    stack.push_back({root, 0});
    state[static_cast<size_t>(root)] = kOpen;
    while (!stack.empty()) {
      Frame& top = stack.back();
      Node& current = self.nodes_[static_cast<size_t>(top.node)];
      if (top.next == operand_count(current)) {
        state[static_cast<size_t>(top.node)] = kDone;
        sorted.push_back(top.node);
        stack.pop_back();
        continue;
      }
      const ValueId read = self.operand(current, static_cast<int32_t>(top.next++));
      if (read == kNoValue) continue;
      const NodeId producer = value(read).producer;
      if (producer == kNoNode || state[static_cast<size_t>(producer)] == kDone) continue;
      if (state[static_cast<size_t>(producer)] == kOpen) {
        fail(ErrorCode::invalid_model, "the graph has a cycle through {}",
             describe(*this, node(producer)));
      }
      state[static_cast<size_t>(producer)] = kOpen;
      stack.push_back({producer, 0});
    }
  };
  for (const NodeId id : order_) visit(id);
  for (NodeId id = sorted_slots_; id < node_slots(); ++id) visit(id);
  order_ = std::move(sorted);
  sorted_slots_ = node_slots();
  order_dirty_ = false;
  return order_;
}

// --- Uses ----------------------------------------------------------------------------------------

void Graph::connect(NodeId node_id, int32_t slot, ValueId value_id) {
  auto& slots = use_slots_[static_cast<size_t>(node_id)];
  if (slots.size() <= static_cast<size_t>(slot)) slots.resize(static_cast<size_t>(slot) + 1, 0);
  if (value_id == kNoValue) return;
  auto& uses = uses_[static_cast<size_t>(value_id)];
  slots[static_cast<size_t>(slot)] = static_cast<uint32_t>(uses.size());
  uses.push_back({node_id, slot});
}

void Graph::disconnect(NodeId node_id, int32_t slot, ValueId value_id) {
  if (value_id == kNoValue) return;
  auto& uses = uses_[static_cast<size_t>(value_id)];
  const uint32_t at = use_slots_[static_cast<size_t>(node_id)][static_cast<size_t>(slot)];
  const Use last = uses.back();
  uses[at] = last;
  use_slots_[static_cast<size_t>(last.node)][static_cast<size_t>(last.slot)] = at;
  uses.pop_back();
}

// --- Verbs ---------------------------------------------------------------------------------------

ValueId Graph::new_value(std::string value_name, TypeInfo type) {
  const ValueId id = value_slots();
  if (!value_name.empty()) {
    const bool fresh = value_names_.emplace(value_name, id).second;
    if (!fresh) fail(ErrorCode::invalid_model, "two values are named '{}'", value_name);
  }
  Value value;
  value.name = std::move(value_name);
  value.type = std::move(type);
  values_.push_back(std::move(value));
  uses_.emplace_back();
  output_counts_.push_back(0);
  return id;
}

NodeId Graph::new_node(Node node) {
  const NodeId id = node_slots();
  node.alive = true;
  if (!node.name.empty()) ++node_names_[node.name];
  nodes_.push_back(std::move(node));
  use_slots_.emplace_back();
  Node& stored = nodes_.back();
  for (size_t i = 0; i < stored.outputs.size(); ++i) {
    if (stored.outputs[i] == kNoValue) continue;
    Value& output = values_[static_cast<size_t>(stored.outputs[i])];
    if (output.producer != kNoNode || output.is_constant() || output.is_input) {
      fail(ErrorCode::invalid_model, "value '{}' is produced twice, the second time by {}",
           output.name, describe(*this, stored));
    }
    output.producer = id;
  }
  for_each_operand(stored, [&](int32_t slot, ValueId read) { connect(id, slot, read); });
  use_slots_.back().resize(operand_count(stored), 0);
  ++live_nodes_;
  order_dirty_ = true;
  return id;
}

NodeId Graph::add_node_raw(Node node) { return new_node(std::move(node)); }

NodeId Graph::add(NodeSpec spec) {
  Node node;
  node.op_type = std::move(spec.op_type);
  node.domain = std::move(spec.domain);
  node.inputs = std::move(spec.inputs);
  node.attributes = std::move(spec.attributes);
  for (const std::string& output : spec.outputs) {
    node.outputs.push_back(output.empty() ? kNoValue : new_value(unique_value_name(output), {}));
  }
  if (spec.name.empty()) spec.name = spec.outputs.empty() ? node.op_type : spec.outputs[0];
  node.name = unique_node_name(spec.name);
  return new_node(std::move(node));
}

// order() puts a new node right before its first reader; one that nothing reads yet only has to
// come somewhere, so the two verbs differ in what they tell the reader of the code.
NodeId Graph::insert_before(NodeId before, NodeSpec spec) {
  assert(node(before).alive);
  static_cast<void>(before);
  return add(std::move(spec));
}

void Graph::replace_uses(ValueId from, ValueId to, bool outputs_too) {
  if (from == to) return;
  auto moved = std::move(uses_[static_cast<size_t>(from)]);
  uses_[static_cast<size_t>(from)].clear();
  for (const Use& use : moved) {
    operand(nodes_[static_cast<size_t>(use.node)], use.slot) = to;
    connect(use.node, use.slot, to);
  }
  order_dirty_ = true;
  if (!outputs_too || !is_output(from)) return;
  const Value& target = value(to);
  if (target.is_input || target.is_capture || is_output(to)) return;
  for (size_t i = 0; i < outputs_.size(); ++i) {
    if (outputs_[i] == from) set_output(i, to);
  }
  Value& a = values_[static_cast<size_t>(from)];
  Value& b = values_[static_cast<size_t>(to)];
  if (b.name.empty()) b.name = unique_value_name(a.name);
  std::swap(a.name, b.name);
  std::swap(a.wire, b.wire);
  value_names_[a.name] = from;
  value_names_[b.name] = to;
  if (b.type.dtype == DType::undefined || !b.type.has_shape) b.type = a.type;
}

void Graph::erase(NodeId id) {
  Node& node = nodes_[static_cast<size_t>(id)];
  assert(node.alive);
  for (const ValueId output : node.outputs) {
    if (output == kNoValue) continue;
    if (!is_unused(output)) {
      fail(ErrorCode::internal, "node '{}' was erased while '{}' is used", node.name,
           value(output).name);
    }
    Value& dead = values_[static_cast<size_t>(output)];
    value_names_.erase(dead.name);
    dead = Value();
    dead.alive = false;
  }
  for_each_operand(node, [&](int32_t slot, ValueId read) { disconnect(id, slot, read); });
  if (const auto entry = node_names_.find(node.name); entry != node_names_.end()) {
    if (--entry->second == 0) node_names_.erase(entry);
  }
  node = Node();
  node.alive = false;
  use_slots_[static_cast<size_t>(id)].clear();
  --live_nodes_;
  order_dirty_ = true;
}

void Graph::set_constant(ValueId id, Tensor tensor) {
  Value& value = values_[static_cast<size_t>(id)];
  if (value.producer != kNoNode) {
    Node& producer = nodes_[static_cast<size_t>(value.producer)];
    std::replace(producer.outputs.begin(), producer.outputs.end(), id, kNoValue);
    value.producer = kNoNode;
  }
  value.type = {tensor.dtype(), true, tensor.shape()};
  value.constant = std::move(tensor);
}

// --- Building and smaller edits ------------------------------------------------------------------

ValueId Graph::add_input(std::string value_name, TypeInfo type) {
  const ValueId id = new_value(std::move(value_name), std::move(type));
  values_[static_cast<size_t>(id)].is_input = true;
  inputs_.push_back(id);
  return id;
}

ValueId Graph::add_constant(std::string value_name, Tensor tensor) {
  const ValueId id = new_value(unique_value_name(value_name), {});
  set_constant(id, std::move(tensor));
  return id;
}

ValueId Graph::add_capture(std::string value_name, TypeInfo type) {
  const ValueId id = new_value(std::move(value_name), std::move(type));
  values_[static_cast<size_t>(id)].is_capture = true;
  return id;
}

ValueId Graph::add_value(std::string value_name, TypeInfo type) {
  return new_value(std::move(value_name), std::move(type));
}

void Graph::add_output(ValueId id) {
  outputs_.push_back(id);
  ++output_counts_[static_cast<size_t>(id)];
}

void Graph::set_input(NodeId id, size_t slot, ValueId to) {
  Node& node = nodes_[static_cast<size_t>(id)];
  if (slot >= node.inputs.size()) {
    // Captures come after the inputs, so their slots move.
    for_each_operand(node, [&](int32_t s, ValueId read) { disconnect(id, s, read); });
    node.inputs.resize(slot + 1, kNoValue);
    node.inputs[slot] = to;
    use_slots_[static_cast<size_t>(id)].assign(operand_count(node), 0);
    for_each_operand(node, [&](int32_t s, ValueId read) { connect(id, s, read); });
  } else {
    disconnect(id, static_cast<int32_t>(slot), node.inputs[slot]);
    node.inputs[slot] = to;
    connect(id, static_cast<int32_t>(slot), to);
  }
  order_dirty_ = true;
}

void Graph::set_output(size_t index, ValueId id) {
  --output_counts_[static_cast<size_t>(outputs_[index])];
  outputs_[index] = id;
  ++output_counts_[static_cast<size_t>(id)];
}

void Graph::remove_input(ValueId id) {
  assert(is_unused(id));
  std::erase(inputs_, id);
  Value& value = values_[static_cast<size_t>(id)];
  value_names_.erase(value.name);
  value = Value();
  value.alive = false;
}

void Graph::erase_value(ValueId id) {
  assert(is_unused(id) && value(id).is_constant());
  remove_input(id);
}

void Graph::rename(ValueId id, std::string value_name) {
  Value& value = values_[static_cast<size_t>(id)];
  if (value.name == value_name) return;
  if (!value_names_.emplace(value_name, id).second) {
    fail(ErrorCode::internal, "'{}' cannot be renamed to '{}', which is taken", value.name,
         value_name);
  }
  value_names_.erase(value.name);
  value.name = std::move(value_name);
}

void Graph::set_type(ValueId id, TypeInfo type) {
  values_[static_cast<size_t>(id)].type = std::move(type);
}

void Graph::set_wire(ValueId id, std::string wire) {
  values_[static_cast<size_t>(id)].wire = std::move(wire);
}

void Graph::list_as_input(ValueId id) {
  Value& value = values_[static_cast<size_t>(id)];
  if (value.is_input) return;
  value.is_input = true;
  inputs_.push_back(id);
}

// A suffix counter a base name keeps 10,000 requests for one name linear.
std::string Graph::unique_value_name(std::string_view base) const {
  std::string candidate(base);
  if (!candidate.empty() && !value_names_.contains(candidate)) return candidate;
  int& next = next_suffix_[candidate];
  const std::string stem = candidate.empty() ? "value" : candidate;
  do {
    candidate = stem + "_" + std::to_string(++next);
  } while (value_names_.contains(candidate));
  return candidate;
}

std::string Graph::unique_node_name(std::string_view base) const {
  std::string candidate(base);
  if (!node_names_.contains(candidate)) return candidate;
  int& next = next_node_suffix_[candidate];
  do {
    candidate = std::string(base) + "_" + std::to_string(++next);
  } while (node_names_.contains(candidate));
  return candidate;
}

int64_t Graph::symbol(std::string_view symbol_name) {
  if (symbol_name.empty()) return kUnknownDim;
  const auto known = std::find(symbols_.begin(), symbols_.end(), symbol_name);
  const auto index = known - symbols_.begin();
  if (known == symbols_.end()) symbols_.emplace_back(symbol_name);
  return kUnknownDim - 1 - index;
}

std::string_view Graph::symbol_name(int64_t dim) const {
  const int64_t index = kUnknownDim - 1 - dim;
  if (index < 0 || index >= static_cast<int64_t>(symbols_.size())) return "";
  return symbols_[static_cast<size_t>(index)];
}

// --- Compaction ----------------------------------------------------------------------------------

std::vector<ValueId> Graph::compact_values() {
  std::vector<ValueId> moved(values_.size(), kNoValue);
  size_t kept = 0;
  for (size_t i = 0; i < values_.size(); ++i) {
    const Value& value = values_[i];
    const bool idle = value.is_constant() && !value.is_input && !value.is_capture &&
                      is_unused(static_cast<ValueId>(i));
    if (!value.alive || idle) {
      if (value.alive) value_names_.erase(value.name);
      continue;
    }
    moved[i] = static_cast<ValueId>(kept);
    if (kept != i) {
      values_[kept] = std::move(values_[i]);
      uses_[kept] = std::move(uses_[i]);
      output_counts_[kept] = output_counts_[i];
    }
    ++kept;
  }
  values_.resize(kept);
  uses_.resize(kept);
  output_counts_.resize(kept);
  values_.shrink_to_fit();
  uses_.shrink_to_fit();
  return moved;
}

std::vector<NodeId> Graph::compact_nodes() {
  std::vector<NodeId> moved(nodes_.size(), kNoNode);
  size_t kept = 0;
  for (size_t i = 0; i < nodes_.size(); ++i) {
    if (!nodes_[i].alive) continue;
    moved[i] = static_cast<NodeId>(kept);
    if (kept != i) {
      nodes_[kept] = std::move(nodes_[i]);
      use_slots_[kept] = std::move(use_slots_[i]);
    }
    ++kept;
  }
  nodes_.resize(kept);
  use_slots_.resize(kept);
  nodes_.shrink_to_fit();
  use_slots_.shrink_to_fit();
  return moved;
}

std::vector<ValueId> Graph::compact() {
  order();
  const std::vector<ValueId> values = compact_values();
  const std::vector<NodeId> nodes = compact_nodes();
  const auto follow = [&](ValueId& id) {
    if (id != kNoValue) id = values[static_cast<size_t>(id)];
  };
  for (Value& value : values_) {
    if (value.producer != kNoNode) value.producer = nodes[static_cast<size_t>(value.producer)];
  }
  for (std::vector<Use>& uses : uses_) {
    for (Use& use : uses) use.node = nodes[static_cast<size_t>(use.node)];
  }
  for (Node& node : nodes_) {
    for (ValueId& id : node.inputs) follow(id);
    for (ValueId& id : node.outputs) follow(id);
    for (Body& body : node.bodies) {
      const std::vector<ValueId> inner = body.graph->compact();
      for (Body::Capture& capture : body.captures) {
        follow(capture.outer);
        capture.inner = inner[static_cast<size_t>(capture.inner)];
      }
    }
  }
  for (ValueId& id : inputs_) follow(id);
  for (ValueId& id : outputs_) follow(id);
  for (auto& [value_name, id] : value_names_) follow(id);
  for (NodeId& id : order_) id = nodes[static_cast<size_t>(id)];
  sorted_slots_ = node_slots();
  return values;
}

}  // namespace compress
