// Runs single nodes on constants: what the optimize pass and the session fold with.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "compress/core/tensor.h"
#include "compress/graph/model.h"
#include "compress/ops/op.h"

namespace compress {

// True where the node's outputs are a function of its inputs alone: no control flow, no randomness.
bool is_pure(const Node& node);

// A context whose operands are all known. An empty tensor is an omitted input.
NodeContext constant_context(const Node& node, int opset, std::span<const Tensor> inputs);

// Runs the node on `inputs` (one a slot, empty where omitted) and returns an output a slot (empty
// where omitted). REQUIRES is_pure(node). Fails as the operator does, and (unsupported) where
// the outputs would take more than `max_bytes`.
std::vector<Tensor> evaluate(const Node& node, const Model& model, std::span<const Tensor> inputs,
                             uint64_t max_bytes = uint64_t{1} << 30);
// The same through a given row.
std::vector<Tensor> evaluate(const OpDef& op, const Node& node, int opset,
                             std::span<const Tensor> inputs, uint64_t max_bytes);

}  // namespace compress
