#include <immintrin.h>

#include "compress/kernels/transpose/transpose_kernel.h"

namespace compress::kernels {
namespace {

// Eight rows of eight, turned in registers.
void turn(const float* in, int64_t in_stride, float* out, int64_t out_stride) noexcept {
  __m256 row[8], pair[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) row[i] = _mm256_loadu_ps(in + i * in_stride);
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    pair[i] = _mm256_unpacklo_ps(row[i], row[i + 1]);
    pair[i + 1] = _mm256_unpackhi_ps(row[i], row[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    row[i] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0x44);
    row[i + 1] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0xee);
    row[i + 2] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0x44);
    row[i + 3] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(out + i * out_stride, _mm256_permute2f128_ps(row[i], row[i + 4], 0x20));
    _mm256_storeu_ps(out + (i + 4) * out_stride, _mm256_permute2f128_ps(row[i], row[i + 4], 0x31));
  }
}

// Two rows become one of pairs: the shuffle of channels in two groups, channels last.
void interleave(const uint8_t* a, const uint8_t* b, int64_t count, uint8_t* out) noexcept {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(a + i));
    const __m128i y = _mm_loadu_si128(reinterpret_cast<const __m128i*>(b + i));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 2 * i), _mm_unpacklo_epi8(x, y));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 2 * i + 16), _mm_unpackhi_epi8(x, y));
  }
  for (; i < count; ++i) {
    out[2 * i] = a[i];
    out[2 * i + 1] = b[i];
  }
}

// Where the bytes of 16 pixels of three channels come from: plane by plane, 0x80 where none does.
struct Masks3 {
  alignas(16) uint8_t of[3][3][16] = {};  // [part of the output][plane][byte]
  constexpr Masks3() {
    for (int i = 0; i < 48; ++i) {
      for (int plane = 0; plane < 3; ++plane) {
        of[i / 16][plane][i % 16] = static_cast<uint8_t>(i % 3 == plane ? i / 3 : 0x80);
      }
    }
  }
};
constexpr Masks3 kMasks3;

// Three rows become one of triples: a picture's planes, channels last.
void interleave(const uint8_t* in, int64_t stride, int64_t count, uint8_t* out) noexcept {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    __m128i row[3];
#pragma GCC unroll 3
    for (int k = 0; k < 3; ++k) {
      row[k] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + k * stride + i));
    }
#pragma GCC unroll 3
    for (int part = 0; part < 3; ++part) {
      const auto* masks = reinterpret_cast<const __m128i*>(kMasks3.of[part]);
      const __m128i two = _mm_or_si128(_mm_shuffle_epi8(row[0], _mm_load_si128(masks)),
                                       _mm_shuffle_epi8(row[1], _mm_load_si128(masks + 1)));
      const __m128i all = _mm_or_si128(two, _mm_shuffle_epi8(row[2], _mm_load_si128(masks + 2)));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 3 * i + 16 * part), all);
    }
  }
  for (; i < count; ++i) {
    for (int k = 0; k < 3; ++k) out[3 * i + k] = in[k * stride + i];
  }
}

// Eight rows of eight bytes, turned in registers: pairs of rows, then of pairs, then of those.
void turn(const uint8_t* in, int64_t in_stride, uint8_t* out, int64_t out_stride) noexcept {
  __m128i row[8], pair[4];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    row[i] = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(in + i * in_stride));
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) pair[i] = _mm_unpacklo_epi8(row[2 * i], row[2 * i + 1]);
  const __m128i upper[2] = {_mm_unpacklo_epi16(pair[0], pair[1]),
                            _mm_unpackhi_epi16(pair[0], pair[1])};
  const __m128i lower[2] = {_mm_unpacklo_epi16(pair[2], pair[3]),
                            _mm_unpackhi_epi16(pair[2], pair[3])};
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const __m128i first = _mm_unpacklo_epi32(upper[i], lower[i]);
    const __m128i second = _mm_unpackhi_epi32(upper[i], lower[i]);
    uint8_t* to = out + 4 * i * out_stride;
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), first);
    _mm_storeh_pi(reinterpret_cast<__m64*>(to + out_stride), _mm_castsi128_ps(first));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to + 2 * out_stride), second);
    _mm_storeh_pi(reinterpret_cast<__m64*>(to + 3 * out_stride), _mm_castsi128_ps(second));
  }
}

// Blocks of eight by eight, and what is left over element by element.
template <class T>
void turn_all(const T* in, int64_t in_stride, int64_t rows, int64_t columns, T* out,
              int64_t out_stride) noexcept {
  const int64_t whole_rows = rows / 8 * 8, whole_columns = columns / 8 * 8;
  for (int64_t c = 0; c < whole_columns; c += 8) {
    for (int64_t r = 0; r < whole_rows; r += 8) {
      turn(in + r * in_stride + c, in_stride, out + c * out_stride + r, out_stride);
    }
  }
  for (int64_t c = 0; c < columns; ++c) {
    const int64_t first = c < whole_columns ? whole_rows : 0;
    for (int64_t r = first; r < rows; ++r) out[c * out_stride + r] = in[r * in_stride + c];
  }
}

void tile_32(const uint32_t* in, int64_t in_stride, int64_t rows, int64_t columns, uint32_t* out,
             int64_t out_stride) noexcept {
  // Only moved, never computed with: no bit pattern changes.
  turn_all(reinterpret_cast<const float*>(in), in_stride, rows, columns,
           reinterpret_cast<float*>(out), out_stride);
}

void tile_8(const uint8_t* in, int64_t in_stride, int64_t rows, int64_t columns, uint8_t* out,
            int64_t out_stride) noexcept {
  if (rows == 2 && out_stride == 2) return interleave(in, in + in_stride, columns, out);
  if (rows == 3 && out_stride == 3) return interleave(in, in_stride, columns, out);
  turn_all(in, in_stride, rows, columns, out, out_stride);
}

}  // namespace

const TransposeKernel kTransposeAvx2{"avx2", Isa::avx2, tile_32, tile_8};

}  // namespace compress::kernels
