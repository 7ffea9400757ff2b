#include "compress/kernels/cuda/emulation.h"

#include <ucontext.h>
#include <csetjmp>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <vector>

namespace compress::cuda::emulation {
namespace {

constexpr size_t kStackBytes = 64 << 10;
constexpr unsigned kLanes = 32;

// A coroutine that runs one thread of a block after another for ever. ucontext gives it its stack;
// from then on changes go by _setjmp and _longjmp, which need no system call.
struct Thread {
  std::unique_ptr<char[]> stack;
  ucontext_t context;
  jmp_buf here;
  dim3 index;
  bool done = true;
};

// Those that wait meet in rounds.
struct Barrier {
  unsigned arrived = 0;
  uint64_t round = 0;
};

struct Block {
  std::deque<Thread> threads;  // kept from block to block; the first `size` are in use
  size_t size = 0;
  std::vector<Barrier> warps;
  std::vector<uint32_t> lanes;  // what each thread brings to an exchange
  Barrier barrier;
  jmp_buf scheduler;
  size_t current = 0;
  size_t finished = 0;
  const std::function<void()>* body = nullptr;
  bool moved = false;  // something happened since the scheduler last looked
};

Block block;

void leave(Thread& self) {
  if (_setjmp(self.here) == 0) _longjmp(block.scheduler, 1);
}

void wait(Barrier& barrier, size_t size) {
  block.moved = true;
  if (++barrier.arrived == size) {
    barrier.arrived = 0;
    ++barrier.round;
    return;
  }
  Thread& self = block.threads[block.current];
  for (const uint64_t round = barrier.round; barrier.round == round;) leave(self);
}

[[noreturn]] void live() {
  Thread& self = block.threads[block.current];
  for (;;) {
    (*block.body)();
    self.done = true;
    ++block.finished;
    block.moved = true;
    leave(self);
  }
}

// Runs the thread until it waits or ends.
void resume(Thread& thread) {
  threadIdx = thread.index;
  if (_setjmp(block.scheduler) != 0) return;
  if (thread.stack != nullptr) _longjmp(thread.here, 1);
  thread.stack = std::make_unique<char[]>(kStackBytes);
  getcontext(&thread.context);
  thread.context.uc_stack.ss_sp = thread.stack.get();
  thread.context.uc_stack.ss_size = kStackBytes;
  makecontext(&thread.context, live, 0);
  setcontext(&thread.context);
}

[[noreturn]] void stuck() {
  std::fprintf(stderr, "emulated kernel: threads wait at a barrier that others never reach\n");
  std::abort();
}

void run_block() {
  block.finished = 0;
  block.barrier = {};
  block.warps.assign(block.size / kLanes + 1, {});
  for (size_t i = 0; i < block.size; ++i) block.threads[i].done = false;
  while (block.finished < block.size) {
    block.moved = false;
    for (block.current = 0; block.current < block.size; ++block.current) {
      Thread& thread = block.threads[block.current];
      if (!thread.done) resume(thread);
    }
    if (!block.moved) stuck();
  }
}

}  // namespace

void run(dim3 grid, dim3 size, const std::function<void()>& thread) {
  block.size = size_t{size.x} * size.y * size.z;
  while (block.threads.size() < block.size) block.threads.emplace_back();
  for (size_t i = 0; i < block.size; ++i) {
    const auto at = static_cast<unsigned>(i);
    block.threads[i].index = dim3(at % size.x, at / size.x % size.y, at / (size.x * size.y));
  }
  block.lanes.resize(block.size);
  block.body = &thread;
  blockDim = size;
  gridDim = grid;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = dim3(x, y, z);
        run_block();
      }
    }
  }
}

void wait_for_block() { wait(block.barrier, block.size); }

uint32_t exchange(uint32_t mine, unsigned lane) {
  const size_t warp = block.current / kLanes;
  const size_t size = std::min<size_t>(block.size - warp * kLanes, kLanes);
  block.lanes[block.current] = mine;
  wait(block.warps[warp], size);
  const uint32_t theirs = block.lanes[warp * kLanes + lane];
  wait(block.warps[warp], size);  // before anyone brings the next
  return theirs;
}

}  // namespace compress::cuda::emulation
