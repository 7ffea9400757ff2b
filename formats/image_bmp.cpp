// Windows bitmaps: uncompressed, with 8 (palette), 24 or 32 bits a pixel.
#include <cstdlib>

#include "compress/error.h"
#include "formats/image_decode.h"

namespace compress {
namespace {

constexpr size_t kFileHeader = 14;
constexpr size_t kInfoHeader = 40;

uint32_t field(std::span<const std::byte> file, size_t offset, size_t size) {
  uint32_t value = 0;
  for (size_t i = 0; i < size; ++i) {
    value |= std::to_integer<uint32_t>(file[offset + i]) << (8 * i);
  }
  return value;
}

struct Layout {
  uint64_t pixels_at, row_bytes;
  uint64_t palette_at, palette_size;
  size_t bytes_per_pixel;
};

Layout layout_of(std::span<const std::byte> file, int64_t width, int64_t height) {
  const uint32_t bits = field(file, kFileHeader + 14, 2);
  const uint32_t compression = field(file, kFileHeader + 16, 4);
  if (compression != 0 || (bits != 8 && bits != 24 && bits != 32)) {
    fail(ErrorCode::unsupported,
         "BMP: {} bits a pixel, compression {}; uncompressed with 8, 24 or 32 is read", bits,
         compression);
  }
  Layout layout{};
  layout.bytes_per_pixel = bits / 8;
  layout.pixels_at = field(file, 10, 4);
  layout.row_bytes = (static_cast<uint64_t>(width) * layout.bytes_per_pixel + 3) / 4 * 4;
  const uint64_t needed = layout.row_bytes * static_cast<uint64_t>(height);
  if (layout.pixels_at > file.size() || file.size() - layout.pixels_at < needed) {
    fail(ErrorCode::invalid_model, "BMP: the file ends early");
  }
  if (bits == 8) {
    layout.palette_at = kFileHeader + field(file, kFileHeader, 4);
    const uint32_t colours = field(file, kFileHeader + 32, 4);
    layout.palette_size = colours == 0 ? 256 : colours;
    if (layout.palette_size > 256 || layout.palette_at > file.size() ||
        file.size() - layout.palette_at < layout.palette_size * 4) {
      fail(ErrorCode::invalid_model, "BMP: broken palette");
    }
  }
  return layout;
}

}  // namespace

Image decode_bmp(std::span<const std::byte> file) {
  if (file.size() < kFileHeader + kInfoHeader || field(file, kFileHeader, 4) < kInfoHeader) {
    fail(ErrorCode::invalid_model, "BMP: no header that is known");
  }
  const int64_t width = static_cast<int32_t>(field(file, kFileHeader + 4, 4));
  const int64_t signed_height = static_cast<int32_t>(field(file, kFileHeader + 8, 4));
  const bool top_down = signed_height < 0;
  Image image = rgb_image(width, std::abs(signed_height));
  const Layout layout = layout_of(file, image.width, image.height);
  for (int y = 0; y < image.height; ++y) {
    const auto row = static_cast<uint64_t>(top_down ? y : image.height - 1 - y);
    const std::byte* from = file.data() + layout.pixels_at + row * layout.row_bytes;
    uint8_t* to = image.pixels.data() + int64_t{y} * image.width * 3;
    for (int x = 0; x < image.width; ++x, from += layout.bytes_per_pixel, to += 3) {
      const std::byte* pixel = from;  // blue, green, red
      if (layout.bytes_per_pixel == 1) {
        const auto index = std::to_integer<uint64_t>(*from);
        if (index >= layout.palette_size) fail(ErrorCode::invalid_model, "BMP: broken palette");
        pixel = file.data() + layout.palette_at + index * 4;
      }
      for (int c = 0; c < 3; ++c) to[c] = std::to_integer<uint8_t>(pixel[2 - c]);
    }
  }
  return image;
}

}  // namespace compress
