#include "formats/image.h"

#include <catch2/catch.hpp>
#include <cstdlib>

#include "compress/core/parallel.h"
#include "compress/error.h"
#include "formats/arrays.h"
#include "tests/formats/scratch.h"

namespace compress {
namespace {

int largest_difference(const Image& image, const Tensor& wanted) {
  REQUIRE(wanted.shape() == Shape{image.height, image.width, 3});
  const TensorData data = wanted.read();
  const auto pixels = data.as<uint8_t>();
  int largest = 0;
  for (size_t i = 0; i < pixels.size(); ++i) {
    largest = std::max(largest, std::abs(int{image.pixels[i]} - int{pixels[i]}));
  }
  return largest;
}

Image preprocessed(const std::string& path, Interpolation interpolation) {
  return center_crop(resize_short_side(read_image(path), 256, interpolation), 224, 224);
}

}  // namespace

TEST_CASE("decoding and resizing equal Pillow's") {
  const Scratch scratch;
  if (!run_python(COMPRESS_SOURCE_DIR "/tests/formats/make_data.py", scratch.path())) return;
  const NpzReader expected(scratch / "expected.npz");
  int decoded = 0, resized = 0;
  for (const std::string& name : expected.names()) {
    INFO(name);
    const Tensor wanted = expected.read(name);
    // Pillow brings its own libjpeg; resampling does not amplify its differences.
    const int tolerance = name.ends_with(".jpg") ? 3 : 0;
    const size_t slash = name.find('/');
    if (slash == std::string::npos) {
      CHECK(largest_difference(read_image(scratch / name), wanted) <= tolerance);
      ++decoded;
      continue;
    }
    const auto interpolation =
        name.starts_with("bicubic") ? Interpolation::bicubic : Interpolation::bilinear;
    const std::string path = scratch / name.substr(slash + 1);
    CHECK(largest_difference(preprocessed(path, interpolation), wanted) <= std::max(tolerance, 1));
    // The other filter gives another picture: the comparison can fail.
    const auto other =
        interpolation == Interpolation::bicubic ? Interpolation::bilinear : Interpolation::bicubic;
    CHECK(largest_difference(preprocessed(path, other), wanted) > 3);
    ++resized;
  }
  CHECK(decoded == 22);
  CHECK(resized == 12);
}

TEST_CASE("a small image resized, as Pillow 13 gives it") {
  Image image;
  image.width = 7;
  image.height = 5;
  for (int i = 0; i < 7 * 5 * 3; ++i) image.pixels.push_back(static_cast<uint8_t>(i * i * 7 % 251));
  const auto red = [](const Image& out) {
    std::vector<int> values;
    for (size_t i = 0; i < out.pixels.size(); i += 3) values.push_back(out.pixels[i]);
    return values;
  };
  CHECK(red(resize(image, 3, 2, Interpolation::bilinear)) ==
        std::vector<int>{55, 66, 77, 125, 124, 131});
  CHECK(red(resize(image, 3, 2, Interpolation::bicubic)) ==
        std::vector<int>{50, 62, 76, 130, 127, 132});
  CHECK(red(resize(image, 9, 6, Interpolation::bicubic)) ==
        std::vector<int>{0,   48,  37,  7,   66,  8,   41,  54,  2,   63,  29,  39,  61,  26,
                         68,  52,  48,  86,  53,  69,  72,  70,  89,  81,  94,  103, 96,  93,
                         121, 124, 119, 151, 145, 161, 172, 167, 190, 119, 146, 202, 124, 171,
                         163, 168, 212, 205, 60,  105, 210, 49,  0,   46,  71,  28});
  CHECK(red(resize(image, 3, 2, Interpolation::nearest)) ==
        std::vector<int>{16, 25, 36, 121, 144, 169});
  CHECK(resize(image, 7, 5, Interpolation::bicubic).pixels == image.pixels);
}

TEST_CASE("sizes of resize and crop") {
  Image image;
  image.width = 320;
  image.height = 213;
  image.pixels.resize(320 * 213 * 3, 9);
  const Image wide = resize_short_side(image, 256, Interpolation::bilinear);
  CHECK(wide.height == 256);
  CHECK(wide.width == 385);  // round(320 * 256 / 213 = 384.6)
  const Image padded = center_crop(image, 322, 211);
  CHECK(padded.pixels[0] == 0);
  CHECK(padded.pixels[3] == 9);
  CHECK(padded.pixels[321 * 3] == 0);
  image.pixels[(1 * 320 + 0) * 3] = 77;  // floor((213 - 210) / 2) = 1
  CHECK(center_crop(image, 320, 210).pixels[0] == 77);
}

TEST_CASE("any number of threads resizes the same") {
  Image image;
  image.width = 300;
  image.height = 200;
  for (int i = 0; i < 300 * 200 * 3; ++i)
    image.pixels.push_back(static_cast<uint8_t>(i * 31 % 256));
  const int before = thread_count();
  set_thread_count(1);
  const Image one = resize(image, 123, 456, Interpolation::bicubic);
  set_thread_count(3);
  const Image three = resize(image, 123, 456, Interpolation::bicubic);
  set_thread_count(before);
  CHECK(one.pixels == three.pixels);
}

TEST_CASE("broken images are refused by name, wherever they end") {
  const Scratch scratch;
  write_bytes(scratch / "text.jpg", "not an image");
  CHECK_THROWS_WITH(read_image(scratch / "text.jpg"),
                    Catch::Contains("text.jpg") && Catch::Contains("not a JPEG, PNG or BMP"));
  CHECK_THROWS_AS(read_image(scratch / "missing.png"), Error);
  if (!run_python(COMPRESS_SOURCE_DIR "/tests/formats/make_data.py", scratch.path())) return;
  for (const char* name : {"progressive.jpg", "444.jpg", "rgba.png", "palette_4.png", "rgb.bmp"}) {
    const std::string whole = read_all(scratch / name);
    for (size_t size = 0; size + 16 < whole.size(); size += 1 + whole.size() / 97) {
      write_bytes(scratch / "cut", std::string_view(whole).substr(0, size));
      INFO(name << " cut to " << size << " of " << whole.size());
      CHECK_THROWS_AS(read_image(scratch / "cut"), Error);
    }
    // A changed byte may or may not matter, but never crashes.
    for (size_t at = 2; at < whole.size(); at += 1 + whole.size() / 301) {
      std::string damaged = whole;
      damaged[at] = static_cast<char>(damaged[at] ^ 0x5A);
      write_bytes(scratch / "damaged", damaged);
      try {
        read_image(scratch / "damaged");
      } catch (const Error& error) {
        CHECK(error.code() != ErrorCode::internal);
      }
    }
  }
}

}  // namespace compress
