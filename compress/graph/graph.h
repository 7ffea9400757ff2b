// The intermediate representation: flat vectors of values and nodes, edited by five verbs.
//
// An id is a slot that is never reused; erasing leaves a tombstone. So a copied graph keeps its
// ids, and teacher, student, calibration and training graphs are copies that share constants. Uses
// are maintained by the verbs; execution order is kept between passes and re-sorted, linearly, on
// demand.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include "compress/core/tensor.h"

namespace compress {

class Graph;

// Indices into Graph's vectors.
using ValueId = int32_t;
using NodeId = int32_t;
inline constexpr ValueId kNoValue = -1;  // an omitted optional input or output
inline constexpr NodeId kNoNode = -1;

// What is known of a value before it is computed. Without has_shape even the rank is unknown.
// Dimensions may be kUnknownDim or symbols (Graph::symbol).
struct TypeInfo {
  DType dtype = DType::undefined;
  bool has_shape = false;
  Shape shape;

  bool is_concrete() const { return has_shape && shape.is_concrete(); }
};

// An attribute whose content this program does not interpret; kept as wire bytes of AttributeProto.
struct OpaqueAttribute {
  std::string wire;
};
// The name of the function parameter that an attribute of a function body refers to, and its type.
struct ReferenceAttribute {
  std::string parameter;
  std::string wire;
};

using AttributeValue =
    std::variant<int64_t, float, std::string, std::vector<int64_t>, std::vector<float>,
                 std::vector<std::string>, Tensor, ReferenceAttribute, OpaqueAttribute>;

struct Attribute {
  std::string name;
  AttributeValue value;
  std::string doc_string;
};

// A graph-valued attribute (If, Loop, Scan). `captures` are values of the outer graph that the body
// reads; the body sees each as the value `inner`. Captures are operands of the node like its
// inputs, so liveness, dead code and replace_uses see them.
struct Body {
  std::string attribute;  // "then_branch", "body"
  std::shared_ptr<Graph> graph;
  struct Capture {
    ValueId outer;
    ValueId inner;
  };
  std::vector<Capture> captures;
};

struct Node {
  std::string name;
  std::string op_type;
  std::string domain;  // "" is ai.onnx
  std::string overload;
  std::string doc_string;
  std::vector<ValueId> inputs;  // kNoValue where omitted
  std::vector<ValueId> outputs;
  std::vector<Attribute> attributes;
  std::vector<Body> bodies;
  std::string unknown_fields;  // wire bytes (metadata_props and what came after our time)

  bool alive = true;

  bool is(std::string_view type, std::string_view in_domain = "") const {
    return op_type == type && domain == in_domain;
  }
  const AttributeValue* attribute(std::string_view attribute_name) const;
  // Values of attributes with defaults; fail (invalid_model) where the type is another.
  int64_t int_or(std::string_view attribute_name, int64_t fallback) const;
  float float_or(std::string_view attribute_name, float fallback) const;
  std::string string_or(std::string_view attribute_name, std::string_view fallback) const;
  std::vector<int64_t> ints_or(std::string_view attribute_name,
                               std::vector<int64_t> fallback) const;
  std::vector<float> floats_or(std::string_view attribute_name, std::vector<float> fallback) const;
  const Tensor* tensor_or_null(std::string_view attribute_name) const;
  void set_attribute(std::string_view attribute_name, AttributeValue value);
  void remove_attribute(std::string_view attribute_name);
};

// One reading of a value: slot < inputs.size() is an input, beyond that the node's captures in the
// order of bodies.
struct Use {
  NodeId node;
  int32_t slot;
};

struct Value {
  std::string name;  // unique in the graph; "" only for values that formats will name
  TypeInfo type;
  NodeId producer = kNoNode;  // kNoNode: an input, a constant, or a capture (in a body)
  Tensor constant;            // an initializer; dtype undefined where it is none
  bool is_input = false;      // also set for initializers that old models list as inputs
  bool is_capture = false;    // of a body: fed from the outer graph
  bool alive = true;
  std::string wire;  // the ValueInfoProto as read; kept for what we do not interpret

  bool is_constant() const { return static_cast<bool>(constant); }
};

struct NodeSpec {
  std::string op_type;
  std::vector<ValueId> inputs;
  std::vector<std::string> outputs;  // names of new values; made unique; "" makes an omitted output
  std::vector<Attribute> attributes = {};
  std::string name = "";  // made unique; derived from the first output where empty
  std::string domain = "";
};

class Graph {
 public:
  Graph() = default;
  // A copy has the same ids; tensors are shared, bodies are copied.
  Graph(const Graph& other);
  Graph& operator=(const Graph& other);
  Graph(Graph&&) noexcept = default;
  Graph& operator=(Graph&&) noexcept = default;

  std::string name;
  std::string doc_string;
  std::string unknown_fields;

  // --- Reading -----------------------------------------------------------------------------------
  const Node& node(NodeId id) const { return nodes_[static_cast<size_t>(id)]; }
  const Value& value(ValueId id) const { return values_[static_cast<size_t>(id)]; }
  // Slots, tombstones included.
  int32_t node_slots() const { return static_cast<int32_t>(nodes_.size()); }
  int32_t value_slots() const { return static_cast<int32_t>(values_.size()); }
  int32_t node_count() const { return live_nodes_; }
  std::span<const ValueId> inputs() const { return inputs_; }    // in order, initializers included
  std::span<const ValueId> outputs() const { return outputs_; }  // in order; a value may repeat
  std::span<const Use> uses(ValueId id) const { return uses_[static_cast<size_t>(id)]; }
  bool is_output(ValueId id) const { return output_counts_[static_cast<size_t>(id)] > 0; }
  // No node reads it and it is no output.
  bool is_unused(ValueId id) const { return uses(id).empty() && !is_output(id); }
  ValueId find_value(std::string_view value_name) const;  // kNoValue where there is none
  // The constant that operand `slot` of the node is, or nullptr.
  const Tensor* constant_input(const Node& node, size_t slot) const;
  // All nodes so that each comes after what it reads: the order of before where that still holds,
  // new nodes just before their first reader. Fails (invalid_model) on a cycle. Editing while
  // walking over it is safe (erased nodes must be skipped by `alive`) until order() is called
  // again.
  const std::vector<NodeId>& order() const;

  // --- The five verbs ----------------------------------------------------------------------------
  // Appends a node; its outputs are new values. Returns the node; outputs via node(id).outputs.
  NodeId add(NodeSpec spec);
  // The same, for a node that `before` is to read.
  NodeId insert_before(NodeId before, NodeSpec spec);
  // Every reader of `from` (graph outputs included, unless told otherwise) reads `to` instead.
  // A graph output keeps its name: the two values swap theirs. Where `to` cannot take it (it is an
  // input, a capture or an output already), the output stays with `from`.
  void replace_uses(ValueId from, ValueId to, bool outputs_too = true);
  // Removes a node and its outputs. REQUIRES that nothing uses them.
  void erase(NodeId id);
  // Makes the value a constant (or another constant); a producer loses the output slot.
  void set_constant(ValueId id, Tensor tensor);

  // --- Building and smaller edits
  // -----------------------------------------------------------------
  ValueId add_input(std::string value_name, TypeInfo type);
  ValueId add_constant(std::string value_name, Tensor tensor);  // the name is made unique
  ValueId add_capture(std::string value_name, TypeInfo type);   // bodies only
  // A value without producer; a reader (formats) connects it later through add_node_raw.
  ValueId add_value(std::string value_name, TypeInfo type);
  void add_output(ValueId id);
  // One operand of a node reads another value; kNoValue omits it. `slot` may be one past the end.
  void set_input(NodeId id, size_t slot, ValueId to);
  // Graph output number `index` becomes `id`.
  void set_output(size_t index, ValueId id);
  void remove_input(ValueId id);  // REQUIRES that nothing uses it
  // Removes a constant. REQUIRES that nothing uses it.
  void erase_value(ValueId id);
  // Gives back the memory of what was erased, and erases constants that nothing uses; bodies
  // included. Ids change: the result is the new id of each value, kNoValue where it is gone.
  std::vector<ValueId> compact();
  void rename(ValueId id, std::string value_name);  // REQUIRES that the name is free
  void set_type(ValueId id, TypeInfo type);
  void set_wire(ValueId id, std::string wire);
  // Marks an initializer as one that is also listed among the inputs (IR 3).
  void list_as_input(ValueId id);
  // For readers: a node whose outputs are existing values without producer.
  NodeId add_node_raw(Node node);
  // Attributes, names and doc strings may be edited freely; operands only by the verbs.
  Node& edit(NodeId id) { return nodes_[static_cast<size_t>(id)]; }

  // `base`, or `base_1`, `base_2`...: a value (or node) name that is free in this graph.
  std::string unique_value_name(std::string_view base) const;
  std::string unique_node_name(std::string_view base) const;

  // Symbols of dimensions: "batch" -> a negative dimension below kUnknownDim, and back ("" for
  // none).
  int64_t symbol(std::string_view symbol_name);
  std::string_view symbol_name(int64_t dim) const;

  // Calls visit(slot, value id) for the inputs and captures of a node, omitted ones left out.
  template <class Visit>
  static void for_each_operand(const Node& node, Visit&& visit) {
    int32_t slot = 0;
    for (const ValueId id : node.inputs) {
      if (id != kNoValue) visit(slot, id);
      ++slot;
    }
    for (const Body& body : node.bodies) {
      for (const Body::Capture& capture : body.captures) visit(slot++, capture.outer);
    }
  }

 private:
  friend void check_graph(const Graph&);
  std::vector<ValueId> compact_values();
  std::vector<NodeId> compact_nodes();
  void connect(NodeId node, int32_t slot, ValueId value);
  void disconnect(NodeId node, int32_t slot, ValueId value);
  ValueId& operand(Node& node, int32_t slot);
  ValueId new_value(std::string value_name, TypeInfo type);
  NodeId new_node(Node node);

  std::vector<Node> nodes_;
  std::vector<Value> values_;
  // uses_[v][k] is a Use; use_slots_[n][slot] is its k, so that a reader leaves in constant time.
  std::vector<std::vector<Use>> uses_;
  std::vector<std::vector<uint32_t>> use_slots_;
  std::vector<int32_t> output_counts_;
  std::vector<ValueId> inputs_;
  std::vector<ValueId> outputs_;
  std::unordered_map<std::string, ValueId> value_names_;
  std::unordered_map<std::string, int32_t> node_names_;  // name -> number of nodes that bear it
  std::vector<std::string> symbols_;
  mutable std::unordered_map<std::string, int> next_suffix_;
  mutable std::unordered_map<std::string, int> next_node_suffix_;
  mutable std::vector<NodeId> order_;
  mutable NodeId sorted_slots_ = 0;  // nodes from this slot on are not in order_ yet
  mutable bool order_dirty_ = false;
  int32_t live_nodes_ = 0;
};

// Fails (internal) where an invariant is broken: uses match operands, names are unique, producers
// and outputs agree, the order exists; bodies included. The pipeline runs it after every pass.
void check_graph(const Graph& graph);

// Text for tests and --dump-after: one line a node, names, types, constants by hash.
std::string print_graph(const Graph& graph);

// True where both have the same nodes, wiring, attributes and constants, up to names of inner
// values and order of independent nodes.
bool same_graph(const Graph& a, const Graph& b);

}  // namespace compress
