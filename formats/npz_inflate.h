// Deflated data (raw or gzip), by zlib.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace compress {

// Inflates a member piece by piece into memory of the caller's, so that sizes can be judged before
// anything large is allocated.
class Inflater {
 public:
  // `window_bits` as zlib's inflateInit2: -15 raw deflate, 31 gzip.
  Inflater(std::span<const std::byte> packed, int window_bits);
  ~Inflater();
  Inflater(const Inflater&) = delete;
  Inflater& operator=(const Inflater&) = delete;
  // Fills `out` wholly. Fails (invalid_model) where the stream is broken or shorter.
  void read(std::span<std::byte> out);
  // Fails (invalid_model) unless the stream ends here.
  void expect_end();
  uint32_t crc() const { return crc_; }

 private:
  struct Stream;
  std::unique_ptr<Stream> stream_;
  size_t left_;  // of the packed bytes, beyond what zlib was given
  bool ended_ = false;
  uint32_t crc_ = 0;
};

// Deflate cannot shrink further than this, so a size beyond it is a lie (zlib's manual: 1032:1).
inline bool plausible_inflation(uint64_t packed, uint64_t size) {
  return size / 1032 <= packed + 64;
}

uint32_t crc32_of(std::span<const std::byte> bytes, uint32_t crc = 0);

}  // namespace compress
