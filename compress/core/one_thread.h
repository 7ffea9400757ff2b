// For libraries that share the OpenMP pool (see parallel.h).
#pragma once

#include "compress/core/function_ref.h"

namespace compress {

// Runs the body so that such libraries use the calling thread alone: for work that is smaller than
// waking another thread.
void on_one_thread(FunctionRef<void()> body);

}  // namespace compress
