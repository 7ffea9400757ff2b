#include "compress/graph/label.h"

namespace compress {
namespace {

// "" where it has none.
const std::string& first_output(const Graph& graph, const Node& node) {
  static const std::string none;
  for (const ValueId id : node.outputs) {
    if (id != kNoValue) return graph.value(id).name;
  }
  return none;
}

void name_nodes(Graph& graph) {
  for (NodeId id = 0; id < graph.node_slots(); ++id) {
    const Node& node = graph.node(id);
    if (!node.alive) continue;
    if (node.name.empty()) graph.edit(id).name = first_output(graph, node);
    for (Body& body : graph.edit(id).bodies) name_nodes(*body.graph);
  }
}

}  // namespace

std::string label(const Graph& graph, const Node& node) {
  if (!node.name.empty()) return node.name;
  const std::string& output = first_output(graph, node);
  return output.empty() ? node.op_type : node.op_type + " -> " + output;
}

std::string describe(const Graph& graph, const Node& node) {
  const std::string& output = first_output(graph, node);
  if (!node.name.empty()) return "node '" + node.name + "' (" + node.op_type + ")";
  return output.empty() ? "a nameless " + node.op_type
                        : "the " + node.op_type + " that makes '" + output + "'";
}

void name_nodes(Model& model) { name_nodes(model.graph); }

}  // namespace compress
