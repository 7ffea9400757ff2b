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

void pack_row(const uint8_t* source, int64_t length, uint8_t flip, uint8_t* packed,
              int32_t* sum) noexcept {
  const __m256i flips = _mm256_set1_epi16(flip);
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i sums = _mm256_setzero_si256();
  int64_t k = 0;
  for (; k + 16 <= length; k += 16) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + k));
    const __m256i wide = _mm256_xor_si256(_mm256_cvtepu8_epi16(bytes), flips);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(packed + 2 * k), wide);
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(wide, ones));
  }
  uint16_t* out = reinterpret_cast<uint16_t*>(packed);
  if (sum == nullptr && length >= 8) {
    for (; k < length; k += 8) {  // the last eight overlap: a kernel row of three channels is short
      const int64_t at = k + 8 <= length ? k : length - 8;
      const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(source + at));
      const __m128i wide = _mm_xor_si128(_mm_cvtepu8_epi16(bytes), _mm256_castsi256_si128(flips));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + at), wide);
    }
  }
  int32_t rest = 0;
  for (; k < length; ++k) {
    out[k] = source[k] ^ flip;
    rest += out[k];
  }
  if (length % 2 != 0) out[length] = 0;
  if (sum != nullptr) {
    alignas(32) int32_t lanes[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), sums);
    for (int32_t lane : lanes) rest += lane;
    *sum += rest;
  }
}

struct Columns {
  __m256i low, high;
};

// Rows [row, row + count) of the panel at `column`.
void finish(const GemmS8Block& p, Columns* acc, int64_t row, int64_t count,
            int64_t column) noexcept {
  const int64_t width = p.columns - column < kS8PanelColumns ? p.columns - column : kS8PanelColumns;
  const __m256i offset_low = load(p.finish.offset + column),
                offset_high = load(p.finish.offset + column + 8);
  for (int64_t r = 0; r < count; ++r) {
    acc[r].low = _mm256_add_epi32(acc[r].low, offset_low);
    acc[r].high = _mm256_add_epi32(acc[r].high, offset_high);
  }
  if (p.b_zero != nullptr) {
    const __m256i zero_low = load(p.b_zero + column), zero_high = load(p.b_zero + column + 8);
    for (int64_t r = 0; r < count; ++r) {
      const __m256i sum = _mm256_set1_epi32(p.row_sum[row + r]);
      acc[r].low = _mm256_sub_epi32(acc[r].low, _mm256_mullo_epi32(zero_low, sum));
      acc[r].high = _mm256_sub_epi32(acc[r].high, _mm256_mullo_epi32(zero_high, sum));
    }
  }
  const int64_t at = row * p.ldc + column;
  if (p.finish.output == S8Output::int32) {
    int32_t* out = static_cast<int32_t*>(p.out) + at;
    for (int64_t r = 0; r < count; ++r) {
      store_words(acc[r].low, acc[r].high, out + r * p.ldc, width);
    }
    return;
  }
  const __m256 scale_low = _mm256_loadu_ps(p.finish.scale + column);
  const __m256 scale_high = _mm256_loadu_ps(p.finish.scale + column + 8);
  if (p.finish.output == S8Output::quantized) {
    const __m256 lo = _mm256_set1_ps(p.finish.lo), hi = _mm256_set1_ps(p.finish.hi);
    const __m256i zero_point = _mm256_set1_epi32(p.finish.zero_point);
    uint8_t* out = static_cast<uint8_t*>(p.out) + at;
    for (int64_t r = 0; r < count; ++r) {
      store_bytes(quantize(acc[r].low, scale_low, lo, hi, zero_point),
                  quantize(acc[r].high, scale_high, lo, hi, zero_point), p.finish.is_signed,
                  out + r * p.ldc, width);
    }
    return;
  }
  const __m256 bias_low = _mm256_loadu_ps(p.finish.float_bias + column);
  const __m256 bias_high = _mm256_loadu_ps(p.finish.float_bias + column + 8);
  int32_t* out = static_cast<int32_t*>(p.out) + at;
  for (int64_t r = 0; r < count; ++r) {
    const __m256 low =
        _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(acc[r].low), scale_low), bias_low);
    const __m256 high =
        _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(acc[r].high), scale_high), bias_high);
    store_words(_mm256_castps_si256(low), _mm256_castps_si256(high), out + r * p.ldc, width);
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
    COMPRESS_MADD(high##r, value, high);                                 \
  }

template <int kCount>
void tile(const GemmS8Block& p, int64_t row, const int8_t* b, int64_t column) noexcept {
  __m256i low0 = _mm256_setzero_si256(), high0 = low0, low1 = low0, high1 = low0;
  __m256i low2 = low0, high2 = low0, low3 = low0, high3 = low0;
  __m256i low4 = low0, high4 = low0, low5 = low0, high5 = low0;
  const int64_t stride = p.a_stride;
  const uint8_t* a = p.a + row * stride;
  const uint8_t* a3 = a + 3 * stride;
  for (int64_t group = 0; group < p.groups; ++group) {
    const __m256i low = _mm256_cvtepi8_epi16(_mm_load_si128(reinterpret_cast<const __m128i*>(b)));
    const __m256i high =
        _mm256_cvtepi8_epi16(_mm_load_si128(reinterpret_cast<const __m128i*>(b + 16)));
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
  Columns acc[6] = {{low0, high0}, {low1, high1}, {low2, high2},
                    {low3, high3}, {low4, high4}, {low5, high5}};
  finish(p, acc, row, kCount, column);
}
#undef COMPRESS_ROW
#undef COMPRESS_MADD

void block(const GemmS8Block& p) noexcept {
  const int8_t* b = p.b;
  for (int64_t column = 0; column < p.columns; column += kS8PanelColumns, b += p.panel_bytes) {
    int64_t row = 0;
    for (; row + kRows <= p.rows; row += kRows) tile<6>(p, row, b, column);
    switch (p.rows - row) {
      case 5:
        tile<5>(p, row, b, column);
        break;
      case 4:
        tile<4>(p, row, b, column);
        break;
      case 3:
        tile<3>(p, row, b, column);
        break;
      case 2:
        tile<2>(p, row, b, column);
        break;
      case 1:
        tile<1>(p, row, b, column);
        break;
      default:
        break;
    }
  }
}

}  // namespace

const GemmS8Kernel kGemmS8Avx2 = {"gemm_s8_6x16_avx2", Isa::avx2, 2, 2, pack_row, block};

}  // namespace compress::kernels
