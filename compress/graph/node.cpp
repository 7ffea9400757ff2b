#include <algorithm>

#include "compress/error.h"
#include "compress/graph/graph.h"

namespace compress {
namespace {

// The attribute's value as a T, or nullptr where the node has none of that name.
template <class T>
const T* typed(const Node& node, std::string_view name) {
  const AttributeValue* value = node.attribute(name);
  if (value == nullptr) return nullptr;
  const T* as = std::get_if<T>(value);
  if (as == nullptr) {
    fail(ErrorCode::invalid_model, "attribute '{}' of {} has the wrong type", name,
         node.name.empty() ? "a nameless " + node.op_type
                           : node.op_type + " node '" + node.name + "'");
  }
  return as;
}

}  // namespace

const AttributeValue* Node::attribute(std::string_view attribute_name) const {
  for (const Attribute& attribute : attributes) {
    if (attribute.name == attribute_name) return &attribute.value;
  }
  return nullptr;
}

int64_t Node::int_or(std::string_view attribute_name, int64_t fallback) const {
  const int64_t* value = typed<int64_t>(*this, attribute_name);
  return value ? *value : fallback;
}

float Node::float_or(std::string_view attribute_name, float fallback) const {
  const float* value = typed<float>(*this, attribute_name);
  return value ? *value : fallback;
}

std::string Node::string_or(std::string_view attribute_name, std::string_view fallback) const {
  const std::string* value = typed<std::string>(*this, attribute_name);
  return value ? *value : std::string(fallback);
}

std::vector<int64_t> Node::ints_or(std::string_view attribute_name,
                                   std::vector<int64_t> fallback) const {
  const auto* value = typed<std::vector<int64_t>>(*this, attribute_name);
  return value ? *value : fallback;
}

std::vector<float> Node::floats_or(std::string_view attribute_name,
                                   std::vector<float> fallback) const {
  const auto* value = typed<std::vector<float>>(*this, attribute_name);
  return value ? *value : fallback;
}

const Tensor* Node::tensor_or_null(std::string_view attribute_name) const {
  return typed<Tensor>(*this, attribute_name);
}

void Node::set_attribute(std::string_view attribute_name, AttributeValue value) {
  for (Attribute& attribute : attributes) {
    if (attribute.name == attribute_name) {
      attribute.value = std::move(value);
      return;
    }
  }
  attributes.push_back({std::string(attribute_name), std::move(value), ""});
}

void Node::remove_attribute(std::string_view attribute_name) {
  std::erase_if(attributes, [&](const Attribute& a) { return a.name == attribute_name; });
}

}  // namespace compress
