// SHA-256 (FIPS 180-4): what ties statistics, caches and reports to the bytes they came from.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace compress {

// Incremental: update() any number of times, then finish() once.
class Sha256 {
 public:
  void update(std::span<const std::byte> bytes);
  void update(std::string_view text) { update(std::as_bytes(std::span(text))); }
  // 64 hexadecimal digits, lower case.
  std::string finish();

 private:
  static constexpr size_t kBlock = 64;
  void absorb(const std::byte* data, size_t blocks);

  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::byte, kBlock> pending_{};
  uint64_t length_ = 0;  // bytes
};

// SHA-256 as 64 hexadecimal digits.
std::string sha256(std::span<const std::byte> bytes);

}  // namespace compress
