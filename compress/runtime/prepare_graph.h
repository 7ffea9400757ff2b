// What happens to the session's copy of a model before it is planned.
#pragma once

#include "compress/graph/model.h"

namespace compress::runtime {

// Fails (unsupported) naming the first node without a row, in bodies too; (unsupported) for bodies
// that nest too deep.
void check_operators(const Graph& graph, const Model& model, int depth = 0);

// Constants that bodies capture become constants of the bodies.
void push_constants_into_bodies(Graph& graph);

// Computes nodes whose operands are all constant, in bodies too. `keep_quantized` leaves
// DequantizeLinear alone, for lowering to find. Results of `left` bytes at most are kept, and taken
// from it; what is beyond is computed in each run, within the limits of that.
void fold_constants(Graph& graph, const Model& model, bool keep_quantized, uint64_t& left);
// What may be kept, in proportion to the model's file.
uint64_t foldable_bytes(const Model& model);

// float32 becomes float64: types, constants and the attributes that name a type.
void widen_to_double(Graph& graph);

}  // namespace compress::runtime
