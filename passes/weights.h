// The weights of a model (DESIGN section 4): constants in the weight slot of Conv, ConvTranspose,
// Gemm, MatMul, LSTM and GRU, also behind Reshape, Transpose, Q/DQ, Cast and Identity; Gather
// tables where asked for. Never biases, norms, or what Add, Mul and Slice read.
#pragma once

#include <string>
#include <vector>

#include "compress/graph/model.h"

namespace compress {

// One reading of a constant as a weight. Graphs are those of the model: stable while it lives.
struct WeightRead {
  Graph* graph;  // holds the node
  NodeId node;
  int slot;
  Graph* home;                  // holds the constant, or the Constant node that makes it
  ValueId value;                // the constant
  NodeId dequantize = kNoNode;  // the DequantizeLinear (in `graph`) right after the constant
};

// The weight slots of an operator; empty for others. `gather` adds Gather's table.
std::vector<int> weight_slots(const Node& node, bool gather);

// Moves or re-types its first input: weights are still weights behind it.
bool passes_weights(const Node& node);

// All weight reads, bodies included, in execution order.
std::vector<WeightRead> find_weights(Model& model, bool gather);

// Constant nodes become constants of their graph, in bodies as well, so that weights are found in
// one form.
void adopt_constant_nodes(Graph& graph);
// The tensor that a Constant node holds; none for forms that stay (sparse, strings).
Tensor constant_node_value(const Node& node);

}  // namespace compress
