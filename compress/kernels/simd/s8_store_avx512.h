// The epilogue of 16 channels (s8_epilogue.h). Values, not pointers: stores of bytes may alias
// anything, so that tables would be read again for each row. Anonymous namespace: each file keeps
// its own copy.
#pragma once

#include "compress/kernels/s8_epilogue.h"
#include "compress/kernels/simd/simd512.h"

namespace compress::kernels {
namespace {

// What sums start with.
[[maybe_unused]] inline I512 load_offset(const S8Finish& f, int64_t channel) noexcept {
  return load_512(f.offset + channel);
}

// Whether quantized() does it. What packs to bytes clamps.
[[maybe_unused]] inline bool packs(const S8Finish& f) noexcept {
  return f.output == S8Output::quantized && f.saturates;
}

// Four times 16 sums. REQUIRES packs().
struct S8Pack {
  I512 zero_point;
  bool is_signed;

  explicit S8Pack(const S8Finish& f) noexcept
      : zero_point(set_i16(static_cast<int16_t>(f.zero_point))), is_signed(f.is_signed) {}

  static I512 rounded(I512 sum, F512 scale) noexcept {
    return round_to_i32(mul_f32(to_f32(sum), scale));
  }
  I512 bytes(I512 a, I512 b, I512 c, I512 d) const noexcept {
    return pack_bytes(a, b, c, d, zero_point, is_signed);
  }
};

// The first `count` bytes. In whole words: AMD's processors are slow at stores of masked bytes.
[[maybe_unused]] inline void store_bytes(uint8_t* p, I512 v, int64_t count) noexcept {
  if (count >= 64) return store_512(p, v);
  alignas(64) uint8_t bytes[64];
  store_512(bytes, v);
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) __builtin_memcpy(p + i, bytes + i, 8);
  for (; i < count; ++i) p[i] = bytes[i];
}

// 16 channels from `channel` on, `lanes` of them, of any output.
struct S8Store {
  F512 scale{}, bias{}, lo, hi;
  I512 zero_point;
  S8Output output;
  uint16_t lanes;
  void* out;

  S8Store(const S8Finish& f, void* memory, int64_t channel, uint16_t valid) noexcept
      : lo(set_f32(f.lo)),
        hi(set_f32(f.hi)),
        zero_point(set_i32(f.zero_point)),
        output(f.output),
        lanes(valid),
        out(memory) {
    if (output != S8Output::int32) scale = load_f32(f.scale + channel);
    if (output == S8Output::float32) bias = load_f32(f.float_bias + channel);
  }

  void operator()(I512 sum, int64_t at) const noexcept {
    if (output == S8Output::int32) {
      return store_i32(static_cast<int32_t*>(out) + at, sum, lanes);
    }
    const F512 scaled = mul_f32(to_f32(sum), scale);
    if (output == S8Output::float32) {
      return store_f32(static_cast<float*>(out) + at, add_f32(scaled, bias), lanes);
    }
    const F512 clamped = min_f32(max_f32(scaled, lo), hi);
    store_low_bytes(static_cast<uint8_t*>(out) + at, add_i32(round_to_i32(clamped), zero_point),
                    lanes);
  }
};

}  // namespace
}  // namespace compress::kernels
