// Functions, inlined on the session's copy of a graph: those of the model, and operators without a
// kernel that their specification defines as functions.
#pragma once

#include <span>
#include <string_view>

#include "compress/graph/model.h"
#include "compress/ops/support.h"

namespace compress::runtime {

inline int node_opset(const Node& node, const Model& model) { return opset_of(node, model); }

inline constexpr int64_t kMaxNodes = 1'000'000;
inline constexpr int kMaxDepth = 64;  // of functions that call functions, and of nested bodies

// Replaces each call of a function by the function's nodes, in bodies of control flow too. Fails
// (invalid_model) on recursion, unbound attributes, and (unsupported) beyond the limits above.
void inline_functions(Model& model);

// Replaces each node that has no row by the body that model.operator_function gives for it, in
// bodies of control flow and in these bodies too; and Scan of opset 8 by two of opset 9. What is
// left without a row has no body. Operators of `also` become their bodies where they have one, row
// or not. Fails (unsupported) beyond the limits above, and as the function does.
void expand_operators(Model& model, std::span<const std::string_view> also = {});

// Replaces a call by the function's nodes, in the order of their execution; nested calls stay.
void inline_call(Graph& graph, NodeId call, const Function& function, const Model& model);

}  // namespace compress::runtime
