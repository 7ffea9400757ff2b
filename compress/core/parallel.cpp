#include "compress/core/parallel.h"

#include <omp.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cassert>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <mutex>

#include "compress/core/one_thread.h"
#include "compress/core/thread_taken.h"

namespace compress {
namespace {

// Several threads that run models of their own set and read it.
std::atomic<int>& requested_threads() {
  static std::atomic<int> threads = std::max(1, omp_get_num_procs());
  return threads;
}

using Clock = std::chrono::steady_clock;
constexpr auto kMoveInterval = std::chrono::milliseconds(1);
constexpr auto kSpreadInterval = std::chrono::microseconds(200);

// A thread that was asleep is often woken on the CPU of the one that wakes it. The two then take
// turns there, beside an idle CPU, and neither waits long enough for the kernel to move it:
// measured, 9.4 ms for a model that takes 2.7 ms on two CPUs and 4.9 ms on one. So a thread of the
// pool that finds itself on `cpu`, its caller's, leaves it, and stays away until it finds itself
// beside its caller again.
void leave(int cpu) noexcept {
  thread_local Clock::time_point last;
  thread_local cpu_set_t allowed;
  const Clock::time_point now = Clock::now();
  if (now - last < kMoveInterval) return;  // other programs hold the CPUs: no use in trying again
  const bool first = last == Clock::time_point();
  last = now;
  if (first && sched_getaffinity(0, sizeof allowed, &allowed) != 0) CPU_ZERO(&allowed);
  cpu_set_t others = allowed;
  CPU_CLR(cpu, &others);
  if (CPU_COUNT(&others) > 0) sched_setaffinity(0, sizeof others, &others);
}

thread_local Clock::time_point last_region;  // of threads that call parallel_for

std::atomic<int> taken_threads{0};

}  // namespace

ThreadTaken::ThreadTaken() { ++taken_threads; }
ThreadTaken::~ThreadTaken() { --taken_threads; }

void wait_passively(char** argv) {
  constexpr const char* kPolicy = "OMP_WAIT_POLICY";
  if (std::getenv(kPolicy) != nullptr) return;
  setenv(kPolicy, "passive", 0);
  setenv("GOMP_SPINCOUNT", "5000", 0);
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
  const int free = std::max(1, thread_count() - taken_threads);
  const int threads = static_cast<int>(std::min<int64_t>(free, grains));
  if (threads == 1 || omp_in_parallel()) return body(begin, end);

  std::exception_ptr first;
  std::mutex guard;
  const int cpu = sched_getcpu();
#pragma omp parallel num_threads(threads)
  {
    const int64_t team = omp_get_num_threads();
    const int64_t me = omp_get_thread_num();
    if (me != 0 && sched_getcpu() == cpu) leave(cpu);
    const int64_t from = begin + grains * me / team * grain;
    const int64_t to = std::min(end, begin + grains * (me + 1) / team * grain);
    try {
      if (from < to) body(from, to);
    } catch (...) {
      const std::lock_guard lock(guard);
      if (!first) first = std::current_exception();
    }
  }
  last_region = Clock::now();
  if (first) std::rethrow_exception(first);
}

void spread_threads() {
  if (thread_count() == 1 || omp_in_parallel()) return;
  if (Clock::now() - last_region < kSpreadInterval) return;
  parallel_for(0, thread_count(), 1, [](int64_t, int64_t) {});
}

}  // namespace compress
