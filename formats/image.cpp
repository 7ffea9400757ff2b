#include "formats/image.h"

#include <algorithm>
#include <string_view>

#include "compress/error.h"
#include "formats/file.h"
#include "formats/image_decode.h"

namespace compress {
namespace {

struct FormatRow {
  std::string_view signature;
  Image (*decode)(std::span<const std::byte>);
};
constexpr FormatRow kFormats[] = {
    {"\xFF\xD8\xFF", decode_jpeg},
    {"\x89PNG\r\n\x1A\n", decode_png},
    {"BM", decode_bmp},
};

}  // namespace

Image rgb_image(int64_t width, int64_t height) {
  if (width <= 0 || height <= 0 || width > kMaxPixels || height > kMaxPixels ||
      width * height > kMaxPixels) {
    fail(ErrorCode::invalid_model, "an image of {} x {} pixels is refused (limit: {} Mpixel)",
         width, height, kMaxPixels / 1'000'000);
  }
  Image image;
  image.width = static_cast<int>(width);
  image.height = static_cast<int>(height);
  image.pixels.resize(static_cast<size_t>(width * height) * 3);
  return image;
}

Image read_image(const std::string& path) {
  const auto file = MappedFile::open(path);
  return in_context([&] { return fmt::format("in {}", path); },
                    [&] {
                      for (const FormatRow& row : kFormats) {
                        if (file->text().starts_with(row.signature)) {
                          return row.decode(file->bytes());
                        }
                      }
                      fail(ErrorCode::invalid_model, "not a JPEG, PNG or BMP image");
                    });
}

Image center_crop(const Image& image, int width, int height) {
  Image out = rgb_image(width, height);
  std::fill(out.pixels.begin(), out.pixels.end(), uint8_t{0});
  const auto floor_half = [](int difference) {
    return difference >= 0 ? difference / 2 : -((1 - difference) / 2);
  };
  const int left = floor_half(image.width - width);
  const int top = floor_half(image.height - height);
  const int first = std::max(0, left), last = std::min(image.width, left + width);
  for (int y = std::max(0, top); y < std::min(image.height, top + height); ++y) {
    const uint8_t* from = image.pixels.data() + (int64_t{y} * image.width + first) * 3;
    uint8_t* to = out.pixels.data() + (int64_t{y - top} * width + (first - left)) * 3;
    std::copy(from, from + int64_t{last - first} * 3, to);
  }
  return out;
}

}  // namespace compress
