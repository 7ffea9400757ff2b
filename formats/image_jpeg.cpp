// clang-format off
#include <cstdio>  // jpeglib.h wants it first
#include <jpeglib.h>
#include <jerror.h>
// clang-format on

#include <csetjmp>
#include <cstring>
#include <string>

#include "compress/error.h"
#include "formats/image_decode.h"

namespace compress {
namespace {

// A progressive file may hold any number of scans, each of which costs a pass over the image.
constexpr int kMaxScans = 200;

// libjpeg reports errors by a call that must not return: it jumps to where the library was entered.
// So those functions hold nothing that has a destructor.
struct Decoder {
  jpeg_decompress_struct info{};
  jpeg_error_mgr errors{};
  jpeg_progress_mgr progress{};
  std::jmp_buf entered;
  char message[JMSG_LENGTH_MAX] = "";
  bool created = false;

  Decoder() = default;
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;
  ~Decoder() {
    if (created) jpeg_destroy_decompress(&info);
  }
  void check(bool ok) const {
    if (!ok) fail(ErrorCode::invalid_model, "JPEG: {}", message);
  }
};

Decoder& decoder_of(j_common_ptr info) { return *static_cast<Decoder*>(info->client_data); }

void leave(j_common_ptr info) {
  Decoder& decoder = decoder_of(info);
  info->err->format_message(info, decoder.message);
  std::longjmp(decoder.entered, 1);
}

// Warnings that mean pixels were made up. Others (bytes between markers, version numbers) are
// harmless and frequent.
void on_message(j_common_ptr info, int level) {
  if (level >= 0) return;
  switch (info->err->msg_code) {
    case JWRN_JPEG_EOF:
    case JWRN_HIT_MARKER:
    case JWRN_HUFF_BAD_CODE:
    case JWRN_BOGUS_PROGRESSION:
      leave(info);
      break;
    default:
      break;
  }
}

void on_progress(j_common_ptr info) {
  Decoder& decoder = decoder_of(info);
  if (decoder.info.input_scan_number <= kMaxScans) return;
  std::strcpy(decoder.message, "too many scans");
  std::longjmp(decoder.entered, 1);
}

bool read_header(Decoder& decoder, const unsigned char* data, unsigned long size) {
  decoder.info.err = jpeg_std_error(&decoder.errors);
  decoder.info.client_data = &decoder;
  decoder.errors.error_exit = leave;
  decoder.errors.emit_message = on_message;
  if (setjmp(decoder.entered) != 0) return false;
  jpeg_create_decompress(&decoder.info);
  decoder.created = true;
  decoder.progress.progress_monitor = on_progress;
  decoder.info.progress = &decoder.progress;
  jpeg_mem_src(&decoder.info, data, size);
  jpeg_read_header(&decoder.info, TRUE);
  return true;
}

bool read_rows(Decoder& decoder, J_COLOR_SPACE space, uint8_t* out, size_t row_bytes) {
  if (setjmp(decoder.entered) != 0) return false;
  decoder.info.out_color_space = space;
  jpeg_start_decompress(&decoder.info);
  while (decoder.info.output_scanline < decoder.info.output_height) {
    JSAMPROW row = out + decoder.info.output_scanline * row_bytes;
    jpeg_read_scanlines(&decoder.info, &row, 1);
  }
  jpeg_finish_decompress(&decoder.info);
  return true;
}

// a * b / 255, rounded, for bytes.
int scaled(int a, int b) {
  const int product = a * b + 128;
  return ((product >> 8) + product) >> 8;
}

// CMYK as Adobe stores it (inverted), to RGB as Pillow converts: (1 - k) (1 - c).
void cmyk_to_rgb(const std::vector<uint8_t>& cmyk, std::vector<uint8_t>& rgb) {
  for (size_t i = 0; i * 3 < rgb.size(); ++i) {
    const int white = cmyk[i * 4 + 3];
    for (size_t c = 0; c < 3; ++c) {
      rgb[i * 3 + c] = static_cast<uint8_t>(white - scaled(255 - cmyk[i * 4 + c], white));
    }
  }
}

}  // namespace

Image decode_jpeg(std::span<const std::byte> file) {
  Decoder decoder;
  decoder.check(read_header(decoder, reinterpret_cast<const unsigned char*>(file.data()),
                            static_cast<unsigned long>(file.size())));
  Image image = rgb_image(decoder.info.image_width, decoder.info.image_height);
  const auto width = static_cast<size_t>(image.width);
  switch (decoder.info.jpeg_color_space) {
    case JCS_GRAYSCALE:
    case JCS_YCbCr:
    case JCS_RGB:
      decoder.check(read_rows(decoder, JCS_RGB, image.pixels.data(), width * 3));
      break;
    case JCS_CMYK:
    case JCS_YCCK: {
      std::vector<uint8_t> cmyk(image.pixels.size() / 3 * 4);
      decoder.check(read_rows(decoder, JCS_CMYK, cmyk.data(), width * 4));
      cmyk_to_rgb(cmyk, image.pixels);
      break;
    }
    default:
      fail(ErrorCode::unsupported, "JPEG: {} components of an unknown colour space",
           decoder.info.num_components);
  }
  return image;
}

}  // namespace compress
