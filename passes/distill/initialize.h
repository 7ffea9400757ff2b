#pragma once

#include <cstdint>
#include <string>

#include "compress/graph/model.h"

namespace compress {

// New values for all weights: "glorot" draws U(-a, a), a = sqrt(6 / (in + out)) (Glorot and Bengio
// 2010); "he" draws N(0, 2 / in) (He et al. 2015). Biases become 0, scales of norms 1. Drawn from
// the seed and the place in the graph.
void initialize_weights(Model& model, const std::string& how, uint64_t seed);

}  // namespace compress
