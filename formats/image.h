// JPEG, PNG and BMP decoding, and the resampling that Pillow does.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace compress {

// 8-bit interleaved pixels: height x width x channels (1 or 3).
struct Image {
  int width = 0;
  int height = 0;
  int channels = 3;
  std::vector<uint8_t> pixels;
};

// JPEG, PNG or BMP, recognised by its bytes; converted to RGB as Pillow's convert("RGB") does
// (palette, grey, 16-bit; alpha dropped; CMYK), EXIF ignored. Fails (invalid_model) on more than
// 100 Mpixel or broken data, naming the file.
Image read_image(const std::string& path);

enum class Interpolation { nearest, bilinear, bicubic };

// Pillow's antialiased convolution resampling (support scaled by the ratio, 8-bit fixed-point
// coefficients, horizontal pass first): within one level of 255 of Pillow. (Pillow 13 takes the
// vertical pass first where that is cheaper; in images the two orders differ by one level at most.)
Image resize(const Image& image, int width, int height, Interpolation interpolation);
// Short side to `size`, long side round(long * size / short).
Image resize_short_side(const Image& image, int size, Interpolation interpolation);
// The smallest size in the image's proportions that covers width x height.
Image resize_to_cover(const Image& image, int width, int height, Interpolation interpolation);
// Offset floor((size - crop) / 2); pads with zeros where the image is smaller.
Image center_crop(const Image& image, int width, int height);

}  // namespace compress
