// Sixteen elements at a time. Tails go through buffers of sixteen, so that one code path decides
// the bits.
#include <immintrin.h>

#include "compress/kernels/elementwise_s8/elementwise_s8_kernel.h"

namespace compress::kernels {
namespace {

constexpr int64_t kWidth = 16;

struct Floats {
  __m256 low, high;
};
struct Sums {
  __m256i low, high;
};

Sums widen(const uint8_t* p, bool is_signed) noexcept {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  const __m128i rest = _mm_srli_si128(bytes, 8);
  if (is_signed) return {_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(rest)};
  return {_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(rest)};
}

Floats centred(const uint8_t* p, bool is_signed, int32_t zero_point) noexcept {
  const Sums v = widen(p, is_signed);
  const __m256i zero = _mm256_set1_epi32(zero_point);
  return {_mm256_cvtepi32_ps(_mm256_sub_epi32(v.low, zero)),
          _mm256_cvtepi32_ps(_mm256_sub_epi32(v.high, zero))};
}

__m256i into(__m256 value, S8Range range) noexcept {
  const __m256 lo = _mm256_set1_ps(range.lo), hi = _mm256_set1_ps(range.hi);
  const __m256 clamped = _mm256_min_ps(_mm256_max_ps(value, lo), hi);
  const __m256i rounded =
      _mm256_add_epi32(_mm256_cvtps_epi32(clamped), _mm256_set1_epi32(range.zero_point));
  return _mm256_and_si256(rounded, _mm256_set1_epi32(0xff));
}

void store(Floats v, S8Range range, uint8_t* out) noexcept {
  const __m256i words =
      _mm256_permute4x64_epi64(_mm256_packs_epi32(into(v.low, range), into(v.high, range)), 0xd8);
  const __m128i bytes =
      _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), bytes);
}

template <class From, class To>
void copy(const From* from, To* to, int64_t count) noexcept {
  for (int64_t i = 0; i < count; ++i) to[i] = from[i];
}

void quantize(const float* x, int64_t count, float scale, S8Range range, uint8_t* out) noexcept {
  const __m256 divisor = _mm256_set1_ps(scale);
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) {
    store({_mm256_div_ps(_mm256_loadu_ps(x + i), divisor),
           _mm256_div_ps(_mm256_loadu_ps(x + i + 8), divisor)},
          range, out + i);
  }
  if (i == count) return;
  float values[kWidth] = {};
  uint8_t bytes[kWidth];
  copy(x + i, values, count - i);
  quantize(values, kWidth, scale, range, bytes);
  copy(bytes, out + i, count - i);
}

void dequantize(const uint8_t* x, int64_t count, float scale, int32_t zero_point, bool is_signed,
                float* out) noexcept {
  const __m256 factor = _mm256_set1_ps(scale);
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) {
    const Floats v = centred(x + i, is_signed, zero_point);
    _mm256_storeu_ps(out + i, _mm256_mul_ps(v.low, factor));
    _mm256_storeu_ps(out + i + 8, _mm256_mul_ps(v.high, factor));
  }
  if (i == count) return;
  uint8_t bytes[kWidth] = {};
  float values[kWidth];
  copy(x + i, bytes, count - i);
  dequantize(bytes, kWidth, scale, zero_point, is_signed, values);
  copy(values, out + i, count - i);
}

// combine(left, right) of kWidth centred values at a time.
template <class Combine>
void binary(const uint8_t* a, const uint8_t* b, int64_t count, const BinaryS8& p, uint8_t* out,
            Combine combine) noexcept {
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) {
    const Floats left = centred(a + i, p.a_signed, p.a_zero);
    const Floats right = centred(b + i, p.b_signed, p.b_zero);
    store({combine(left.low, right.low), combine(left.high, right.high)}, p.range, out + i);
  }
  if (i == count) return;
  uint8_t left[kWidth] = {}, right[kWidth] = {}, bytes[kWidth];
  copy(a + i, left, count - i);
  copy(b + i, right, count - i);
  binary(left, right, kWidth, p, bytes, combine);
  copy(bytes, out + i, count - i);
}

void add(const uint8_t* a, const uint8_t* b, int64_t count, const BinaryS8& p,
         uint8_t* out) noexcept {
  const __m256 a_scale = _mm256_set1_ps(p.a_scale), b_scale = _mm256_set1_ps(p.b_scale);
  binary(a, b, count, p, out, [=](__m256 left, __m256 right) noexcept {
    return _mm256_add_ps(_mm256_mul_ps(left, a_scale), _mm256_mul_ps(right, b_scale));
  });
}

// The product of two values of at most nine bits is exact.
void mul(const uint8_t* a, const uint8_t* b, int64_t count, const BinaryS8& p,
         uint8_t* out) noexcept {
  const __m256 scale = _mm256_set1_ps(p.a_scale);
  binary(a, b, count, p, out, [=](__m256 left, __m256 right) noexcept {
    return _mm256_mul_ps(_mm256_mul_ps(left, right), scale);
  });
}

// One value for channels that fill no register.
int32_t widen_one(uint8_t byte, bool is_signed) noexcept {
  return is_signed ? static_cast<int8_t>(byte) : byte;
}

void average(const PoolWindow& w, int32_t offset, float scale, S8Range range,
             uint8_t* out) noexcept {
  const __m256 factor = _mm256_set1_ps(scale);
  const __m256i start = _mm256_set1_epi32(offset);
  int64_t c = 0;
  for (; c + kWidth <= w.channels; c += kWidth) {
    Sums sums = {start, start};
    for (int64_t y = 0; y < w.ny; ++y) {
      const uint8_t* pixel = w.first + y * w.step_y + c;
      for (int64_t x = 0; x < w.nx; ++x, pixel += w.step_x) {
        const Sums v = widen(pixel, w.is_signed);
        sums = {_mm256_add_epi32(sums.low, v.low), _mm256_add_epi32(sums.high, v.high)};
      }
    }
    store({_mm256_mul_ps(_mm256_cvtepi32_ps(sums.low), factor),
           _mm256_mul_ps(_mm256_cvtepi32_ps(sums.high), factor)},
          range, out + c);
  }
  if (c == w.channels) return;
  alignas(32) int32_t sums[kWidth] = {};
  uint8_t bytes[kWidth];
  for (int64_t i = 0; i < w.channels - c; ++i) {
    sums[i] = offset;
    for (int64_t y = 0; y < w.ny; ++y) {
      for (int64_t x = 0; x < w.nx; ++x) {
        sums[i] += widen_one(w.first[y * w.step_y + x * w.step_x + c + i], w.is_signed);
      }
    }
  }
  const __m256i* lanes = reinterpret_cast<const __m256i*>(sums);
  store({_mm256_mul_ps(_mm256_cvtepi32_ps(lanes[0]), factor),
         _mm256_mul_ps(_mm256_cvtepi32_ps(lanes[1]), factor)},
        range, bytes);
  copy(bytes, out + c, w.channels - c);
}

// The largest of a vector of channels over the window, from channel c on.
template <class Vector>
void max_block(const PoolWindow& w, int64_t c, uint8_t* out) noexcept {
  Vector best = Vector::lowest(w.is_signed);
  for (int64_t y = 0; y < w.ny; ++y) {
    const uint8_t* pixel = w.first + y * w.step_y + c;
    for (int64_t x = 0; x < w.nx; ++x, pixel += w.step_x) best.raise(pixel, w.is_signed);
  }
  best.store(out + c);
}

struct Max32 {
  __m256i value;
  static constexpr int64_t kChannels = 32;
  static Max32 lowest(bool is_signed) noexcept {
    return {_mm256_set1_epi8(static_cast<char>(is_signed ? 0x80 : 0))};
  }
  void raise(const uint8_t* p, bool is_signed) noexcept {
    const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    value = is_signed ? _mm256_max_epi8(value, v) : _mm256_max_epu8(value, v);
  }
  void store(uint8_t* p) const noexcept {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), value);
  }
};

struct Max8 {
  __m128i value;
  static constexpr int64_t kChannels = 8;
  static Max8 lowest(bool is_signed) noexcept {
    return {_mm_set1_epi8(static_cast<char>(is_signed ? 0x80 : 0))};
  }
  void raise(const uint8_t* p, bool is_signed) noexcept {
    const __m128i v = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    value = is_signed ? _mm_max_epi8(value, v) : _mm_max_epu8(value, v);
  }
  void store(uint8_t* p) const noexcept { _mm_storel_epi64(reinterpret_cast<__m128i*>(p), value); }
};

// A maximum may be taken twice: the last block overlaps the one before.
template <class Vector>
void max_blocks(const PoolWindow& w, uint8_t* out) noexcept {
  int64_t c = 0;
  for (; c + Vector::kChannels <= w.channels; c += Vector::kChannels) max_block<Vector>(w, c, out);
  if (c < w.channels) max_block<Vector>(w, w.channels - Vector::kChannels, out);
}

void max(const PoolWindow& w, uint8_t* out) noexcept {
  if (w.channels >= Max32::kChannels) return max_blocks<Max32>(w, out);
  if (w.channels >= Max8::kChannels) return max_blocks<Max8>(w, out);
  kElementwiseS8Ref.max(w, out);
}

// A shuffle looks up sixteen entries and gives 0 where the index is negative. Part k of the table
// holds its entries xor those of part k - 1, and indices fall by 16 from part to part, saturating:
// what is looked up beyond the part of an index cancels, what lies before it is 0. Bytes of 128 and
// more take the other half of the table the same way.
void lookup(const uint8_t* x, int64_t count, const uint8_t* table, uint8_t* out) noexcept {
  __m256i part[16];
#pragma GCC unroll 16
  for (int k = 0; k < 16; ++k) {
    const auto* from = reinterpret_cast<const __m128i*>(table + 16 * k);
    part[k] = _mm256_broadcastsi128_si256(_mm_loadu_si128(from));
    if (k % 8 != 0) {
      part[k] = _mm256_xor_si256(part[k], _mm256_broadcastsi128_si256(_mm_loadu_si128(from - 1)));
    }
  }
  const __m256i step = _mm256_set1_epi8(16), top = _mm256_set1_epi8(-128);
  int64_t i = 0;
  for (; i + 32 <= count; i += 32) {
    __m256i lower = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i));
    __m256i upper = _mm256_xor_si256(lower, top);
    __m256i found =
        _mm256_xor_si256(_mm256_shuffle_epi8(part[0], lower), _mm256_shuffle_epi8(part[8], upper));
#pragma GCC unroll 7
    for (int k = 1; k < 8; ++k) {
      lower = _mm256_subs_epi8(lower, step);
      upper = _mm256_subs_epi8(upper, step);
      found = _mm256_xor_si256(found, _mm256_shuffle_epi8(part[k], lower));
      found = _mm256_xor_si256(found, _mm256_shuffle_epi8(part[8 + k], upper));
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), found);
  }
  for (; i < count; ++i) out[i] = table[x[i]];
}

}  // namespace

const ElementwiseS8Kernel kElementwiseS8Avx2 = {
    "elementwise_s8_avx2", Isa::avx2, quantize, dequantize, add, mul, average, max, lookup};

}  // namespace compress::kernels
