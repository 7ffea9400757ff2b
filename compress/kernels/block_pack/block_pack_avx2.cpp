#include <immintrin.h>

#include <cstring>

#include "compress/kernels/block_pack/block_pack_kernel.h"

namespace compress::kernels {
namespace {

constexpr int64_t kLanes = 8;
constexpr int64_t kRow = 32;  // values that a step along a row takes

__m256 load(const std::byte* x) noexcept {
  return _mm256_loadu_ps(reinterpret_cast<const float*>(x));
}

// Lanes [0, count), zeros behind them.
__m256 load_some(const std::byte* x, int64_t count) noexcept {
  if (count >= kLanes) return load(x);
  alignas(32) float part[kLanes] = {};
  if (count > 0) std::memcpy(part, x, static_cast<size_t>(count) * sizeof(float));
  return _mm256_load_ps(part);
}

struct Range {
  __m256 low = _mm256_setzero_ps(), high = _mm256_setzero_ps(), flaw = _mm256_setzero_ps();

  void widen(__m256 x) noexcept {
    low = _mm256_min_ps(x, low);
    high = _mm256_max_ps(x, high);
    flaw = _mm256_add_ps(flaw, _mm256_mul_ps(x, _mm256_setzero_ps()));
  }
};

// Rounding to nearest even is the conversion's own. What is far below the range becomes the lowest
// 32-bit integer and is raised; what is far above would become it too, and is lowered first.
struct Rounding {
  __m256i zero, least, most;
  __m256 scale;

  __m256i operator()(__m256 x) const noexcept {
    const __m256 far = _mm256_set1_ps(1e6f);
    const __m256i q = _mm256_cvtps_epi32(_mm256_min_ps(_mm256_div_ps(x, scale), far));
    return _mm256_min_epi32(_mm256_max_epi32(_mm256_add_epi32(q, zero), least), most);
  }
};

// --- Rows ---------------------------------------------------------------------------------------

float lowest(__m256 v) noexcept {
  __m128 m = _mm_min_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  m = _mm_min_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_min_ss(m, _mm_movehdup_ps(m)));
}

float highest(__m256 v) noexcept {
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

float sum(__m256 v) noexcept {
  __m128 m = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  m = _mm_add_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_add_ss(m, _mm_movehdup_ps(m)));
}

BlockRange row_range(const std::byte* x, int64_t n) noexcept {
  Range even, odd;
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    even.widen(load(x + i * 4));
    odd.widen(load(x + (i + kLanes) * 4));
  }
  for (; i < n; i += kLanes) even.widen(load_some(x + i * 4, n - i));
  return {lowest(_mm256_min_ps(even.low, odd.low)), highest(_mm256_max_ps(even.high, odd.high)),
          sum(_mm256_add_ps(even.flaw, odd.flaw))};
}

// 32 integers of a byte each, in order.
__m256i bytes_of(const __m256i q[4]) noexcept {
  const __m256i words =
      _mm256_packus_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
  return _mm256_permutevar8x32_epi32(words, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

// Neighbouring bytes, the second times 2^bits, as one: the lower half of the result.
__m256i joined(__m256i bytes, int bits) noexcept {
  const __m256i weights = _mm256_set1_epi16(static_cast<int16_t>(1 | 256 << bits));
  const __m256i pairs = _mm256_maddubs_epi16(bytes, weights);
  return _mm256_permute4x64_epi64(_mm256_packus_epi16(pairs, pairs), 0xD8);
}

void row_pack(const std::byte* x, int64_t n, const BlockGrid& grid, float scale, int32_t zero,
              uint8_t* out) noexcept {
  const Rounding round{_mm256_set1_epi32(zero), _mm256_set1_epi32(grid.least),
                       _mm256_set1_epi32(grid.most), _mm256_set1_ps(scale)};
  for (int64_t i = 0; i < grid.block; i += kRow) {
    __m256i q[4];
#pragma GCC unroll 4
    for (int64_t part = 0; part < 4; ++part) {
      const int64_t at = i + part * kLanes;
      q[part] = round(load_some(x + at * 4, n - at));
    }
    __m256i packed = bytes_of(q);
    for (int bits = grid.bits; bits < 8; bits *= 2) packed = joined(packed, bits);
    const int64_t bytes = (grid.block - i < kRow ? grid.block - i : kRow) * grid.bits / 8;
    if (bytes == 16) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_castsi256_si128(packed));
    } else {
      alignas(32) uint8_t all[32];
      _mm256_store_si256(reinterpret_cast<__m256i*>(all), packed);
      std::memcpy(out, all, static_cast<size_t>(bytes));
    }
    out += bytes;
  }
}

// --- Columns ------------------------------------------------------------------------------------

void column_range(const WeightTile& tile, float* low, float* high, float* flaw) noexcept {
  for (int64_t j = 0; j < tile.width; j += kLanes) {
    const int64_t count = tile.width - j < kLanes ? tile.width - j : kLanes;
    Range range;
    for (int64_t i = 0; i < tile.height; ++i) {
      range.widen(load_some(tile.weights + (i * tile.stride + j) * 4, count));
    }
    _mm256_storeu_ps(low + j, range.low);
    _mm256_storeu_ps(high + j, range.high);
    _mm256_storeu_ps(flaw + j, range.flaw);
  }
}

// Words [words][kBlockPackColumns] of 32 bits, a column's below each other, to each column's place.
void scatter(const uint32_t* scratch, int64_t words, int64_t width, uint8_t* out,
             int64_t stride) noexcept {
  int64_t w = 0;
  for (; w + 4 <= words; w += 4) {
    const uint32_t* from = scratch + w * kBlockPackColumns;
    for (int64_t j = 0; j < width; j += 4) {
      __m128i row[4];
#pragma GCC unroll 4
      for (int64_t k = 0; k < 4; ++k) {
        row[k] = _mm_load_si128(reinterpret_cast<const __m128i*>(from + k * kBlockPackColumns + j));
      }
      const __m128i a = _mm_unpacklo_epi32(row[0], row[1]), b = _mm_unpacklo_epi32(row[2], row[3]);
      const __m128i c = _mm_unpackhi_epi32(row[0], row[1]), d = _mm_unpackhi_epi32(row[2], row[3]);
      const __m128i columns[4] = {_mm_unpacklo_epi64(a, b), _mm_unpackhi_epi64(a, b),
                                  _mm_unpacklo_epi64(c, d), _mm_unpackhi_epi64(c, d)};
      for (int64_t k = 0; k < 4 && j + k < width; ++k) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + (j + k) * stride + w * 4), columns[k]);
      }
    }
  }
  for (; w < words; ++w) {
    for (int64_t j = 0; j < width; ++j) {
      std::memcpy(out + j * stride + w * 4, scratch + w * kBlockPackColumns + j, 4);
    }
  }
}

// One word of the block of eight columns: 32 / bits rows from `row` on.
template <int kBits>
__m256i word_of(const WeightTile& tile, int64_t row, int64_t j, int64_t count,
                const Rounding& round) noexcept {
  __m256i word = _mm256_setzero_si256();
#pragma GCC unroll 16
  for (int part = 0; part < 32 / kBits; ++part) {
    const int64_t i = row + part;
    const __m256 x = i < tile.height ? load_some(tile.weights + (i * tile.stride + j) * 4, count)
                                     : _mm256_setzero_ps();
    word = _mm256_or_si256(word, _mm256_slli_epi32(round(x), part * kBits));
  }
  return word;
}

// 64 words at a time: blocks may be as long as a column.
template <int kBits>
void pack_columns(const WeightTile& tile, const BlockGrid& grid, const float* scale,
                  const int32_t* zero, uint8_t* out, int64_t stride) noexcept {
  constexpr int64_t kWords = 64, kRows = 32 / kBits;
  alignas(32) uint32_t scratch[kWords * kBlockPackColumns];
  const int64_t words = grid.block / kRows;
  for (int64_t first = 0; first < words; first += kWords) {
    const int64_t some = words - first < kWords ? words - first : kWords;
    for (int64_t j = 0; j < tile.width; j += kLanes) {
      const int64_t count = tile.width - j < kLanes ? tile.width - j : kLanes;
      const Rounding round{_mm256_loadu_si256(reinterpret_cast<const __m256i*>(zero + j)),
                           _mm256_set1_epi32(grid.least), _mm256_set1_epi32(grid.most),
                           _mm256_loadu_ps(scale + j)};
      for (int64_t w = 0; w < some; ++w) {
        const __m256i word = word_of<kBits>(tile, (first + w) * kRows, j, count, round);
        _mm256_store_si256(reinterpret_cast<__m256i*>(scratch + w * kBlockPackColumns + j), word);
      }
    }
    scatter(scratch, some, tile.width, out + first * 4, stride);
  }
}

void column_pack(const WeightTile& tile, const BlockGrid& grid, const float* scale,
                 const int32_t* zero, uint8_t* out, int64_t stride) noexcept {
  switch (grid.bits) {
    case 2:
      return pack_columns<2>(tile, grid, scale, zero, out, stride);
    case 4:
      return pack_columns<4>(tile, grid, scale, zero, out, stride);
    default:
      return pack_columns<8>(tile, grid, scale, zero, out, stride);
  }
}

}  // namespace

const BlockPackKernel kBlockPackAvx2{"avx2",   Isa::avx2,    row_range,
                                     row_pack, column_range, column_pack};

}  // namespace compress::kernels
