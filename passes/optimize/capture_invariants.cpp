// A Loop hands each step the states of the one before. What every step hands on as it came (the
// weights of an LSTM that an exporter wrote as a loop) is no state: the body reads it from the
// graph around it, where it is known to be a constant.
#include <algorithm>
#include <map>

#include "passes/bodies.h"
#include "passes/edit.h"
#include "passes/optimize/optimize.h"

namespace compress {
namespace {

constexpr size_t kLoopInputs = 2;  // number of steps, condition: ahead of the states

// The value that an output of the body is, through Identity.
ValueId source_of(const Graph& body, ValueId id) {
  while (body.value(id).producer != kNoNode) {
    const Node& producer = body.node(body.value(id).producer);
    if (!producer.is("Identity") || operand(producer, 0) == kNoValue) break;
    id = producer.inputs[0];
  }
  return id;
}

bool is_invariant(const Graph& graph, const Node& loop, const Graph& body, size_t state) {
  const ValueId initial = loop.inputs[kLoopInputs + state];
  const ValueId inner = body.inputs()[kLoopInputs + state];
  const Value& value = body.value(inner);
  if (initial == kNoValue || value.is_constant() || value.type.dtype == DType::undefined ||
      source_of(body, body.outputs()[1 + state]) != inner) {
    return false;
  }
  // What is collected from all steps has to be made in the body.
  for (size_t i = 0; i < body.outputs().size(); ++i) {
    if (i != 1 + state && body.outputs()[i] == inner) return false;
  }
  const ValueId out = state < loop.outputs.size() ? loop.outputs[state] : kNoValue;
  return out == kNoValue || !graph.is_output(out);
}

// A copy of the body whose inputs `captured` are captures and which lacks the outputs of these
// states. `ids`: values of the body -> of the copy.
Graph without_states(const Graph& body, const std::vector<size_t>& states,
                     std::map<ValueId, ValueId>& ids) {
  Graph out;
  out.name = body.name;
  out.doc_string = body.doc_string;
  out.unknown_fields = body.unknown_fields;
  const auto is_one = [&](size_t state) {
    return std::find(states.begin(), states.end(), state) != states.end();
  };
  const auto type_of = [&](const Value& value) {
    TypeInfo type = value.type;
    if (!type.has_shape) return type;
    std::vector<int64_t> dims;
    for (const int64_t dim : type.shape) {
      dims.push_back(dim < kUnknownDim ? out.symbol(body.symbol_name(dim)) : dim);
    }
    type.shape = Shape(std::span<const int64_t>(dims));
    return type;
  };
  for (size_t i = 0; i < body.inputs().size(); ++i) {
    const Value& value = body.value(body.inputs()[i]);
    const bool captured = i >= kLoopInputs && is_one(i - kLoopInputs);
    ids[body.inputs()[i]] = captured ? out.add_capture(value.name, type_of(value))
                                     : out.add_input(value.name, type_of(value));
    if (!captured) out.set_wire(ids[body.inputs()[i]], value.wire);
  }
  for (ValueId id = 0; id < body.value_slots(); ++id) {
    const Value& value = body.value(id);
    if (!value.alive || ids.contains(id)) continue;
    if (value.is_constant()) {
      ids[id] = out.add_constant(value.name, value.constant);
    } else if (value.is_capture) {
      ids[id] = out.add_capture(value.name, type_of(value));
    } else {
      ids[id] = out.add_value(value.name, type_of(value));
    }
    out.set_wire(ids[id], value.wire);
  }
  const auto now = [&](ValueId id) { return id == kNoValue ? id : ids.at(id); };
  for (const NodeId id : body.order()) {
    Node node = body.node(id);
    std::transform(node.inputs.begin(), node.inputs.end(), node.inputs.begin(), now);
    std::transform(node.outputs.begin(), node.outputs.end(), node.outputs.begin(), now);
    for (Body& inner : node.bodies) {
      for (Body::Capture& capture : inner.captures) capture.outer = now(capture.outer);
    }
    out.add_node_raw(std::move(node));
  }
  for (size_t i = 0; i < body.outputs().size(); ++i) {
    if (i == 0 || !is_one(i - 1)) out.add_output(now(body.outputs()[i]));
  }
  return out;
}

size_t capture_states(Graph& graph, NodeId id) {
  Node loop = graph.node(id);
  if (loop.bodies.size() != 1) return 0;
  Body& body = loop.bodies[0];
  const size_t states = std::max(loop.inputs.size(), kLoopInputs) - kLoopInputs;
  if (body.graph->inputs().size() != kLoopInputs + states ||
      body.graph->outputs().size() < 1 + states) {
    return 0;
  }
  // Initializers that are inputs as well would be listed in another order.
  for (const ValueId input : body.graph->inputs()) {
    if (body.graph->value(input).is_constant()) return 0;
  }
  std::vector<size_t> invariant;
  for (size_t state = 0; state < states; ++state) {
    if (is_invariant(graph, loop, *body.graph, state)) invariant.push_back(state);
  }
  if (invariant.empty()) return 0;
  std::map<ValueId, ValueId> ids;
  auto inner = std::make_shared<Graph>(without_states(*body.graph, invariant, ids));
  for (Body::Capture& capture : body.captures) capture.inner = ids.at(capture.inner);
  for (auto state = invariant.rbegin(); state != invariant.rend(); ++state) {
    const auto at = static_cast<std::ptrdiff_t>(*state);
    const ValueId initial = loop.inputs[kLoopInputs + *state];
    body.captures.push_back({initial, ids.at(body.graph->inputs()[kLoopInputs + *state])});
    loop.inputs.erase(loop.inputs.begin() + static_cast<std::ptrdiff_t>(kLoopInputs) + at);
    if (*state >= loop.outputs.size()) continue;
    const ValueId out = loop.outputs[*state];
    if (out != kNoValue) graph.replace_uses(out, initial);
    loop.outputs.erase(loop.outputs.begin() + at);
  }
  body.graph = std::move(inner);
  replace_with(graph, id, std::move(loop));
  return invariant.size();
}

}  // namespace

PassResult capture_invariants(Model& model, PassContext&) {
  int64_t captured = 0;
  const NodeId slots = model.graph.node_slots();
  for (NodeId id = 0; id < slots; ++id) {
    const Node& node = model.graph.node(id);
    if (node.alive && node.is("Loop")) {
      captured += static_cast<int64_t>(capture_states(model.graph, id));
    }
  }
  PassResult result;
  result.changed = captured > 0;
  if (result.changed) result.details = {{"captured_states", captured}};
  return result;
}

}  // namespace compress
