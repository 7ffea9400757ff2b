#include "compress/train/autograd.h"

#include <algorithm>
#include <map>
#include <utility>

#include "compress/error.h"
#include "compress/graph/label.h"
#include "compress/ops/gradient_families.h"
#include "compress/ops/support.h"
#include "compress/train/gradient.h"

namespace compress::train {
namespace {

constexpr int kEmittedOpset = 18;  // axes of reductions are inputs

bool is_differentiable_type(const TypeInfo& type) {
  return type.dtype == DType::float32 || type.dtype == DType::float64 ||
         type.dtype == DType::undefined;
}

}  // namespace

struct Gradient::Driver {
  Driver(Model& m) : model(m), graph(m.graph), inference(m.graph, m) {}

  Model& model;
  Graph& graph;
  TypeInference inference;
  std::vector<bool> wanted;  // by value: lies between a parameter and the loss, both included
  std::map<ValueId, std::vector<ValueId>> parts;  // gradients to be added up
  std::map<ValueId, ValueId> totals;

  bool is_wanted(ValueId id) const {
    return id >= 0 && static_cast<size_t>(id) < wanted.size() && wanted[static_cast<size_t>(id)];
  }

  // The sum of the parts; final once every reader of the value has been visited.
  ValueId total(ValueId id, const Gradient& at) {
    if (const auto row = totals.find(id); row != totals.end()) return row->second;
    const auto row = parts.find(id);
    if (row == parts.end()) return kNoValue;
    ValueId sum = row->second[0];
    for (size_t i = 1; i < row->second.size(); ++i) sum = at.op("Add", {sum, row->second[i]});
    // Inference loses symbols on shape operands; a gradient has its value's shape.
    const TypeInfo type = graph.value(id).type;
    if (type.has_shape && !graph.value(sum).is_constant()) {
      graph.set_type(sum, {graph.value(sum).type.dtype, true, type.shape});
    }
    return totals[id] = sum;
  }
};

Gradient::Gradient(Driver& driver, NodeId id)
    : driver_(driver), node_(driver.graph.node(id)), opset_(opset_of(node_, driver.model)) {}

ValueId Gradient::dy(size_t i) const {
  return out(i) == kNoValue ? kNoValue : driver_.total(out(i), *this);
}

bool Gradient::wants(size_t i) const { return in(i) != kNoValue && driver_.is_wanted(in(i)); }
bool Gradient::wants_value(ValueId id) const { return driver_.is_wanted(id); }

const TypeInfo& Gradient::type(ValueId id) const { return driver_.graph.value(id).type; }

int Gradient::rank(ValueId id) const {
  const Value& value = driver_.graph.value(id);
  if (value.is_constant()) return value.constant.shape().rank();
  return value.type.has_shape ? value.type.shape.rank() : -1;
}

const Tensor* Gradient::constant(ValueId id) const {
  if (id == kNoValue) return nullptr;
  const Value& value = driver_.graph.value(id);
  return value.is_constant() ? &value.constant : nullptr;
}

const Node* Gradient::producer(ValueId id) const {
  const NodeId node = driver_.graph.value(id).producer;
  return node == kNoNode ? nullptr : &driver_.graph.node(node);
}

void Gradient::give(size_t i, ValueId gradient) { give_value(in(i), gradient); }

void Gradient::give_value(ValueId id, ValueId gradient) {
  if (!driver_.is_wanted(id) || gradient == kNoValue) return;
  driver_.parts[id].push_back(gradient);
}

void Gradient::give_broadcast(size_t i, ValueId gradient) {
  if (!wants(i)) return;
  const TypeInfo& from = type(gradient);
  const TypeInfo& to = type(in(i));
  bool same = from.has_shape && to.has_shape && from.shape == to.shape;
  for (int d = 0; same && d < to.shape.rank(); ++d) same = to.shape[d] != kUnknownDim;
  give(i, same ? gradient : gradient_op("SumTo", {gradient, shape_of(in(i))}));
}

std::vector<ValueId> Gradient::emit(std::string_view type, std::string_view domain, size_t outputs,
                                    std::vector<ValueId> inputs,
                                    std::vector<Attribute> attributes) const {
  NodeSpec spec;
  spec.op_type = type;
  spec.domain = domain;
  spec.inputs = std::move(inputs);
  spec.attributes = std::move(attributes);
  if (domain.empty()) {
    spec.attributes.push_back({kOpsetAttribute, static_cast<int64_t>(kEmittedOpset), ""});
  }
  const std::string name = node_.name + "/gradient/" + std::string(type);
  for (size_t i = 0; i < outputs; ++i) spec.outputs.push_back(name);
  const NodeId id = driver_.graph.add(std::move(spec));
  driver_.inference.visit(id);
  return driver_.graph.node(id).outputs;
}

ValueId Gradient::op(std::string_view type, std::vector<ValueId> inputs,
                     std::vector<Attribute> attributes) const {
  return emit(type, "", 1, std::move(inputs), std::move(attributes))[0];
}

ValueId Gradient::gradient_op(std::string_view type, std::vector<ValueId> inputs,
                              std::vector<Attribute> attributes) const {
  return emit(type, kGradientDomain, 1, std::move(inputs), std::move(attributes))[0];
}

std::vector<ValueId> Gradient::gradient_ops(std::string_view type, size_t outputs,
                                            std::vector<ValueId> inputs,
                                            std::vector<Attribute> attributes) const {
  return emit(type, kGradientDomain, outputs, std::move(inputs), std::move(attributes));
}

ValueId Gradient::ints(std::span<const int64_t> values) const {
  return driver_.graph.add_constant(
      "gradient/ints", Tensor::from<int64_t>({static_cast<int64_t>(values.size())}, values));
}

ValueId Gradient::scalar(float value) const {
  const Tensor tensor = Tensor::scalar(value);
  return driver_.graph.add_constant(
      "gradient/scalar", dtype() == DType::float64 ? convert(tensor, DType::float64) : tensor);
}

ValueId Gradient::as_float(ValueId id) const {
  return op("Cast", {id}, {{"to", static_cast<int64_t>(dtype()), ""}});
}

DType Gradient::dtype() const {
  for (const ValueId id : node_.outputs) {
    if (id != kNoValue && type(id).dtype == DType::float64) return DType::float64;
  }
  return DType::float32;
}

ValueId Gradient::shape_of(ValueId id) const {
  const Value& value = driver_.graph.value(id);
  if (value.is_constant()) return ints(value.constant.shape().dims());
  if (value.type.is_concrete()) return ints(value.type.shape.dims());
  return op("Shape", {id});
}

ValueId Gradient::like(ValueId gradient, ValueId value) const {
  return op("Reshape", {gradient, shape_of(value)}, {{"allowzero", int64_t{1}, ""}});
}

ValueId Gradient::sum_except(ValueId id, int axis) const {
  std::vector<int64_t> axes;
  for (int i = 0; i < rank(id); ++i) {
    if (i != axis) axes.push_back(i);
  }
  return op("ReduceSum", {id, ints(axes)}, {{"keepdims", int64_t{0}, ""}});
}

namespace {

// Marks the values that depend on a parameter and that the loss depends on.
std::vector<bool> values_between(const Graph& graph, ValueId loss,
                                 std::span<const ValueId> parameters) {
  const auto slots = static_cast<size_t>(graph.value_slots());
  std::vector<bool> below(slots, false), above(slots, false);
  for (const ValueId id : parameters) below[static_cast<size_t>(id)] = true;
  const std::vector<NodeId> order = graph.order();
  for (const NodeId id : order) {
    bool depends = false;
    Graph::for_each_operand(graph.node(id), [&](int32_t, ValueId operand) {
      depends = depends || below[static_cast<size_t>(operand)];
    });
    for (const ValueId out : graph.node(id).outputs) {
      if (depends && out != kNoValue) below[static_cast<size_t>(out)] = true;
    }
  }
  above[static_cast<size_t>(loss)] = true;
  for (auto id = order.rbegin(); id != order.rend(); ++id) {
    const Node& node = graph.node(*id);
    const bool leads = std::any_of(node.outputs.begin(), node.outputs.end(), [&](ValueId out) {
      return out != kNoValue && above[static_cast<size_t>(out)];
    });
    if (!leads) continue;
    Graph::for_each_operand(
        node, [&](int32_t, ValueId operand) { above[static_cast<size_t>(operand)] = true; });
  }
  for (size_t i = 0; i < slots; ++i) below[i] = below[i] && above[i];
  return below;
}

// Integers carry no derivative, and shapes that are computed from activations lead nowhere: values
// of other types are left out, except those of quantization, which is passed straight through.
bool passes_gradient(const Graph& graph, ValueId id) {
  const Value& value = graph.value(id);
  if (is_differentiable_type(value.type)) return true;
  return value.producer != kNoNode && graph.node(value.producer).op_type == "QuantizeLinear";
}

std::vector<NodeId> nodes_between(const Graph& graph, std::vector<bool>& wanted) {
  // A value is on the way only where some chain of differentiable values leads on from it.
  std::vector<NodeId> nodes;
  const std::vector<NodeId> order = graph.order();
  for (ValueId id = 0; id < graph.value_slots(); ++id) {
    if (wanted[static_cast<size_t>(id)] && !passes_gradient(graph, id)) {
      wanted[static_cast<size_t>(id)] = false;
    }
  }
  for (const NodeId id : order) {
    const Node& node = graph.node(id);
    bool reads = false, makes = false;
    Graph::for_each_operand(node, [&](int32_t, ValueId operand) {
      reads = reads || wanted[static_cast<size_t>(operand)];
    });
    for (const ValueId out : node.outputs) {
      if (out == kNoValue) continue;
      if (!reads) wanted[static_cast<size_t>(out)] = false;
      makes = makes || wanted[static_cast<size_t>(out)];
    }
    if (reads && makes) nodes.push_back(id);
  }
  return nodes;
}

}  // namespace

std::vector<ValueId> append_backward(Model& model, ValueId loss,
                                     std::span<const ValueId> parameters) {
  Graph& graph = model.graph;
  Gradient::Driver driver(model);
  for (const NodeId id : std::vector<NodeId>(graph.order())) driver.inference.visit(id);
  driver.wanted = values_between(graph, loss, parameters);
  const std::vector<bool> asked = driver.wanted;
  const std::vector<NodeId> nodes = nodes_between(graph, driver.wanted);
  for (const ValueId id : parameters) {
    driver.wanted[static_cast<size_t>(id)] = asked[static_cast<size_t>(id)];
  }

  std::string missing;
  for (const NodeId id : nodes) {
    const Node& node = graph.node(id);
    const GradientDef* row = find_gradient(node.domain, node.op_type);
    std::string reason;
    if (row == nullptr) {
      reason = node.op_type;
    } else if (row->refuse != nullptr) {
      reason = row->refuse(Gradient(driver, id));
      if (!reason.empty()) reason = node.op_type + ": " + reason;
    }
    if (reason.empty()) continue;
    missing += fmt::format("{}'{}' ({})", missing.empty() ? "" : ", ", label(graph, node), reason);
  }
  if (!missing.empty()) {
    fail(ErrorCode::unsupported, "no derivative is known of {}; freeze what lies before them",
         missing);
  }

  const Tensor one = Tensor::from<float>(
      graph.value(loss).type.has_shape ? graph.value(loss).type.shape : Shape(), {1.0f});
  const bool wide = graph.value(loss).type.dtype == DType::float64;
  driver.parts[loss].push_back(
      graph.add_constant("gradient/loss", wide ? convert(one, DType::float64) : one));
  for (auto id = nodes.rbegin(); id != nodes.rend(); ++id) {
    Gradient gradient(driver, *id);
    const auto has = [&](ValueId out) {
      return out != kNoValue && driver.is_wanted(out) && driver.parts.contains(out);
    };
    const auto& outputs = gradient.node().outputs;
    if (std::none_of(outputs.begin(), outputs.end(), has)) continue;
    find_gradient(gradient.node().domain, gradient.node().op_type)->emit(gradient);
  }
  std::vector<ValueId> result;
  for (const ValueId id : parameters) {
    const NodeId reader = graph.uses(id).empty() ? kNoNode : graph.uses(id)[0].node;
    result.push_back(reader == kNoNode ? kNoValue : driver.total(id, Gradient(driver, reader)));
  }
  return result;
}

}  // namespace compress::train
