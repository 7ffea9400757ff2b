// The type that several contents of one value have in common.
#pragma once

#include <vector>

#include "compress/core/tensor.h"
#include "compress/graph/graph.h"

namespace compress {

// Dimensions that differ stay open, and where ranks differ the whole shape. REQUIRES at least one.
TypeInfo common_type(const std::vector<Tensor>& contents);

}  // namespace compress
