// Block-quantized weights times int8 activations. Nibbles are the unsigned operand of maddubs,
// which cannot saturate with them (15 * 127 * 2 = 3810), and eight such products add up exactly in
// 16 bits, so that one madd serves 32 k. 8-bit weights are two nibbles: 16 * high + low.
#include <immintrin.h>

#include "compress/kernels/gemm_w4/gemm_w4_kernel.h"

namespace compress::kernels {
namespace {

constexpr int64_t kFlush = 32;  // k that 16-bit sums can take

__m256i load(const void* p) noexcept { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

void quantize_row(const float* a, int64_t k, int64_t block_size, int8_t* values, float* scale,
                  int32_t* sum) noexcept {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  for (int64_t begin = 0; begin < k; begin += block_size, ++scale, ++sum) {
    const int64_t count = k - begin < block_size ? k - begin : block_size;
    alignas(32) float tail[256];
    const float* source = a + begin;
    if (count < block_size) {
      for (int64_t i = 0; i < block_size; ++i) tail[i] = i < count ? source[i] : 0.0f;
      source = tail;
    }
    __m256 largest = _mm256_setzero_ps();
    for (int64_t i = 0; i < block_size; i += 8) {
      const __m256 magnitude = _mm256_andnot_ps(sign, _mm256_loadu_ps(source + i));
      largest = _mm256_max_ps(magnitude, largest);  // of a NaN: the other
    }
    alignas(32) float lanes[8];
    _mm256_store_ps(lanes, largest);
    float top = 0.0f;
    for (const float lane : lanes) top = lane > top ? lane : top;
    *scale = top / 127.0f;
    const __m256 divisor = _mm256_set1_ps(*scale > 0.0f ? *scale : 1.0f);
    const __m256 lo = _mm256_set1_ps(-127.0f), hi = _mm256_set1_ps(127.0f);
    __m256i sums = _mm256_setzero_si256();
    for (int64_t i = 0; i < block_size; i += 8) {
      const __m256 quotient = _mm256_div_ps(_mm256_loadu_ps(source + i), divisor);
      const __m256i rounded = _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(quotient, lo), hi));
      sums = _mm256_add_epi32(sums, rounded);
      const __m128i words =
          _mm_packs_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
      _mm_storel_epi64(reinterpret_cast<__m128i*>(values + begin + i),
                       _mm_packs_epi16(words, words));
    }
    alignas(32) int32_t parts[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(parts), sums);
    *sum = 0;
    for (const int32_t part : parts) *sum += part;
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
#undef COMPRESS_MADDUBS

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
    __m256i zero_low = _mm256_set1_epi32(p.default_zero), zero_high = zero_low;
    if (p.zero_points != nullptr) {
      const uint8_t* zeros = p.zero_points + block * kW4Columns;
      zero_low = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(zeros)));
      zero_high =
          _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(zeros + 8)));
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const int64_t at = (row + r) * p.blocks + block;
      // Both factors fit 16 bits (a sum is at most 127 * 256), so madd is the product; the upper
      // half of a zero point is 0.
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

void run_int8(const GemmW4Panel& p, const GemmW4Int8Rows& rows) noexcept {
  int64_t row = 0;
  if (p.bits == 8) {
    for (; row + 2 <= rows.rows; row += 2) tile<2, 8>(p, rows, row);
    if (row < rows.rows) tile<1, 8>(p, rows, row);
    return;
  }
  for (; row + 4 <= rows.rows; row += 4) tile<4, 4>(p, rows, row);
  switch (rows.rows - row) {
    case 3:
      tile<3, 4>(p, rows, row);
      break;
    case 2:
      tile<2, 4>(p, rows, row);
      break;
    case 1:
      tile<1, 4>(p, rows, row);
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
const GemmW4Int8Kernel kGemmW4Int8Avx2 = {"gemm_w4_s8_4x16_avx2", Isa::avx2, quantize_row,
                                          run_int8};

}  // namespace compress::kernels
