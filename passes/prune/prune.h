// The passes of "prune".
#pragma once

#include "passes/pass.h"

namespace compress {

PassResult prune_magnitude(Model& model, PassContext& context);

}  // namespace compress
