// The only door to OpenMP. Work is split over samples, rows or channels, never over a reduction, so
// that results do not depend on the number of threads.
#pragma once

#include <cstdint>

#include "compress/core/function_ref.h"

namespace compress {

// Threads that parallel_for uses; the machine's by default.
int thread_count();
// REQUIRES n >= 1. Also sets what libraries that share the OpenMP pool use.
void set_thread_count(int n);

// Lets idle threads spin for some 100 us only and then sleep, unless OMP_WAIT_POLICY says
// otherwise. libgomp reads its variables when it is loaded, ahead of any code of ours, so the
// process starts itself anew with them set; call it first in main. Spinning without end costs more
// than it saves as soon as anything else wants the cores (measured: calibration of
// efficientnet_lite0 beside other jobs took 46 s instead of 2.8 s); not at all costs a layer of 100
// us most of what a second thread brings, since waking one takes 10 to 50 us.
void wait_passively(char** argv);

// Splits [begin, end) into contiguous ranges whose starts are multiples of `grain` from begin, at
// most one a thread, and runs them; the caller takes part. Nested calls run in place. The first
// exception of a body is rethrown when all have ended.
void parallel_for(int64_t begin, int64_t end, int64_t grain,
                  FunctionRef<void(int64_t begin, int64_t end)> body);

}  // namespace compress
