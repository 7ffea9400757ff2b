// Element-by-element work that the lowering steps recognise.
#pragma once

#include <optional>
#include <vector>

#include "compress/graph/graph.h"
#include "compress/kernels/float_rows/elementwise_f32.h"

namespace compress::runtime {

// A float32 node as a step of a program; single numbers among its operands are parameters.
struct Element {
  kernels::ElementOp op;
  float p = 0, q = 0;
  std::vector<ValueId> operands;
};
std::optional<Element> element_of(const Graph& graph, const Node& node);

// The activation that is all that follows x: one node, or the nodes of SiLU, HardSwish and Gelu.
struct FusedActivation {
  kernels::ActivationF32 activation;
  std::vector<NodeId> parts;
  ValueId out = kNoValue;
};
std::optional<FusedActivation> activation_after(const Graph& graph, ValueId x);

// Every use of the value is as an operand of one of the parts, and it is no graph output.
bool only_used_by(const Graph& graph, ValueId id, const std::vector<NodeId>& parts);

}  // namespace compress::runtime
