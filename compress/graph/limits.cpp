#include "compress/graph/limits.h"

#include <algorithm>

namespace compress {
namespace {

constexpr int64_t kMaxNodes = 1'000'000;
constexpr int64_t kFreeNodes = 50'000;
constexpr int64_t kNodesPerNode = 20;

int64_t nodes_in(const Graph& graph) {
  int64_t nodes = graph.node_count();
  for (NodeId id = 0; id < graph.node_slots(); ++id) {
    for (const Body& body : graph.node(id).bodies) nodes += nodes_in(*body.graph);
  }
  return nodes;
}

}  // namespace

int64_t max_inlined_nodes(const Model& model) {
  int64_t nodes = nodes_in(model.graph);
  for (const Function& function : model.functions) nodes += nodes_in(*function.graph);
  return std::min(kMaxNodes, kFreeNodes + kNodesPerNode * std::min(nodes, kMaxNodes));
}

}  // namespace compress
