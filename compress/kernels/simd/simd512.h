// The few 512-bit operations that the _avx512vnni files use. They go through these names so that
// tests can build the same files against simd512_emulated.h and check packing, indexing and
// epilogues bit for bit on any CPU. Anonymous namespace: each file keeps its own copies.
#pragma once

#ifdef COMPRESS_SIMD512_EMULATED
#include "compress/kernels/simd/simd512_emulated.h"
#else

#include <immintrin.h>

#include <cstdint>

// The exported name of a kernel row; the emulated build has a suffix.
#define COMPRESS_SIMD512_NAME(name) name

namespace compress::kernels {
namespace {

using I512 = __m512i;
using F512 = __m512;

[[maybe_unused]] inline I512 zero_i32() noexcept { return _mm512_setzero_si512(); }
[[maybe_unused]] inline I512 load_512(const void* p) noexcept { return _mm512_loadu_si512(p); }
[[maybe_unused]] inline void store_512(void* p, I512 v) noexcept { _mm512_storeu_si512(p, v); }
[[maybe_unused]] inline I512 set_i32(int32_t v) noexcept { return _mm512_set1_epi32(v); }
[[maybe_unused]] inline I512 set_i16(int16_t v) noexcept { return _mm512_set1_epi16(v); }
[[maybe_unused]] inline I512 set_u8(uint8_t v) noexcept {
  return _mm512_set1_epi8(static_cast<char>(v));
}
[[maybe_unused]] inline F512 load_f32(const float* p) noexcept { return _mm512_loadu_ps(p); }
[[maybe_unused]] inline F512 set_f32(float v) noexcept { return _mm512_set1_ps(v); }

// The lanes of the mask, 0 elsewhere; nothing else is read.
[[maybe_unused]] inline F512 load_f32(const float* p, uint16_t lanes) noexcept {
  return _mm512_maskz_loadu_ps(lanes, p);
}
[[maybe_unused]] inline I512 load_u8_as_i32(const uint8_t* p) noexcept {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

// Each 32-bit lane: the four bytes at p.
[[maybe_unused]] inline I512 broadcast_bytes4(const uint8_t* p) noexcept {
  int32_t bytes;
  __builtin_memcpy(&bytes, p, sizeof bytes);
  return _mm512_set1_epi32(bytes);
}

// Each lane: sum + the four products of unsigned bytes of u with signed bytes of s. In assembly:
// gcc 12 copies each accumulator before the intrinsic and after it, a third of all instructions.
[[maybe_unused]] inline I512 dot_u8s8(I512 sum, I512 u, I512 s) noexcept {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(u), "v"(s));
  return sum;
}
// The same with the four signed bytes at s for every lane.
[[maybe_unused]] inline I512 dot_u8s8(I512 sum, I512 u, const uint8_t* s) noexcept {
  struct Bytes {
    uint8_t of[4];
  };
  __asm__("vpdpbusd %2%{1to16%}, %1, %0"
          : "+v"(sum)
          : "v"(u), "m"(*reinterpret_cast<const Bytes*>(s)));
  return sum;
}

[[maybe_unused]] inline I512 add_i32(I512 a, I512 b) noexcept { return _mm512_add_epi32(a, b); }
[[maybe_unused]] inline I512 sub_i32(I512 a, I512 b) noexcept { return _mm512_sub_epi32(a, b); }
[[maybe_unused]] inline I512 mul_i32(I512 a, I512 b) noexcept { return _mm512_mullo_epi32(a, b); }
// Each lane: the low 16 bits of one times those of the other, signed, and the same of the high
// ones, added.
[[maybe_unused]] inline I512 dot_s16(I512 a, I512 b) noexcept { return _mm512_madd_epi16(a, b); }
[[maybe_unused]] inline I512 and_i32(I512 a, I512 b) noexcept { return _mm512_and_si512(a, b); }
[[maybe_unused]] inline I512 or_i32(I512 a, I512 b) noexcept { return _mm512_or_si512(a, b); }
[[maybe_unused]] inline I512 xor_i32(I512 a, I512 b) noexcept { return _mm512_xor_si512(a, b); }
template <int kBits>
[[maybe_unused]] inline I512 shift_left_i32(I512 a) noexcept {
  return _mm512_slli_epi32(a, kBits);
}
template <int kBits>
[[maybe_unused]] inline I512 shift_right_u16(I512 a) noexcept {
  return _mm512_srli_epi16(a, kBits);
}

[[maybe_unused]] inline F512 to_f32(I512 a) noexcept { return _mm512_cvtepi32_ps(a); }
[[maybe_unused]] inline I512 round_to_i32(F512 a) noexcept { return _mm512_cvtps_epi32(a); }
[[maybe_unused]] inline F512 add_f32(F512 a, F512 b) noexcept { return _mm512_add_ps(a, b); }
[[maybe_unused]] inline F512 mul_f32(F512 a, F512 b) noexcept { return _mm512_mul_ps(a, b); }
[[maybe_unused]] inline F512 div_f32(F512 a, F512 b) noexcept { return _mm512_div_ps(a, b); }
[[maybe_unused]] inline F512 abs_f32(F512 a) noexcept { return _mm512_abs_ps(a); }
// Of a NaN and b: b, as the x86 instructions have it.
[[maybe_unused]] inline F512 max_f32(F512 a, F512 b) noexcept { return _mm512_max_ps(a, b); }
[[maybe_unused]] inline F512 min_f32(F512 a, F512 b) noexcept { return _mm512_min_ps(a, b); }

[[maybe_unused]] inline uint16_t first_lanes(int64_t count) noexcept {
  return count >= 16 ? 0xffff : static_cast<uint16_t>((1u << count) - 1);
}
// The lanes of the mask alone.
[[maybe_unused]] inline void store_i32(int32_t* p, I512 v, uint16_t lanes) noexcept {
  _mm512_mask_storeu_epi32(p, lanes, v);
}
[[maybe_unused]] inline void store_f32(float* p, F512 v, uint16_t lanes) noexcept {
  _mm512_mask_storeu_ps(p, lanes, v);
}
// The low byte of each lane of the mask.
[[maybe_unused]] inline void store_low_bytes(uint8_t* p, I512 v, uint16_t lanes) noexcept {
  _mm512_mask_cvtepi32_storeu_epi8(p, lanes, v);
}

// Four bytes of each row in turn, sixteen of each: the first four of every row, the second, ...
[[maybe_unused]] inline I512 interleave_words(const uint8_t* r0, const uint8_t* r1,
                                              const uint8_t* r2, const uint8_t* r3) noexcept {
  const auto load = [](const uint8_t* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  };
  __m512i rows = _mm512_castsi128_si512(load(r0));
  rows = _mm512_inserti32x4(rows, load(r1), 1);
  rows = _mm512_inserti32x4(rows, load(r2), 2);
  rows = _mm512_inserti32x4(rows, load(r3), 3);
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_permutexvar_epi32(order, rows);
}
// The values of a plus those of `zero` (which has 16-bit lanes, and may saturate them), as bytes
// that saturate; then b's, c's and d's.
[[maybe_unused]] inline I512 pack_bytes(I512 a, I512 b, I512 c, I512 d, I512 zero,
                                        bool is_signed) noexcept {
  const __m512i ab = _mm512_adds_epi16(_mm512_packs_epi32(a, b), zero);
  const __m512i cd = _mm512_adds_epi16(_mm512_packs_epi32(c, d), zero);
  const __m512i bytes = is_signed ? _mm512_packs_epi16(ab, cd) : _mm512_packus_epi16(ab, cd);
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_permutexvar_epi32(order, bytes);
}
// Its quarters `step` bytes apart.
[[maybe_unused]] inline void store_quarters(uint8_t* p, int64_t step, I512 v) noexcept {
  const auto at = [&](int64_t i) { return reinterpret_cast<__m128i*>(p + i * step); };
  _mm_storeu_si128(at(0), _mm512_castsi512_si128(v));
  _mm_storeu_si128(at(1), _mm512_extracti32x4_epi32(v, 1));
  _mm_storeu_si128(at(2), _mm512_extracti32x4_epi32(v, 2));
  _mm_storeu_si128(at(3), _mm512_extracti32x4_epi32(v, 3));
}

// Lane c: byte c of each of the four rows, row 0 lowest.
[[maybe_unused]] inline I512 interleave_rows(const uint8_t* r0, const uint8_t* r1,
                                             const uint8_t* r2, const uint8_t* r3) noexcept {
  const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(r0));
  const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(r1));
  const __m128i c = _mm_loadu_si128(reinterpret_cast<const __m128i*>(r2));
  const __m128i d = _mm_loadu_si128(reinterpret_cast<const __m128i*>(r3));
  const __m128i ab_low = _mm_unpacklo_epi8(a, b), ab_high = _mm_unpackhi_epi8(a, b);
  const __m128i cd_low = _mm_unpacklo_epi8(c, d), cd_high = _mm_unpackhi_epi8(c, d);
  __m512i lanes = _mm512_castsi128_si512(_mm_unpacklo_epi16(ab_low, cd_low));
  lanes = _mm512_inserti32x4(lanes, _mm_unpackhi_epi16(ab_low, cd_low), 1);
  lanes = _mm512_inserti32x4(lanes, _mm_unpacklo_epi16(ab_high, cd_high), 2);
  return _mm512_inserti32x4(lanes, _mm_unpackhi_epi16(ab_high, cd_high), 3);
}

}  // namespace
}  // namespace compress::kernels

#endif
