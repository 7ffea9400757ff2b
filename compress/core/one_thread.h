// For libraries that share the OpenMP pool (see parallel.h).
#pragma once

#include "compress/core/function_ref.h"

namespace compress {

// Runs the body so that such libraries use the calling thread alone: for work that is smaller than
// waking another thread.
void on_one_thread(FunctionRef<void()> body);

// What parallel_for does against threads that share a CPU, for the regions that follow in such
// libraries. Costs next to nothing soon after a region of either.
void spread_threads();

}  // namespace compress
