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

int64_t block_start(int64_t channels, int64_t begin) noexcept {
  return begin + kDepthwiseBlock <= channels ? begin : channels - kDepthwiseBlock;
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
  bool is_signed, saturates;
  void* out;

  Finish(const S8Finish& f, void* memory, int64_t channel) noexcept
      : offset(table(f.offset, channel)),
        scale(table(f.scale, channel)),
        bias(table(f.float_bias, channel)),
        lo(_mm256_set1_ps(f.lo)),
        hi(_mm256_set1_ps(f.hi)),
        zero_point(_mm256_set1_epi16(static_cast<int16_t>(f.zero_point))),
        output(f.output),
        is_signed(f.is_signed),
        saturates(f.saturates),
        out(memory) {}

  static Sums table(const void* p, int64_t channel) noexcept {
    const int32_t* words = static_cast<const int32_t*>(p) + channel;
    return split(load(words), load(words + 8));
  }

  void store(Sums sums, int64_t at) const noexcept {
    store_sums({_mm256_add_epi32(sums.even, offset.even), _mm256_add_epi32(sums.odd, offset.odd)},
               at);
  }

  // What has the offset in it.
  void store_sums(Sums sums, int64_t at) const noexcept {
    if (output == S8Output::quantized) {
      const __m256 first = _mm256_castsi256_ps(scale.even);
      const __m256 second = _mm256_castsi256_ps(scale.odd);
      const __m256i even =
          saturates ? rounded(sums.even, first) : rounded(sums.even, first, lo, hi);
      const __m256i odd = saturates ? rounded(sums.odd, second) : rounded(sums.odd, second, lo, hi);
      // Channels 0 to 15.
      const __m256i words = _mm256_adds_epi16(_mm256_packs_epi32(even, odd), zero_point);
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
      const int64_t channel = block_start(p.channels, begin);
      Sums sums = {_mm256_setzero_si256(), _mm256_setzero_si256()};
      for (int64_t tap = 0; tap < p.taps; tap += 2, weights += 2) {
        const Sums pairs =
            interleave(widen<kFlip>(taps[tap] + channel), widen<kFlip>(taps[tap + 1] + channel));
        sums = add_madd(sums, pairs, weights);
      }
      Finish(p.finish, p.out, channel).store(sums, pixel * p.channels + channel);
    }
  }
}

// acc += pair * weights; one statement, for the reason in gemm_s8_avx2.cpp.
inline __attribute__((always_inline)) void add_pair(__m256i& acc, __m256i pair,
                                                    const __m256i& weights) noexcept {
  __m256i product;
  __asm__("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0"
          : "+x"(acc), "=&x"(product)
          : "x"(pair), "m"(weights));
}

// kTile neighbouring pixels of a block of channels: what a column of inputs gives is widened and
// interleaved once and added to every pixel that it touches. The lowest row of the kernel is
// without a partner; its taps are paired along x, with the weight beyond the kernel 0.
template <int kSize, int kStride, int kTile>
struct LineTile {
  static constexpr int kColumns = (kTile - 1) * kStride + kSize;
  static constexpr int kPairs = kSize / 2;  // of rows

  const __m256i* weights;
  Sums acc[kTile];
  __m256i bottom;
  uint32_t skip;

  template <int kColumn, int kPixel>
  __attribute__((always_inline)) void add(Sums pair, int row_pair) noexcept {
    constexpr int kTap = kColumn - kPixel * kStride;
    if constexpr (kTap >= 0 && kTap < kSize) {
      const __m256i* w = weights + (kTap * kPairs + row_pair) * 2;
      add_pair(acc[kPixel].even, pair.even, w[0]);
      add_pair(acc[kPixel].odd, pair.odd, w[1]);
    }
    if constexpr (kPixel + 1 < kTile) add<kColumn, kPixel + 1>(pair, row_pair);
  }

  static constexpr bool starts_pair(int column, int pixel) {
    const int tap = column - pixel * kStride;
    return tap >= 0 && tap < kSize && tap % 2 == 0;
  }
  static constexpr bool starts_pair(int column) {
    for (int pixel = 0; pixel < kTile; ++pixel) {
      if (starts_pair(column, pixel)) return true;
    }
    return false;
  }

  template <int kColumn, int kPixel>
  __attribute__((always_inline)) void add_bottom(Sums pair) noexcept {
    if constexpr (starts_pair(kColumn, kPixel)) {
      constexpr int kTap = kColumn - kPixel * kStride;
      const __m256i* w = weights + (kSize * kPairs + kTap / 2) * 2;
      add_pair(acc[kPixel].even, pair.even, w[0]);
      add_pair(acc[kPixel].odd, pair.odd, w[1]);
    }
    if constexpr (kPixel + 1 < kTile) add_bottom<kColumn, kPixel + 1>(pair);
  }

  template <int kColumn>
  __attribute__((always_inline)) void column(const uint8_t* const* rows, int64_t at,
                                             int64_t step) noexcept {
    if ((skip & 1) == 0) {
      const Sums first = interleave(widen<false>(rows[0] + at), widen<false>(rows[1] + at));
      add<kColumn, 0>(first, 0);
    }
    if constexpr (kPairs > 1) {
      if ((skip & 2) == 0) {
        const Sums second = interleave(widen<false>(rows[2] + at), widen<false>(rows[3] + at));
        add<kColumn, 0>(second, 1);
      }
    }
    if ((skip & (1 << kPairs)) == 0) {
      const uint8_t* last = rows[kSize - 1] + at;
      if constexpr (kColumn == 0) bottom = widen<false>(last);
      __m256i next = bottom;
      if constexpr (kColumn + 1 < kColumns) next = widen<false>(last + step);
      if constexpr (starts_pair(kColumn)) add_bottom<kColumn, 0>(interleave(bottom, next));
      bottom = next;
    }
    if constexpr (kColumn + 1 < kColumns) column<kColumn + 1>(rows, at + step, step);
  }
};

template <int kSize, int kStride, int kTile>
void line_tile(const DepthwiseS8Line& p, const Finish& finish, const __m256i* weights,
               int64_t pixel, int64_t channel) noexcept {
  LineTile<kSize, kStride, kTile> tile;
  tile.weights = weights;
  tile.skip = p.skip;
  tile.bottom = _mm256_setzero_si256();
  for (int i = 0; i < kTile; ++i) tile.acc[i] = finish.offset;
  const uint8_t* rows[kSize];
  for (int i = 0; i < kSize; ++i) rows[i] = p.rows[i];
  tile.template column<0>(rows, pixel * kStride * p.channels + channel, p.channels);
  for (int i = 0; i < kTile; ++i) {
    finish.store_sums(tile.acc[i], (pixel + i) * p.channels + channel);
  }
}

// Tiles of four pixels and three; what is left overlaps them.
template <int kSize, int kStride>
void run_line(const DepthwiseS8Line& p) noexcept {
  const __m256i* weights = static_cast<const __m256i*>(p.weights);
  constexpr int64_t kWeights = (kSize * kSize + 1) / 2 * 2;
  for (int64_t begin = 0; begin < p.channels; begin += kDepthwiseBlock, weights += kWeights) {
    const int64_t channel = block_start(p.channels, begin);
    const Finish finish(p.finish, p.out, channel);
    int64_t pixel = 0;
    for (int64_t rest = p.pixels; rest > 0; rest = p.pixels - pixel) {
      if (rest > 6 || rest == 4) {
        line_tile<kSize, kStride, 4>(p, finish, weights, pixel, channel);
        pixel += 4;
      } else if (p.pixels >= 3) {
        pixel = rest < 3 ? p.pixels - 3 : pixel;
        line_tile<kSize, kStride, 3>(p, finish, weights, pixel, channel);
        pixel += 3;
      } else {
        line_tile<kSize, kStride, 1>(p, finish, weights, pixel, channel);
        pixel += 1;
      }
    }
  }
}

DepthwiseS8LineFunction line(int64_t size, int64_t stride) noexcept {
  if (size == 3 && stride == 1) return run_line<3, 1>;
  if (size == 3 && stride == 2) return run_line<3, 2>;
  if (size == 5 && stride == 1) return run_line<5, 1>;
  if (size == 5 && stride == 2) return run_line<5, 2>;
  return nullptr;
}

void run(const DepthwiseS8Run& p) noexcept { p.flip != 0 ? run_taps<true>(p) : run_taps<false>(p); }

}  // namespace

const DepthwiseS8Kernel kDepthwiseS8Avx2 = {"depthwise_s8_avx2", Isa::avx2, 2, 2, true, run, line};

}  // namespace compress::kernels
