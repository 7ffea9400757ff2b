// What block_pack.cpp and the kernels of each instruction set agree on. Plain data only, as in
// gemm_s8_kernel.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "compress/kernels/isa.h"

namespace compress::kernels {

inline constexpr int64_t kBlockPackColumns = 32;  // of a tile, at most

// Rows of neighbouring columns: element i of column j is the float32 at weights + 4 (i stride + j),
// at any address.
struct WeightTile {
  const std::byte* weights;
  int64_t stride;
  int64_t height, width;
};

// The smallest and the largest value and 0; flaw is NaN where a value is not finite, else 0.
struct BlockRange {
  float low, high, flaw;
};

// Integers of 2, 4 or 8 bits are stored as offsets from the lowest of their type, low bits first:
// clamp(rint(x / scale) + zero, least, most). A block is filled up with the integer of 0.
struct BlockGrid {
  int bits;
  int64_t block;  // a multiple of 16
  int32_t least, most;
};

struct BlockPackKernel {
  const char* name;
  Isa isa;
  // Of `n` values that follow each other, at any address.
  BlockRange (*row_range)(const std::byte* x, int64_t n) noexcept;
  void (*row_pack)(const std::byte* x, int64_t n, const BlockGrid& grid, float scale, int32_t zero,
                   uint8_t* out) noexcept;
  // Of each column, [kBlockPackColumns]; those beyond the width are left as they are. Packed blocks
  // lie `stride` bytes apart.
  void (*column_range)(const WeightTile& tile, float* low, float* high, float* flaw) noexcept;
  void (*column_pack)(const WeightTile& tile, const BlockGrid& grid, const float* scale,
                      const int32_t* zero, uint8_t* out, int64_t stride) noexcept;
};

extern const BlockPackKernel kBlockPackRef;
extern const BlockPackKernel kBlockPackAvx2;

}  // namespace compress::kernels
