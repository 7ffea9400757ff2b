#include <unordered_set>

#include "compress/graph/label.h"
#include "formats/onnx_fields.h"
#include "formats/onnx_reader.h"
#include "formats/onnx_types.h"
#include "formats/wire.h"

namespace compress {
namespace {

namespace field = onnx_field;

// --- Attributes
// ------------------------------------------------------------------------------------

struct AttributeWire {
  std::string_view wire;
  std::string name;
  std::string reference;
  std::string doc_string;
  int64_t type = 0;
  uint32_t kinds = 0;  // bit t: a value of AttributeType t is there
  int64_t i = 0;
  float f = 0;
  std::string_view s;
  std::string_view t;
  std::string_view g;
  std::vector<int64_t> ints;
  std::vector<float> floats;
  std::vector<std::string> strings;
};

void append_floats(const WireField& f, std::vector<float>& out) {
  if (f.type != WireType::bytes) {
    out.push_back(f.float32());
    return;
  }
  if (f.bytes.size() % sizeof(float) != 0) {
    fail(ErrorCode::invalid_model, "a list of numbers is cut off");
  }
  for (size_t at = 0; at < f.bytes.size(); at += sizeof(float)) {
    out.push_back(load_le<float>(f.bytes.data() + at));
  }
}

void append_ints(const WireField& f, std::vector<int64_t>& out) {
  if (f.type != WireType::bytes) {
    out.push_back(f.int64());
    return;
  }
  std::string_view run = f.bytes;
  for (uint64_t value = 0; !run.empty();) {
    if (!take_varint(run, value)) fail(ErrorCode::invalid_model, "a list of numbers is cut off");
    out.push_back(static_cast<int64_t>(value));
  }
}

AttributeWire scan_attribute(std::string_view wire) {
  AttributeWire a;
  a.wire = wire;
  const auto has = [&](uint32_t type) { a.kinds |= 1u << type; };
  WireReader reader(wire);
  for (WireField f; reader.next(f);) {
    switch (f.number) {
      case field::attribute::name:
        a.name = f.string();
        break;
      case field::attribute::ref_attr_name:
        a.reference = f.string();
        break;
      case field::attribute::doc_string:
        a.doc_string = f.string();
        break;
      case field::attribute::type:
        a.type = f.int64();
        break;
      case field::attribute::f:
        a.f = f.float32(), has(field::attribute::kFloat);
        break;
      case field::attribute::i:
        a.i = f.int64(), has(field::attribute::kInt);
        break;
      case field::attribute::s:
        a.s = f.text(), has(field::attribute::kString);
        break;
      case field::attribute::t:
        a.t = f.text(), has(field::attribute::kTensor);
        break;
      case field::attribute::g:
        a.g = f.text(), has(field::attribute::kGraph);
        break;
      case field::attribute::floats:
        append_floats(f, a.floats), has(field::attribute::kFloats);
        break;
      case field::attribute::ints:
        append_ints(f, a.ints), has(field::attribute::kInts);
        break;
      case field::attribute::strings:
        a.strings.push_back(f.string()), has(field::attribute::kStrings);
        break;
      case field::attribute::tensors:
        has(field::attribute::kTensors);
        break;
      case field::attribute::graphs:
        has(field::attribute::kGraphs);
        break;
      case field::attribute::tp:
        has(field::attribute::kTypeProto);
        break;
      case field::attribute::type_protos:
        has(field::attribute::kTypeProtos);
        break;
      case field::attribute::sparse_tensor:
        has(field::attribute::kSparseTensor);
        break;
      case field::attribute::sparse_tensors:
        has(field::attribute::kSparseTensors);
        break;
      default:
        break;
    }
  }
  return a;
}

// The type, which models of IR version 1 leave out.
void settle_type(AttributeWire& a) {
  if (a.name.empty()) fail(ErrorCode::invalid_model, "an attribute without a name");
  if ((a.kinds & (a.kinds - 1)) != 0) {
    fail(ErrorCode::invalid_model, "attribute '{}' has values of two types", a.name);
  }
  const int64_t found = a.kinds == 0 ? 0 : std::countr_zero(a.kinds);
  if (a.type == 0) a.type = found;
  if (a.type < 0 || a.type > field::attribute::kTypeProtos) {
    fail(ErrorCode::invalid_model, "attribute '{}' has type {}", a.name, a.type);
  }
  if (found != 0 && found != a.type) {
    fail(ErrorCode::invalid_model, "attribute '{}' says that its type is {}, but holds type {}",
         a.name, a.type, found);
  }
}

// Kept as bytes, so its external data could not follow the model to another folder.
void refuse_external(const AttributeWire& a, ReadState& state) {
  const auto check = [&](std::string_view tensor) {
    if (scan_tensor(tensor).external) {
      fail(ErrorCode::unsupported, "attribute '{}' has external data", a.name);
    }
  };
  WireReader reader(a.wire);
  for (WireField f; reader.next(f);) {
    if (f.number == field::attribute::tensors) check(f.text());
    if (f.number != field::attribute::sparse_tensor &&
        f.number != field::attribute::sparse_tensors) {
      continue;
    }
    WireReader parts(f.text());
    for (WireField part; parts.next(part);) {
      const bool is_tensor =
          part.number == field::sparse::values || part.number == field::sparse::indices;
      if (is_tensor) check(part.text());
    }
    read_sparse_tensor(f.text(), state.source);
  }
}

AttributeValue attribute_value(AttributeWire& a, const GraphScope& scope, ReadState& state) {
  if (!a.reference.empty()) {
    if (!scope.in_function || a.kinds != 0) {
      fail(ErrorCode::invalid_model, "attribute '{}' refers to '{}' where that cannot be", a.name,
           a.reference);
    }
    return ReferenceAttribute{a.reference, std::string(a.wire)};
  }
  switch (a.type) {
    case field::attribute::kInt:
      return a.i;
    case field::attribute::kFloat:
      return a.f;
    case field::attribute::kString:
      return std::string(a.s);
    case field::attribute::kInts:
      return std::move(a.ints);
    case field::attribute::kFloats:
      return std::move(a.floats);
    case field::attribute::kStrings:
      return std::move(a.strings);
    case field::attribute::kTensor:
      if (a.kinds == 0) fail(ErrorCode::invalid_model, "attribute '{}' has no tensor", a.name);
      return in_context([&] { return "attribute '" + a.name + "'"; },
                        [&] { return read_tensor(scan_tensor(a.t), state.source); });
    case field::attribute::kGraphs:
      fail(ErrorCode::unsupported, "attribute '{}' is a list of graphs", a.name);
    case field::attribute::kUndefined:
      fail(ErrorCode::invalid_model, "attribute '{}' has no value", a.name);
    default:
      break;
  }
  refuse_external(a, state);
  return OpaqueAttribute{std::string(a.wire)};
}

// --- Names
// -----------------------------------------------------------------------------------------

// A type of the outer graph in the inner graph's symbols.
TypeInfo carried(const TypeInfo& type, const Graph& from, Graph& to) {
  TypeInfo out = type;
  for (int i = 0; i < out.shape.rank(); ++i) {
    if (out.shape[i] < 0) out.shape[i] = to.symbol(from.symbol_name(out.shape[i]));
  }
  return out;
}

// The value of that name here, or captured from the graphs around; kNoValue where there is none.
ValueId resolve(const std::string& name, const GraphScope& scope) {
  const ValueId here = scope.graph.find_value(name);
  if (here != kNoValue || scope.outer == nullptr) return here;
  const ValueId outer = resolve(name, *scope.outer);
  if (outer == kNoValue) return kNoValue;
  const Graph& around = scope.outer->graph;
  const ValueId inner =
      scope.graph.add_capture(name, carried(around.value(outer).type, around, scope.graph));
  scope.captures->push_back({outer, inner});
  return inner;
}

// --- Nodes
// -----------------------------------------------------------------------------------------

Body read_body(AttributeWire& a, const GraphScope& scope, ReadState& state) {
  if (scope.depth + 1 > kMaxGraphDepth) {
    fail(ErrorCode::invalid_model, "graphs are nested more than {} deep", kMaxGraphDepth);
  }
  if (a.kinds == 0) fail(ErrorCode::invalid_model, "attribute '{}' has no graph", a.name);
  Body body;
  body.attribute = a.name;
  body.graph = std::make_shared<Graph>();
  GraphScope inner{*body.graph, &scope, &body.captures, scope.depth + 1, scope.in_function};
  in_context([&] { return "attribute '" + a.name + "'"; }, [&] { read_graph(a.g, inner, state); });
  return body;
}

void read_node_attribute(std::string_view wire, Node& node, GraphScope& scope, ReadState& state) {
  AttributeWire a = scan_attribute(wire);
  settle_type(a);
  if (a.type == field::attribute::kGraph && a.reference.empty()) {
    node.bodies.push_back(read_body(a, scope, state));
  } else {
    AttributeValue value = attribute_value(a, scope, state);
    node.attributes.push_back({std::move(a.name), std::move(value), std::move(a.doc_string)});
  }
}

void check_attribute_names(const std::vector<std::string_view>& attributes) {
  std::unordered_set<std::string_view> names;
  for (const std::string_view wire : attributes) {
    WireReader reader(wire);
    for (WireField f; reader.next(f);) {
      if (f.number == field::attribute::name && !names.insert(f.text()).second) {
        fail(ErrorCode::invalid_model, "attribute '{}' stands twice", f.text());
      }
    }
  }
}

// Omitted operands at the end say nothing, and readers of the graph need not expect them.
void drop_trailing_blanks(Node& node) {
  while (!node.inputs.empty() && node.inputs.back() == kNoValue) node.inputs.pop_back();
  while (node.outputs.size() > 1 && node.outputs.back() == kNoValue) node.outputs.pop_back();
}

void read_node(std::string_view wire, GraphScope& scope, ReadState& state) {
  Node node;
  std::vector<std::string> inputs;
  std::vector<std::string_view> attributes;
  WireReader reader(wire);
  for (WireField f; reader.next(f);) {
    switch (f.number) {
      case field::node::input:
        inputs.push_back(f.string());
        break;
      case field::node::output:
        node.outputs.push_back(f.text().empty() ? kNoValue : scope.graph.find_value(f.text()));
        break;
      case field::node::name:
        node.name = f.string();
        break;
      case field::node::op_type:
        node.op_type = f.string();
        break;
      case field::node::attribute:
        attributes.push_back(f.text());
        break;
      case field::node::doc_string:
        node.doc_string = f.string();
        break;
      case field::node::domain:
        node.domain = normal_domain(f.text());
        break;
      case field::node::overload:
        node.overload = f.string();
        break;
      default:
        node.unknown_fields += f.whole;
        break;
    }
  }
  if (node.op_type.empty()) {
    fail(ErrorCode::invalid_model, "{} has no operator type", describe(scope.graph, node));
  }
  in_context([&] { return describe(scope.graph, node); },
             [&] {
               if (node.outputs.empty()) fail(ErrorCode::invalid_model, "it has no outputs");
               check_attribute_names(attributes);
               for (const std::string_view attribute : attributes) {
                 read_node_attribute(attribute, node, scope, state);
               }
               for (const std::string& input : inputs) {
                 const ValueId id = input.empty() ? kNoValue : resolve(input, scope);
                 if (id == kNoValue && !input.empty()) {
                   fail(ErrorCode::invalid_model, "its input '{}' is produced nowhere", input);
                 }
                 node.inputs.push_back(id);
               }
               drop_trailing_blanks(node);
               scope.graph.add_node_raw(std::move(node));
             });
}

void declare_outputs(std::string_view wire, GraphScope& scope) {
  WireReader reader(wire);
  for (WireField f; reader.next(f);) {
    if (f.number != field::node::output || f.text().empty()) continue;
    // add_value fails where the name is taken, an input's or a constant's included.
    scope.graph.add_value(f.string(), {});
  }
}

// --- Graphs
// ----------------------------------------------------------------------------------------

struct GraphWire {
  std::vector<std::string_view> nodes;
  std::vector<std::string_view> inputs;
  std::vector<std::string_view> outputs;
  std::vector<std::string_view> infos;
  std::vector<std::string_view> initializers;
  std::vector<std::string_view> sparse;
};

GraphWire scan_graph(std::string_view wire, Graph& graph) {
  GraphWire parts;
  WireReader reader(wire);
  for (WireField f; reader.next(f);) {
    switch (f.number) {
      case field::graph::node:
        parts.nodes.push_back(f.text());
        break;
      case field::graph::name:
        graph.name = f.string();
        break;
      case field::graph::initializer:
        parts.initializers.push_back(f.text());
        break;
      case field::graph::doc_string:
        graph.doc_string = f.string();
        break;
      case field::graph::input:
        parts.inputs.push_back(f.text());
        break;
      case field::graph::output:
        parts.outputs.push_back(f.text());
        break;
      case field::graph::value_info:
        parts.infos.push_back(f.text());
        break;
      case field::graph::sparse_initializer:
        parts.sparse.push_back(f.text());
        break;
      default:
        graph.unknown_fields += f.whole;
        break;
    }
  }
  return parts;
}

// Constants by name, in the file's order.
class Initializers {
 public:
  Initializers(const GraphWire& parts, ReadState& state) {
    for (const std::string_view wire : parts.initializers) {
      const TensorWire tensor = scan_tensor(wire);
      add({tensor.name, read_tensor(tensor, state.source)});
    }
    for (const std::string_view wire : parts.sparse) {
      add(read_sparse_tensor(wire, state.source));
    }
  }

  const Tensor* find(const std::string& name) const {
    const auto row = index_.find(name);
    return row == index_.end() ? nullptr : &rows_[row->second].tensor;
  }
  const std::vector<NamedTensor>& rows() const { return rows_; }

 private:
  void add(NamedTensor row) {
    if (row.name.empty()) fail(ErrorCode::invalid_model, "an initializer has no name");
    if (!index_.emplace(row.name, rows_.size()).second) {
      fail(ErrorCode::invalid_model, "two initializers are named '{}'", row.name);
    }
    rows_.push_back(std::move(row));
  }

  std::vector<NamedTensor> rows_;
  std::unordered_map<std::string, size_t> index_;
};

void apply_info(Graph& graph, ValueId id, const ValueInfo& info, std::string_view wire) {
  if (info.type.dtype != DType::undefined) graph.set_type(id, info.type);
  if (info.is_partial) graph.set_wire(id, std::string(wire));
}

void check_initializer_type(const ValueInfo& info, const Tensor& tensor) {
  if (!info.has_type) return;
  bool fits = info.type.dtype == tensor.dtype();
  if (fits && info.type.has_shape) {
    fits = info.type.shape.rank() == tensor.shape().rank();
    for (int i = 0; fits && i < tensor.shape().rank(); ++i) {
      fits = info.type.shape[i] < 0 || info.type.shape[i] == tensor.shape()[i];
    }
  }
  if (!fits) {
    fail(ErrorCode::invalid_model, "'{}' is a {} of shape {}, its initializer a {} of shape {}",
         info.name, compress::info(info.type.dtype).name, info.type.shape.to_string(),
         compress::info(tensor.dtype()).name, tensor.shape().to_string());
  }
}

void declare_inputs(const GraphWire& parts, const Initializers& constants, GraphScope& scope,
                    SymbolTable& symbols) {
  Graph& graph = scope.graph;
  for (const std::string_view wire : parts.inputs) {
    const ValueInfo info = scan_value_info(wire, symbols);
    if (info.name.empty()) fail(ErrorCode::invalid_model, "a graph input has no name");
    if (!info.has_type && scope.depth == 0) {
      fail(ErrorCode::invalid_model, "graph input '{}' has no type", info.name);
    }
    if (graph.find_value(info.name) != kNoValue) {
      fail(ErrorCode::invalid_model, "two graph inputs are named '{}'", info.name);
    }
    const Tensor* constant = constants.find(info.name);
    ValueId id = kNoValue;
    if (constant == nullptr) {
      id = graph.add_input(info.name, {});
    } else {
      check_initializer_type(info, *constant);
      id = graph.add_constant(info.name, *constant);
      graph.list_as_input(id);
    }
    apply_info(graph, id, info, wire);
  }
}

void read_outputs(const GraphWire& parts, GraphScope& scope, SymbolTable& symbols) {
  Graph& graph = scope.graph;
  std::unordered_set<ValueId> seen;
  for (const std::string_view wire : parts.outputs) {
    const ValueInfo info = scan_value_info(wire, symbols);
    const ValueId id = graph.find_value(info.name);
    if (id == kNoValue || graph.value(id).is_capture) {
      fail(ErrorCode::invalid_model, "graph output '{}' is produced nowhere", info.name);
    }
    const Value& value = graph.value(id);
    if (value.type.dtype == DType::undefined && !value.is_constant() && value.wire.empty()) {
      apply_info(graph, id, info, wire);
    }
    if (!seen.insert(id).second && scope.depth == 0) {
      fail(ErrorCode::invalid_model, "graph output '{}' stands twice", info.name);
    }
    graph.add_output(id);
  }
}

void read_infos(const GraphWire& parts, Graph& graph, SymbolTable& symbols) {
  for (const std::string_view wire : parts.infos) {
    const ValueInfo info = scan_value_info(wire, symbols);
    const ValueId id = graph.find_value(info.name);
    if (id == kNoValue) continue;
    const Value& value = graph.value(id);
    if (value.is_constant()) {
      check_initializer_type(info, value.constant);
    } else if (value.type.dtype == DType::undefined && value.wire.empty()) {
      apply_info(graph, id, info, wire);
    }
  }
}

}  // namespace

std::string normal_domain(std::string_view domain) {
  return domain == "ai.onnx" ? "" : std::string(domain);
}

std::pair<std::string, std::string> read_entry(std::string_view wire) {
  std::pair<std::string, std::string> entry;
  WireReader reader(wire);
  for (WireField f; reader.next(f);) {
    if (f.number == field::entry::key) entry.first = f.string();
    if (f.number == field::entry::value) entry.second = f.string();
  }
  return entry;
}

Attribute read_attribute(std::string_view wire, GraphScope& scope, ReadState& state) {
  AttributeWire a = scan_attribute(wire);
  settle_type(a);
  AttributeValue value = attribute_value(a, scope, state);
  return {std::move(a.name), std::move(value), std::move(a.doc_string)};
}

void read_nodes(const std::vector<std::string_view>& nodes, GraphScope& scope, ReadState& state) {
  state.nodes_left -= static_cast<int64_t>(nodes.size());
  if (state.nodes_left < 0) {
    fail(ErrorCode::unsupported, "the model has more nodes than --max-nodes allows");
  }
  for (const std::string_view wire : nodes) read_node(wire, scope, state);
  scope.graph.order();
}

void read_graph(std::string_view wire, GraphScope& scope, ReadState& state) {
  const GraphWire parts = scan_graph(wire, scope.graph);
  SymbolTable symbols(scope.graph);
  const Initializers constants(parts, state);
  declare_inputs(parts, constants, scope, symbols);
  for (const NamedTensor& row : constants.rows()) {
    if (scope.graph.find_value(row.name) == kNoValue) {
      scope.graph.add_constant(row.name, row.tensor);
    }
  }
  for (const std::string_view node : parts.nodes) declare_outputs(node, scope);
  // Types come before nodes, so that bodies see the types of what they capture.
  read_outputs(parts, scope, symbols);
  read_infos(parts, scope.graph, symbols);
  read_nodes(parts.nodes, scope, state);
}

}  // namespace compress
