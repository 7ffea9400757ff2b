// Inferred types as a passing aid: passes see them, files keep only what they said themselves.
#pragma once

#include "compress/graph/model.h"

namespace compress {

// infer_types, but what it cannot tell (unknown operators, bodies) stays as the file declares it.
void infer_known_types(Model& model);

// Inner values that had no entry in the file lose their type again, so that writing a model does
// not add a value_info for each of them. Bodies included.
void forget_inferred_types(Graph& graph);

}  // namespace compress
