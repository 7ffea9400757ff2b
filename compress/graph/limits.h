// How large a model may become when its functions are inlined: a few kilobytes of functions that
// call each other ten times reach any number of nodes.
#pragma once

#include <cstdint>

#include "compress/graph/model.h"

namespace compress {

// Most nodes after inlining: 20 for each that the file holds and 50,000 in any case, never more
// than a million.
int64_t max_inlined_nodes(const Model& model);

}  // namespace compress
