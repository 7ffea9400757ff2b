#include "formats/npz_inflate.h"

// zlib has a function that is called like our namespace.
#define compress zlib_compress
#include <zlib.h>
#undef compress

#include <algorithm>

#include "compress/error.h"

namespace compress {

struct Inflater::Stream {
  z_stream z{};
};

Inflater::Inflater(std::span<const std::byte> packed, int window_bits)
    : stream_(std::make_unique<Stream>()), left_(packed.size()) {
  stream_->z.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(packed.data()));
  if (inflateInit2(&stream_->z, window_bits) != Z_OK) {
    fail(ErrorCode::internal, "zlib: inflateInit2 failed");
  }
}

Inflater::~Inflater() { inflateEnd(&stream_->z); }

void Inflater::read(std::span<std::byte> out) {
  constexpr size_t kPiece = size_t{1} << 30;  // zlib counts in 32 bits
  while (!out.empty()) {
    const size_t wanted = std::min(out.size(), kPiece);
    if (stream_->z.avail_in == 0) {
      stream_->z.avail_in = static_cast<uInt>(std::min(left_, kPiece));
      left_ -= stream_->z.avail_in;
    }
    stream_->z.next_out = reinterpret_cast<Bytef*>(out.data());
    stream_->z.avail_out = static_cast<uInt>(wanted);
    const int status = ended_ ? Z_STREAM_END : inflate(&stream_->z, Z_NO_FLUSH);
    ended_ = status == Z_STREAM_END;
    const size_t made = wanted - stream_->z.avail_out;
    const bool stuck = made == 0 && stream_->z.avail_in == 0 && left_ == 0;
    if ((status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR) ||
        (made == 0 && (ended_ || stuck))) {
      fail(ErrorCode::invalid_model, "compressed data are broken or end early");
    }
    crc_ = crc32_of(out.first(made), crc_);
    out = out.subspan(made);
  }
}

void Inflater::expect_end() {
  std::byte more;
  if (!ended_) {
    stream_->z.next_out = reinterpret_cast<Bytef*>(&more);
    stream_->z.avail_out = 1;
    if (stream_->z.avail_in == 0)
      stream_->z.avail_in = static_cast<uInt>(std::min<size_t>(left_, 1 << 30));
    if (inflate(&stream_->z, Z_NO_FLUSH) != Z_STREAM_END || stream_->z.avail_out != 1) {
      fail(ErrorCode::invalid_model, "compressed data are longer than announced, or broken");
    }
  }
}

uint32_t crc32_of(std::span<const std::byte> bytes, uint32_t crc) {
  if (bytes.empty()) return crc;  // zlib takes a null pointer for "start anew"
  return static_cast<uint32_t>(
      crc32_z(crc, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size()));
}

}  // namespace compress
