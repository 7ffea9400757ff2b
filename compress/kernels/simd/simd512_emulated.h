// simd512.h in plain C++, for tests on CPUs without AVX-512. Same names, same bits.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#define COMPRESS_SIMD512_NAME(name) name##Emulated

namespace compress::kernels {
namespace {

struct I512 {
  int32_t lane[16];
};
struct F512 {
  float lane[16];
};

template <class Out, class Function>
Out lanes_of(const Function& f) noexcept {
  Out out;
  for (int i = 0; i < 16; ++i) out.lane[i] = f(i);
  return out;
}

[[maybe_unused]] inline int32_t wrap(uint32_t v) noexcept { return static_cast<int32_t>(v); }

[[maybe_unused]] inline I512 zero_i32() noexcept { return I512{}; }
[[maybe_unused]] inline I512 load_512(const void* p) noexcept {
  I512 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
[[maybe_unused]] inline void store_512(void* p, I512 v) noexcept { std::memcpy(p, &v, sizeof v); }
[[maybe_unused]] inline I512 set_i32(int32_t v) noexcept {
  return lanes_of<I512>([&](int) { return v; });
}
[[maybe_unused]] inline I512 set_i16(int16_t v) noexcept {
  return set_i32(wrap((uint32_t{static_cast<uint16_t>(v)} << 16) | static_cast<uint16_t>(v)));
}
[[maybe_unused]] inline I512 set_u8(uint8_t v) noexcept { return set_i32(wrap(v * 0x01010101u)); }
[[maybe_unused]] inline F512 load_f32(const float* p) noexcept {
  return lanes_of<F512>([&](int i) { return p[i]; });
}
[[maybe_unused]] inline F512 load_f32(const float* p, uint16_t lanes) noexcept {
  return lanes_of<F512>([&](int i) { return lanes >> i & 1 ? p[i] : 0.0f; });
}
[[maybe_unused]] inline I512 load_u8_as_i32(const uint8_t* p) noexcept {
  return lanes_of<I512>([&](int i) { return int32_t{p[i]}; });
}
[[maybe_unused]] inline F512 set_f32(float v) noexcept {
  return lanes_of<F512>([&](int) { return v; });
}
[[maybe_unused]] inline I512 broadcast_bytes4(const uint8_t* p) noexcept {
  int32_t v;
  std::memcpy(&v, p, sizeof v);
  return set_i32(v);
}
[[maybe_unused]] inline I512 dot_u8s8(I512 sum, I512 u, I512 s) noexcept {
  return lanes_of<I512>([&](int i) {
    uint8_t a[4];
    int8_t b[4];
    std::memcpy(a, &u.lane[i], 4);
    std::memcpy(b, &s.lane[i], 4);
    const int32_t dot = a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3];
    return wrap(static_cast<uint32_t>(sum.lane[i]) + static_cast<uint32_t>(dot));
  });
}
[[maybe_unused]] inline I512 dot_u8s8(I512 sum, I512 u, const uint8_t* s) noexcept {
  return dot_u8s8(sum, u, broadcast_bytes4(s));
}
[[maybe_unused]] inline I512 add_i32(I512 a, I512 b) noexcept {
  return lanes_of<I512>([&](int i) {
    return wrap(static_cast<uint32_t>(a.lane[i]) + static_cast<uint32_t>(b.lane[i]));
  });
}
[[maybe_unused]] inline I512 sub_i32(I512 a, I512 b) noexcept {
  return lanes_of<I512>([&](int i) {
    return wrap(static_cast<uint32_t>(a.lane[i]) - static_cast<uint32_t>(b.lane[i]));
  });
}
[[maybe_unused]] inline I512 mul_i32(I512 a, I512 b) noexcept {
  return lanes_of<I512>([&](int i) {
    return wrap(static_cast<uint32_t>(a.lane[i]) * static_cast<uint32_t>(b.lane[i]));
  });
}
[[maybe_unused]] inline I512 dot_s16(I512 a, I512 b) noexcept {
  return lanes_of<I512>([&](int i) {
    int16_t x[2], y[2];
    std::memcpy(x, &a.lane[i], 4);
    std::memcpy(y, &b.lane[i], 4);
    return x[0] * y[0] + x[1] * y[1];
  });
}
[[maybe_unused]] inline I512 and_i32(I512 a, I512 b) noexcept {
  return lanes_of<I512>([&](int i) { return a.lane[i] & b.lane[i]; });
}
[[maybe_unused]] inline I512 or_i32(I512 a, I512 b) noexcept {
  return lanes_of<I512>([&](int i) { return a.lane[i] | b.lane[i]; });
}
[[maybe_unused]] inline I512 xor_i32(I512 a, I512 b) noexcept {
  return lanes_of<I512>([&](int i) { return a.lane[i] ^ b.lane[i]; });
}
template <int kBits>
[[maybe_unused]] inline I512 shift_left_i32(I512 a) noexcept {
  return lanes_of<I512>([&](int i) { return wrap(static_cast<uint32_t>(a.lane[i]) << kBits); });
}
template <int kBits>
[[maybe_unused]] inline I512 shift_right_u16(I512 a) noexcept {
  return lanes_of<I512>([&](int i) {
    const uint32_t v = static_cast<uint32_t>(a.lane[i]);
    return wrap(((v & 0xffff) >> kBits) | ((v >> 16) >> kBits << 16));
  });
}
[[maybe_unused]] inline F512 to_f32(I512 a) noexcept {
  return lanes_of<F512>([&](int i) { return static_cast<float>(a.lane[i]); });
}
[[maybe_unused]] inline I512 round_to_i32(F512 a) noexcept {
  return lanes_of<I512>([&](int i) { return static_cast<int32_t>(std::nearbyint(a.lane[i])); });
}
[[maybe_unused]] inline F512 add_f32(F512 a, F512 b) noexcept {
  return lanes_of<F512>([&](int i) { return a.lane[i] + b.lane[i]; });
}
[[maybe_unused]] inline F512 mul_f32(F512 a, F512 b) noexcept {
  return lanes_of<F512>([&](int i) { return a.lane[i] * b.lane[i]; });
}
[[maybe_unused]] inline F512 div_f32(F512 a, F512 b) noexcept {
  return lanes_of<F512>([&](int i) { return a.lane[i] / b.lane[i]; });
}
[[maybe_unused]] inline F512 abs_f32(F512 a) noexcept {
  return lanes_of<F512>([&](int i) { return std::fabs(a.lane[i]); });
}
[[maybe_unused]] inline F512 max_f32(F512 a, F512 b) noexcept {
  return lanes_of<F512>([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
[[maybe_unused]] inline F512 min_f32(F512 a, F512 b) noexcept {
  return lanes_of<F512>([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
}
[[maybe_unused]] inline uint16_t first_lanes(int64_t count) noexcept {
  return count >= 16 ? 0xffff : static_cast<uint16_t>((1u << count) - 1);
}
[[maybe_unused]] inline void store_i32(int32_t* p, I512 v, uint16_t lanes) noexcept {
  for (int i = 0; i < 16; ++i) {
    if (lanes >> i & 1) p[i] = v.lane[i];
  }
}
[[maybe_unused]] inline void store_f32(float* p, F512 v, uint16_t lanes) noexcept {
  for (int i = 0; i < 16; ++i) {
    if (lanes >> i & 1) p[i] = v.lane[i];
  }
}
[[maybe_unused]] inline void store_low_bytes(uint8_t* p, I512 v, uint16_t lanes) noexcept {
  for (int i = 0; i < 16; ++i) {
    if (lanes >> i & 1) p[i] = static_cast<uint8_t>(v.lane[i]);
  }
}
[[maybe_unused]] inline I512 interleave_words(const uint8_t* r0, const uint8_t* r1,
                                              const uint8_t* r2, const uint8_t* r3) noexcept {
  const uint8_t* rows[] = {r0, r1, r2, r3};
  I512 v;
  for (int i = 0; i < 16; ++i) std::memcpy(&v.lane[i], rows[i % 4] + i / 4 * 4, 4);
  return v;
}
[[maybe_unused]] inline void store_quarters(uint8_t* p, int64_t step, I512 v) noexcept {
  for (int i = 0; i < 4; ++i) std::memcpy(p + i * step, &v.lane[4 * i], 16);
}
[[maybe_unused]] inline I512 pack_bytes(I512 a, I512 b, I512 c, I512 d, I512 zero,
                                        bool is_signed) noexcept {
  const I512* const values[] = {&a, &b, &c, &d};
  const int low = is_signed ? -128 : 0;
  int16_t offset;
  std::memcpy(&offset, &zero, 2);
  uint8_t bytes[64];
  for (int i = 0; i < 64; ++i) {
    const int word = std::clamp(values[i / 16]->lane[i % 16], -32768, 32767);
    const int sum = std::clamp(word + offset, -32768, 32767);
    bytes[i] = static_cast<uint8_t>(std::clamp(sum, low, low + 255));
  }
  return load_512(bytes);
}
[[maybe_unused]] inline I512 interleave_rows(const uint8_t* r0, const uint8_t* r1,
                                             const uint8_t* r2, const uint8_t* r3) noexcept {
  return lanes_of<I512>([&](int i) {
    return wrap(r0[i] | uint32_t{r1[i]} << 8 | uint32_t{r2[i]} << 16 | uint32_t{r3[i]} << 24);
  });
}

}  // namespace
}  // namespace compress::kernels
