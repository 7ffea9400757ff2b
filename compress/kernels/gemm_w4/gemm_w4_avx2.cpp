// Block-quantized weights times int8 activations. Nibbles are the unsigned operand of maddubs,
// which cannot saturate with them (15 * 127 * 2 = 3810), and eight such products add up exactly in
// 16 bits, so that one madd serves 32 k. 8-bit weights are two nibbles: 16 * high + low.
#include <immintrin.h>

#include "compress/kernels/gemm_w4/gemm_w4_kernel.h"

namespace compress::kernels {
namespace {

constexpr int64_t kFlush = 32;  // k that 16-bit sums can take

__m256i load(const void* p) noexcept { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

float largest_of(__m256 v) noexcept {
  __m128 top = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  top = _mm_max_ps(top, _mm_movehl_ps(top, top));
  return _mm_cvtss_f32(_mm_max_ss(top, _mm_movehdup_ps(top)));
}

// A block of block_size values; the sum in halves, see GemmW4Int8Kernel.
void quantize_block(const float* source, int64_t block_size, int8_t* values, float* scale,
                    int32_t* sum) noexcept {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  __m256 largest = _mm256_setzero_ps();
  for (int64_t i = 0; i < block_size; i += 8) {
    const __m256 magnitude = _mm256_andnot_ps(sign, _mm256_loadu_ps(source + i));
    largest = _mm256_max_ps(magnitude, largest);  // of a NaN: the other
  }
  *scale = largest_of(largest) / 127.0f;
  const __m256 divisor = _mm256_set1_ps(*scale > 0.0f ? *scale : 1.0f);
  const __m256 lo = _mm256_set1_ps(-127.0f), hi = _mm256_set1_ps(127.0f);
  __m128i sums = _mm_setzero_si128();  // of two neighbours each, 16 * 254 at most
  for (int64_t i = 0; i < block_size; i += 16) {
    const __m256 left = _mm256_div_ps(_mm256_loadu_ps(source + i), divisor);
    const __m256 right = _mm256_div_ps(_mm256_loadu_ps(source + i + 8), divisor);
    const __m256i words =
        _mm256_packs_epi32(_mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(left, lo), hi)),
                           _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(right, lo), hi)));
    const __m256i ordered = _mm256_permute4x64_epi64(words, 0xd8);
    const __m128i bytes =
        _mm_packs_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(values + i), bytes);
    sums = _mm_add_epi16(sums, _mm_maddubs_epi16(_mm_set1_epi8(1), bytes));
  }
  sums = _mm_add_epi16(sums, _mm_shuffle_epi32(sums, 0x4e));
  sums = _mm_add_epi16(sums, _mm_shuffle_epi32(sums, 0xb1));
  *sum = _mm_cvtsi128_si32(sums);
}

void quantize_row(const float* a, int64_t k, int64_t block_size, int8_t* values, float* scale,
                  int32_t* sum) noexcept {
  for (int64_t begin = 0; begin < k; begin += block_size, ++scale, ++sum) {
    if (k - begin >= block_size) {
      quantize_block(a + begin, block_size, values + begin, scale, sum);
      continue;
    }
    alignas(32) float tail[256];
    for (int64_t i = 0; i < block_size; ++i) tail[i] = i < k - begin ? a[begin + i] : 0.0f;
    quantize_block(tail, block_size, values + begin, scale, sum);
  }
}

__m256i broadcast4(const int8_t* p) noexcept {
  int32_t bytes;
  __builtin_memcpy(&bytes, p, sizeof bytes);
  return _mm256_set1_epi32(bytes);
}

// acc += u * s, pairs of bytes into 16 bits; one statement for the reason in gemm_s8_avx2.cpp.
#define COMPRESS_MADDUBS(acc, u, s)                      \
  {                                                      \
    __m256i product;                                     \
    __asm__("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" \
            : "+x"(acc), "=&x"(product)                  \
            : "x"(u), "x"(s));                           \
  }

// Sums of up to 32 k, one row's 16 columns, as 32 bits.
struct Dots {
  __m256i low, high;
};

template <int kRows>
void dots_4bit(const uint8_t* b, const int8_t* a, int64_t stride, int64_t count,
               Dots* dots) noexcept {
  const __m256i mask = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
  __m256i l0 = _mm256_setzero_si256(), h0 = l0, l1 = l0, h1 = l0, l2 = l0, h2 = l0, l3 = l0,
          h3 = l0;
#define COMPRESS_ROW(r)                                    \
  if constexpr (kRows > r) {                               \
    const __m256i first = broadcast4(a + r * stride);      \
    COMPRESS_MADDUBS(l##r, low, first);                    \
    COMPRESS_MADDUBS(h##r, high, first);                   \
    const __m256i second = broadcast4(a + r * stride + 4); \
    COMPRESS_MADDUBS(l##r, low2, second);                  \
    COMPRESS_MADDUBS(h##r, high2, second);                 \
  }
  for (int64_t k = 0; k < count; k += 8) {
    const __m256i left = load(b), right = load(b + 32);
    const __m256i low = _mm256_and_si256(left, mask), high = _mm256_and_si256(right, mask);
    const __m256i low2 = _mm256_and_si256(_mm256_srli_epi16(left, 4), mask);
    const __m256i high2 = _mm256_and_si256(_mm256_srli_epi16(right, 4), mask);
    COMPRESS_ROW(0)
    COMPRESS_ROW(1)
    COMPRESS_ROW(2)
    COMPRESS_ROW(3)
    a += 8;
    b += 64;
  }
#undef COMPRESS_ROW
#define COMPRESS_ROW(r)                                                           \
  if constexpr (kRows > r) {                                                      \
    dots[r].low = _mm256_add_epi32(dots[r].low, _mm256_madd_epi16(l##r, ones));   \
    dots[r].high = _mm256_add_epi32(dots[r].high, _mm256_madd_epi16(h##r, ones)); \
  }
  COMPRESS_ROW(0)
  COMPRESS_ROW(1)
  COMPRESS_ROW(2)
  COMPRESS_ROW(3)
#undef COMPRESS_ROW
}

// One row: the nibbles need twice the accumulators.
template <int kRows>
void dots_8bit(const uint8_t* b, const int8_t* a, int64_t stride, int64_t count,
               Dots* dots) noexcept {
  const __m256i mask = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
  __m256i l0 = _mm256_setzero_si256(), h0 = l0, l1 = l0, h1 = l0;
  __m256i top_l0 = l0, top_h0 = l0, top_l1 = l0, top_h1 = l0;
#define COMPRESS_ROW(r)                               \
  if constexpr (kRows > r) {                          \
    const __m256i value = broadcast4(a + r * stride); \
    COMPRESS_MADDUBS(l##r, low, value);               \
    COMPRESS_MADDUBS(h##r, high, value);              \
    COMPRESS_MADDUBS(top_l##r, low2, value);          \
    COMPRESS_MADDUBS(top_h##r, high2, value);         \
  }
  for (int64_t k = 0; k < count; k += 4) {
    const __m256i left = load(b), right = load(b + 32);
    const __m256i low = _mm256_and_si256(left, mask), high = _mm256_and_si256(right, mask);
    const __m256i low2 = _mm256_and_si256(_mm256_srli_epi16(left, 4), mask);
    const __m256i high2 = _mm256_and_si256(_mm256_srli_epi16(right, 4), mask);
    COMPRESS_ROW(0)
    COMPRESS_ROW(1)
    a += 4;
    b += 64;
  }
#undef COMPRESS_ROW
  const __m256i sixteens = _mm256_set1_epi16(16);
#define COMPRESS_ROW(r)                                                                          \
  if constexpr (kRows > r) {                                                                     \
    dots[r].low = _mm256_add_epi32(                                                              \
        dots[r].low,                                                                             \
        _mm256_add_epi32(_mm256_madd_epi16(l##r, ones), _mm256_madd_epi16(top_l##r, sixteens))); \
    dots[r].high = _mm256_add_epi32(                                                             \
        dots[r].high,                                                                            \
        _mm256_add_epi32(_mm256_madd_epi16(h##r, ones), _mm256_madd_epi16(top_h##r, sixteens))); \
  }
  COMPRESS_ROW(0)
  COMPRESS_ROW(1)
#undef COMPRESS_ROW
}

void store_row(const GemmW4Panel& p, __m256 low, __m256 high, float* out) noexcept {
  if (p.columns == kW4Columns) {
    if (p.bias != nullptr) {
      low = _mm256_add_ps(low, _mm256_loadu_ps(p.bias));
      high = _mm256_add_ps(high, _mm256_loadu_ps(p.bias + 8));
    }
    _mm256_storeu_ps(out, low);
    _mm256_storeu_ps(out + 8, high);
    return;
  }
  alignas(32) float lanes[kW4Columns];
  _mm256_store_ps(lanes, low);
  _mm256_store_ps(lanes + 8, high);
  for (int64_t i = 0; i < p.columns; ++i) out[i] = p.bias ? lanes[i] + p.bias[i] : lanes[i];
}

template <int kRows, int kBits>
void tile(const GemmW4Panel& p, const GemmW4Int8Rows& rows, int64_t row) noexcept {
  __m256 low[kRows], high[kRows];
  for (int r = 0; r < kRows; ++r) low[r] = high[r] = _mm256_setzero_ps();
  const int8_t* a = rows.values + row * rows.stride;
  const uint8_t* b = p.weights;
  const int64_t flush = p.block_size < kFlush ? p.block_size : kFlush;
  for (int64_t block = 0; block < p.blocks; ++block) {
    Dots dots[kRows] = {};
    for (int64_t k = 0; k < p.block_size; k += flush) {
      if constexpr (kBits == 4) {
        dots_4bit<kRows>(b, a, rows.stride, flush, dots);
      } else {
        dots_8bit<kRows>(b, a, rows.stride, flush, dots);
      }
      a += flush;
      b += flush * kW4Columns * kBits / 8;
    }
    const __m256 scale_low = _mm256_loadu_ps(p.scales + block * kW4Columns);
    const __m256 scale_high = _mm256_loadu_ps(p.scales + block * kW4Columns + 8);
    // In both halves of a lane: one for each half of a sum.
    __m256i zero_low = _mm256_set1_epi16(static_cast<int16_t>(p.default_zero));
    __m256i zero_high = zero_low;
    if (p.zero_points != nullptr) {
      const uint8_t* zeros = p.zero_points + block * kW4Columns;
      zero_low = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(zeros)));
      zero_high =
          _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(zeros + 8)));
      zero_low = _mm256_or_si256(zero_low, _mm256_slli_epi32(zero_low, 16));
      zero_high = _mm256_or_si256(zero_high, _mm256_slli_epi32(zero_high, 16));
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const int64_t at = (row + r) * p.blocks + block;
      // madd multiplies both halves of a sum and adds them.
      const __m256i sum = _mm256_set1_epi32(rows.sum[at]);
      const __m256 a_scale = _mm256_set1_ps(rows.scale[at]);
      const __m256i dot_low = _mm256_sub_epi32(dots[r].low, _mm256_madd_epi16(zero_low, sum));
      const __m256i dot_high = _mm256_sub_epi32(dots[r].high, _mm256_madd_epi16(zero_high, sum));
      low[r] = _mm256_add_ps(
          low[r], _mm256_mul_ps(_mm256_cvtepi32_ps(dot_low), _mm256_mul_ps(a_scale, scale_low)));
      high[r] = _mm256_add_ps(
          high[r], _mm256_mul_ps(_mm256_cvtepi32_ps(dot_high), _mm256_mul_ps(a_scale, scale_high)));
    }
  }
  for (int r = 0; r < kRows; ++r) store_row(p, low[r], high[r], p.out + (row + r) * p.ldc);
}

// The usual case: 4 bits, the zero point 8, no more than 32 k a block. 16-bit sums start at minus 8
// times the sum of their activations, so that they end as sums of a * (q - 8), 16 * 127 * 8 at most
// (what they pass on the way may wrap). Sums of blocks stay in memory: registers are all taken.
template <int kRows, int kBlock>
void usual_tile(const GemmW4Panel& p, const GemmW4Int8Rows& rows, int64_t row) noexcept {
  alignas(32) float sums[kRows * kW4Columns] = {};
  float* acc = sums;
  __asm__("" : "+r"(acc));  // an array with an address, not registers to spill
  const __m256i mask = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
  const __m256i minus_zero = _mm256_set1_epi16(-8);
  const int8_t* a = rows.values + row * rows.stride;
  const int64_t stride = rows.stride, tables = p.blocks;
  const float* a_scale = rows.scale + row * tables;
  const int32_t* a_sum = rows.sum + row * tables;
  const uint8_t* b = p.weights;
  const float* scales = p.scales;
  for (int64_t block = 0; block < tables; ++block, ++a_scale, ++a_sum, scales += kW4Columns) {
    __m256i l0, h0, l1, h1, l2, h2, l3, h3;
#define COMPRESS_ROW(r)                                                                 \
  if constexpr (kRows > r) {                                                            \
    l##r = h##r = _mm256_mullo_epi16(_mm256_set1_epi32(a_sum[(r)*tables]), minus_zero); \
  }
    COMPRESS_ROW(0)
    COMPRESS_ROW(1)
    COMPRESS_ROW(2)
    COMPRESS_ROW(3)
#undef COMPRESS_ROW
#define COMPRESS_ROW(r)                                    \
  if constexpr (kRows > r) {                               \
    const __m256i first = broadcast4(a + r * stride);      \
    COMPRESS_MADDUBS(l##r, low, first);                    \
    COMPRESS_MADDUBS(h##r, high, first);                   \
    const __m256i second = broadcast4(a + r * stride + 4); \
    COMPRESS_MADDUBS(l##r, low2, second);                  \
    COMPRESS_MADDUBS(h##r, high2, second);                 \
  }
#pragma GCC unroll 4
    for (int k = 0; k < kBlock; k += 8) {
      const __m256i left = load(b), right = load(b + 32);
      const __m256i low = _mm256_and_si256(left, mask), high = _mm256_and_si256(right, mask);
      const __m256i low2 = _mm256_and_si256(_mm256_srli_epi16(left, 4), mask);
      const __m256i high2 = _mm256_and_si256(_mm256_srli_epi16(right, 4), mask);
      COMPRESS_ROW(0)
      COMPRESS_ROW(1)
      COMPRESS_ROW(2)
      COMPRESS_ROW(3)
      a += 8;
      b += 64;
    }
#undef COMPRESS_ROW
    const __m256 scale_low = _mm256_loadu_ps(scales), scale_high = _mm256_loadu_ps(scales + 8);
#define COMPRESS_ROW(r)                                                                            \
  if constexpr (kRows > r) {                                                                       \
    const __m256 scale = _mm256_broadcast_ss(a_scale + (r)*tables);                                \
    const __m256 low = _mm256_cvtepi32_ps(_mm256_madd_epi16(l##r, ones));                          \
    const __m256 high = _mm256_cvtepi32_ps(_mm256_madd_epi16(h##r, ones));                         \
    float* to = acc + (r)*kW4Columns;                                                              \
    _mm256_store_ps(to, _mm256_add_ps(_mm256_load_ps(to),                                          \
                                      _mm256_mul_ps(low, _mm256_mul_ps(scale, scale_low))));       \
    _mm256_store_ps(to + 8, _mm256_add_ps(_mm256_load_ps(to + 8),                                  \
                                          _mm256_mul_ps(high, _mm256_mul_ps(scale, scale_high)))); \
  }
    COMPRESS_ROW(0)
    COMPRESS_ROW(1)
    COMPRESS_ROW(2)
    COMPRESS_ROW(3)
#undef COMPRESS_ROW
  }
  for (int r = 0; r < kRows; ++r) {
    const float* from = acc + r * kW4Columns;
    store_row(p, _mm256_load_ps(from), _mm256_load_ps(from + 8), p.out + (row + r) * p.ldc);
  }
}
#undef COMPRESS_MADDUBS

template <int kRows>
void tile_4bit(const GemmW4Panel& p, const GemmW4Int8Rows& rows, int64_t row) noexcept {
  if (p.zero_points != nullptr || p.block_size > kFlush) return tile<kRows, 4>(p, rows, row);
  p.block_size == 32 ? usual_tile<kRows, 32>(p, rows, row) : usual_tile<kRows, 16>(p, rows, row);
}

void run_int8(const GemmW4Panel& p, const GemmW4Int8Rows& rows) noexcept {
  int64_t row = 0;
  if (p.bits == 8) {
    for (; row + 2 <= rows.rows; row += 2) tile<2, 8>(p, rows, row);
    if (row < rows.rows) tile<1, 8>(p, rows, row);
    return;
  }
  for (; row + 4 <= rows.rows; row += 4) tile_4bit<4>(p, rows, row);
  switch (rows.rows - row) {
    case 3:
      tile_4bit<3>(p, rows, row);
      break;
    case 2:
      tile_4bit<2>(p, rows, row);
      break;
    case 1:
      tile_4bit<1>(p, rows, row);
      break;
    default:
      break;
  }
}

// Weights [k, k + count) of the panel as float(q - zero_point) * scale, 16 columns a k.
void widen(const GemmW4Panel& p, int64_t k, int64_t count, float* out) noexcept {
  const int64_t group = p.bits == 4 ? 8 : 4;  // k in 64 bytes
  const __m256i mask = _mm256_set1_epi32(p.bits == 4 ? 15 : 255);
  for (int64_t end = k + count; k < end; k += group) {
    const int64_t block = k / p.block_size;
    for (int half = 0; half < 2; ++half) {
      const __m256i bytes = load(p.weights + k / group * 64 + half * 32);
      const __m256 scale = _mm256_loadu_ps(p.scales + block * kW4Columns + half * 8);
      __m256i zero = _mm256_set1_epi32(p.default_zero);
      if (p.zero_points != nullptr) {
        zero = _mm256_cvtepu8_epi32(_mm_loadl_epi64(
            reinterpret_cast<const __m128i*>(p.zero_points + block * kW4Columns + half * 8)));
      }
      for (int64_t i = 0; i < group; ++i) {
        const __m128i shift = _mm_cvtsi32_si128(static_cast<int>(i % 4 * 8 + (i >= 4 ? 4 : 0)));
        const __m256i value = _mm256_and_si256(_mm256_srl_epi32(bytes, shift), mask);
        _mm256_storeu_ps(out + i * kW4Columns + half * 8,
                         _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(value, zero)), scale));
      }
    }
    out += group * kW4Columns;
  }
}

// acc[rows][16] += a[rows][count] * b[count][16], six rows at most.
template <int kRows>
void multiply(const float* a, int64_t lda, int64_t count, const float* b, float* acc) noexcept {
  __m256 low[kRows], high[kRows];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
    low[r] = _mm256_loadu_ps(acc + r * kW4Columns);
    high[r] = _mm256_loadu_ps(acc + r * kW4Columns + 8);
  }
  for (int64_t k = 0; k < count; ++k, b += kW4Columns) {
    const __m256 left = _mm256_loadu_ps(b), right = _mm256_loadu_ps(b + 8);
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      const __m256 value = _mm256_broadcast_ss(a + r * lda + k);
      low[r] = _mm256_fmadd_ps(value, left, low[r]);
      high[r] = _mm256_fmadd_ps(value, right, high[r]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
    _mm256_storeu_ps(acc + r * kW4Columns, low[r]);
    _mm256_storeu_ps(acc + r * kW4Columns + 8, high[r]);
  }
}

void run_float(const GemmW4Panel& p, const GemmW4FloatRows& rows) noexcept {
  float* widened = rows.scratch;
  float* acc = widened + kW4FloatChunk * kW4Columns;
  for (int64_t i = 0; i < rows.rows * kW4Columns; ++i) acc[i] = 0.0f;
  const int64_t group = p.bits == 4 ? 8 : 4;
  for (int64_t k = 0; k < rows.k; k += kW4FloatChunk) {
    const int64_t count = rows.k - k < kW4FloatChunk ? rows.k - k : kW4FloatChunk;
    widen(p, k, (count + group - 1) / group * group, widened);
    int64_t row = 0;
    const float* a = rows.a + k;
    for (; row + 6 <= rows.rows; row += 6) {
      multiply<6>(a + row * rows.lda, rows.lda, count, widened, acc + row * kW4Columns);
    }
    for (; row < rows.rows; ++row) {
      multiply<1>(a + row * rows.lda, rows.lda, count, widened, acc + row * kW4Columns);
    }
  }
  for (int64_t row = 0; row < rows.rows; ++row) {
    const float* from = acc + row * kW4Columns;
    store_row(p, _mm256_loadu_ps(from), _mm256_loadu_ps(from + 8), p.out + row * p.ldc);
  }
}

}  // namespace

const GemmW4FloatKernel kGemmW4FloatAvx2 = {"gemm_w4_f32_6x16_avx2", Isa::avx2, run_float};
const GemmW4Int8Kernel kGemmW4Int8Avx2 = {"gemm_w4_s8_4x16_avx2", Isa::avx2, true, quantize_row,
                                          run_int8};

}  // namespace compress::kernels
