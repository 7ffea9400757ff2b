// Storing 16 sums of an int8 kernel, for _avx2 files alone. Anonymous namespace: each file keeps
// its own copy.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace compress::kernels {
namespace {

[[maybe_unused]] inline __m256i load(const int32_t* p) noexcept {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}

[[maybe_unused]] inline void store_bytes(__m256i low, __m256i high, bool is_signed, uint8_t* out,
                                         int64_t count) noexcept {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
  const __m128i left = _mm256_castsi256_si128(words);
  const __m128i right = _mm256_extracti128_si256(words, 1);
  const __m128i bytes = is_signed ? _mm_packs_epi16(left, right) : _mm_packus_epi16(left, right);
  if (count == 16) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), bytes);
    return;
  }
  alignas(16) uint8_t buffer[16];
  _mm_store_si128(reinterpret_cast<__m128i*>(buffer), bytes);
  for (int64_t i = 0; i < count; ++i) out[i] = buffer[i];
}

[[maybe_unused]] inline void store_words(__m256i low, __m256i high, int32_t* out,
                                         int64_t count) noexcept {
  if (count == 16) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), low);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 8), high);
    return;
  }
  alignas(32) int32_t buffer[16];
  _mm256_store_si256(reinterpret_cast<__m256i*>(buffer), low);
  _mm256_store_si256(reinterpret_cast<__m256i*>(buffer + 8), high);
  for (int64_t i = 0; i < count; ++i) out[i] = buffer[i];
}

// The quantized value less its zero point.
[[maybe_unused]] inline __m256i rounded(__m256i acc, __m256 scale, __m256 lo, __m256 hi) noexcept {
  const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(acc), scale);
  return _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(scaled, lo), hi));
}

// The same where S8Finish::saturates: what packs it to bytes clamps.
[[maybe_unused]] inline __m256i rounded(__m256i acc, __m256 scale) noexcept {
  return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(acc), scale));
}

[[maybe_unused]] inline __m256i quantize(__m256i acc, __m256 scale, __m256 lo, __m256 hi,
                                         __m256i zero_point) noexcept {
  return _mm256_add_epi32(rounded(acc, scale, lo, hi), zero_point);
}

}  // namespace
}  // namespace compress::kernels
