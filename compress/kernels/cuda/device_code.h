// What the kernels are written in: CUDA, or C++ that runs the same threads one after the other, for
// tests on machines without a GPU. A source file includes this first and starts kernels by
// launch().
#pragma once

#include <cstdint>

#include "compress/kernels/cuda/cuda_api.h"

#ifdef __CUDACC__
#include <cuda_runtime.h>
#else
#include "compress/kernels/cuda/emulation.h"
#endif

namespace compress::cuda {

inline constexpr int kBlock = 256;  // threads of most kernels
inline constexpr int kWarp = 32;

// Blocks that fill a device; longer work is a loop inside the kernel.
int block_limit(const Context& context);
// 0, or the number of what went wrong with the last launch; keeps its text.
int check_launch(Context& context);

#ifdef __CUDACC__
cudaStream_t stream_of(const Context& context);

template <class... P, class... A>
int launch(Context& context, void (*kernel)(P...), dim3 grid, dim3 block, const A&... args) {
  kernel<<<grid, block, 0, stream_of(context)>>>(args...);
  return check_launch(context);
}
#else
template <class... P, class... A>
int launch(Context& context, void (*kernel)(P...), dim3 grid, dim3 block, const A&... args) {
  emulation::run(grid, block, [&] { kernel(args...); });
  return check_launch(context);
}
#endif

inline unsigned blocks_for(const Context& context, int64_t count, int per_block = kBlock) {
  const int64_t wanted = (count + per_block - 1) / per_block;
  const int64_t most = block_limit(context);
  return static_cast<unsigned>(wanted < most ? (wanted > 0 ? wanted : 1) : most);
}

// This thread's place among all of a launch, and how many there are.
__device__ inline int32_t thread_index() {
  return static_cast<int32_t>(blockIdx.x * blockDim.x + threadIdx.x);
}
__device__ inline int32_t thread_total() { return static_cast<int32_t>(gridDim.x * blockDim.x); }

// The place of element `i` of `dims` (row by row) where its axes have these strides.
__device__ inline int32_t place_of(int32_t i, int rank, const int32_t* dims,
                                   const int32_t* strides) {
  int32_t place = 0;
  for (int d = rank - 1; d >= 0; --d) {
    place += i % dims[d] * strides[d];
    i /= dims[d];
  }
  return place;
}

__device__ inline int32_t widen(uint8_t byte, int32_t is_signed) {
  return is_signed != 0 ? static_cast<int8_t>(byte) : byte;
}

// The bounds are integers, so clamping before rounding gives what clamping after it would.
__device__ inline uint8_t into_byte(float value, float lo, float hi, int32_t zero_point) {
  float clamped = value > lo ? value : lo;
  clamped = clamped < hi ? clamped : hi;
  return static_cast<uint8_t>(static_cast<int32_t>(rintf(clamped)) + zero_point);
}

}  // namespace compress::cuda
