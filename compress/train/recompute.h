// Gradient checkpointing: activations are computed a second time when backward wants them, instead
// of being kept until then.
#pragma once

#include <cstdint>

#include "compress/graph/model.h"

namespace compress::train {

// The nodes below `first_backward` are cut into about as many segments as their number's root. What
// goes from one segment to another is kept; the rest of what backward reads of a segment is
// computed anew from that. Results are the same to the bit. Returns how many nodes run twice.
int64_t recompute_activations(Graph& graph, NodeId first_backward);

}  // namespace compress::train
