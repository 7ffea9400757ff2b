// Scales of quantization operators: a zero, negative or non-finite one makes every result garbage.
#pragma once

#include "compress/graph/graph.h"

namespace compress {

// Every constant scale of QuantizeLinear, DequantizeLinear, the QLinear and integer operators and
// MatMulNBits, bodies included. Fails (invalid_model) naming node, constant and element.
void check_scales(const Graph& graph);

}  // namespace compress
