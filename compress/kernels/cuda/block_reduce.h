// One number from all threads of a block.
#pragma once

#include "compress/kernels/cuda/device_code.h"

namespace compress::cuda {

struct Add {
  __device__ float operator()(float a, float b) const { return a + b; }
};
struct Most {
  __device__ float operator()(float a, float b) const { return a > b || a != a ? a : b; }
};
struct Least {
  __device__ float operator()(float a, float b) const { return a < b || a != a ? a : b; }
};

// REQUIRES a block of kBlock threads, all of which call it; all get the result.
template <class Join>
__device__ float block_reduce(float value, Join join) {
  __shared__ float parts[kBlock / kWarp];
  for (int step = kWarp / 2; step > 0; step /= 2) {
    value = join(value, __shfl_xor_sync(~0u, value, step));
  }
  if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = value;
  __syncthreads();
  value = parts[0];
  for (int i = 1; i < kBlock / kWarp; ++i) value = join(value, parts[i]);
  __syncthreads();  // before the next call writes
  return value;
}

}  // namespace compress::cuda
