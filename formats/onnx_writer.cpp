#include "formats/onnx_writer.h"

#include <algorithm>
#include <unordered_set>

#include "formats/onnx_check.h"
#include "formats/onnx_fields.h"
#include "formats/onnx_types.h"
#include "formats/wire.h"

namespace compress {
namespace {

namespace field = onnx_field;

constexpr uint64_t kMinExternalBytes = 1024;
constexpr uint64_t kHeldBytes = 4096;
// Pages, so that large tensors can be mapped on their own; cache lines for the others.
constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kLineBytes = 64;

// --- Names
// -----------------------------------------------------------------------------------------

// The names that a graph's values have in the file. ONNX forbids a body to use a name of the graphs
// around it for a value of its own; a capture must have exactly the name of what it captures.
class Names {
 public:
  Names(const Graph& graph, const Names* outer, const std::vector<Body::Capture>* captures)
      : graph_(graph), outer_(outer), names_(static_cast<size_t>(graph.value_slots())) {
    if (captures != nullptr) {
      for (const Body::Capture& capture : *captures) {
        names_[static_cast<size_t>(capture.inner)] = outer->of(capture.outer);
      }
    }
    for (ValueId id = 0; id < graph.value_slots(); ++id) {
      const Value& value = graph.value(id);
      if (!value.alive || value.is_capture) continue;
      std::string name = value.name;
      if (name.empty()) name = fresh(fmt::format("value_{}", id));
      if (outer_ != nullptr && outer_->has(name)) name = fresh(name);
      own_.insert(name);
      names_[static_cast<size_t>(id)] = std::move(name);
    }
  }

  const std::string& of(ValueId id) const { return names_[static_cast<size_t>(id)]; }

 private:
  bool has(const std::string& name) const {
    return own_.contains(name) || (outer_ != nullptr && outer_->has(name));
  }

  std::string fresh(const std::string& base) const {
    std::string name = base;
    for (int k = 1; has(name) || graph_.find_value(name) != kNoValue; ++k) {
      name = fmt::format("{}_{}", base, k);
    }
    return name;
  }

  const Graph& graph_;
  const Names* outer_;
  std::vector<std::string> names_;
  std::unordered_set<std::string> own_;
};

// --- Tensors
// ---------------------------------------------------------------------------------------

void put_entry(std::string& out, uint32_t number, std::string_view key, std::string_view value) {
  std::string entry;
  put_bytes(entry, field::entry::key, key);
  put_bytes(entry, field::entry::value, value);
  put_bytes(out, number, entry);
}

uint64_t aligned_up(uint64_t offset, uint64_t alignment) {
  return (offset + alignment - 1) / alignment * alignment;
}

// Where the payload goes instead of the model; "" where it stays.
std::string place_outside(const Tensor& tensor, bool is_initializer, PayloadPlan& plan) {
  if (tensor.dtype() == DType::string) return "";
  const uint64_t bytes = tensor.bytes();
  std::string external;
  if (plan.kind == PayloadPlan::Kind::held && bytes > kHeldBytes) {
    put_entry(external, field::tensor::external_data, "location",
              fmt::format("held:{}", plan.rows.size()));
    plan.rows.push_back({tensor, 0});
  } else if (plan.kind == PayloadPlan::Kind::external && is_initializer &&
             bytes >= kMinExternalBytes) {
    const uint64_t alignment = bytes >= 16 * kPageBytes ? kPageBytes : kLineBytes;
    const uint64_t offset = aligned_up(plan.external_end, alignment);
    plan.external_end = offset + bytes;
    plan.rows.push_back({tensor, offset});
    put_entry(external, field::tensor::external_data, "location", plan.location);
    put_entry(external, field::tensor::external_data, "offset", std::to_string(offset));
    put_entry(external, field::tensor::external_data, "length", std::to_string(bytes));
  } else {
    return "";
  }
  put_int(external, field::tensor::data_location, 1);
  return external;
}

Rope tensor_rope(const Tensor& tensor, const std::string& name, bool is_initializer,
                 PayloadPlan& plan) {
  std::string head;
  for (const int64_t dim : tensor.shape()) put_int(head, field::tensor::dims, dim);
  put_int(head, field::tensor::data_type, static_cast<int64_t>(tensor.dtype()));
  if (tensor.dtype() == DType::string) {
    for (const std::string& text : tensor.string_values()) {
      put_bytes(head, field::tensor::string_data, text);
    }
  }
  put_text(head, field::tensor::name, name);
  Rope rope;
  const std::string external = place_outside(tensor, is_initializer, plan);
  if (!external.empty() || tensor.dtype() == DType::string) {
    rope.append(head);
    rope.append(external);
    return rope;
  }
  // An empty raw_data says that there are no elements, which the field's absence does as well.
  if (tensor.bytes() > 0) {
    put_tag(head, field::tensor::raw_data, WireType::bytes);
    put_varint(head, tensor.bytes());
  }
  rope.append(head);
  if (tensor.bytes() > 0) rope.append(tensor);
  return rope;
}

// --- Graphs
// ----------------------------------------------------------------------------------------

Rope graph_rope(const Graph& graph, const Names& names, PayloadPlan& plan);

Rope attribute_rope(const Attribute& attribute, PayloadPlan& plan) {
  Rope rope;
  if (const auto* opaque = std::get_if<OpaqueAttribute>(&attribute.value)) {
    rope.append(opaque->wire);
    return rope;
  }
  if (const auto* reference = std::get_if<ReferenceAttribute>(&attribute.value)) {
    rope.append(reference->wire);
    return rope;
  }
  std::string head;
  put_bytes(head, field::attribute::name, attribute.name);
  uint32_t type = field::attribute::kUndefined;
  Rope tensor;
  if (const auto* f = std::get_if<float>(&attribute.value)) {
    put_float(head, field::attribute::f, *f);
    type = field::attribute::kFloat;
  } else if (const auto* i = std::get_if<int64_t>(&attribute.value)) {
    put_int(head, field::attribute::i, *i);
    type = field::attribute::kInt;
  } else if (const auto* s = std::get_if<std::string>(&attribute.value)) {
    put_bytes(head, field::attribute::s, *s);
    type = field::attribute::kString;
  } else if (const auto* t = std::get_if<Tensor>(&attribute.value)) {
    tensor = tensor_rope(*t, "", false, plan);
    type = field::attribute::kTensor;
  } else if (const auto* floats = std::get_if<std::vector<float>>(&attribute.value)) {
    for (const float value : *floats) put_float(head, field::attribute::floats, value);
    type = field::attribute::kFloats;
  } else if (const auto* ints = std::get_if<std::vector<int64_t>>(&attribute.value)) {
    for (const int64_t value : *ints) put_int(head, field::attribute::ints, value);
    type = field::attribute::kInts;
  } else if (const auto* texts = std::get_if<std::vector<std::string>>(&attribute.value)) {
    for (const std::string& value : *texts) put_bytes(head, field::attribute::strings, value);
    type = field::attribute::kStrings;
  }
  rope.append(head);
  if (type == field::attribute::kTensor) {
    rope.append_message(field::attribute::t, std::move(tensor));
  }
  std::string tail;
  put_text(tail, field::attribute::doc_string, attribute.doc_string);
  put_int(tail, field::attribute::type, type);
  rope.append(tail);
  return rope;
}

Rope body_rope(const Body& body, const Names& outer, PayloadPlan& plan) {
  const Names names(*body.graph, &outer, &body.captures);
  std::string head;
  put_bytes(head, field::attribute::name, body.attribute);
  Rope rope;
  rope.append(head);
  rope.append_message(field::attribute::g, graph_rope(*body.graph, names, plan));
  std::string tail;
  put_int(tail, field::attribute::type, field::attribute::kGraph);
  rope.append(tail);
  return rope;
}

Rope node_rope(const Node& node, const Names& names, PayloadPlan& plan) {
  std::string head;
  // Omitted operands at the end need no place.
  size_t inputs = node.inputs.size();
  while (inputs > 0 && node.inputs[inputs - 1] == kNoValue) --inputs;
  for (size_t i = 0; i < inputs; ++i) {
    const ValueId id = node.inputs[i];
    put_bytes(head, field::node::input, id == kNoValue ? "" : names.of(id));
  }
  size_t outputs = node.outputs.size();
  while (outputs > 1 && node.outputs[outputs - 1] == kNoValue) --outputs;
  for (size_t i = 0; i < outputs; ++i) {
    const ValueId id = node.outputs[i];
    put_bytes(head, field::node::output, id == kNoValue ? "" : names.of(id));
  }
  put_text(head, field::node::name, node.name);
  put_bytes(head, field::node::op_type, node.op_type);
  Rope rope;
  rope.append(head);
  for (const Attribute& attribute : node.attributes) {
    rope.append_message(field::node::attribute, attribute_rope(attribute, plan));
  }
  for (const Body& body : node.bodies) {
    rope.append_message(field::node::attribute, body_rope(body, names, plan));
  }
  std::string tail;
  put_text(tail, field::node::doc_string, node.doc_string);
  put_text(tail, field::node::domain, node.domain);
  put_text(tail, field::node::overload, node.overload);
  tail += node.unknown_fields;
  rope.append(tail);
  return rope;
}

std::string info_wire(const Graph& graph, ValueId id, const Names& names) {
  Value value = graph.value(id);
  value.name = names.of(id);
  if (value.type.dtype == DType::undefined && value.is_constant()) {
    value.type = {value.constant.dtype(), true, value.constant.shape()};
  }
  return value_info_wire(graph, value);
}

Rope graph_rope(const Graph& graph, const Names& names, PayloadPlan& plan) {
  Rope rope;
  for (const NodeId id : graph.order()) {
    if (!graph.node(id).alive) continue;
    rope.append_message(field::graph::node, node_rope(graph.node(id), names, plan));
  }
  std::string text;
  put_bytes(text, field::graph::name, graph.name.empty() ? "graph" : graph.name);
  rope.append(text);
  for (ValueId id = 0; id < graph.value_slots(); ++id) {
    const Value& value = graph.value(id);
    if (!value.alive || !value.is_constant()) continue;
    rope.append_message(field::graph::initializer,
                        tensor_rope(value.constant, names.of(id), true, plan));
  }
  text.clear();
  put_text(text, field::graph::doc_string, graph.doc_string);
  for (const ValueId id : graph.inputs()) {
    put_bytes(text, field::graph::input, info_wire(graph, id, names));
  }
  for (const ValueId id : graph.outputs()) {
    put_bytes(text, field::graph::output, info_wire(graph, id, names));
  }
  for (ValueId id = 0; id < graph.value_slots(); ++id) {
    const Value& value = graph.value(id);
    const bool is_inner = value.alive && value.producer != kNoNode && !graph.is_output(id);
    if (!is_inner || (value.type.dtype == DType::undefined && value.wire.empty())) continue;
    put_bytes(text, field::graph::value_info, info_wire(graph, id, names));
  }
  text += graph.unknown_fields;
  rope.append(text);
  return rope;
}

int64_t ir_version_of(DType dtype) {
  switch (dtype) {
    case DType::float8e4m3fn:
    case DType::float8e4m3fnuz:
    case DType::float8e5m2:
    case DType::float8e5m2fnuz:
      return 9;
    case DType::int4:
    case DType::uint4:
      return 10;
    case DType::float4e2m1:
      return 11;
    case DType::float8e8m0:
      return 12;
    case DType::int2:
    case DType::uint2:
      return 13;
    default:
      return 1;
  }
}

int64_t ir_version_of(const Graph& graph) {
  int64_t version = 1;
  for (ValueId id = 0; id < graph.value_slots(); ++id) {
    const Value& value = graph.value(id);
    if (!value.alive) continue;
    version = std::max(version, ir_version_of(value.type.dtype));
    if (!value.is_constant()) continue;
    version = std::max(version, ir_version_of(value.constant.dtype()));
    // Before IR 4 every initializer had to be an input as well.
    if (!value.is_input) version = std::max<int64_t>(version, 4);
  }
  for (NodeId id = 0; id < graph.node_slots(); ++id) {
    if (!graph.node(id).alive) continue;
    for (const Body& body : graph.node(id).bodies) {
      version = std::max(version, ir_version_of(*body.graph));
    }
  }
  return version;
}

}  // namespace

int64_t needed_ir_version(const Model& model) {
  int64_t version = std::max(model.ir_version, ir_version_of(model.graph));
  version = std::max(version, ir_version_of_opset(model.opset()));
  if (!model.functions.empty()) version = std::max<int64_t>(version, 8);
  return version;
}

std::string lone_node_wire(const Node& node) {
  Graph graph;
  Node copy = node;
  const auto stand_in = [&](ValueId id, const std::string& name) {
    return id == kNoValue ? kNoValue : graph.add_value(graph.unique_value_name(name), {});
  };
  for (ValueId& id : copy.inputs) id = stand_in(id, "input");
  for (ValueId& id : copy.outputs) id = stand_in(id, "output");
  for (Body& body : copy.bodies) {
    for (Body::Capture& capture : body.captures) {
      capture.outer = stand_in(capture.outer, body.graph->value(capture.inner).name);
    }
  }
  PayloadPlan plan;
  std::string wire;
  node_rope(copy, Names(graph, nullptr, nullptr), plan)
      .stream([&](std::span<const std::byte> part) {
        wire.append(reinterpret_cast<const char*>(part.data()), part.size());
      });
  return wire;
}

uint64_t payload_bytes(const Graph& graph) {
  uint64_t total = 0;
  for (ValueId id = 0; id < graph.value_slots(); ++id) {
    const Value& value = graph.value(id);
    if (value.alive && value.is_constant() && value.constant.dtype() != DType::string) {
      total += value.constant.bytes();
    }
  }
  for (NodeId id = 0; id < graph.node_slots(); ++id) {
    const Node& node = graph.node(id);
    if (!node.alive) continue;
    for (const Attribute& attribute : node.attributes) {
      const auto* tensor = std::get_if<Tensor>(&attribute.value);
      if (tensor != nullptr && tensor->dtype() != DType::string) total += tensor->bytes();
    }
    for (const Body& body : node.bodies) total += payload_bytes(*body.graph);
  }
  return total;
}

Rope model_rope(const Model& model, const std::function<std::string()>& provenance,
                PayloadPlan& plan) {
  std::string head;
  put_int(head, field::model::ir_version, needed_ir_version(model));
  put_bytes(head, field::model::producer_name, "compress");
  put_bytes(head, field::model::producer_version, COMPRESS_VERSION);
  put_text(head, field::model::domain, model.domain);
  if (model.model_version != 0) put_int(head, field::model::model_version, model.model_version);
  put_text(head, field::model::doc_string, model.doc_string);
  Rope rope;
  rope.append(head);
  const Names names(model.graph, nullptr, nullptr);
  rope.append_message(field::model::graph, graph_rope(model.graph, names, plan));
  std::string tail;
  for (const auto& [domain, version] : model.opsets) {
    std::string import;
    put_bytes(import, field::opset::domain, domain);
    put_int(import, field::opset::version, version);
    put_bytes(tail, field::model::opset_import, import);
  }
  for (const auto& [key, value] : model.metadata) {
    // Ours is replaced; where there is none now, what an earlier run wrote still tells the truth.
    if (key == "compress" && provenance) continue;
    put_entry(tail, field::model::metadata_props, key, value);
  }
  rope.append(tail);
  if (provenance) {
    rope.append_late([provenance] {
      std::string entry;
      put_entry(entry, field::model::metadata_props, "compress", provenance());
      return entry;
    });
  }
  tail.clear();
  for (const Function& function : model.functions) {
    put_bytes(tail, field::model::functions, function.wire);
  }
  tail += model.unknown_fields;
  rope.append(tail);
  return rope;
}

}  // namespace compress
