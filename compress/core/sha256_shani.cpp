// Compiled for SHA, SSSE3 and SSE4.1: nothing here may be shared with other files.
#include <immintrin.h>

#include "compress/core/sha256_blocks.h"

namespace compress {

void sha256_blocks_shani(uint32_t* state, const std::byte* data, size_t blocks) {
  // The instructions want the words a, b, e, f and c, d, g, h together, high ones first.
  __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(state));
  __m128i high = _mm_loadu_si128(reinterpret_cast<const __m128i*>(state + 4));
  low = _mm_shuffle_epi32(low, 0xB1);
  high = _mm_shuffle_epi32(high, 0x1B);
  __m128i abef = _mm_alignr_epi8(low, high, 8);
  __m128i cdgh = _mm_blend_epi16(high, low, 0xF0);
  const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  for (; blocks > 0; --blocks, data += 64) {
    const __m128i abef_before = abef, cdgh_before = cdgh;
    __m128i w[4];
#pragma GCC unroll 16
    for (int group = 0; group < 16; ++group) {
      __m128i& now = w[group & 3];
      if (group < 4) {
        now = _mm_loadu_si128(reinterpret_cast<const __m128i*>(data + 16 * group));
        now = _mm_shuffle_epi8(now, swap);
      } else {
        const __m128i last = w[(group + 3) & 3];
        now = _mm_sha256msg1_epu32(now, w[(group + 1) & 3]);
        now = _mm_add_epi32(now, _mm_alignr_epi8(last, w[(group + 2) & 3], 4));
        now = _mm_sha256msg2_epu32(now, last);
      }
      const __m128i k = _mm_loadu_si128(reinterpret_cast<const __m128i*>(kSha256Round + 4 * group));
      const __m128i sum = _mm_add_epi32(now, k);
      cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
      abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0E));
    }
    abef = _mm_add_epi32(abef, abef_before);
    cdgh = _mm_add_epi32(cdgh, cdgh_before);
  }
  const __m128i feba = _mm_shuffle_epi32(abef, 0x1B);
  const __m128i dchg = _mm_shuffle_epi32(cdgh, 0xB1);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(state), _mm_blend_epi16(feba, dchg, 0xF0));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(state + 4), _mm_alignr_epi8(dchg, feba, 8));
}

}  // namespace compress
