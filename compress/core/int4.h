// Densely packed sub-byte integers (ONNX: flattened row-major, low bits first).
// Offsets are in elements, not bytes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace compress {

// Element `index` of a packed array of `bits` (2 or 4) bit integers, sign-extended if asked.
inline int get_packed(const uint8_t* data, int64_t index, int bits, bool is_signed) {
  const int per_byte = 8 / bits;
  const int shift = static_cast<int>(index % per_byte) * bits;
  const int raw = (data[index / per_byte] >> shift) & ((1 << bits) - 1);
  return is_signed && raw >> (bits - 1) ? raw - (1 << bits) : raw;
}

inline void set_packed(uint8_t* data, int64_t index, int bits, int value) {
  const int per_byte = 8 / bits;
  const int shift = static_cast<int>(index % per_byte) * bits;
  const int mask = ((1 << bits) - 1) << shift;
  uint8_t& byte = data[index / per_byte];
  byte = static_cast<uint8_t>((byte & ~mask) | ((value << shift) & mask));
}

}  // namespace compress
