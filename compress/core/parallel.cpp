#include "compress/core/parallel.h"

#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cassert>
#include <cstdlib>
#include <exception>
#include <mutex>

#include "compress/core/one_thread.h"

namespace compress {
namespace {

// Several threads that run models of their own set and read it.
std::atomic<int>& requested_threads() {
  static std::atomic<int> threads = std::max(1, omp_get_num_procs());
  return threads;
}

}  // namespace

void wait_passively(char** argv) {
  constexpr const char* kPolicy = "OMP_WAIT_POLICY";
  if (std::getenv(kPolicy) != nullptr) return;
  setenv(kPolicy, "passive", 0);
  execv("/proc/self/exe", argv);
}

int thread_count() { return requested_threads(); }

void set_thread_count(int n) {
  assert(n >= 1);
  requested_threads() = n;
  omp_set_num_threads(n);
}

void on_one_thread(FunctionRef<void()> body) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);  // of this thread only
  try {
    body();
  } catch (...) {
    omp_set_num_threads(before);
    throw;
  }
  omp_set_num_threads(before);
}

void parallel_for(int64_t begin, int64_t end, int64_t grain,
                  FunctionRef<void(int64_t, int64_t)> body) {
  if (begin >= end) return;
  grain = std::max<int64_t>(grain, 1);
  const int64_t grains = (end - begin + grain - 1) / grain;
  const int threads = static_cast<int>(std::min<int64_t>(thread_count(), grains));
  if (threads == 1 || omp_in_parallel()) return body(begin, end);

  std::exception_ptr first;
  std::mutex guard;
#pragma omp parallel num_threads(threads)
  {
    const int64_t team = omp_get_num_threads();
    const int64_t me = omp_get_thread_num();
    const int64_t from = begin + grains * me / team * grain;
    const int64_t to = std::min(end, begin + grains * (me + 1) / team * grain);
    try {
      if (from < to) body(from, to);
    } catch (...) {
      const std::lock_guard lock(guard);
      if (!first) first = std::current_exception();
    }
  }
  if (first) std::rethrow_exception(first);
}

}  // namespace compress
