// One function a format; image.cpp chooses by the first bytes. All give RGB and fail
// (invalid_model) on broken data.
#pragma once

#include <cstddef>
#include <span>

#include "formats/image.h"

namespace compress {

// More pixels than any camera delivers: a small file that claims them is a bomb.
inline constexpr int64_t kMaxPixels = 100'000'000;

// An RGB image of that size, uninitialized; fails (invalid_model) on absurd sizes.
Image rgb_image(int64_t width, int64_t height);

Image decode_jpeg(std::span<const std::byte> file);
Image decode_png(std::span<const std::byte> file);
Image decode_bmp(std::span<const std::byte> file);

}  // namespace compress
