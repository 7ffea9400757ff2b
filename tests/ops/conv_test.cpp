// The order in which a float convolution adds up, against one output at a time.
#include "compress/ops/conv_loops.h"

#include <catch2/catch.hpp>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

namespace compress {
namespace {

ConvShape square(int64_t channels, int64_t out_channels, int64_t groups, int64_t size,
                 int64_t kernel, int64_t stride) {
  ConvShape shape;
  shape.batch = 2;
  shape.groups = groups;
  shape.group_in = channels / groups;
  shape.group_out = out_channels / groups;
  Window& w = shape.window;
  w.spatial = 2;
  w.in = {1, size, size};
  w.kernel = {1, kernel, kernel};
  w.stride = {1, stride, stride};
  w.pad_begin = w.pad_end = {0, kernel / 2, kernel / 2};
  const int64_t out = (size + 2 * (kernel / 2) - kernel) / stride + 1;
  w.out = {1, out, out};
  return shape;
}

// The taps of one output, zeros where the window is in the padding, then their sum in order.
float one_output(const ConvShape& s, const float* x, const float* w, float bias, int64_t oh,
                 int64_t ow) {
  const Window& win = s.window;
  const int64_t taps = s.group_in * Window::product(win.kernel);
  const auto order = conv_loops::float_sum_order(taps, Window::product(win.out), s.group_out);
  float total = 0, sum = 0;
  int64_t tap = 0;
  for (int64_t c = 0; c < s.group_in; ++c) {
    for (int64_t kh = 0; kh < win.kernel[1]; ++kh) {
      for (int64_t kw = 0; kw < win.kernel[2]; ++kw, ++tap) {
        const int64_t ih = oh * win.stride[1] + win.offset(1, kh);
        const int64_t iw = ow * win.stride[2] + win.offset(2, kw);
        const bool inside = ih >= 0 && ih < win.in[1] && iw >= 0 && iw < win.in[2];
        const float value = inside ? x[(c * win.in[1] + ih) * win.in[2] + iw] : 0.0f;
        const float product = w[tap] * value;
        sum = order.fused ? std::fma(w[tap], value, sum) : sum + product;
        if ((tap + 1) % order.block == 0 || tap + 1 == taps) {
          total += sum;
          sum = 0;
        }
      }
    }
  }
  return total + bias;
}

}  // namespace

TEST_CASE("a float convolution adds in blocks, fused, and the bias last") {
  struct Case {
    int64_t channels, out_channels, groups, size, kernel, stride;
  };
  for (const Case& c : {Case{3, 6, 1, 17, 3, 2}, Case{40, 5, 1, 13, 3, 1}, Case{300, 4, 1, 5, 1, 1},
                        Case{144, 7, 1, 12, 1, 1}, Case{6, 6, 6, 15, 3, 1}, Case{4, 4, 4, 11, 5, 2},
                        Case{8, 12, 2, 9, 3, 1}, Case{64, 9, 1, 2, 3, 1}}) {
    CAPTURE(c.channels, c.groups, c.size, c.kernel, c.stride);
    const ConvShape s = square(c.channels, c.out_channels, c.groups, c.size, c.kernel, c.stride);
    const int64_t in = c.size * c.size, out = Window::product(s.window.out);
    const int64_t filter = s.group_in * c.kernel * c.kernel;
    std::mt19937 engine(11);
    std::normal_distribution<float> normal;
    const auto random = [&](int64_t count) {
      std::vector<float> values(static_cast<size_t>(count));
      for (float& value : values) value = normal(engine);
      return values;
    };
    const std::vector<float> x = random(s.batch * c.channels * in);
    const std::vector<float> w = random(c.out_channels * filter);
    const std::vector<float> bias = random(c.out_channels);
    std::vector<float> y(static_cast<size_t>(s.batch * c.out_channels * out));
    conv_forward<float>(s, x.data(), w.data(), bias.data(), y.data());
    size_t at = 0;
    for (int64_t n = 0; n < s.batch; ++n) {
      for (int64_t m = 0; m < c.out_channels; ++m) {
        const int64_t group = m / s.group_out;
        const float* input = x.data() + (n * c.channels + group * s.group_in) * in;
        for (int64_t oh = 0; oh < s.window.out[1]; ++oh) {
          for (int64_t ow = 0; ow < s.window.out[2]; ++ow, ++at) {
            REQUIRE(y[at] == one_output(s, input, w.data() + m * filter,
                                        bias[static_cast<size_t>(m)], oh, ow));
          }
        }
      }
    }
  }
}

TEST_CASE("few pixels make longer blocks") {
  CHECK(conv_loops::float_sum_order(576, 64, 8).block == 256);
  CHECK(conv_loops::float_sum_order(576, 128, 8).block == 128);
  CHECK(conv_loops::float_sum_order(576, 4, 8).block == 1024);
  CHECK(conv_loops::float_sum_order(9, 4, 1).block == 4);
}

}  // namespace compress
