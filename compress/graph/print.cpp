#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "compress/graph/diff.h"
#include "compress/graph/graph.h"

namespace compress {
namespace {

// FNV-1a: enough to see in a dump that a constant changed.
uint64_t content_hash(const Tensor& tensor) {
  uint64_t hash = 0xcbf29ce484222325u;
  if (tensor.dtype() == DType::string) return hash;
  const TensorData data = tensor.read();
  for (const std::byte b : data.bytes()) {
    hash = (hash ^ static_cast<uint64_t>(b)) * 0x100000001b3u;
  }
  return hash;
}

}  // namespace

std::string describe(const Graph& graph, const TypeInfo& type) {
  std::string text(info(type.dtype).name);
  if (!type.has_shape) return text;
  text += '[';
  for (int i = 0; i < type.shape.rank(); ++i) {
    if (i > 0) text += ',';
    const int64_t dim = type.shape[i];
    const std::string_view symbol = graph.symbol_name(dim);
    text += dim >= 0 ? std::to_string(dim) : symbol.empty() ? "?" : std::string(symbol);
  }
  return text + "]";
}

std::string describe(const AttributeValue& value) {
  struct Printer {
    std::string operator()(int64_t v) const { return std::to_string(v); }
    std::string operator()(float v) const { return fmt::format("{}", v); }
    std::string operator()(const std::string& v) const { return "\"" + v + "\""; }
    std::string operator()(const std::vector<int64_t>& v) const {
      return fmt::format("[{}]", fmt::join(v, ","));
    }
    std::string operator()(const std::vector<float>& v) const {
      return fmt::format("[{}]", fmt::join(v, ","));
    }
    std::string operator()(const std::vector<std::string>& v) const {
      return fmt::format("[{}]", fmt::join(v, ","));
    }
    std::string operator()(const Tensor& v) const {
      return fmt::format("tensor {}{} #{:016x}", info(v.dtype()).name, v.shape().to_string(),
                         content_hash(v));
    }
    std::string operator()(const ReferenceAttribute& v) const { return "@" + v.parameter; }
    std::string operator()(const OpaqueAttribute&) const { return "<opaque>"; }
  };
  return std::visit(Printer{}, value);
}

bool same_attribute(const AttributeValue& a, const AttributeValue& b) {
  if (a.index() != b.index()) return false;
  if (const Tensor* tensor = std::get_if<Tensor>(&a)) {
    return same_content(*tensor, std::get<Tensor>(b));
  }
  if (const auto* reference = std::get_if<ReferenceAttribute>(&a)) {
    return reference->parameter == std::get<ReferenceAttribute>(b).parameter;
  }
  if (const auto* opaque = std::get_if<OpaqueAttribute>(&a)) {
    return opaque->wire == std::get<OpaqueAttribute>(b).wire;
  }
  return describe(a) == describe(b);
}

namespace {

void print_into(std::string& out, const Graph& graph, const std::string& indent) {
  const auto name_of = [&](ValueId id) {
    return id == kNoValue ? std::string("_") : graph.value(id).name;
  };
  for (const ValueId id : graph.inputs()) {
    out +=
        fmt::format("{}input {}: {}\n", indent, name_of(id), describe(graph, graph.value(id).type));
  }
  for (ValueId id = 0; id < graph.value_slots(); ++id) {
    const Value& value = graph.value(id);
    if (!value.alive || !value.is_constant()) continue;
    out += fmt::format("{}constant {}: {} #{:016x}\n", indent, value.name,
                       describe(graph, value.type), content_hash(value.constant));
  }
  for (const NodeId node_id : graph.order()) {
    const Node& node = graph.node(node_id);
    std::vector<std::string> inputs;
    std::vector<std::string> outputs;
    std::vector<std::string> attributes;
    for (const ValueId id : node.inputs) inputs.push_back(name_of(id));
    for (const ValueId id : node.outputs) outputs.push_back(name_of(id));
    for (const Attribute& a : node.attributes)
      attributes.push_back(a.name + "=" + describe(a.value));
    out += fmt::format("{}{} = {}{}({}) {{{}}} '{}'\n", indent, fmt::join(outputs, ", "),
                       node.domain.empty() ? "" : node.domain + ".", node.op_type,
                       fmt::join(inputs, ", "), fmt::join(attributes, ", "), node.name);
    for (const Body& body : node.bodies) {
      out += fmt::format("{}  {}:\n", indent, body.attribute);
      print_into(out, *body.graph, indent + "    ");
    }
  }
  for (const ValueId id : graph.outputs()) out += fmt::format("{}output {}\n", indent, name_of(id));
}

bool same_attributes(const Node& a, const Node& b) {
  if (a.attributes.size() != b.attributes.size()) return false;
  return std::all_of(a.attributes.begin(), a.attributes.end(), [&](const Attribute& attribute) {
    const AttributeValue* other = b.attribute(attribute.name);
    return other != nullptr && same_attribute(attribute.value, *other);
  });
}

// Walks both graphs from their outputs, pairing values as it goes.
class Comparison {
 public:
  Comparison(const Graph& a, const Graph& b) : a_(a), b_(b) {}

  bool run() {
    if (a_.node_count() != b_.node_count()) return false;
    if (a_.inputs().size() != b_.inputs().size() || a_.outputs().size() != b_.outputs().size()) {
      return false;
    }
    for (size_t i = 0; i < a_.inputs().size(); ++i) pair(a_.inputs()[i], b_.inputs()[i]);
    for (size_t i = 0; i < a_.outputs().size(); ++i) pair(a_.outputs()[i], b_.outputs()[i]);
    while (same_ && !pending_.empty()) {
      const auto [left, right] = pending_.back();
      pending_.pop_back();
      compare_values(left, right);
    }
    return same_;
  }

 private:
  void pair(ValueId left, ValueId right) {
    if ((left == kNoValue) != (right == kNoValue)) same_ = false;
    if (left == kNoValue || !same_) return;
    const auto [entry, fresh] = paired_.emplace(left, right);
    if (!fresh) same_ = entry->second == right;
    if (fresh) pending_.emplace_back(left, right);
  }

  void compare_values(ValueId left, ValueId right) {
    const Value& x = a_.value(left);
    const Value& y = b_.value(right);
    if (x.is_input != y.is_input || x.is_capture != y.is_capture ||
        x.is_constant() != y.is_constant() || (x.producer == kNoNode) != (y.producer == kNoNode) ||
        (x.is_input && x.name != y.name) ||
        (x.is_constant() && !same_content(x.constant, y.constant))) {
      same_ = false;
      return;
    }
    if (x.producer != kNoNode) compare_nodes(a_.node(x.producer), b_.node(y.producer));
  }

  void compare_nodes(const Node& x, const Node& y) {
    same_ = x.op_type == y.op_type && x.domain == y.domain && same_attributes(x, y) &&
            x.inputs.size() == y.inputs.size() && x.outputs.size() == y.outputs.size() &&
            x.bodies.size() == y.bodies.size();
    if (!same_) return;
    for (size_t i = 0; i < x.inputs.size(); ++i) pair(x.inputs[i], y.inputs[i]);
    for (size_t i = 0; i < x.outputs.size(); ++i) pair(x.outputs[i], y.outputs[i]);
    for (size_t i = 0; same_ && i < x.bodies.size(); ++i) {
      const Body& p = x.bodies[i];
      const Body& q = y.bodies[i];
      same_ = p.captures.size() == q.captures.size() && same_graph(*p.graph, *q.graph);
      for (size_t k = 0; same_ && k < p.captures.size(); ++k) {
        pair(p.captures[k].outer, q.captures[k].outer);
      }
    }
  }

  const Graph& a_;
  const Graph& b_;
  std::unordered_map<ValueId, ValueId> paired_;
  std::vector<std::pair<ValueId, ValueId>> pending_;
  bool same_ = true;
};

}  // namespace

std::string print_graph(const Graph& graph) {
  std::string out;
  print_into(out, graph, "");
  return out;
}

bool same_graph(const Graph& a, const Graph& b) { return Comparison(a, b).run(); }

}  // namespace compress
