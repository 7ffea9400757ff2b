// The passes of "optimize". Each leaves dead nodes to eliminate_dead.
#pragma once

#include <span>

#include "passes/pass.h"

namespace compress {

PassResult lift_opset(Model& model, PassContext& context);
PassResult fold_constants(Model& model, PassContext& context);
PassResult eliminate_identity(Model& model, PassContext& context);
PassResult fuse_pad(Model& model, PassContext& context);
PassResult fuse_batch_norm(Model& model, PassContext& context);
PassResult capture_invariants(Model& model, PassContext& context);
PassResult deduplicate_constants(Model& model, PassContext& context);
PassResult eliminate_dead(Model& model, PassContext& context);

}  // namespace compress
