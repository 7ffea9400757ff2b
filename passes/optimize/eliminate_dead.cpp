// Removes nodes that nothing reads, and constants that nothing reads. Inputs of the model stay.
#include "passes/optimize/optimize.h"

namespace compress {

PassResult eliminate_dead(Model& model, PassContext&) {
  Graph& graph = model.graph;
  int64_t nodes = 0;
  int64_t constants = 0;
  const std::vector<NodeId> order = graph.order();
  for (auto row = order.rbegin(); row != order.rend(); ++row) {
    bool is_used = false;
    for (const ValueId out : graph.node(*row).outputs) {
      is_used = is_used || (out != kNoValue && !graph.is_unused(out));
    }
    if (is_used) continue;
    graph.erase(*row);
    ++nodes;
  }
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
