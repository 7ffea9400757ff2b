#include <algorithm>
#include <set>

#include "compress/error.h"
#include "compress/graph/graph.h"

namespace compress {

void check_graph(const Graph& graph) {
  std::set<std::string_view> names;
  size_t use_count = 0;
  for (ValueId id = 0; id < graph.value_slots(); ++id) {
    const Value& value = graph.value(id);
    if (!value.alive) {
      if (!graph.is_unused(id)) fail(ErrorCode::internal, "erased value {} is used", id);
      continue;
    }
    if (!value.name.empty()) {
      if (!names.insert(value.name).second)
        fail(ErrorCode::internal, "two values are named '{}'", value.name);
      if (graph.find_value(value.name) != id)
        fail(ErrorCode::internal, "value '{}' is not indexed", value.name);
    }
    if (value.producer != kNoNode) {
      const Node& producer = graph.node(value.producer);
      const bool listed =
          std::find(producer.outputs.begin(), producer.outputs.end(), id) != producer.outputs.end();
      if (!producer.alive || !listed || value.is_constant()) {
        fail(ErrorCode::internal, "value '{}' and its producer disagree", value.name);
      }
    }
    use_count += graph.uses(id).size();
  }
  size_t operand_count = 0;
  int32_t live = 0;
  for (NodeId id = 0; id < graph.node_slots(); ++id) {
    const Node& node = graph.node(id);
    if (!node.alive) continue;
    ++live;
    for (const ValueId output : node.outputs) {
      if (output != kNoValue && graph.value(output).producer != id) {
        fail(ErrorCode::internal, "output '{}' of node '{}' has another producer",
             graph.value(output).name, node.name);
      }
    }
    Graph::for_each_operand(node, [&](int32_t slot, ValueId read) {
      ++operand_count;
      const auto uses = graph.uses(read);
      const uint32_t at = graph.use_slots_[static_cast<size_t>(id)][static_cast<size_t>(slot)];
      if (!graph.value(read).alive || at >= uses.size() || uses[at].node != id ||
          uses[at].slot != slot) {
        fail(ErrorCode::internal, "operand {} of node '{}' is not among the uses of its value",
             slot, node.name);
      }
    });
    for (const Body& body : node.bodies) {
      check_graph(*body.graph);
      for (const Body::Capture& capture : body.captures) {
        if (!body.graph->value(capture.inner).is_capture) {
          fail(ErrorCode::internal, "a capture of node '{}' is none in its body", node.name);
        }
      }
    }
  }
  if (live != graph.node_count()) fail(ErrorCode::internal, "the node count is wrong");
  if (operand_count != use_count)
    fail(ErrorCode::internal, "{} operands but {} uses", operand_count, use_count);
  for (const ValueId output : graph.outputs()) {
    if (!graph.value(output).alive) fail(ErrorCode::internal, "a graph output was erased");
  }
  graph.order();
}

}  // namespace compress
