// Exact int8 GEMM for AVX2. maddubs would saturate (2 * 255 * 127 > 32767), so both operands are
// widened to 16 bits and multiplied by madd: rows while they are packed, panels while they are
// loaded, which one pair of loads for six rows hides. Tile 6 x 16: twelve accumulators, two panel
// registers, one broadcast, one product.
#include <immintrin.h>

#include "compress/kernels/gemm_s8/gemm_s8_kernel.h"
#include "compress/kernels/simd/s8_store_avx2.h"

namespace compress::kernels {
namespace {

constexpr int64_t kRows = 6;

// Bytes from `p` on as 16-bit values to `out`.
template <bool kFlip>
inline void widen16(const uint8_t* p, uint16_t* out) noexcept {
  __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  if constexpr (kFlip) wide = _mm256_xor_si256(wide, _mm256_set1_epi16(0x80));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), wide);
}
template <bool kFlip>
inline void widen8(const uint8_t* p, uint16_t* out) noexcept {
  __m128i wide = _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  if constexpr (kFlip) wide = _mm_xor_si128(wide, _mm_set1_epi16(0x80));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), wide);
}

template <bool kFlip>
inline void widen4(const uint8_t* p, uint16_t* out) noexcept {
  int32_t bytes;
  __builtin_memcpy(&bytes, p, sizeof bytes);
  __m128i wide = _mm_cvtepu8_epi16(_mm_cvtsi32_si128(bytes));
  if constexpr (kFlip) wide = _mm_xor_si128(wide, _mm_set1_epi16(0x80));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(out), wide);
}

// The last 16 values, or the last 8 or 4, overlap the ones before where the length is no multiple.
template <bool kFlip>
void widen_rows(const GemmS8Rows& p) noexcept {
  const int64_t length = p.length;
  for (int64_t row = 0; row < p.count; ++row) {
    const uint8_t* source = p.source + row * p.source_stride;
    uint16_t* out = reinterpret_cast<uint16_t*>(p.packed + row * p.packed_stride);
    if (length >= 16) {
      for (int64_t k = 0; k + 16 <= length; k += 16) widen16<kFlip>(source + k, out + k);
      if (length % 16 != 0) widen16<kFlip>(source + length - 16, out + length - 16);
    } else if (length >= 8) {
      widen8<kFlip>(source, out);
      widen8<kFlip>(source + length - 8, out + length - 8);
    } else if (length >= 4) {
      widen4<kFlip>(source, out);
      widen4<kFlip>(source + length - 4, out + length - 4);
    } else {
      for (int64_t k = 0; k < length; ++k) out[k] = source[k] ^ (kFlip ? 0x80 : 0);
    }
  }
}

void pack_rows(const GemmS8Rows& p) noexcept {
  p.flip != 0 ? widen_rows<true>(p) : widen_rows<false>(p);
  for (int64_t row = 0; p.sums != nullptr && row < p.count; ++row) {
    const uint16_t* packed = reinterpret_cast<const uint16_t*>(p.packed + row * p.packed_stride);
    int32_t sum = 0;
    for (int64_t k = 0; k < p.length; ++k) sum += packed[k];
    p.sums[row] += sum;
  }
}

struct Columns {
  __m256i low, high;
};

// Bytes of `width` columns, 8 at least written at once where there are as many.
inline void store_part(__m128i bytes, uint8_t* out, int64_t width) noexcept {
  alignas(16) uint8_t buffer[16];
  _mm_store_si128(reinterpret_cast<__m128i*>(buffer), bytes);
  int64_t i = 0;
  if (width >= 8) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out), bytes);
    i = 8;
  }
  for (; i < width; ++i) out[i] = buffer[i];
}

// Two rows at a time: their 32 bytes need one permutation.
struct QuantizedStore {
  __m256 scale_low, scale_high, lo, hi;
  __m256i zero_point, order;
  uint8_t* out;
  int64_t ldc, width;
  bool is_signed;

  QuantizedStore(const GemmS8Block& p, int64_t row, int64_t column, int64_t columns) noexcept
      : scale_low(_mm256_loadu_ps(p.finish.scale + column)),
        scale_high(_mm256_loadu_ps(p.finish.scale + column + 8)),
        lo(_mm256_set1_ps(p.finish.lo)),
        hi(_mm256_set1_ps(p.finish.hi)),
        zero_point(_mm256_set1_epi16(static_cast<int16_t>(p.finish.zero_point))),
        order(_mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)),
        out(static_cast<uint8_t*>(p.out) + row * p.ldc + column),
        ldc(p.ldc),
        width(columns),
        is_signed(p.finish.is_signed) {}

  template <bool kSaturates>
  __attribute__((always_inline)) __m256i words(Columns sums) const noexcept {
    const __m256i low =
        kSaturates ? rounded(sums.low, scale_low) : rounded(sums.low, scale_low, lo, hi);
    const __m256i high =
        kSaturates ? rounded(sums.high, scale_high) : rounded(sums.high, scale_high, lo, hi);
    return _mm256_adds_epi16(_mm256_packs_epi32(low, high), zero_point);
  }

  template <bool kSecond, bool kSaturates>
  __attribute__((always_inline)) void rows(int64_t row, Columns first,
                                           Columns second) const noexcept {
    const __m256i top_words = words<kSaturates>(first);
    const __m256i bottom_words = kSecond ? words<kSaturates>(second) : top_words;
    const __m256i mixed = is_signed ? _mm256_packs_epi16(top_words, bottom_words)
                                    : _mm256_packus_epi16(top_words, bottom_words);
    const __m256i bytes = _mm256_permutevar8x32_epi32(mixed, order);
    const __m128i top = _mm256_castsi256_si128(bytes), bottom = _mm256_extracti128_si256(bytes, 1);
    uint8_t* to = out + row * ldc;
    if (width == kS8PanelColumns) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), top);
      if constexpr (kSecond) _mm_storeu_si128(reinterpret_cast<__m128i*>(to + ldc), bottom);
    } else {
      store_part(top, to, width);
      if constexpr (kSecond) store_part(bottom, to + ldc, width);
    }
  }

  // The first kCount of six rows.
  template <int kCount, bool kSaturates>
  __attribute__((always_inline)) void all(Columns r0, Columns r1, Columns r2, Columns r3,
                                          Columns r4, Columns r5) const noexcept {
    if constexpr (kCount == 1) rows<false, kSaturates>(0, r0, r0);
    if constexpr (kCount >= 2) rows<true, kSaturates>(0, r0, r1);
    if constexpr (kCount == 3) rows<false, kSaturates>(2, r2, r2);
    if constexpr (kCount >= 4) rows<true, kSaturates>(2, r2, r3);
    if constexpr (kCount == 5) rows<false, kSaturates>(4, r4, r4);
    if constexpr (kCount == 6) rows<true, kSaturates>(4, r4, r5);
  }
};

// Rows [row, row + kCount) of the panel at `column`; offsets are in the sums.
template <int kCount>
void finish(const GemmS8Block& p, Columns* acc, int64_t row, int64_t column) noexcept {
  const int64_t width = p.columns - column < kS8PanelColumns ? p.columns - column : kS8PanelColumns;
  if (p.b_zero != nullptr) {
    const __m256i zero_low = load(p.b_zero + column), zero_high = load(p.b_zero + column + 8);
    for (int r = 0; r < kCount; ++r) {
      const __m256i sum = _mm256_set1_epi32(p.row_sum[row + r]);
      acc[r].low = _mm256_sub_epi32(acc[r].low, _mm256_mullo_epi32(zero_low, sum));
      acc[r].high = _mm256_sub_epi32(acc[r].high, _mm256_mullo_epi32(zero_high, sum));
    }
  }
  if (p.finish.output == S8Output::quantized) {
    const QuantizedStore store(p, row, column, width);
    for (int r = 0; r < kCount; ++r) store.rows<false, false>(r, acc[r], acc[r]);
    return;
  }
  int32_t* out = static_cast<int32_t*>(p.out) + row * p.ldc + column;
  if (p.finish.output == S8Output::int32) {
    for (int r = 0; r < kCount; ++r, out += p.ldc) store_words(acc[r].low, acc[r].high, out, width);
    return;
  }
  const __m256 scale_low = _mm256_loadu_ps(p.finish.scale + column);
  const __m256 scale_high = _mm256_loadu_ps(p.finish.scale + column + 8);
  const __m256 bias_low = _mm256_loadu_ps(p.finish.float_bias + column);
  const __m256 bias_high = _mm256_loadu_ps(p.finish.float_bias + column + 8);
  for (int r = 0; r < kCount; ++r, out += p.ldc) {
    const __m256 low =
        _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(acc[r].low), scale_low), bias_low);
    const __m256 high =
        _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(acc[r].high), scale_high), bias_high);
    store_words(_mm256_castps_si256(low), _mm256_castps_si256(high), out, width);
  }
}

__m256i broadcast4(const uint8_t* p) noexcept {
  int32_t bytes;
  __builtin_memcpy(&bytes, p, sizeof bytes);
  return _mm256_set1_epi32(bytes);
}

// Accumulators are named, and acc += a * b is one statement: gcc 12 keeps an array of them in
// memory, and otherwise hoists the products of several rows above the additions and spills.
#define COMPRESS_MADD(acc, a, b)                       \
  {                                                    \
    __m256i product;                                   \
    __asm__("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" \
            : "+x"(acc), "=&x"(product)                \
            : "x"(a), "x"(b));                         \
  }
#define COMPRESS_ROW(r)                                                  \
  if constexpr (kCount > r) {                                            \
    const __m256i value = broadcast4((r < 3 ? a : a3) + r % 3 * stride); \
    COMPRESS_MADD(low##r, value, low);                                   \
    if constexpr (!kHalf) COMPRESS_MADD(high##r, value, high);           \
  }

// kHalf: the panel has eight columns at most.
template <int kCount, bool kHalf>
void tile(const GemmS8Block& p, int64_t row, const int8_t* b, int64_t column) noexcept {
  const __m256i left = load(p.finish.offset + column), right = load(p.finish.offset + column + 8);
  __m256i low0 = left, low1 = left, low2 = left, low3 = left, low4 = left, low5 = left;
  __m256i high0 = right, high1 = right, high2 = right, high3 = right, high4 = right, high5 = right;
  const int64_t stride = p.a_stride;
  const uint8_t* a = p.a + row * stride;
  const uint8_t* a3 = a + 3 * stride;
#pragma GCC unroll 4
  for (int64_t group = p.groups; group > 0; --group) {
    const __m256i low = _mm256_cvtepi8_epi16(_mm_load_si128(reinterpret_cast<const __m128i*>(b)));
    __m256i high = low;
    if constexpr (!kHalf) {
      high = _mm256_cvtepi8_epi16(_mm_load_si128(reinterpret_cast<const __m128i*>(b + 16)));
    }
    COMPRESS_ROW(0)
    COMPRESS_ROW(1)
    COMPRESS_ROW(2)
    COMPRESS_ROW(3)
    COMPRESS_ROW(4)
    COMPRESS_ROW(5)
    a += 4;
    a3 += 4;
    b += 32;
  }
  if (p.finish.output == S8Output::quantized && p.b_zero == nullptr) {  // straight from registers
    const int64_t width = p.columns - column;
    const QuantizedStore store(p, row, column, width < kS8PanelColumns ? width : kS8PanelColumns);
    const Columns r0{low0, high0}, r1{low1, high1}, r2{low2, high2};
    const Columns r3{low3, high3}, r4{low4, high4}, r5{low5, high5};
    if (p.finish.saturates) {
      store.all<kCount, true>(r0, r1, r2, r3, r4, r5);
    } else {
      store.all<kCount, false>(r0, r1, r2, r3, r4, r5);
    }
    return;
  }
  Columns acc[6] = {{low0, high0}, {low1, high1}, {low2, high2},
                    {low3, high3}, {low4, high4}, {low5, high5}};
  finish<kCount>(p, acc, row, column);
}
#undef COMPRESS_ROW
#undef COMPRESS_MADD

template <bool kHalf>
void panel(const GemmS8Block& p, const int8_t* b, int64_t column) noexcept {
  // Even shares: a tile of one row takes half the time of six.
  const int64_t tiles = (p.rows + kRows - 1) / kRows;
  int64_t row = 0;
  for (int64_t i = 1; i <= tiles; ++i) {
    const int64_t end = p.rows * i / tiles;
    switch (end - row) {
      case 6:
        tile<6, kHalf>(p, row, b, column);
        break;
      case 5:
        tile<5, kHalf>(p, row, b, column);
        break;
      case 4:
        tile<4, kHalf>(p, row, b, column);
        break;
      case 3:
        tile<3, kHalf>(p, row, b, column);
        break;
      case 2:
        tile<2, kHalf>(p, row, b, column);
        break;
      default:
        tile<1, kHalf>(p, row, b, column);
        break;
    }
    row = end;
  }
}

void block(const GemmS8Block& p) noexcept {
  const int8_t* b = p.b;
  for (int64_t column = 0; column < p.columns; column += kS8PanelColumns, b += p.panel_bytes) {
    if (p.columns - column > 8) {
      panel<false>(p, b, column);
    } else {
      panel<true>(p, b, column);
    }
  }
}

}  // namespace

const GemmS8Kernel kGemmS8Avx2 = {"gemm_s8_6x16_avx2", Isa::avx2, 2, 2, pack_rows, block,
                                  &kGemmS8PairsAvx2};

}  // namespace compress::kernels
