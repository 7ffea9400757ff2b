// Removes nodes that nothing reads, and constants that nothing reads. Inputs of the model stay.
// From the outside in, then from the inside out: what only a body read goes with its reader there.
#include "passes/bodies.h"
#include "passes/edit.h"
#include "passes/optimize/optimize.h"

namespace compress {
namespace {

struct Removed {
  int64_t nodes = 0;
  int64_t constants = 0;
};

void eliminate(Graph& graph, Removed& removed) {
  removed.nodes += erase_unread_nodes(graph);
  for (NodeId id = 0; id < graph.node_slots(); ++id) {
    for (const Body& body : graph.node(id).bodies) eliminate(*body.graph, removed);
  }
  if (drop_unused_captures(graph)) removed.nodes += erase_unread_nodes(graph);
  for (ValueId id = 0; id < graph.value_slots(); ++id) {
    const Value& value = graph.value(id);
    if (!value.alive || !value.is_constant() || !graph.is_unused(id)) continue;
    graph.erase_value(id);
    ++removed.constants;
  }
}

}  // namespace

PassResult eliminate_dead(Model& model, PassContext&) {
  Removed removed;
  eliminate(model.graph, removed);
  PassResult result;
  result.changed = removed.nodes + removed.constants > 0;
  if (result.changed) {
    result.details = {{"nodes", removed.nodes}, {"constants", removed.constants}};
  }
  return result;
}

}  // namespace compress
