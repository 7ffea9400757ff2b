#include "compress/kernels/float_rows/conv_f32_ref.h"

#include <algorithm>

#include "compress/core/parallel.h"

namespace compress::kernels {
namespace {

// One output: image, row, column, channel.
double sum_at(const ConvF32Params& p, const float* input, const float* weights, int64_t image,
              int64_t oh, int64_t ow, int64_t channel) noexcept {
  const int64_t inside = p.in_channels / p.groups;
  const int64_t group = channel / (p.out_channels / p.groups);
  double sum = 0;
  for (int64_t ky = 0; ky < p.kernel_h; ++ky) {
    const int64_t y = oh * p.stride_h - p.pad_top + ky * p.dilation_h;
    if (y < 0 || y >= p.in_h) continue;
    for (int64_t kx = 0; kx < p.kernel_w; ++kx) {
      const int64_t x = ow * p.stride_w - p.pad_left + kx * p.dilation_w;
      if (x < 0 || x >= p.in_w) continue;
      const float* from = input + ((image * p.in_h + y) * p.in_w + x) * p.in_channels;
      for (int64_t c = 0; c < inside; ++c) {
        const int64_t w = ((channel * inside + c) * p.kernel_h + ky) * p.kernel_w + kx;
        sum += static_cast<double>(from[group * inside + c]) * static_cast<double>(weights[w]);
      }
    }
  }
  return sum;
}

}  // namespace

void conv_f32_ref(const ConvF32Params& p, const float* input, const float* weights,
                  const float* bias, const float* residual, float* out) noexcept {
  const int64_t height = p.out_h(), width = p.out_w();
  parallel_for(0, p.batch * height * width, 1, [&](int64_t begin, int64_t end) {
    for (int64_t pixel = begin; pixel < end; ++pixel) {
      for (int64_t c = 0; c < p.out_channels; ++c) {
        double y = sum_at(p, input, weights, pixel / (height * width), pixel / width % height,
                          pixel % width, c);
        const int64_t at = pixel * p.out_channels + c;
        if (bias != nullptr) y += static_cast<double>(bias[c]);
        if (residual != nullptr) y += static_cast<double>(residual[at]);
        const auto value = static_cast<float>(y);
        out[at] = std::min(std::max(value, p.clamp.lo), p.clamp.hi);
      }
    }
  });
}

}  // namespace compress::kernels
