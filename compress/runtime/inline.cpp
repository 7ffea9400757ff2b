#include "compress/runtime/inline.h"

#include <map>
#include <utility>
#include <vector>

#include "compress/error.h"
#include "compress/graph/label.h"
#include "compress/graph/limits.h"

namespace compress::runtime {
namespace {

using Bindings = std::map<std::string, Attribute>;  // parameter -> value at this call

struct Call {
  const Function* function;
  const Call* parent;
};

Bindings bind(const Node& node, const Function& function) {
  Bindings bindings;
  for (const Attribute& attribute : function.attribute_defaults) {
    bindings[attribute.name] = attribute;
  }
  for (const Attribute& attribute : node.attributes) bindings[attribute.name] = attribute;
  return bindings;
}

void substitute_all(Graph& graph, const Bindings& bindings);

// References to the function's parameters become values; absent optional ones are left out.
void substitute(Node& node, const Bindings& bindings) {
  std::vector<Attribute> attributes;
  for (Attribute& attribute : node.attributes) {
    if (const auto* reference = std::get_if<ReferenceAttribute>(&attribute.value)) {
      const auto row = bindings.find(reference->parameter);
      if (row == bindings.end()) continue;
      attributes.push_back({attribute.name, row->second.value, ""});
    } else {
      attributes.push_back(std::move(attribute));
    }
  }
  node.attributes = std::move(attributes);
  for (Body& body : node.bodies) substitute_all(*body.graph, bindings);
}

void substitute_all(Graph& graph, const Bindings& bindings) {
  for (NodeId id = 0; id < graph.node_slots(); ++id) {
    if (graph.node(id).alive) substitute(graph.edit(id), bindings);
  }
}

void set_opset(Node& node, const Function& function, const Model& model) {
  const auto own = function.opsets.find(node.domain);
  if (own == function.opsets.end()) return;
  const auto ours = model.opsets.find(node.domain);
  if (ours != model.opsets.end() && ours->second == own->second) return;
  node.set_attribute(kOpsetAttribute, static_cast<int64_t>(own->second));
  for (Body& body : node.bodies) {
    for (NodeId id = 0; id < body.graph->node_slots(); ++id) {
      if (body.graph->node(id).alive) set_opset(body.graph->edit(id), function, model);
    }
  }
}

// The caller's values that stand for the body's, by the body's ids; kNoValue for inputs that the
// call omits and outputs that this body does not make.
std::vector<ValueId> add_values(Graph& graph, NodeId call, const Graph& body) {
  const std::string prefix = graph.node(call).name;
  std::vector<ValueId> ours(static_cast<size_t>(body.value_slots()), kNoValue);
  for (size_t i = 0; i < body.inputs().size(); ++i) {
    const Node& node = graph.node(call);
    ours[static_cast<size_t>(body.inputs()[i])] =
        i < node.inputs.size() ? node.inputs[i] : kNoValue;
  }
  for (ValueId id = 0; id < body.value_slots(); ++id) {
    const Value& value = body.value(id);
    const bool made = value.is_constant() || value.producer != kNoNode;
    if (!value.alive || value.is_input || !made) continue;
    const std::string name = graph.unique_value_name(prefix + "/" + value.name);
    ours[static_cast<size_t>(id)] = value.is_constant() ? graph.add_constant(name, value.constant)
                                                        : graph.add_value(name, value.type);
  }
  return ours;
}

// Readers of the call's outputs read those of the body.
void connect_outputs(Graph& graph, NodeId call, const Function& function,
                     const std::vector<ValueId>& ours) {
  const std::span<const ValueId> made = function.graph->outputs();
  for (size_t i = 0; i < graph.node(call).outputs.size() && i < made.size(); ++i) {
    const ValueId from = graph.node(call).outputs[i];
    if (from == kNoValue) continue;
    ValueId to = ours[static_cast<size_t>(made[i])];
    if (to == kNoValue) {
      fail(ErrorCode::invalid_model, "function '{}' gives nothing for its output '{}'",
           function.name, i < function.outputs.size() ? function.outputs[i] : "");
    }
    const Value& value = graph.value(to);
    if (value.type.dtype == DType::undefined && !value.is_constant()) {
      graph.set_type(to, graph.value(from).type);
    }
    if (graph.is_output(from)) {
      // A function may return what it was given; a graph output must be a node's own.
      const NodeId copy = graph.add({"Identity", {to}, {graph.node(call).name + "/output"}});
      to = graph.node(copy).outputs[0];
    }
    graph.replace_uses(from, to);
  }
}

class Inliner {
 public:
  explicit Inliner(const Model& model) : model_(model), limit_(max_inlined_nodes(model)) {}

  void run(Graph& graph, const Call* call, int depth) {
    if (depth > kMaxDepth) {
      fail(ErrorCode::unsupported, "functions and bodies nest deeper than {}", kMaxDepth);
    }
    count(graph.node_count());
    // Expanded calls append nodes, which the same loop then visits; their call chain is by node.
    std::map<NodeId, std::pair<const Call*, int>> chain;
    for (NodeId id = 0; id < graph.node_slots(); ++id) {
      if (!graph.node(id).alive) continue;
      const auto row = chain.find(id);
      const Call* parent = row == chain.end() ? call : row->second.first;
      const int level = row == chain.end() ? depth : row->second.second;
      for (Body& body : graph.edit(id).bodies) run(*body.graph, parent, level + 1);
      const Function* function = model_.find_function(graph.node(id));
      if (function == nullptr) continue;
      refuse_recursion(*function, parent);
      if (level + 1 > kMaxDepth) {
        fail(ErrorCode::unsupported, "functions nest deeper than {}", kMaxDepth);
      }
      calls_.push_back(std::make_unique<Call>(Call{function, parent}));
      const NodeId first = graph.node_slots();
      count(function->graph->node_count());
      inline_call(graph, id, *function, model_);
      for (NodeId added = first; added < graph.node_slots(); ++added) {
        chain[added] = {calls_.back().get(), level + 1};
      }
    }
  }

 private:
  void count(int64_t nodes) {
    nodes_ += nodes;
    if (nodes_ > limit_) {
      fail(ErrorCode::unsupported, "inlining the model's functions gives more than {} nodes",
           limit_);
    }
  }

  static void refuse_recursion(const Function& function, const Call* call) {
    for (; call != nullptr; call = call->parent) {
      if (call->function == &function) {
        fail(ErrorCode::invalid_model, "function '{}' calls itself", function.name);
      }
    }
  }

  const Model& model_;
  int64_t limit_;
  int64_t nodes_ = 0;
  std::vector<std::unique_ptr<Call>> calls_;
};

}  // namespace

void inline_call(Graph& graph, NodeId call, const Function& function, const Model& model) {
  const Graph body = *function.graph;  // bodies of control flow are copied with it
  const Bindings bindings = bind(graph.node(call), function);
  const std::string prefix = graph.node(call).name;
  const std::vector<ValueId> ours = add_values(graph, call, body);
  const auto mapped = [&](ValueId id) {
    return id == kNoValue ? kNoValue : ours[static_cast<size_t>(id)];
  };
  for (const NodeId id : body.order()) {
    Node node = body.node(id);
    node.name = graph.unique_node_name(prefix + "/" + label(body, node));
    for (ValueId& input : node.inputs) input = mapped(input);
    for (ValueId& output : node.outputs) output = mapped(output);
    for (Body& inner : node.bodies) {
      for (Body::Capture& capture : inner.captures) {
        const std::string& name = body.value(capture.outer).name;
        capture.outer = mapped(capture.outer);
        if (capture.outer != kNoValue) continue;
        fail(ErrorCode::invalid_model, "function '{}' reads '{}', which the call omits",
             function.name, name);
      }
    }
    substitute(node, bindings);
    set_opset(node, function, model);
    graph.add_node_raw(std::move(node));
  }
  connect_outputs(graph, call, function, ours);
  graph.erase(call);
}

void inline_functions(Model& model) {
  if (model.functions.empty()) return;
  Inliner(model).run(model.graph, nullptr, 0);
  model.functions.clear();
}

}  // namespace compress::runtime
