// Weights in blocks of a few bits times float activations, a warp a column: the codes of a column
// are read once, sixteen bytes a lane, for up to kRows rows of activations.
#include "compress/kernels/cuda/device_code.h"
#include "compress/kernels/cuda/launchers.h"

namespace compress::cuda {
namespace {

constexpr int kRows = 4;
constexpr int kWarps = kBlock / kWarp;

__device__ int32_t zero_point(const MatMulNBits& p, int32_t column, int32_t block) {
  if (p.zero_points == nullptr) return 1 << (p.bits - 1);
  const int32_t row_bytes = (p.blocks * p.bits + 7) / 8;
  const uint8_t* row = p.zero_points + column * row_bytes;
  const int32_t bit = block * p.bits;
  return row[bit / 8] >> (bit % 8) & ((1 << p.bits) - 1);
}

__device__ uint32_t word(const uint4& codes, int i) {
  return i == 0 ? codes.x : i == 1 ? codes.y : i == 2 ? codes.z : codes.w;
}

// Adds codes [first, first + 128 / Bits) of a column times the rows of x.
template <int Bits>
__device__ void add_codes(const MatMulNBits& p, const uint4& codes, int32_t column, int32_t first,
                          int32_t row, int rows, float* sums) {
  constexpr int kPerWord = 32 / Bits;
  constexpr uint32_t kMask = (1u << Bits) - 1;
  for (int i = 0; i < 4; ++i) {
    const uint32_t bits = word(codes, i);
    // Blocks have at least 16 codes and start at multiples of it: a word lies in one.
    const int32_t k = first + i * kPerWord;
    if (k >= p.k) return;
    const int32_t block = k / p.block_size;
    const float scale = p.scales[column * p.blocks + block];
    const auto zero = static_cast<float>(zero_point(p, column, block));
    for (int c = 0; c < kPerWord && k + c < p.k; ++c) {
      const float weight = (static_cast<float>(bits >> (c * Bits) & kMask) - zero) * scale;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {  // of constant bounds, so that sums are registers
        if (r < rows) sums[r] = fmaf(weight, p.x[(row + r) * p.k + k + c], sums[r]);
      }
    }
  }
}

template <int Bits>
__global__ void __launch_bounds__(kBlock) nbits_kernel(const MatMulNBits p) {
  constexpr int32_t kCodes = 128 / Bits;  // of one load
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int32_t row = static_cast<int32_t>(blockIdx.y) * kRows;
  const int rows = p.m - row < kRows ? static_cast<int>(p.m - row) : kRows;
  const int32_t column_bytes = p.blocks * p.block_size * Bits / 8;
  const int32_t stride = static_cast<int32_t>(gridDim.x) * kWarps;
  for (int32_t n = static_cast<int32_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp; n < p.n;
       n += stride) {
    float sums[kRows] = {};
    const uint8_t* codes = p.codes + n * column_bytes;
    for (int32_t at = lane * 16; at < column_bytes; at += kWarp * 16) {
      uint4 load = {};
      if (column_bytes % 16 == 0) {
        load = *reinterpret_cast<const uint4*>(codes + at);
      } else {
        auto* bytes = reinterpret_cast<uint8_t*>(&load);
        for (int32_t i = 0; i < 16 && at + i < column_bytes; ++i) bytes[i] = codes[at + i];
      }
      add_codes<Bits>(p, load, n, at / 16 * kCodes, row, rows, sums);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r >= rows) break;
      for (int step = kWarp / 2; step > 0; step /= 2) {
        sums[r] += __shfl_xor_sync(~0u, sums[r], step);
      }
      if (lane == 0) p.out[(row + r) * p.n + n] = sums[r] + (p.bias != nullptr ? p.bias[n] : 0.0f);
    }
  }
}

}  // namespace

int matmul_nbits(Context* context, const MatMulNBits* p) {
  if (p->m == 0 || p->n == 0) return 0;
  const dim3 grid(blocks_for(*context, p->n, kWarps),
                  static_cast<unsigned>((p->m + kRows - 1) / kRows));
  auto* kernel = p->bits == 4 ? nbits_kernel<4> : nbits_kernel<8>;
  return launch(*context, kernel, grid, dim3(kBlock), *p);
}

}  // namespace compress::cuda
