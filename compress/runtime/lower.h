// Rewrites the session's copy of a graph into nodes of an internal domain that stand for fused and
// library kernels. What it makes is never saved.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "compress/graph/model.h"
#include "compress/ops/op.h"

namespace compress::runtime {

inline constexpr std::string_view kInternalDomain = "compress.internal";

// The row of a node of the internal domain. Fails (internal) where there is none.
const OpDef& internal_op(const Node& node);

// The nodes of the model that this node stands for, as (name, operator); itself where it is no
// fusion.
std::vector<std::pair<std::string, std::string>> origins_of(const Node& node);
// Makes `fused` stand for `part` as well. REQUIRES both alive in the graph.
void add_origin(Graph& graph, NodeId fused, NodeId part);

// Values that stay readable under their name are marked as graph outputs by the caller.
void lower(Model& model);

}  // namespace compress::runtime
