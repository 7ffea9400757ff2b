#include <png.h>

#include <csetjmp>
#include <cstdio>
#include <cstring>

#include "compress/error.h"
#include "formats/image_decode.h"

namespace compress {
namespace {

// libpng leaves by longjmp, as libjpeg does: functions that enter it hold nothing with a
// destructor.
struct Decoder {
  png_structp png = nullptr;
  png_infop info = nullptr;
  std::span<const std::byte> left;
  char message[128] = "";

  Decoder() = default;
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;
  ~Decoder() { png_destroy_read_struct(&png, &info, nullptr); }
  void check(bool ok) const {
    if (!ok) fail(ErrorCode::invalid_model, "PNG: {}", message);
  }
};

[[noreturn]] void leave(png_structp png, png_const_charp message) {
  auto& decoder = *static_cast<Decoder*>(png_get_error_ptr(png));
  std::snprintf(decoder.message, sizeof decoder.message, "%s", message);
  png_longjmp(png, 1);
}

void ignore(png_structp, png_const_charp) {}

void take_bytes(png_structp png, png_bytep out, size_t size) {
  auto& left = static_cast<Decoder*>(png_get_io_ptr(png))->left;
  if (left.size() < size) png_error(png, "the file ends early");
  std::memcpy(out, left.data(), size);
  left = left.subspan(size);
}

bool read_header(Decoder& decoder) {
  decoder.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &decoder, leave, ignore);
  if (decoder.png == nullptr) return false;
  if (setjmp(png_jmpbuf(decoder.png)) != 0) return false;
  decoder.info = png_create_info_struct(decoder.png);
  png_set_read_fn(decoder.png, &decoder, take_bytes);
  png_set_user_limits(decoder.png, static_cast<png_uint_32>(kMaxPixels),
                      static_cast<png_uint_32>(kMaxPixels));
  png_set_chunk_malloc_max(decoder.png, 16u << 20);
  png_read_info(decoder.png, decoder.info);
  return true;
}

// Grey of 16 bits stays as it is (see clip_grey_16); all else becomes 8-bit RGB, alpha dropped,
// gamma and colour profiles ignored, as Pillow does.
bool set_transforms(Decoder& decoder, bool grey_16) {
  if (setjmp(png_jmpbuf(decoder.png)) != 0) return false;
  png_set_palette_to_rgb(decoder.png);
  if (!grey_16) {
    png_set_strip_16(decoder.png);
    png_set_expand_gray_1_2_4_to_8(decoder.png);
    png_set_gray_to_rgb(decoder.png);
  }
  png_set_strip_alpha(decoder.png);
  png_set_interlace_handling(decoder.png);
  png_read_update_info(decoder.png, decoder.info);
  return true;
}

bool read_rows(Decoder& decoder, png_bytepp rows) {
  if (setjmp(png_jmpbuf(decoder.png)) != 0) return false;
  png_read_image(decoder.png, rows);
  png_read_end(decoder.png, nullptr);
  return true;
}

// Pillow reads 16-bit grey as whole numbers and clips them to 255 on the way to RGB.
void clip_grey_16(const std::vector<uint8_t>& grey, std::vector<uint8_t>& rgb) {
  for (size_t i = 0; i * 3 < rgb.size(); ++i) {
    const uint8_t value = grey[2 * i] != 0 ? 255 : grey[2 * i + 1];  // big-endian
    rgb[3 * i] = rgb[3 * i + 1] = rgb[3 * i + 2] = value;
  }
}

}  // namespace

Image decode_png(std::span<const std::byte> file) {
  Decoder decoder;
  decoder.left = file;
  decoder.check(read_header(decoder));
  Image image = rgb_image(png_get_image_width(decoder.png, decoder.info),
                          png_get_image_height(decoder.png, decoder.info));
  const bool grey_16 = png_get_color_type(decoder.png, decoder.info) == PNG_COLOR_TYPE_GRAY &&
                       png_get_bit_depth(decoder.png, decoder.info) == 16;
  decoder.check(set_transforms(decoder, grey_16));
  const size_t row_bytes = static_cast<size_t>(image.width) * (grey_16 ? 2 : 3);
  if (png_get_rowbytes(decoder.png, decoder.info) != row_bytes) {
    fail(ErrorCode::unsupported, "PNG: an unknown kind of pixels");
  }
  std::vector<uint8_t> grey(grey_16 ? image.pixels.size() / 3 * 2 : 0);
  uint8_t* out = grey_16 ? grey.data() : image.pixels.data();
  std::vector<png_bytep> rows(static_cast<size_t>(image.height));
  for (size_t y = 0; y < rows.size(); ++y) rows[y] = out + y * row_bytes;
  decoder.check(read_rows(decoder, rows.data()));
  if (grey_16) clip_grey_16(grey, image.pixels);
  return image;
}

}  // namespace compress
