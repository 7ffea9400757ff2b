// IDX, the format of MNIST: 0, 0, type, rank, then big-endian dimensions and elements.
#include <algorithm>
#include <array>
#include <cstring>

#include "compress/error.h"
#include "formats/arrays.h"
#include "formats/file.h"
#include "formats/npy.h"
#include "formats/npz_inflate.h"

namespace compress {
namespace {

constexpr uint64_t kMaxBytes = uint64_t{16} << 30;

DType idx_type(int code) {
  switch (code) {
    case 0x08:
      return DType::uint8;
    case 0x09:
      return DType::int8;
    case 0x0B:
      return DType::int16;
    case 0x0C:
      return DType::int32;
    case 0x0D:
      return DType::float32;
    case 0x0E:
      return DType::float64;
    default:
      fail(ErrorCode::invalid_model, "not an IDX file (type {:#x})", code);
  }
}

// `take(bytes)` fills the next bytes of the file or fails.
template <class Take>
NpyHeader idx_header(Take&& take) {
  std::array<std::byte, 4> magic;
  take(std::span(magic));
  if (magic[0] != std::byte{0} || magic[1] != std::byte{0}) {
    fail(ErrorCode::invalid_model, "not an IDX file (wrong first bytes)");
  }
  NpyHeader header;
  header.dtype = idx_type(std::to_integer<int>(magic[2]));
  header.big_endian = true;
  for (int i = std::to_integer<int>(magic[3]); i > 0; --i) {
    std::array<std::byte, 4> dim;
    take(std::span(dim));
    uint32_t value = 0;
    for (const std::byte b : dim) value = value << 8 | std::to_integer<uint32_t>(b);
    header.shape.push_back(value);
  }
  header.data_bytes = byte_size(header.dtype, static_cast<uint64_t>(header.shape.count()));
  if (header.data_bytes > kMaxBytes) {
    fail(ErrorCode::unsupported, "IDX: {} bytes are more than the limit of {}", header.data_bytes,
         kMaxBytes);
  }
  return header;
}

Tensor read_gzip_idx(std::span<const std::byte> packed) {
  Inflater inflater(packed, 31);
  const NpyHeader header = idx_header([&](std::span<std::byte> out) { inflater.read(out); });
  if (!plausible_inflation(packed.size(), header.data_bytes)) {
    fail(ErrorCode::invalid_model, "{} compressed bytes cannot hold shape {}", packed.size(),
         header.shape.to_string());
  }
  Tensor stored = Tensor::allocate(header.dtype, header.shape);
  inflater.read({stored.mutable_data(), static_cast<size_t>(header.data_bytes)});
  inflater.expect_end();
  return npy_decode(header, std::move(stored));
}

Tensor read_plain_idx(std::span<const std::byte> file) {
  size_t at = 0;
  const NpyHeader header = idx_header([&](std::span<std::byte> out) {
    if (file.size() - at < out.size()) fail(ErrorCode::invalid_model, "IDX: truncated header");
    std::memcpy(out.data(), file.data() + at, out.size());
    at += out.size();
  });
  if (file.size() - at != header.data_bytes) {
    fail(ErrorCode::invalid_model, "IDX: shape {} needs {} bytes, {} follow the header",
         header.shape.to_string(), header.data_bytes, file.size() - at);
  }
  Tensor stored = Tensor::allocate(header.dtype, header.shape);
  if (header.data_bytes > 0)
    std::memcpy(stored.mutable_data(), file.data() + at, header.data_bytes);
  return npy_decode(header, std::move(stored));
}

}  // namespace

Tensor read_idx(const std::string& path) {
  const auto file = MappedFile::open(path);
  const std::span<const std::byte> bytes = file->bytes();
  const bool gzip = bytes.size() > 2 && bytes[0] == std::byte{0x1F} && bytes[1] == std::byte{0x8B};
  return in_context([&] { return fmt::format("in {}", path); },
                    [&] { return gzip ? read_gzip_idx(bytes) : read_plain_idx(bytes); });
}

}  // namespace compress
