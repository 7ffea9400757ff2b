#include "compress/runtime/inline.h"

#include <map>
#include <utility>
#include <vector>

#include "compress/error.h"

namespace compress::runtime {
namespace {

using Bindings = std::map<std::string, Attribute>;  // parameter -> value at this call

struct Call {
  const Function* function;
  const Call* parent;
};

class Inliner {
 public:
  explicit Inliner(const Model& model) : model_(model) {}

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
      expand(graph, id, *function);
      for (NodeId added = first; added < graph.node_slots(); ++added) {
        chain[added] = {calls_.back().get(), level + 1};
      }
    }
  }

 private:
  void count(int64_t nodes) {
    nodes_ += nodes;
    if (nodes_ > kMaxNodes) {
      fail(ErrorCode::unsupported, "inlining functions gives more than {} nodes", kMaxNodes);
    }
  }

  static void refuse_recursion(const Function& function, const Call* call) {
    for (; call != nullptr; call = call->parent) {
      if (call->function == &function) {
        fail(ErrorCode::invalid_model, "function '{}' calls itself", function.name);
      }
    }
  }

  Bindings bind(const Node& node, const Function& function) const {
    Bindings bindings;
    for (const Attribute& attribute : function.attribute_defaults) {
      bindings[attribute.name] = attribute;
    }
    for (const Attribute& attribute : node.attributes) bindings[attribute.name] = attribute;
    return bindings;
  }

  // References to the function's parameters become values; absent optional ones are left out.
  void substitute(Node& node, const Bindings& bindings) const {
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

  void substitute_all(Graph& graph, const Bindings& bindings) const {
    for (NodeId id = 0; id < graph.node_slots(); ++id) {
      if (graph.node(id).alive) substitute(graph.edit(id), bindings);
    }
  }

  void set_opset(Node& node, const Function& function) const {
    const auto own = function.opsets.find(node.domain);
    if (own == function.opsets.end()) return;
    const auto ours = model_.opsets.find(node.domain);
    if (ours != model_.opsets.end() && ours->second == own->second) return;
    node.set_attribute(kOpsetAttribute, static_cast<int64_t>(own->second));
    for (Body& body : node.bodies) {
      for (NodeId id = 0; id < body.graph->node_slots(); ++id) {
        if (body.graph->node(id).alive) set_opset(body.graph->edit(id), function);
      }
    }
  }

  void expand(Graph& graph, NodeId call, const Function& function) {
    const Graph body = *function.graph;  // bodies of control flow are copied with it
    count(body.node_count());
    const Bindings bindings = bind(graph.node(call), function);
    const std::string prefix = graph.node(call).name;
    std::vector<ValueId> ours(static_cast<size_t>(body.value_slots()), kNoValue);
    const auto mapped = [&](ValueId id) {
      return id == kNoValue ? kNoValue : ours[static_cast<size_t>(id)];
    };
    for (size_t i = 0; i < body.inputs().size(); ++i) {
      const Node& node = graph.node(call);
      ours[static_cast<size_t>(body.inputs()[i])] =
          i < node.inputs.size() ? node.inputs[i] : kNoValue;
    }
    for (ValueId id = 0; id < body.value_slots(); ++id) {
      const Value& value = body.value(id);
      if (!value.alive || value.is_input) continue;
      const std::string name = graph.unique_value_name(prefix + "/" + value.name);
      ours[static_cast<size_t>(id)] = value.is_constant() ? graph.add_constant(name, value.constant)
                                                          : graph.add_value(name, value.type);
    }
    for (const NodeId id : body.order()) {
      Node node = body.node(id);
      node.name = graph.unique_node_name(prefix + "/" + node.name);
      for (ValueId& input : node.inputs) input = mapped(input);
      for (ValueId& output : node.outputs) output = mapped(output);
      for (Body& inner : node.bodies) {
        for (Body::Capture& capture : inner.captures) capture.outer = mapped(capture.outer);
      }
      substitute(node, bindings);
      set_opset(node, function);
      graph.add_node_raw(std::move(node));
    }
    for (size_t i = 0; i < graph.node(call).outputs.size() && i < body.outputs().size(); ++i) {
      const ValueId from = graph.node(call).outputs[i];
      if (from == kNoValue) continue;
      ValueId to = mapped(body.outputs()[i]);
      if (to == kNoValue)
        fail(ErrorCode::invalid_model, "function '{}' returns an input that the call omits",
             function.name);
      if (graph.is_output(from)) {
        // A function may return what it was given; a graph output must be a node's own.
        const NodeId copy = graph.add({"Identity", {to}, {prefix + "/output"}});
        to = graph.node(copy).outputs[0];
      }
      graph.replace_uses(from, to);
    }
    graph.erase(call);
  }

  const Model& model_;
  int64_t nodes_ = 0;
  std::vector<std::unique_ptr<Call>> calls_;
};

}  // namespace

int node_opset(const Node& node, const Model& model) {
  if (const int64_t own = node.int_or(kOpsetAttribute, 0); own > 0) return static_cast<int>(own);
  const auto row = model.opsets.find(node.domain == "ai.onnx" ? "" : node.domain);
  return row == model.opsets.end() ? 1 : row->second;
}

void inline_functions(Model& model) {
  if (model.functions.empty()) return;
  Inliner(model).run(model.graph, nullptr, 0);
}

}  // namespace compress::runtime
