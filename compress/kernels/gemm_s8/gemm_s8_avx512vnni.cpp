// int8 GEMM on vpdpbusd. Tile 6 x 64: 24 accumulators, four panels of 16 columns, one broadcast.
// Sparse weights: tiles of 12 x 16, since each panel has groups of its own; rows are arranged so
// that one index says where the values of all of them lie.
#include "compress/kernels/gemm_s8/gemm_s8_kernel.h"
#include "compress/kernels/simd/s8_store_avx512.h"

namespace compress::kernels {
namespace {

constexpr int64_t kRows = 6;
constexpr int64_t kMaxPanels = 4;
constexpr int64_t kGroup = 4;
constexpr int64_t kGroupBytes = kGroup * kS8PanelColumns;
constexpr int64_t kUnitBytes = kGroup * kS8TileRows;
constexpr int64_t kTwoTilesBytes = 24 << 10;
constexpr int64_t kSparseMostPercent = 70;

template <class Word>
void copy_word(const uint8_t* from, uint8_t flip, uint8_t* to) noexcept {
  Word word;
  __builtin_memcpy(&word, from, sizeof word);
  word ^= static_cast<Word>(flip * (static_cast<Word>(~Word{0}) / 255));
  __builtin_memcpy(to, &word, sizeof word);
}

// Few bytes; what is left of them as a word that overlaps the one before.
void copy_flipped(const uint8_t* from, int64_t length, uint8_t flip, uint8_t* to) noexcept {
  if (length >= 8) {
    for (int64_t k = 0; k + 8 < length; k += 8) copy_word<uint64_t>(from + k, flip, to + k);
    copy_word<uint64_t>(from + length - 8, flip, to + length - 8);
  } else if (length >= 4) {
    copy_word<uint32_t>(from, flip, to);
    copy_word<uint32_t>(from + length - 4, flip, to + length - 4);
  } else {
    for (int64_t k = 0; k < length; ++k) to[k] = from[k] ^ flip;
  }
}

int32_t sum_of(const uint8_t* values, int64_t length) noexcept {
  const I512 ones = set_u8(1);
  I512 sums = zero_i32();
  int64_t k = 0;
  for (; k + 64 <= length; k += 64) sums = dot_u8s8(sums, load_512(values + k), ones);
  int32_t lanes[16], sum = 0;
  store_512(lanes, sums);
  for (const int32_t lane : lanes) sum += lane;
  for (; k < length; ++k) sum += values[k];
  return sum;
}

void pack_row(const uint8_t* source, int64_t length, uint8_t flip, uint8_t* packed) noexcept {
  if (length < 64) return copy_flipped(source, length, flip, packed);
  const I512 flips = set_u8(flip);
  const auto copy = [&](int64_t k) { store_512(packed + k, xor_i32(load_512(source + k), flips)); };
  for (int64_t k = 0; k + 64 < length; k += 64) copy(k);
  copy(length - 64);
}

void pack_rows(const GemmS8Rows& p) noexcept {
  for (int64_t row = 0; row < p.count; ++row) {
    uint8_t* packed = p.packed + row * p.packed_stride;
    pack_row(p.source + row * p.source_stride, p.length, p.flip, packed);
    if (p.sums != nullptr) p.sums[row] += sum_of(packed, p.length);
  }
}

// Rows of one panel, any epilogue. Sums have the offset in them.
void store_rows(const GemmS8Block& p, const int32_t* sums, int64_t stride, int64_t row,
                int64_t count, int64_t column) noexcept {
  const S8Store store(p.finish, p.out, column, first_lanes(p.columns - column));
  for (int64_t r = row; r < row + count; ++r, sums += stride) {
    I512 sum = load_512(sums);
    if (p.b_zero != nullptr) {
      sum = sub_i32(sum, mul_i32(load_512(p.b_zero + column), set_i32(p.row_sum[r])));
    }
    store(sum, r * p.ldc + column);
  }
}

bool packs_bytes(const GemmS8Block& p) noexcept { return packs(p.finish) && p.b_zero == nullptr; }

template <int kCount, int kPanels>
void tile(const GemmS8Block& p, int64_t row, const int8_t* b, int64_t column) noexcept {
  I512 acc[kCount][kPanels];
#pragma GCC unroll 6
  for (int r = 0; r < kCount; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < kPanels; ++j) {
      acc[r][j] = load_offset(p.finish, column + j * kS8PanelColumns);
    }
  }
  const uint8_t* a = p.a + row * p.a_stride;
  for (int64_t group = 0; group < p.groups; ++group) {
    I512 weights[kPanels];
#pragma GCC unroll 4
    for (int j = 0; j < kPanels; ++j) weights[j] = load_512(b + j * p.panel_bytes);
#pragma GCC unroll 6
    for (int r = 0; r < kCount; ++r) {
      const I512 value = broadcast_bytes4(a + r * p.a_stride);
#pragma GCC unroll 4
      for (int j = 0; j < kPanels; ++j) acc[r][j] = dot_u8s8(acc[r][j], value, weights[j]);
    }
    a += kGroup;
    b += kGroupBytes;
  }
  if (packs_bytes(p)) {
    const S8Pack pack(p.finish);
    F512 scale[kPanels];
#pragma GCC unroll 4
    for (int j = 0; j < kPanels; ++j) {
      scale[j] = load_f32(p.finish.scale + column + j * kS8PanelColumns);
    }
    uint8_t* out = static_cast<uint8_t*>(p.out) + row * p.ldc + column;
#pragma GCC unroll 6
    for (int r = 0; r < kCount; ++r, out += p.ldc) {
      I512 values[kMaxPanels];
#pragma GCC unroll 4
      for (int j = 0; j < kMaxPanels; ++j) {
        values[j] = j < kPanels ? S8Pack::rounded(acc[r][j], scale[j]) : zero_i32();
      }
      store_bytes(out, pack.bytes(values[0], values[1], values[2], values[3]), p.columns - column);
    }
    return;
  }
  alignas(64) int32_t sums[kCount * kPanels * kS8PanelColumns];
#pragma GCC unroll 6
  for (int r = 0; r < kCount; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < kPanels; ++j) {
      store_512(sums + (r * kPanels + j) * kS8PanelColumns, acc[r][j]);
    }
  }
  for (int64_t j = 0; j < kPanels; ++j) {
    store_rows(p, sums + j * kS8PanelColumns, kPanels * kS8PanelColumns, row, kCount,
               column + j * kS8PanelColumns);
  }
}

template <int kPanels>
void rows(const GemmS8Block& p, const int8_t* b, int64_t column) noexcept {
  int64_t row = 0;
  for (; row + kRows <= p.rows; row += kRows) tile<6, kPanels>(p, row, b, column);
  switch (p.rows - row) {
    case 5:
      tile<5, kPanels>(p, row, b, column);
      break;
    case 4:
      tile<4, kPanels>(p, row, b, column);
      break;
    case 3:
      tile<3, kPanels>(p, row, b, column);
      break;
    case 2:
      tile<2, kPanels>(p, row, b, column);
      break;
    case 1:
      tile<1, kPanels>(p, row, b, column);
      break;
    default:
      break;
  }
}

void block(const GemmS8Block& p) noexcept {
  const int64_t panels = (p.columns + kS8PanelColumns - 1) / kS8PanelColumns;
  for (int64_t panel = 0; panel < panels; panel += kMaxPanels) {
    const int8_t* b = p.b + panel * p.panel_bytes;
    const int64_t column = panel * kS8PanelColumns;
    switch (panels - panel) {
      case 1:
        rows<1>(p, b, column);
        break;
      case 2:
        rows<2>(p, b, column);
        break;
      case 3:
        rows<3>(p, b, column);
        break;
      default:
        rows<4>(p, b, column);
        break;
    }
  }
}

void arrange(const GemmS8Tiles& p) noexcept {
  uint8_t* tile = p.tiles;
  for (int64_t first = 0; first < p.count; first += p.tile_rows, tile += p.tile_bytes) {
    for (int64_t place = 0; place < p.tile_rows; place += 4) {
      const uint8_t* rows[4];
      for (int64_t i = 0; i < 4; ++i) {
        const int64_t row = first + place + i;
        rows[i] = p.rows + (row < p.count ? row : p.count - 1) * p.stride;
      }
      uint8_t* to = tile + place * kGroup;
      for (int64_t at = 0; at < p.units * kGroup; at += 16, to += 4 * kUnitBytes) {
        store_quarters(to, kUnitBytes,
                       interleave_words(rows[0] + at, rows[1] + at, rows[2] + at, rows[3] + at));
      }
    }
  }
}

// kCount rows of a tile, or of two.
template <int kCount>
void sparse_panel(const GemmS8Block& p, const uint8_t* rows, int64_t row, int64_t column,
                  int64_t begin, int64_t end) noexcept {
  I512 acc[kCount];
#pragma GCC unroll 24
  for (int r = 0; r < kCount; ++r) acc[r] = load_offset(p.finish, column);
  const uint8_t* lower = rows + p.a_stride;
  const int8_t* b = p.b + begin * kGroupBytes;
  for (int64_t entry = begin; entry < end; ++entry, b += kGroupBytes) {
    const I512 weights = load_512(b);
    const int64_t at = int64_t{p.index[entry]} * kUnitBytes;
#pragma GCC unroll 24
    for (int r = 0; r < kCount; ++r) {
      const uint8_t* values = r < kS8TileRows ? rows + at : lower + at - kUnitBytes;
      acc[r] = dot_u8s8(acc[r], broadcast_bytes4(values + kGroup * r), weights);
    }
  }
  const int64_t rest = p.rows - row, count = rest < kCount ? rest : kCount;
  if (packs_bytes(p) && count == kCount && p.columns - column >= kS8PanelColumns) {
    const S8Pack pack(p.finish);
    const F512 scale = load_f32(p.finish.scale + column);
    uint8_t* out = static_cast<uint8_t*>(p.out) + row * p.ldc + column;
#pragma GCC unroll 6
    for (int r = 0; r < kCount; r += 4, out += 4 * p.ldc) {
      store_quarters(
          out, p.ldc,
          pack.bytes(S8Pack::rounded(acc[r], scale), S8Pack::rounded(acc[r + 1], scale),
                     S8Pack::rounded(acc[r + 2], scale), S8Pack::rounded(acc[r + 3], scale)));
    }
    return;
  }
  alignas(64) int32_t sums[kCount * kS8PanelColumns];
#pragma GCC unroll 24
  for (int r = 0; r < kCount; ++r) store_512(sums + r * kS8PanelColumns, acc[r]);
  store_rows(p, sums, kS8PanelColumns, row, count, column);
}

// Every panel, while the rows are in the L1 cache.
template <int kCount>
void sparse_rows(const GemmS8Block& p, const uint8_t* rows, int64_t row) noexcept {
  const int32_t* starts = p.starts;
  for (int64_t column = 0; column < p.columns; column += kS8PanelColumns, ++starts) {
    sparse_panel<kCount>(p, rows, row, column, starts[0], starts[1]);
  }
}

void sparse_block(const GemmS8Block& p) noexcept {
  const uint8_t* rows = p.a;
  int64_t row = 0;
  const bool two = p.tile_rows == kS8TileRows && 2 * p.a_stride <= kTwoTilesBytes;
  while (row < p.rows) {
    const int64_t rest = p.rows - row;
    if (two && rest > kS8TileRows) {
      sparse_rows<2 * kS8TileRows>(p, rows, row);
      row += 2 * kS8TileRows;
      rows += 2 * p.a_stride;
      continue;
    }
    const int64_t count = rest < p.tile_rows ? rest : p.tile_rows;
    if (count > 8) {
      sparse_rows<kS8TileRows>(p, rows, row);
    } else if (count > 4) {
      sparse_rows<8>(p, rows, row);
    } else {
      sparse_rows<4>(p, rows, row);
    }
    row += p.tile_rows;
    rows += p.a_stride;
  }
}

}  // namespace

extern const GemmS8Kernel COMPRESS_SIMD512_NAME(kGemmS8SparseAvx512Vnni);
const GemmS8Kernel COMPRESS_SIMD512_NAME(kGemmS8SparseAvx512Vnni) = {
    "gemm_s8_sparse_12x16_avx512vnni",
    Isa::avx512vnni,
    kGroup,
    1,
    pack_rows,
    sparse_block,
    nullptr,
    kS8PanelColumns,
    kSparseMostPercent,
    false,
    arrange};

extern const GemmS8Kernel COMPRESS_SIMD512_NAME(kGemmS8Avx512Vnni);
const GemmS8Kernel COMPRESS_SIMD512_NAME(kGemmS8Avx512Vnni) = {
    "gemm_s8_6x64_avx512vnni",
    Isa::avx512vnni,
    kGroup,
    1,
    pack_rows,
    block,
    &COMPRESS_SIMD512_NAME(kGemmS8SparseAvx512Vnni)};

}  // namespace compress::kernels
