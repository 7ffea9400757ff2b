// int8 GEMM for AVX2 on weights that gemm_s8_pairs.cpp has made safe for vpmaddubsw: three
// instructions for four products a column rather than four, and no widening. Tile 12 x 8: twelve
// accumulators, one register of weights, one of ones, one broadcast.
#include <immintrin.h>

#include "compress/kernels/gemm_s8/gemm_s8_kernel.h"
#include "compress/kernels/simd/s8_store_avx2.h"

namespace compress::kernels {
namespace {

constexpr int64_t kUnitBytes = 4 * kS8TileRows;
constexpr int64_t kColumns = 8;
constexpr int64_t kEntryBytes = 4 * kColumns;
// Units that are multiplied twice cost what pairs gain.
constexpr int64_t kMostPercent = 110;

// --- Rows ----------------------------------------------------------------------------------------

void pack_rows(const GemmS8Rows& p) noexcept {
  const __m256i flip = _mm256_set1_epi8(static_cast<char>(p.flip));
  for (int64_t row = 0; row < p.count; ++row) {
    const uint8_t* source = p.source + row * p.source_stride;
    uint8_t* out = p.packed + row * p.packed_stride;
    int64_t k = 0;
    for (; k + 32 <= p.length; k += 32) {
      const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source + k));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + k), _mm256_xor_si256(bytes, flip));
    }
    for (; k + 8 <= p.length; k += 8) {
      const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(source + k));
      _mm_storel_epi64(reinterpret_cast<__m128i*>(out + k),
                       _mm_xor_si128(bytes, _mm256_castsi256_si128(flip)));
    }
    for (; k < p.length; ++k) out[k] = source[k] ^ p.flip;
    if (p.sums == nullptr) continue;
    int32_t sum = 0;
    for (int64_t i = 0; i < p.length; ++i) sum += out[i];
    p.sums[row] += sum;
  }
}

// Eight registers of eight units become, a unit, one of eight rows.
void turn(__m256i* rows) noexcept {
  __m256i pair[8], four[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    pair[i] = _mm256_unpacklo_epi32(rows[i], rows[i + 1]);
    pair[i + 1] = _mm256_unpackhi_epi32(rows[i], rows[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    four[i] = _mm256_unpacklo_epi64(pair[i], pair[i + 2]);
    four[i + 1] = _mm256_unpackhi_epi64(pair[i], pair[i + 2]);
    four[i + 2] = _mm256_unpacklo_epi64(pair[i + 1], pair[i + 3]);
    four[i + 3] = _mm256_unpackhi_epi64(pair[i + 1], pair[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    rows[i] = _mm256_permute2x128_si256(four[i], four[i + 4], 0x20);
    rows[i + 4] = _mm256_permute2x128_si256(four[i], four[i + 4], 0x31);
  }
}

struct Exchange {
  alignas(32) uint8_t of[2][32] = {};
  constexpr Exchange() {
    constexpr int kOrder[2][4] = {{0, 2, 1, 3}, {0, 3, 1, 2}};
    for (int i = 0; i < 32; ++i) {
      for (int copy = 0; copy < 2; ++copy) {
        of[copy][i] = static_cast<uint8_t>(i % 16 / 4 * 4 + kOrder[copy][i % 4]);
      }
    }
  }
};
constexpr Exchange kExchange;

// Eight units of the rows of a tile: places 0 to 7, and 8 to 11 where there are as many rows.
void arrange_units(const GemmS8Tiles& p, const uint8_t* const* rows, int64_t unit,
                   uint8_t* tile) noexcept {
  const auto load_row = [&](int64_t row) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[row] + 4 * unit));
  };
  __m256i upper[8], lower[4];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) upper[i] = load_row(i);
  turn(upper);
  const bool tall = p.tile_rows > 8;
  if (tall) {
    const __m256i a = load_row(8), b = load_row(9), c = load_row(10), d = load_row(11);
    const __m256i ab = _mm256_unpacklo_epi32(a, b), ab_high = _mm256_unpackhi_epi32(a, b);
    const __m256i cd = _mm256_unpacklo_epi32(c, d), cd_high = _mm256_unpackhi_epi32(c, d);
    lower[0] = _mm256_unpacklo_epi64(ab, cd);  // units 0 and 4
    lower[1] = _mm256_unpackhi_epi64(ab, cd);
    lower[2] = _mm256_unpacklo_epi64(ab_high, cd_high);
    lower[3] = _mm256_unpackhi_epi64(ab_high, cd_high);
  }
  for (int64_t copy = 0; copy < p.copies; ++copy) {
    uint8_t* to = tile + (copy * p.units + unit) * kUnitBytes;
    const auto* mask = reinterpret_cast<const __m256i*>(kExchange.of[copy == 2 ? 1 : 0]);
    const __m256i order = _mm256_load_si256(mask);
    const auto made = [&](__m256i v) { return copy == 0 ? v : _mm256_shuffle_epi8(v, order); };
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i * kUnitBytes), made(upper[i]));
    }
    if (!tall) continue;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const __m256i v = made(lower[i]);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i * kUnitBytes + 32),
                       _mm256_castsi256_si128(v));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + (i + 4) * kUnitBytes + 32),
                       _mm256_extracti128_si256(v, 1));
    }
  }
}

void arrange(const GemmS8Tiles& p) noexcept {
  uint8_t* tile = p.tiles;
  for (int64_t first = 0; first < p.count; first += p.tile_rows, tile += p.tile_bytes) {
    const uint8_t* rows[kS8TileRows];
    for (int64_t i = 0; i < kS8TileRows; ++i) {
      const int64_t row = first + i < p.count ? first + i : p.count - 1;  // any will do
      rows[i] = p.rows + row * p.stride;
    }
    for (int64_t unit = 0; unit < p.units; unit += 8) arrange_units(p, rows, unit, tile);
  }
}

// --- Tiles ---------------------------------------------------------------------------------------

// What leaves a tile: `rows` of its rows, `width` of its columns.
struct Store {
  const GemmS8Block& p;
  int64_t row, rows, column, width;

  template <class Function>
  __attribute__((always_inline)) void each(__m256i* acc, Function function) const noexcept {
    for (int64_t r = 0; r < rows; ++r) acc[r] = function(acc[r]);
  }

  void words(const __m256i* acc) const noexcept {
    int32_t* out = static_cast<int32_t*>(p.out) + row * p.ldc + column;
    for (int64_t r = 0; r < rows; ++r, out += p.ldc) {
      if (width == kColumns) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), acc[r]);
        continue;
      }
      alignas(32) int32_t buffer[kColumns];
      _mm256_store_si256(reinterpret_cast<__m256i*>(buffer), acc[r]);
      for (int64_t i = 0; i < width; ++i) out[i] = buffer[i];
    }
  }

  void bytes(int64_t value, uint8_t* out) const noexcept {
    if (width == kColumns) {
      __builtin_memcpy(out, &value, 8);
      return;
    }
    uint8_t buffer[kColumns];
    __builtin_memcpy(buffer, &value, 8);
    for (int64_t i = 0; i < width; ++i) out[i] = buffer[i];
  }

  // Four rows of eight bytes from registers, the usual end of a tile: their 32 bytes need one
  // permutation. kTwo: the first two rows alone.
  template <bool kTwo>
  __attribute__((always_inline)) void saturated(__m256i a, __m256i b, __m256i c, __m256i d,
                                                __m256 scale, uint8_t* out) const noexcept {
    const __m256i zero = _mm256_set1_epi16(static_cast<int16_t>(p.finish.zero_point));
    const __m256i top =
        _mm256_adds_epi16(_mm256_packs_epi32(rounded(a, scale), rounded(b, scale)), zero);
    const __m256i bottom =
        kTwo ? top
             : _mm256_adds_epi16(_mm256_packs_epi32(rounded(c, scale), rounded(d, scale)), zero);
    const __m256i mixed =
        p.finish.is_signed ? _mm256_packs_epi16(top, bottom) : _mm256_packus_epi16(top, bottom);
    const __m256i four =
        _mm256_permutevar8x32_epi32(mixed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    const __m128i first = _mm256_castsi256_si128(four);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out), first);
    _mm_storeh_pi(reinterpret_cast<__m64*>(out + p.ldc), _mm_castsi128_ps(first));
    if constexpr (kTwo) return;
    const __m128i second = _mm256_extracti128_si256(four, 1);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out + 2 * p.ldc), second);
    _mm_storeh_pi(reinterpret_cast<__m64*>(out + 3 * p.ldc), _mm_castsi128_ps(second));
  }

  bool is_whole(int64_t whole_rows) const noexcept {
    return p.b_zero == nullptr && rows == whole_rows && width == kColumns;
  }

  // Any other end of a tile. Reads whole fours of `acc`.
  template <bool kSaturates>
  void quantized(const __m256i* acc) const noexcept {
    const __m256 scale = _mm256_loadu_ps(p.finish.scale + column);
    const __m256 lo = _mm256_set1_ps(p.finish.lo), hi = _mm256_set1_ps(p.finish.hi);
    const __m256i zero = _mm256_set1_epi16(static_cast<int16_t>(p.finish.zero_point));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const bool is_signed = p.finish.is_signed;
    const auto two = [&](__m256i a, __m256i b) {
      a = kSaturates ? rounded(a, scale) : rounded(a, scale, lo, hi);
      b = kSaturates ? rounded(b, scale) : rounded(b, scale, lo, hi);
      return _mm256_adds_epi16(_mm256_packs_epi32(a, b), zero);
    };
    uint8_t* out = static_cast<uint8_t*>(p.out) + row * p.ldc + column;
    for (int64_t r = 0; r < rows; r += 4, out += 4 * p.ldc) {
      const __m256i top = two(acc[r], acc[r + 1]), bottom = two(acc[r + 2], acc[r + 3]);
      const __m256i mixed =
          is_signed ? _mm256_packs_epi16(top, bottom) : _mm256_packus_epi16(top, bottom);
      const __m256i four = _mm256_permutevar8x32_epi32(mixed, order);
      const __m128i first = _mm256_castsi256_si128(four);
      const __m128i second = _mm256_extracti128_si256(four, 1);
      bytes(_mm_cvtsi128_si64(first), out);
      if (r + 1 < rows) bytes(_mm_extract_epi64(first, 1), out + p.ldc);
      if (r + 2 < rows) bytes(_mm_cvtsi128_si64(second), out + 2 * p.ldc);
      if (r + 3 < rows) bytes(_mm_extract_epi64(second, 1), out + 3 * p.ldc);
    }
  }

  void operator()(__m256i* acc) const noexcept {
    if (p.b_zero != nullptr) {
      const __m256i zero = load(p.b_zero + column);
      for (int64_t r = 0; r < rows; ++r) {
        const __m256i sum = _mm256_set1_epi32(p.row_sum[row + r]);
        acc[r] = _mm256_sub_epi32(acc[r], _mm256_mullo_epi32(zero, sum));
      }
    }
    if (p.finish.output == S8Output::quantized) {
      return p.finish.saturates ? quantized<true>(acc) : quantized<false>(acc);
    }
    if (p.finish.output == S8Output::float32) {
      const __m256 scale = _mm256_loadu_ps(p.finish.scale + column);
      const __m256 bias = _mm256_loadu_ps(p.finish.float_bias + column);
      each(acc, [&](__m256i v) {
        return _mm256_castps_si256(
            _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(v), scale), bias));
      });
    }
    words(acc);
  }
};

// acc += the four products a column; named accumulators and one statement, for the reason in
// gemm_s8_avx2.cpp. vpmaddubsw multiplies unsigned bytes (of rows) by signed ones.
#define COMPRESS_ROW(r)                                                         \
  if constexpr (kCount > r) {                                                   \
    int32_t bytes;                                                              \
    __builtin_memcpy(&bytes, a + 4 * r, sizeof bytes);                          \
    __m256i value = _mm256_set1_epi32(bytes);                                   \
    __asm__("vpmaddubsw %2, %1, %1\n\tvpmaddwd %3, %1, %1\n\tvpaddd %1, %0, %0" \
            : "+x"(acc##r), "+x"(value)                                         \
            : "x"(weights), "x"(ones));                                         \
  }

template <int kCount>
void tile(const GemmS8Block& p, const uint8_t* rows, int64_t begin, int64_t end,
          const Store& store) noexcept {
  const __m256i ones = _mm256_set1_epi16(1);
  const __m256i offset = load(p.finish.offset + store.column);
  __m256i acc0 = offset, acc1 = offset, acc2 = offset, acc3 = offset, acc4 = offset, acc5 = offset;
  __m256i acc6 = offset, acc7 = offset, acc8 = offset, acc9 = offset, acc10 = offset;
  __m256i acc11 = offset;
  const int8_t* b = p.b + begin * kEntryBytes;
#pragma GCC unroll 2
  for (int64_t entry = begin; entry < end; ++entry, b += kEntryBytes) {
    const uint8_t* a = rows + int64_t{p.index[entry]} * kUnitBytes;
    const __m256i weights = _mm256_load_si256(reinterpret_cast<const __m256i*>(b));
    COMPRESS_ROW(0)
    COMPRESS_ROW(1)
    COMPRESS_ROW(2)
    COMPRESS_ROW(3)
    COMPRESS_ROW(4)
    COMPRESS_ROW(5)
    COMPRESS_ROW(6)
    COMPRESS_ROW(7)
    COMPRESS_ROW(8)
    COMPRESS_ROW(9)
    COMPRESS_ROW(10)
    COMPRESS_ROW(11)
  }
#undef COMPRESS_ROW
  const bool whole = store.is_whole(kCount);
  if (whole && p.finish.output == S8Output::float32) {
    const __m256 scale = _mm256_loadu_ps(p.finish.scale + store.column);
    const __m256 bias = _mm256_loadu_ps(p.finish.float_bias + store.column);
    float* out = static_cast<float*>(p.out) + store.row * p.ldc + store.column;
#define COMPRESS_ROW(r)                                                     \
  if constexpr (kCount > r) {                                               \
    const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(acc##r), scale); \
    _mm256_storeu_ps(out + (r)*p.ldc, _mm256_add_ps(scaled, bias));         \
  }
    COMPRESS_ROW(0)
    COMPRESS_ROW(1)
    COMPRESS_ROW(2)
    COMPRESS_ROW(3)
    COMPRESS_ROW(4)
    COMPRESS_ROW(5)
    COMPRESS_ROW(6)
    COMPRESS_ROW(7)
    COMPRESS_ROW(8)
    COMPRESS_ROW(9)
    COMPRESS_ROW(10)
    COMPRESS_ROW(11)
#undef COMPRESS_ROW
    return;
  }
  if (whole && p.finish.output == S8Output::quantized && p.finish.saturates) {
    const __m256 scale = _mm256_loadu_ps(p.finish.scale + store.column);
    uint8_t* out = static_cast<uint8_t*>(p.out) + store.row * p.ldc + store.column;
    store.saturated<(kCount < 4)>(acc0, acc1, acc2, acc3, scale, out);
    out += 4 * p.ldc;
    if constexpr (kCount > 4) {
      store.saturated<(kCount < 8)>(acc4, acc5, acc6, acc7, scale, out);
      out += 4 * p.ldc;
    }
    if constexpr (kCount > 8) {
      store.saturated<(kCount < 12)>(acc8, acc9, acc10, acc11, scale, out);
    }
    return;
  }
  __m256i acc[12] = {acc0, acc1, acc2, acc3, acc4, acc5, acc6, acc7, acc8, acc9, acc10, acc11};
  store(acc);
}

void columns(const GemmS8Block& p, int64_t column, int64_t begin, int64_t end) noexcept {
  const uint8_t* rows = p.a;
  const int64_t left = p.columns - column, width = left < kColumns ? left : kColumns;
  for (int64_t row = 0; row < p.rows; row += p.tile_rows, rows += p.a_stride) {
    const int64_t rest = p.rows - row;
    const Store store{p, row, rest < p.tile_rows ? rest : p.tile_rows, column, width};
    switch ((store.rows + 1) / 2) {
      case 6:
        tile<12>(p, rows, begin, end, store);
        break;
      case 5:
        tile<10>(p, rows, begin, end, store);
        break;
      case 4:
        tile<8>(p, rows, begin, end, store);
        break;
      case 3:
        tile<6>(p, rows, begin, end, store);
        break;
      case 2:
        tile<4>(p, rows, begin, end, store);
        break;
      default:
        tile<2>(p, rows, begin, end, store);
        break;
    }
  }
}

void block(const GemmS8Block& p) noexcept {
  const int32_t* starts = p.starts;
  for (int64_t column = 0; column < p.columns; column += kColumns, ++starts) {
    columns(p, column, starts[0], starts[1]);
  }
}

}  // namespace

const GemmS8Kernel kGemmS8PairsAvx2 = {"gemm_s8_12x8_avx2", Isa::avx2, 4,       1,
                                       pack_rows,           block,     nullptr, kColumns,
                                       kMostPercent,        true,      arrange};

}  // namespace compress::kernels
