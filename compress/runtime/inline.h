// Model-local functions, inlined on the session's copy of a graph.
#pragma once

#include "compress/graph/model.h"

namespace compress::runtime {

// A node of an inlined body whose function imports another version of its domain than the model
// carries that version in this attribute.
inline constexpr const char* kOpsetAttribute = "compress_opset";

// The version that a node's domain has for the node.
int node_opset(const Node& node, const Model& model);

inline constexpr int64_t kMaxNodes = 1'000'000;
inline constexpr int kMaxDepth = 64;  // of functions that call functions, and of nested bodies

// Replaces each call of a function by the function's nodes, in bodies of control flow too. Fails
// (invalid_model) on recursion, unbound attributes, and (unsupported) beyond the limits above.
void inline_functions(Model& model);

}  // namespace compress::runtime
