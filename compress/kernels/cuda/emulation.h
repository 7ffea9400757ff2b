// CUDA's execution model on one CPU thread: the threads of a block are coroutines that change at
// barriers and warp exchanges, so kernels run as they are written. For tests: it finds wrong
// indices, layouts and sums, and what diverges before a barrier; not races, and no speeds.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__ __restrict
// Blocks run one after the other, so one copy serves them all.
#define __shared__ static

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace compress::cuda::emulation {

// Runs `thread` for each thread of each block.
void run(dim3 grid, dim3 block, const std::function<void()>& thread);
// Waits for all threads of the block. A thread that ends, or never comes, is reported and aborts.
void wait_for_block();
// The 4 bytes that thread `lane` of this warp brings.
uint32_t exchange(uint32_t mine, unsigned lane);

}  // namespace compress::cuda::emulation

inline void __syncthreads() { compress::cuda::emulation::wait_for_block(); }

template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  static_assert(sizeof(T) == 4);
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  bits =
      compress::cuda::emulation::exchange(bits, (threadIdx.x % 32) ^ static_cast<unsigned>(mask));
  std::memcpy(&value, &bits, 4);
  return value;
}

// c plus four products of signed bytes.
inline int __dp4a(int a, int b, int c) {
  for (int shift = 0; shift < 32; shift += 8) {
    const auto byte = [shift](int v) {
      return static_cast<int8_t>(static_cast<unsigned>(v) >> shift);
    };
    c = static_cast<int>(static_cast<unsigned>(c) + static_cast<unsigned>(byte(a) * byte(b)));
  }
  return c;
}
