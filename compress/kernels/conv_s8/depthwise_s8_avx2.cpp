// Depthwise convolution: two taps of a channel side by side as 16-bit values, one madd for both.
// Exact, since a product of u8 and s8 fits 16 bits and madd adds in 32.
#include <immintrin.h>

#include "compress/kernels/conv_s8/depthwise_s8_kernel.h"
#include "compress/kernels/simd/s8_store_avx2.h"

namespace compress::kernels {
namespace {

__m256i widen(const uint8_t* p, __m128i flips) noexcept {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_cvtepu8_epi16(_mm_xor_si128(bytes, flips));
}

void finish_block(const DepthwiseS8Run& p, __m256i low, __m256i high, int64_t channel,
                  int64_t at) noexcept {
  const S8Finish& f = p.finish;
  low = _mm256_add_epi32(low, load(f.offset + channel));
  high = _mm256_add_epi32(high, load(f.offset + channel + 8));
  if (f.output == S8Output::int32) {
    store_words(low, high, static_cast<int32_t*>(p.out) + at, 16);
    return;
  }
  const __m256 scale_low = _mm256_loadu_ps(f.scale + channel);
  const __m256 scale_high = _mm256_loadu_ps(f.scale + channel + 8);
  if (f.output == S8Output::quantized) {
    const __m256 lo = _mm256_set1_ps(f.lo), hi = _mm256_set1_ps(f.hi);
    const __m256i zero_point = _mm256_set1_epi32(f.zero_point);
    store_bytes(quantize(low, scale_low, lo, hi, zero_point),
                quantize(high, scale_high, lo, hi, zero_point), f.is_signed,
                static_cast<uint8_t*>(p.out) + at, 16);
    return;
  }
  const __m256 bias_low = _mm256_loadu_ps(f.float_bias + channel);
  const __m256 bias_high = _mm256_loadu_ps(f.float_bias + channel + 8);
  const __m256 left = _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(low), scale_low), bias_low);
  const __m256 right =
      _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(high), scale_high), bias_high);
  store_words(_mm256_castps_si256(left), _mm256_castps_si256(right),
              static_cast<int32_t*>(p.out) + at, 16);
}

void run(const DepthwiseS8Run& p) noexcept {
  const __m128i flips = _mm_set1_epi8(static_cast<char>(p.flip));
  for (int64_t pixel = 0; pixel < p.pixels; ++pixel) {
    const uint8_t* const* taps = p.taps_of_pixels + pixel * p.taps;
    const __m256i* weights = static_cast<const __m256i*>(p.weights);
    for (int64_t begin = 0; begin < p.channels; begin += kDepthwiseBlock) {
      const int64_t channel =
          begin + kDepthwiseBlock <= p.channels ? begin : p.channels - kDepthwiseBlock;
      // After the unpack instructions: channels 0-3 and 8-11, then 4-7 and 12-15.
      __m256i even = _mm256_setzero_si256(), odd = even;
      for (int64_t tap = 0; tap < p.taps; tap += 2) {
        const __m256i first = widen(taps[tap] + channel, flips);
        const __m256i second = widen(taps[tap + 1] + channel, flips);
        even = _mm256_add_epi32(
            even, _mm256_madd_epi16(_mm256_unpacklo_epi16(first, second), weights[0]));
        odd = _mm256_add_epi32(odd,
                               _mm256_madd_epi16(_mm256_unpackhi_epi16(first, second), weights[1]));
        weights += 2;
      }
      finish_block(p, _mm256_permute2x128_si256(even, odd, 0x20),
                   _mm256_permute2x128_si256(even, odd, 0x31), channel,
                   pixel * p.channels + channel);
    }
  }
}

}  // namespace

const DepthwiseS8Kernel kDepthwiseS8Avx2 = {"depthwise_s8_avx2", Isa::avx2, 2, 2, true, run};

}  // namespace compress::kernels
