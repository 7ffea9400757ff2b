#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <string>

#include "compress/kernels/dnnl/dnnl_adapter.h"
#include "compress/kernels/isa.h"
#include "tests/kernels/kernel_test_util.h"

namespace compress::kernels {
namespace {

using testing::Random;
using testing::Workspace;

// A sum of `terms` products in any order is within (terms + 2) * 2^-24 * sum |products| of the
// exact one.
struct Exact {
  double sum = 0, magnitude = 0;
  void add(double a, double b) {
    sum += a * b;
    magnitude += std::abs(a * b);
  }
  double bound(int64_t terms) const { return static_cast<double>(terms + 2) * 0x1p-24 * magnitude; }
};

double clamped(double value, const ClampF32& clamp) {
  return std::min<double>(std::max<double>(value, clamp.lo), clamp.hi);
}

void check_conv(ConvF32Params p, bool with_bias, Random& random) {
  CAPTURE(p.in_channels, p.out_channels, p.groups, p.kernel_h, p.kernel_w, p.stride_h, p.stride_w,
          p.pad_top, p.pad_left, p.in_h, p.in_w, p.residual, with_bias, static_cast<int>(p.layout));
  const int64_t channels = p.in_channels / p.groups, taps = p.kernel_h * p.kernel_w;
  const auto x = random.floats(p.batch * p.in_h * p.in_w * p.in_channels, -1, 1);
  auto w = random.floats(p.out_channels * channels * taps, -1, 1);
  auto bias = random.floats(p.out_channels, -1, 1);
  const auto weights = w, offsets = bias;
  const int64_t out_size = p.batch * p.out_h() * p.out_w() * p.out_channels;
  const auto residual = random.floats(out_size, -1, 1);

  const auto conv = DnnlConvF32::make(p, w.data(), with_bias ? bias.data() : nullptr);
  REQUIRE(conv != nullptr);
  std::fill(w.begin(), w.end(), 1e9f);  // it kept its own copies
  std::fill(bias.begin(), bias.end(), 1e9f);
  CAPTURE(conv->implementation());
  Workspace workspace(conv->workspace_bytes());
  std::vector<float> out(static_cast<size_t>(out_size)), in_place = residual;
  conv->run(x.data(), p.residual ? residual.data() : nullptr, out.data(), workspace.get());
  CHECK(workspace.intact());
  if (p.residual) {
    conv->run(x.data(), in_place.data(), in_place.data(), workspace.get());
    CHECK(in_place == out);
  }

  const bool nhwc = p.layout == ConvF32Params::Layout::nhwc;
  const auto at = [&](int64_t n, int64_t y, int64_t column, int64_t c, int64_t h, int64_t width,
                      int64_t all) {
    return nhwc ? ((n * h + y) * width + column) * all + c
                : ((n * all + c) * h + y) * width + column;
  };
  for (int64_t n = 0; n < p.batch; ++n) {
    for (int64_t oh = 0; oh < p.out_h(); ++oh) {
      for (int64_t ow = 0; ow < p.out_w(); ++ow) {
        for (int64_t o = 0; o < p.out_channels; ++o) {
          Exact exact;
          const int64_t first = o / (p.out_channels / p.groups) * channels;
          for (int64_t i = 0; i < channels * taps; ++i) {
            const int64_t c = i / taps, ky = i % taps / p.kernel_w, kx = i % p.kernel_w;
            const int64_t y = oh * p.stride_h - p.pad_top + ky * p.dilation_h;
            const int64_t column = ow * p.stride_w - p.pad_left + kx * p.dilation_w;
            if (y < 0 || y >= p.in_h || column < 0 || column >= p.in_w) continue;
            exact.add(x[at(n, y, column, first + c, p.in_h, p.in_w, p.in_channels)],
                      weights[o * channels * taps + i]);
          }
          const int64_t to = at(n, oh, ow, o, p.out_h(), p.out_w(), p.out_channels);
          if (with_bias) exact.add(offsets[o], 1);
          if (p.residual) exact.add(residual[to], 1);
          REQUIRE(std::abs(out[to] - clamped(exact.sum, p.clamp)) <=
                  exact.bound(channels * taps + 2));
        }
      }
    }
  }
}

TEST_CASE("dnnl conv_f32 equals the definition") {
  Random random(31);
  const int64_t channels[] = {1, 3, 8, 16, 17};
  for (const auto layout : {ConvF32Params::Layout::nhwc, ConvF32Params::Layout::nchw}) {
    for (int i = 0; i < 30; ++i) {
      ConvF32Params p;
      p.layout = layout;
      p.groups = i % 4 == 3 ? random.integer(2, 3) : 1;
      p.in_channels = p.groups * channels[random.integer(0, 4)];
      p.out_channels = p.groups * channels[random.integer(0, 4)];
      if (i % 5 == 4) p.groups = p.out_channels = p.in_channels;  // depthwise
      p.batch = random.integer(1, 2);
      p.kernel_h = random.integer(1, 3), p.kernel_w = random.integer(1, 3);
      p.stride_h = random.integer(1, 2), p.stride_w = random.integer(1, 2);
      p.dilation_h = random.integer(1, 2);
      p.pad_top = random.integer(0, 1), p.pad_left = random.integer(0, 1);
      p.pad_bottom = random.integer(0, 1), p.pad_right = random.integer(0, 1);
      p.in_h = p.dilation_h * (p.kernel_h - 1) + random.integer(1, 6);
      p.in_w = p.kernel_w + random.integer(0, 6);
      p.residual = random.integer(0, 1) == 1;
      if (i % 3 == 0) p.clamp.lo = 0;
      if (i % 3 == 1) p.clamp = {-0.5f, 0.75f};
      check_conv(p, random.integer(0, 1) == 1, random);
    }
  }
}

TEST_CASE("dnnl conv_f32 where an output reads padding alone") {
  Random random(33);
  for (int i = 0; i < 48; ++i) {
    ConvF32Params p;
    p.layout = i % 2 == 0 ? ConvF32Params::Layout::nhwc : ConvF32Params::Layout::nchw;
    p.groups = i % 3 == 0 ? 2 : 1;
    p.in_channels = p.groups * (i % 8 < 4 ? 1 : 17);
    p.out_channels = p.groups * (i % 8 < 2 ? 17 : 8);
    p.kernel_w = random.integer(1, 2);
    p.stride_w = random.integer(1, 2);
    p.in_h = random.integer(2, 4), p.in_w = 3;
    (i % 4 < 2 ? p.pad_top : p.pad_bottom) = 1;
    if (i % 5 == 0) p.pad_left = 2;
    p.residual = i % 7 != 0;
    if (i % 6 == 0) p.clamp.lo = 0;
    check_conv(p, i % 11 != 0, random);
  }
}

// Also run with COMPRESS_ISA=ref, see CMakeLists.txt.
TEST_CASE("dnnl obeys COMPRESS_ISA") {
  ConvF32Params p;
  p.in_channels = p.out_channels = 16;
  p.kernel_h = p.kernel_w = 3;
  p.in_h = p.in_w = 9;
  const std::vector<float> weights(16 * 16 * 9, 1.0f);
  const auto conv = DnnlConvF32::make(p, weights.data(), nullptr);
  REQUIRE(conv != nullptr);
  const std::string name = conv->implementation();
  CAPTURE(name, isa_choice().name);
  if (active_isa() == Isa::ref) {
    CHECK(name.find("avx") == std::string::npos);
  } else {
    CHECK(name.find("avx") != std::string::npos);
  }
}

TEST_CASE("dnnl matmul_f32 equals the definition") {
  Random random(32);
  for (int i = 0; i < 60; ++i) {
    const int64_t m = random.integer(1, 20), k = random.integer(1, 40), n = random.integer(1, 20);
    const int64_t batch = random.integer(1, 3);
    const bool shared_b = i % 2 == 0, a_transposed = random.integer(0, 1) == 1;
    const bool b_transposed = random.integer(0, 1) == 1, constant = i % 3 == 0;
    const bool with_bias = i % 4 < 2;
    const int64_t b_batch = shared_b ? 1 : batch;
    MatMulF32Params p;
    p.a_dims = {batch, m, k};
    p.a_strides =
        a_transposed ? std::vector<int64_t>{m * k, 1, m} : std::vector<int64_t>{m * k, k, 1};
    p.b_dims = {b_batch, k, n};
    p.b_strides =
        b_transposed ? std::vector<int64_t>{k * n, 1, k} : std::vector<int64_t>{k * n, n, 1};
    p.alpha = i % 5 == 0 ? 0.25f : 1.0f;
    if (i % 7 == 0) p.clamp.lo = 0;
    CAPTURE(m, k, n, batch, shared_b, a_transposed, b_transposed, constant, p.alpha, with_bias);
    const auto a = random.floats(batch * m * k, -1, 1);
    const auto b = random.floats(b_batch * k * n, -1, 1);
    const auto bias = random.floats(n, -1, 1);
    const auto product =
        DnnlMatMulF32::make(p, constant ? b.data() : nullptr, with_bias ? bias.data() : nullptr);
    REQUIRE(product != nullptr);
    CAPTURE(product->implementation());
    CHECK(p.out_dims() == std::vector<int64_t>{batch, m, n});
    Workspace workspace(product->workspace_bytes());
    std::vector<float> out(static_cast<size_t>(batch * m * n));
    product->run(a.data(), constant ? nullptr : b.data(), out.data(), workspace.get());
    CHECK(workspace.intact());
    for (int64_t at = 0; at < batch * m * n; ++at) {
      const int64_t column = at % n, row = at / n % m, s = at / n / m;
      Exact exact;
      for (int64_t j = 0; j < k; ++j) {
        exact.add(p.alpha * a[s * m * k + row * p.a_strides[1] + j * p.a_strides[2]],
                  b[(shared_b ? 0 : s) * k * n + j * p.b_strides[1] + column * p.b_strides[2]]);
      }
      if (with_bias) exact.add(bias[column], 1);
      REQUIRE(std::abs(out[at] - clamped(exact.sum, p.clamp)) <= exact.bound(k + 2));
    }
  }
}

}  // namespace
}  // namespace compress::kernels
