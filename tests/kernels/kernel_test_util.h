// Seeded random data for kernel tests.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "compress/kernels/aligned.h"

namespace compress::kernels::testing {

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  int64_t integer(int64_t lo, int64_t hi) {
    return std::uniform_int_distribution<int64_t>(lo, hi)(engine_);
  }
  float real(float lo, float hi) { return std::uniform_real_distribution<float>(lo, hi)(engine_); }

  // Half of the bytes at the ends of the range, where sums of 16 bits would saturate.
  std::vector<uint8_t> bytes(int64_t count) {
    std::vector<uint8_t> out(static_cast<size_t>(count));
    for (uint8_t& byte : out) {
      const int64_t kind = integer(0, 5);
      byte = static_cast<uint8_t>(kind == 0   ? 0x7f
                                  : kind == 1 ? 0x80
                                  : kind == 2 ? 0xff
                                              : integer(0, 255));
    }
    return out;
  }
  std::vector<float> floats(int64_t count, float lo, float hi) {
    std::vector<float> out(static_cast<size_t>(count));
    for (float& value : out) value = real(lo, hi);
    return out;
  }
  std::vector<int32_t> integers(int64_t count, int32_t lo, int32_t hi) {
    std::vector<int32_t> out(static_cast<size_t>(count));
    for (int32_t& value : out) value = static_cast<int32_t>(integer(lo, hi));
    return out;
  }

 private:
  std::mt19937 engine_;
};

inline int32_t byte_value(uint8_t byte, bool is_signed) {
  return is_signed ? static_cast<int8_t>(byte) : byte;
}

// Guard bytes behind a workspace: a kernel that needs more than it asked for is caught.
class Workspace {
 public:
  explicit Workspace(size_t bytes)
      : bytes_(bytes), memory_(make_aligned<uint8_t>(static_cast<int64_t>(bytes) + kGuard)) {
    for (size_t i = bytes_; i < bytes_ + kGuard; ++i) memory_[i] = 0xa5;
  }
  void* get() { return memory_.get(); }
  bool intact() const {
    for (size_t i = bytes_; i < bytes_ + kGuard; ++i) {
      if (memory_[i] != 0xa5) return false;
    }
    return true;
  }

 private:
  static constexpr int64_t kGuard = 256;
  size_t bytes_;
  AlignedArray<uint8_t> memory_;
};

}  // namespace compress::kernels::testing
