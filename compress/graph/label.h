// How people are told of a node. Many exporters leave nodes without a name; such a node is called
// after its operator and its first output.
#pragma once

#include <string>

#include "compress/graph/model.h"

namespace compress {

// For tables and lists: "conv1", or "Conv -> y".
std::string label(const Graph& graph, const Node& node);
// For messages: "node 'conv1' (Conv)", or "the Conv that makes 'y'".
std::string describe(const Graph& graph, const Node& node);

// Gives each node without a name that of its first output, in bodies too: on copies that are run,
// so that kernels and messages can be told apart.
void name_nodes(Model& model);

}  // namespace compress
