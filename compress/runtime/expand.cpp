// Operators without a kernel, run by the bodies that their specification gives.
#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "compress/error.h"
#include "compress/runtime/inline.h"
#include "compress/runtime/plan.h"

namespace compress::runtime {
namespace {

bool has_row(const Node& node, const Model& model) {
  return find_op(node.domain, node.op_type, node_opset(node, model)) != nullptr;
}

using Names = std::span<const std::string_view>;

bool is_among(const Node& node, Names names) {
  return node.domain.empty() && std::find(names.begin(), names.end(), node.op_type) != names.end();
}

bool all_have_rows(const Graph& graph, const Model& model, Names also, int depth) {
  if (depth > kMaxDepth) return true;  // refused elsewhere
  for (NodeId id = 0; id < graph.node_slots(); ++id) {
    const Node& node = graph.node(id);
    if (!node.alive) continue;
    if (!is_control_flow(node) && !has_row(node, model)) return false;
    if (is_among(node, also)) return false;
    for (const Body& body : node.bodies) {
      if (!all_have_rows(*body.graph, model, also, depth + 1)) return false;
    }
  }
  return true;
}

// A type of another graph: its symbols mean nothing here.
TypeInfo without_symbols(TypeInfo type) {
  for (int i = 0; i < type.shape.rank(); ++i) {
    if (type.shape[i] < 0) type.shape[i] = kUnknownDim;
  }
  return type;
}

bool is_batched_scan(const Node& node, const Model& model) {
  return node.is("Scan") && node_opset(node, model) < 9;
}

bool has_batched_scan(const Graph& graph, const Model& model, int depth) {
  if (depth > kMaxDepth) return false;  // refused elsewhere
  for (NodeId id = 0; id < graph.node_slots(); ++id) {
    const Node& node = graph.node(id);
    if (!node.alive) continue;
    if (is_batched_scan(node, model)) return true;
    for (const Body& body : node.bodies) {
      if (has_batched_scan(*body.graph, model, depth + 1)) return true;
    }
  }
  return false;
}

// The Scan of opset 9 that `old`, of opset 8, does for one element of the batch, alone in a body
// for a Scan over the batch. What it captures, this body captures first.
Body batch_body(const Node& old) {
  Body outer{"body", std::make_shared<Graph>(), {}};
  Graph& graph = *outer.graph;
  Node scan;
  scan.name = old.name;
  scan.op_type = "Scan";
  scan.attributes = {{"num_scan_inputs", old.int_or("num_scan_inputs", 0), ""}};
  const std::vector<int64_t> directions = old.ints_or("directions", {});
  if (!directions.empty()) scan.set_attribute("scan_input_directions", directions);
  for (size_t i = 1; i < old.inputs.size(); ++i) {
    scan.inputs.push_back(graph.add_input(graph.unique_value_name("input"), {}));
  }
  scan.bodies = old.bodies;
  for (Body& body : scan.bodies) {
    for (Body::Capture& capture : body.captures) {
      const std::string& name = body.graph->value(capture.inner).name;
      const ValueId between = graph.add_capture(graph.unique_value_name(name), {});
      outer.captures.push_back({capture.outer, between});
      capture.outer = between;
    }
  }
  for (size_t i = 0; i < old.outputs.size(); ++i) {
    scan.outputs.push_back(graph.add_value(graph.unique_value_name("output"), {}));
  }
  const NodeId id = graph.add_node_raw(std::move(scan));
  for (const ValueId output : graph.node(id).outputs) graph.add_output(output);
  return outer;
}

// Scan of opset 8 scans each element of a batch: a Scan over the batch whose body is a Scan.
void split_batched_scan(Graph& graph, NodeId id) {
  const Node old = graph.node(id);
  if (!old.inputs.empty() && old.inputs[0] != kNoValue) {
    fail(ErrorCode::unsupported, "node '{}': Scan of opset 8 with lengths of sequences", old.name);
  }
  Node scan;
  scan.name = graph.unique_node_name(old.name + "/batch");
  scan.op_type = "Scan";
  for (size_t i = 1; i < old.inputs.size(); ++i) scan.inputs.push_back(old.inputs[i]);
  scan.set_attribute("num_scan_inputs", static_cast<int64_t>(scan.inputs.size()));
  scan.set_attribute(kOpsetAttribute, int64_t{9});
  scan.bodies.push_back(batch_body(old));
  scan.bodies[0].graph->edit(0).set_attribute(kOpsetAttribute, int64_t{9});
  for (const ValueId output : old.outputs) {
    scan.outputs.push_back(output == kNoValue
                               ? kNoValue
                               : graph.add_value(graph.unique_value_name(graph.value(output).name),
                                                 graph.value(output).type));
  }
  const NodeId made = graph.add_node_raw(std::move(scan));
  for (size_t i = 0; i < old.outputs.size(); ++i) {
    if (old.outputs[i] != kNoValue) {
      graph.replace_uses(old.outputs[i], graph.node(made).outputs[i]);
    }
  }
  graph.erase(id);
}

void split_batched_scans(Graph& graph, const Model& model) {
  const NodeId end = graph.node_slots();
  for (NodeId id = 0; id < end; ++id) {
    if (!graph.node(id).alive) continue;
    for (Body& body : graph.edit(id).bodies) split_batched_scans(*body.graph, model);
    if (is_batched_scan(graph.node(id), model)) split_batched_scan(graph, id);
  }
}

// Walks each graph in the order of execution, because bodies depend on types that earlier bodies
// decide.
class Expander {
 public:
  Expander(const Model& model, Names also) : model_(model), also_(also) {}

  void run(Graph& graph, int depth) {
    count(graph.node_count());
    TypeInference types(graph, model_);
    const std::vector<NodeId> order = graph.order();
    for (const NodeId id : order) visit(graph, id, types, depth);
  }

 private:
  void count(int64_t nodes) {
    nodes_ += nodes;
    if (nodes_ > kMaxNodes) {
      fail(ErrorCode::unsupported, "expanding operators gives more than {} nodes", kMaxNodes);
    }
  }

  void visit(Graph& graph, NodeId id, TypeInference& types, int depth) {
    if (depth > kMaxDepth) {
      fail(ErrorCode::unsupported, "functions and bodies nest deeper than {}", kMaxDepth);
    }
    const Node& node = graph.node(id);
    if (!node.alive) return;
    if (is_control_flow(node)) return visit_bodies(graph, id, depth);
    const bool known = has_row(node, model_);
    if (known && !is_among(node, also_)) return infer(graph, id, types);
    const std::optional<Function> function = function_of(graph, node);
    if (!function) {
      if (known) return infer(graph, id, types);
      row_of(node, model_);  // fails, naming the node and the nearest operator
      return;
    }
    count(function->graph->node_count());
    const NodeId first = graph.node_slots();
    inline_call(graph, id, *function, model_);
    const NodeId end = graph.node_slots();
    for (NodeId added = first; added < end; ++added) visit(graph, added, types, depth + 1);
  }

  std::optional<Function> function_of(const Graph& graph, const Node& node) const {
    std::vector<TypeInfo> inputs;
    for (const ValueId id : node.inputs) {
      if (id == kNoValue) {
        inputs.emplace_back();
        continue;
      }
      const Value& value = graph.value(id);
      inputs.push_back(without_symbols(
          value.is_constant() ? TypeInfo{value.constant.dtype(), true, value.constant.shape()}
                              : value.type));
    }
    return model_.operator_function(node, node_opset(node, model_), inputs);
  }

  void visit_bodies(Graph& graph, NodeId id, int depth) {
    const Node& node = graph.node(id);
    for (Body& body : graph.edit(id).bodies) {
      for (const Body::Capture& capture : body.captures) {
        learn(*body.graph, capture.inner, without_symbols(graph.value(capture.outer).type));
      }
      // Loop and Scan feed input i of the body from their own; Scan's are slices of it.
      for (size_t i = 0; i < node.inputs.size() && i < body.graph->inputs().size(); ++i) {
        if (node.inputs[i] == kNoValue) continue;
        const TypeInfo& type = graph.value(node.inputs[i]).type;
        learn(*body.graph, body.graph->inputs()[i], {type.dtype, false, {}});
      }
      run(*body.graph, depth + 1);
    }
  }

  static void learn(Graph& graph, ValueId id, const TypeInfo& type) {
    const Value& value = graph.value(id);
    if (value.type.dtype == DType::undefined && !value.is_constant()) graph.set_type(id, type);
  }

  // Where inference does not know, what the file declares stays.
  static void infer(Graph& graph, NodeId id, TypeInference& types) {
    const std::vector<ValueId> outputs = graph.node(id).outputs;
    std::vector<TypeInfo> declared;
    for (const ValueId output : outputs) {
      declared.push_back(output == kNoValue ? TypeInfo{} : graph.value(output).type);
    }
    types.visit(id);
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (outputs[i] != kNoValue) learn(graph, outputs[i], declared[i]);
    }
  }

  const Model& model_;
  Names also_;
  int64_t nodes_ = 0;
};

}  // namespace

void expand_operators(Model& model, Names also) {
  if (has_batched_scan(model.graph, model, 0)) split_batched_scans(model.graph, model);
  if (model.operator_function == nullptr || all_have_rows(model.graph, model, also, 0)) {
    return;
  }
  Expander(model, also).run(model.graph, 0);
}

}  // namespace compress::runtime
