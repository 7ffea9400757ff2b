// What the driver (gemm_s8.cpp) and the kernels of each instruction set agree on. Plain data only:
// files with their own ISA flags include it, so nothing here may become a weak symbol.
#pragma once

#include <cstdint>

#include "compress/kernels/isa.h"
#include "compress/kernels/s8_epilogue.h"

namespace compress::kernels {

inline constexpr int64_t kS8PanelColumns = 16;

// A block of packed rows times a range of packed panels.
//
// Rows: unsigned values (s8 is stored + 128), `a_stride` bytes apart, `groups` groups of k_group
// values each. One byte a value, or two where a_bytes is 2.
// Panels: 16 columns of s8 (u8 is stored - 128), [groups][16][k_group], zero where padded.
// Column tables (b_zero and those of finish) start at the first column and are padded to full
// panels.
struct GemmS8Block {
  const uint8_t* a;
  int64_t a_stride;
  int64_t rows;
  const int8_t* b;
  int64_t panel_bytes;
  int64_t groups;
  int64_t columns;         // of the output; the last panel may be partial
  const int32_t* b_zero;   // null, or the zero points of B, multiplied by
  const int32_t* row_sum;  //   the sum of each row
  S8Finish finish;         // from the first column
  void* out;
  int64_t ldc;  // elements of the output between rows
  // Kernels of entries alone: `b` has them one behind the other, and rows lie in tiles, `a_stride`
  // bytes apart.
  int64_t tile_rows;
  const uint16_t* index;  // one an entry
  const int32_t* starts;  // the first entry of each entry_columns columns, and one more
};

// Rows of A to pack: `length` values each, xor `flip`, and nothing beyond. What pads K to groups
// may be anything: the weights there are 0, and sums do not count it.
struct GemmS8Rows {
  const uint8_t* source;
  int64_t source_stride;  // bytes between rows; 0: the same one again
  int64_t count;
  int64_t length;
  uint8_t flip;
  uint8_t* packed;
  int64_t packed_stride;
  int32_t* sums;  // null, or one a row, to which the packed values are added
};

inline constexpr int64_t kS8TileRows = 12;  // places in a tile of rows

// Packed rows (u8) to put into tiles of `tile_rows` rows, an even number up to kS8TileRows. A tile
// is [copy][unit][place][4]: four consecutive values of K of each row side by side, units of K
// rounded up to a multiple of eight. Copies exchange the four values: as they are; 0 2 1 3;
// 0 3 1 2. REQUIRES rows that can be read up to a multiple of 32 bytes.
struct GemmS8Tiles {
  const uint8_t* rows;
  int64_t stride;
  int64_t count;
  int64_t tile_rows;
  int64_t units;  // a multiple of eight
  int64_t copies;
  uint8_t* tiles;
  int64_t tile_bytes;
};

struct GemmS8Kernel {
  const char* name;
  Isa isa;
  int64_t k_group;  // consecutive k of a column that lie together in a panel
  int64_t a_bytes;  // bytes of a packed value of A
  void (*pack_rows)(const GemmS8Rows& rows) noexcept;
  void (*block)(const GemmS8Block& block) noexcept;
  // Null, or a kernel of entries, faster for weights that suit it.
  const GemmS8Kernel* of_entries = nullptr;
  // Of a kernel of entries: four weights of so many columns are one, and those of zeros are left
  // out (gemm_s8_entries.h). 0: weights lie in panels.
  int64_t entry_columns = 0;
  int64_t most_percent = 0;  // entries for 100 units of weights up to which it is the faster one
  bool in_pairs = false;     // entries are such that products can be added in pairs of 16 bits
  // Of a kernel of entries: puts rows into tiles.
  void (*arrange)(const GemmS8Tiles& tiles) noexcept = nullptr;
};

extern const GemmS8Kernel kGemmS8Ref;
extern const GemmS8Kernel kGemmS8Saturating;  // not exact: saturation.h
extern const GemmS8Kernel kGemmS8Avx2;
extern const GemmS8Kernel kGemmS8PairsAvx2;
extern const GemmS8Kernel kGemmS8Avx512Vnni;
extern const GemmS8Kernel kGemmS8SparseAvx512Vnni;

}  // namespace compress::kernels
