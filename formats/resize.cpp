// Resampling by convolution as Pillow does it: the filter is widened by the ratio when shrinking
// (antialiasing), weights are normalized in double and rounded to fixed point, rows come first and
// are rounded to bytes before columns.
#include <algorithm>
#include <cmath>
#include <vector>

#include "compress/core/parallel.h"
#include "compress/error.h"
#include "formats/image.h"
#include "formats/image_decode.h"

namespace compress {
namespace {

// 32 bits less 8 of the pixel and 2 for what bicubic weights overshoot.
constexpr int kPrecision = 22;

double triangle(double x) {
  x = std::abs(x);
  return x < 1 ? 1 - x : 0;
}

// Keys' cubic with a = -0.5.
double cubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

struct Filter {
  double (*weight)(double);
  double support;
};

// The source pixels that one output pixel takes, and how much of each.
struct Taps {
  int first = 0;
  int count = 0;
  size_t weights_at = 0;
};
struct Coefficients {
  std::vector<Taps> taps;
  std::vector<int32_t> weights;
};

Coefficients coefficients(int in, int out, const Filter& filter) {
  const double scale = static_cast<double>(in) / out;
  const double filter_scale = std::max(scale, 1.0);
  const double support = filter.support * filter_scale;
  Coefficients result;
  std::vector<double> weights;
  for (int x = 0; x < out; ++x) {
    const double centre = (x + 0.5) * scale;
    Taps taps;
    taps.first = std::max(0, static_cast<int>(centre - support + 0.5));
    taps.count = std::min(in, static_cast<int>(centre + support + 0.5)) - taps.first;
    taps.weights_at = result.weights.size();
    weights.clear();
    double sum = 0;
    for (int i = 0; i < taps.count; ++i) {
      weights.push_back(filter.weight((i + taps.first - centre + 0.5) / filter_scale));
      sum += weights.back();
    }
    for (const double weight : weights) {
      const double fixed = (sum != 0 ? weight / sum : weight) * (1 << kPrecision);
      result.weights.push_back(static_cast<int32_t>(fixed < 0 ? fixed - 0.5 : fixed + 0.5));
    }
    result.taps.push_back(taps);
  }
  return result;
}

uint8_t to_byte(int32_t sum) { return static_cast<uint8_t>(std::clamp(sum >> kPrecision, 0, 255)); }

constexpr int32_t kHalf = 1 << (kPrecision - 1);

Image resize_rows(const Image& image, int width, const Filter& filter) {
  Image out = rgb_image(width, image.height);  // first: it refuses absurd sizes
  const Coefficients c = coefficients(image.width, width, filter);
  parallel_for(0, image.height, 16, [&](int64_t begin, int64_t end) {
    for (int64_t y = begin; y < end; ++y) {
      const uint8_t* row = image.pixels.data() + y * image.width * 3;
      uint8_t* to = out.pixels.data() + y * width * 3;
      for (const Taps& taps : c.taps) {
        const int32_t* weights = c.weights.data() + taps.weights_at;
        const uint8_t* from = row + int64_t{taps.first} * 3;
        int32_t red = kHalf, green = kHalf, blue = kHalf;
        for (int i = 0; i < taps.count; ++i, from += 3) {
          red += from[0] * weights[i];
          green += from[1] * weights[i];
          blue += from[2] * weights[i];
        }
        to[0] = to_byte(red), to[1] = to_byte(green), to[2] = to_byte(blue);
        to += 3;
      }
    }
  });
  return out;
}

Image resize_columns(const Image& image, int height, const Filter& filter) {
  Image out = rgb_image(image.width, height);
  const Coefficients c = coefficients(image.height, height, filter);
  const int64_t row_bytes = int64_t{image.width} * 3;
  parallel_for(0, height, 16, [&](int64_t begin, int64_t end) {
    std::vector<int32_t> sums(static_cast<size_t>(row_bytes));
    for (int64_t y = begin; y < end; ++y) {
      const Taps& taps = c.taps[static_cast<size_t>(y)];
      std::fill(sums.begin(), sums.end(), kHalf);
      for (int i = 0; i < taps.count; ++i) {
        const int32_t weight = c.weights[taps.weights_at + static_cast<size_t>(i)];
        const uint8_t* from = image.pixels.data() + (taps.first + i) * row_bytes;
        for (int64_t x = 0; x < row_bytes; ++x) sums[static_cast<size_t>(x)] += from[x] * weight;
      }
      uint8_t* to = out.pixels.data() + y * row_bytes;
      for (int64_t x = 0; x < row_bytes; ++x) to[x] = to_byte(sums[static_cast<size_t>(x)]);
    }
  });
  return out;
}

Image resize_nearest(const Image& image, int width, int height) {
  Image out = rgb_image(width, height);
  const double step_x = static_cast<double>(image.width) / width;
  const double step_y = static_cast<double>(image.height) / height;
  uint8_t* to = out.pixels.data();
  for (int y = 0; y < height; ++y) {
    const int from_y = std::min(image.height - 1, static_cast<int>((y + 0.5) * step_y));
    for (int x = 0; x < width; ++x, to += 3) {
      const int from_x = std::min(image.width - 1, static_cast<int>((x + 0.5) * step_x));
      const uint8_t* from =
          image.pixels.data() + (int64_t{from_y} * image.width + from_x) * image.channels;
      std::copy(from, from + 3, to);
    }
  }
  return out;
}

}  // namespace

Image resize(const Image& image, int width, int height, Interpolation interpolation) {
  if (width <= 0 || height <= 0) {
    fail(ErrorCode::usage, "an image cannot be resized to {} x {}", width, height);
  }
  if (interpolation == Interpolation::nearest) return resize_nearest(image, width, height);
  const Filter filter =
      interpolation == Interpolation::bicubic ? Filter{cubic, 2.0} : Filter{triangle, 1.0};
  if (width != image.width && height != image.height) {
    return resize_columns(resize_rows(image, width, filter), height, filter);
  }
  if (width != image.width) return resize_rows(image, width, filter);
  if (height != image.height) return resize_columns(image, height, filter);
  return image;
}

Image resize_short_side(const Image& image, int size, Interpolation interpolation) {
  const int shorter = std::min(image.width, image.height);
  const auto other = [&](int side) {
    return static_cast<int>(
        std::clamp<double>(std::round(static_cast<double>(side) * size / shorter), 1, 1 << 30));
  };
  return image.width <= image.height ? resize(image, size, other(image.height), interpolation)
                                     : resize(image, other(image.width), size, interpolation);
}

Image resize_to_cover(const Image& image, int width, int height, Interpolation interpolation) {
  const double scale = std::max(static_cast<double>(width) / image.width,
                                static_cast<double>(height) / image.height);
  const auto side = [&](int from, int least) {
    return static_cast<int>(std::clamp<double>(std::round(from * scale), least, 1 << 30));
  };
  return resize(image, side(image.width, width), side(image.height, height), interpolation);
}

}  // namespace compress
