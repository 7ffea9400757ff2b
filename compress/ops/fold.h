// Inference and folding of single nodes: what infer_types, the session and passes share.
#pragma once

#include <cstdint>
#include <vector>

#include "compress/ops/op.h"

namespace compress {

// A context for the node with types and constants of its operands as the graph knows them.
NodeContext context_of(const Graph& graph, const Node& node, int opset);

// Runs the row's infer; errors name the node.
void infer_node(const OpDef& op, NodeContext& context);

// True where the outputs are concrete, take at most `max_bytes`, and all contents that they depend
// on are known (Shape and Size depend on none). REQUIRES infer_node.
bool is_foldable(const NodeContext& context, uint64_t max_bytes);

// The outputs, computed now; an undefined tensor where an output is omitted. REQUIRES is_foldable.
std::vector<Tensor> fold_node(const OpDef& op, const NodeContext& context);

// What a Constant node holds. Fails (unsupported) for a sparse value.
Tensor constant_value(const Node& node);

// Runs one node on inputs (undefined where omitted), whatever is data-dependent about it.
std::vector<Tensor> run_node(const OpDef& op, const NodeContext& context,
                             std::span<const Tensor> inputs);

}  // namespace compress
