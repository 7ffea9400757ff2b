#include <algorithm>
#include <map>

#include "calibration/calibrator.h"
#include "compress/core/sha256.h"

namespace compress {
namespace {

// Fields one after the other, each with its length, so that no two graphs give the same bytes.
class Fields {
 public:
  void add(std::string_view text) {
    add(static_cast<int64_t>(text.size()));
    hash_.update(text);
  }
  void add(int64_t number) { hash_.update(std::as_bytes(std::span(&number, 1))); }
  void add(float number) { hash_.update(std::as_bytes(std::span(&number, 1))); }
  void add(const Shape& shape) {
    add(int64_t{shape.rank()});
    for (const int64_t dim : shape) add(dim);
  }
  void add(const Tensor& tensor) {
    add(static_cast<int64_t>(tensor.dtype()));
    if (!tensor) return;
    add(tensor.shape());
    if (tensor.dtype() == DType::string) return add_each(tensor.string_values());
    hash_.update(tensor.read().bytes());
  }
  void add(const ReferenceAttribute& reference) { add(reference.wire); }
  void add(const OpaqueAttribute& opaque) { add(opaque.wire); }
  template <class T>
  void add(const std::vector<T>& values) {
    add_each(values);
  }
  std::string finish() { return hash_.finish(); }

 private:
  template <class T>
  void add_each(const std::vector<T>& values) {
    add(static_cast<int64_t>(values.size()));
    for (const auto& value : values) add(value);
  }

  Sha256 hash_;
};

void add_graph(Fields& fields, const Graph& graph);

void add_node(Fields& fields, const Graph& graph, const Node& node) {
  const auto add_value = [&](ValueId id) {
    fields.add(id == kNoValue ? std::string_view() : graph.value(id).name);
  };
  fields.add(node.domain);
  fields.add(node.op_type);
  fields.add(node.overload);
  fields.add(static_cast<int64_t>(node.inputs.size()));
  for (const ValueId id : node.inputs) add_value(id);
  fields.add(static_cast<int64_t>(node.outputs.size()));
  for (const ValueId id : node.outputs) add_value(id);
  std::map<std::string_view, const Attribute*> attributes;  // whose order means nothing
  for (const Attribute& attribute : node.attributes) attributes[attribute.name] = &attribute;
  for (const auto& [name, attribute] : attributes) {
    fields.add(name);
    fields.add(static_cast<int64_t>(attribute->value.index()));
    std::visit([&](const auto& value) { fields.add(value); }, attribute->value);
  }
  for (const Body& body : node.bodies) {
    fields.add(body.attribute);
    for (const Body::Capture& capture : body.captures) {
      add_value(capture.outer);
      fields.add(body.graph->value(capture.inner).name);
    }
    add_graph(fields, *body.graph);
  }
}

void add_graph(Fields& fields, const Graph& graph) {
  const auto add_type = [&](const TypeInfo& type) {
    fields.add(static_cast<int64_t>(type.dtype));
    if (!type.has_shape) return;
    for (const int64_t dim : type.shape) {
      fields.add(dim >= 0 ? dim : kUnknownDim);
      if (dim < 0) fields.add(graph.symbol_name(dim));
    }
  };
  for (const ValueId id : graph.inputs()) {
    fields.add(graph.value(id).name);
    add_type(graph.value(id).type);
  }
  // Slots depend on how the graph came about; names do not.
  std::map<std::string_view, const Tensor*> constants;
  for (ValueId id = 0; id < graph.value_slots(); ++id) {
    const Value& value = graph.value(id);
    if (value.alive && value.is_constant() && !graph.is_unused(id)) {
      constants[value.name] = &value.constant;
    }
  }
  for (const auto& [name, tensor] : constants) {
    fields.add(name);
    fields.add(*tensor);
  }
  for (const NodeId id : graph.order()) add_node(fields, graph, graph.node(id));
  for (const ValueId id : graph.outputs()) fields.add(graph.value(id).name);
}

}  // namespace

std::string fingerprint(const Model& model) {
  Fields fields;
  for (const auto& [domain, version] : model.opsets) {
    fields.add(domain);
    fields.add(int64_t{version});
  }
  for (const Function& function : model.functions) fields.add(function.wire);
  add_graph(fields, model.graph);
  return fields.finish();
}

}  // namespace compress
