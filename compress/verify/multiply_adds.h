// The work of a node: multiply-adds of convolutions, matrix products and recurrent layers.
#pragma once

#include <cstdint>

#include "compress/graph/graph.h"

namespace compress {

// 0 for other operators, and where shapes are not known. Needs inferred types.
int64_t multiply_adds(const Graph& graph, const Node& node);

}  // namespace compress
