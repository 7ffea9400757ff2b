// Depthwise convolution: two taps of a channel side by side as 16-bit values, one madd for both.
// Exact, since a product of u8 and s8 fits 16 bits and madd adds in 32.
#include <immintrin.h>

#include "compress/kernels/conv_s8/depthwise_s8_kernel.h"
#include "compress/kernels/simd/s8_store_avx2.h"

namespace compress::kernels {
namespace {

template <bool kFlip>
__m256i widen(const uint8_t* p) noexcept {
  const __m256i words = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return kFlip ? _mm256_xor_si256(words, _mm256_set1_epi16(0x80)) : words;
}

int64_t block_start(const DepthwiseS8Run& p, int64_t begin) noexcept {
  return begin + kDepthwiseBlock <= p.channels ? begin : p.channels - kDepthwiseBlock;
}

// Sums of 16 channels as unpack instructions leave them: 0-3 and 8-11, then 4-7 and 12-15.
struct Sums {
  __m256i even, odd;
};

Sums add_madd(Sums sums, Sums pairs, const __m256i* weights) noexcept {
  return {_mm256_add_epi32(sums.even, _mm256_madd_epi16(pairs.even, weights[0])),
          _mm256_add_epi32(sums.odd, _mm256_madd_epi16(pairs.odd, weights[1]))};
}

Sums interleave(__m256i first, __m256i second) noexcept {
  return {_mm256_unpacklo_epi16(first, second), _mm256_unpackhi_epi16(first, second)};
}

Sums split(__m256i low, __m256i high) noexcept {
  return {_mm256_permute2x128_si256(low, high, 0x20), _mm256_permute2x128_si256(low, high, 0x31)};
}

// The epilogue of one block of channels, its tables in the order of Sums. Values, not pointers:
// stores of bytes may alias anything, so that tables would be read again for each pixel.
struct Finish {
  Sums offset, scale, bias;
  __m256 lo, hi;
  __m256i zero_point;
  S8Output output;
  bool is_signed;
  void* out;

  Finish(const DepthwiseS8Run& p, int64_t channel) noexcept
      : offset(table(p.finish.offset, channel)),
        scale(table(p.finish.scale, channel)),
        bias(table(p.finish.float_bias, channel)),
        lo(_mm256_set1_ps(p.finish.lo)),
        hi(_mm256_set1_ps(p.finish.hi)),
        zero_point(_mm256_set1_epi32(p.finish.zero_point)),
        output(p.finish.output),
        is_signed(p.finish.is_signed),
        out(p.out) {}

  static Sums table(const void* p, int64_t channel) noexcept {
    const int32_t* words = static_cast<const int32_t*>(p) + channel;
    return split(load(words), load(words + 8));
  }

  void store(Sums sums, int64_t at) const noexcept {
    sums = {_mm256_add_epi32(sums.even, offset.even), _mm256_add_epi32(sums.odd, offset.odd)};
    if (output == S8Output::quantized) {
      const __m256i even = quantize(sums.even, _mm256_castsi256_ps(scale.even), lo, hi, zero_point);
      const __m256i odd = quantize(sums.odd, _mm256_castsi256_ps(scale.odd), lo, hi, zero_point);
      const __m256i words = _mm256_packs_epi32(even, odd);  // channels 0 to 15
      const __m128i left = _mm256_castsi256_si128(words);
      const __m128i right = _mm256_extracti128_si256(words, 1);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(static_cast<uint8_t*>(out) + at),
                       is_signed ? _mm_packs_epi16(left, right) : _mm_packus_epi16(left, right));
      return;
    }
    if (output == S8Output::float32) {
      sums = {scaled(sums.even, scale.even, bias.even), scaled(sums.odd, scale.odd, bias.odd)};
    }
    const Sums natural = split(sums.even, sums.odd);  // its own inverse
    store_words(natural.even, natural.odd, static_cast<int32_t*>(out) + at, 16);
  }

  static __m256i scaled(__m256i sum, __m256i scale, __m256i bias) noexcept {
    const __m256 product = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_castsi256_ps(scale));
    return _mm256_castps_si256(_mm256_add_ps(product, _mm256_castsi256_ps(bias)));
  }
};

template <bool kFlip>
void run_taps(const DepthwiseS8Run& p) noexcept {
  for (int64_t pixel = 0; pixel < p.pixels; ++pixel) {
    const uint8_t* const* taps = p.taps_of_pixels + pixel * p.taps;
    const __m256i* weights = static_cast<const __m256i*>(p.weights);
    for (int64_t begin = 0; begin < p.channels; begin += kDepthwiseBlock) {
      const int64_t channel = block_start(p, begin);
      Sums sums = {_mm256_setzero_si256(), _mm256_setzero_si256()};
      for (int64_t tap = 0; tap < p.taps; tap += 2, weights += 2) {
        const Sums pairs =
            interleave(widen<kFlip>(taps[tap] + channel), widen<kFlip>(taps[tap + 1] + channel));
        sums = add_madd(sums, pairs, weights);
      }
      Finish(p, channel).store(sums, pixel * p.channels + channel);
    }
  }
}

// 3 x 3, along the line: each column of inputs is widened and interleaved once, and added to the
// three pixels that it touches.
template <bool kFlip>
void columns(const DepthwiseS8Run& p) noexcept {
  constexpr int64_t kTaps = 12;
  const __m256i zero = _mm256_setzero_si256();
  const __m256i* weights = static_cast<const __m256i*>(p.weights);
  for (int64_t begin = 0; begin < p.channels; begin += kDepthwiseBlock, weights += kTaps) {
    const int64_t channel = block_start(p, begin);
    const Finish finish(p, channel);
    Sums last = {zero, zero}, before_last = last;  // pixels that wait for columns
    for (int64_t column = 0; column < p.pixels + 2; ++column) {
      const int64_t beyond = column < p.pixels ? 0 : column - p.pixels + 1;
      const uint8_t* const* taps = p.taps_of_pixels + (column - beyond) * kTaps;
      const __m256i top = widen<kFlip>(taps[2 * beyond] + channel);
      const __m256i middle = widen<kFlip>(taps[2 * beyond + 1] + channel);
      const __m256i bottom = widen<kFlip>(taps[2 * beyond + 6] + channel);
      const Sums upper = interleave(top, middle), lower = interleave(bottom, zero);
      if (column >= 2) {
        const Sums done = add_madd(add_madd(before_last, upper, weights + 4), lower, weights + 10);
        finish.store(done, (column - 2) * p.channels + channel);
      }
      before_last = add_madd(add_madd(last, upper, weights + 2), lower, weights + 8);
      last = add_madd(add_madd({zero, zero}, upper, weights), lower, weights + 6);
    }
  }
}

void run(const DepthwiseS8Run& p) noexcept { p.flip != 0 ? run_taps<true>(p) : run_taps<false>(p); }
void run_columns(const DepthwiseS8Run& p) noexcept {
  p.flip != 0 ? columns<true>(p) : columns<false>(p);
}

}  // namespace

const DepthwiseS8Kernel kDepthwiseS8Avx2 = {"depthwise_s8_avx2", Isa::avx2, 2, 2, true, run,
                                            run_columns};

}  // namespace compress::kernels
