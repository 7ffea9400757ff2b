// Removes nodes that nothing reads, and constants that nothing reads. Inputs of the model stay.
#include "passes/edit.h"
#include "passes/optimize/optimize.h"

namespace compress {

PassResult eliminate_dead(Model& model, PassContext&) {
  Graph& graph = model.graph;
  const int64_t nodes = erase_unread_nodes(graph);
  int64_t constants = 0;
  for (ValueId id = 0; id < graph.value_slots(); ++id) {
    const Value& value = graph.value(id);
    if (!value.alive || !value.is_constant() || !graph.is_unused(id)) continue;
    graph.erase_value(id);
    ++constants;
  }
  PassResult result;
  result.changed = nodes + constants > 0;
  if (result.changed) result.details = {{"nodes", nodes}, {"constants", constants}};
  return result;
}

}  // namespace compress
