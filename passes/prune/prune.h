// The passes of "prune".
#pragma once

#include "passes/pass.h"

namespace compress {

PassResult prune_magnitude(Model& model, PassContext& context);
PassResult prune_calibrated(Model& model, PassContext& context);
PassResult prune_taylor(Model& model, PassContext& context);
PassResult remove_channels(Model& model, PassContext& context);

// Fills in dimensions that are the same whatever size the open ones of the inputs have. REQUIRES
// inferred types.
void pin_types(Model& model);
// What remove_channels does first, so that channels are seen: folds constants, drops nodes that do
// nothing, infers types.
void prepare_channels_walk(Model& model, PassContext& context);

}  // namespace compress
