// Backward as a graph transform: nodes that compute gradients are appended to the graph, and the
// ordinary session runs both.
#pragma once

#include <span>
#include <vector>

#include "compress/graph/model.h"

namespace compress::train {

// Appends what computes the derivative of `loss` (one float element) by each of `parameters`, which
// may be any float values of the graph. Returns a value for each; kNoValue where the loss does not
// depend on it. Types are inferred on the way.
//
// Fails (unsupported), before the graph is changed, naming every node between a parameter and the
// loss that has no derivative.
std::vector<ValueId> append_backward(Model& model, ValueId loss,
                                     std::span<const ValueId> parameters);

}  // namespace compress::train
