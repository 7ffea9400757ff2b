#include "compress/kernels/elementwise_s8/elementwise_s8.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

#include "tests/kernels/kernel_test_util.h"

namespace compress::kernels {
namespace {

using testing::byte_value;
using testing::Random;

std::vector<const ElementwiseS8Kernel*> variants() {
  std::vector<const ElementwiseS8Kernel*> out;
  for (const ElementwiseS8Kernel* kernel : elementwise_s8_kernels()) {
    if (runs_here(kernel->isa)) out.push_back(kernel);
  }
  return out;
}

S8Params random_params(Random& random) {
  S8Params params;
  params.is_signed = random.integer(0, 1) == 1;
  params.scale = random.real(0.001f, 0.1f);
  params.zero_point = static_cast<int32_t>(random.integer(0, 255)) - (params.is_signed ? 128 : 0);
  return params;
}

// saturate(rint(value) + zero_point)
int32_t saturate(float value, const S8Params& params, int32_t lo, int32_t hi) {
  const double sum = std::nearbyint(double{value}) + params.zero_point;
  return static_cast<int32_t>(std::min<double>(std::max<double>(sum, lo), hi));
}
int32_t saturate(float value, const S8Params& params) {
  return params.is_signed ? saturate(value, params, -128, 127) : saturate(value, params, 0, 255);
}

const int64_t kSizes[] = {0, 1, 7, 15, 16, 17, 31, 33, 100, 40000, 70001};

TEST_CASE("quantize_s8 divides, rounds half to even and saturates") {
  Random random(1);
  for (const int64_t size : kSizes) {
    const S8Params params = random_params(random);
    auto x = random.floats(size, -30 * params.scale, 300 * params.scale);
    for (int64_t i = 0; i < size; i += 3) {  // halves, exactly
      x[i] = (static_cast<float>(random.integer(-140, 280)) + 0.5f) * params.scale;
    }
    if (size > 30) x[3] = 1e30f, x[20] = -std::numeric_limits<float>::infinity();
    for (const ElementwiseS8Kernel* kernel : variants()) {
      CAPTURE(kernel->name, size);
      std::vector<uint8_t> out(static_cast<size_t>(size) + 1, 99);
      quantize_s8(x.data(), size, params, out.data(), *kernel);
      for (int64_t i = 0; i < size; ++i) {
        REQUIRE(byte_value(out[i], params.is_signed) == saturate(x[i] / params.scale, params));
      }
      CHECK(out.back() == 99);
    }
  }
}

TEST_CASE("quantize_s8: a product with the reciprocal would be wrong") {
  // 0.7 / 0.1f is 7 in float, 0.35f / 0.1f is 3.5 and rounds to 4; 1 / 0.1f loses that.
  const S8Params params{0.1f, 0, false};
  const float x[] = {0.25f, 0.35f, 0.45f, 0.55f, 0.65f, 0.75f, 0.85f, 0.95f, 2.05f};
  for (const ElementwiseS8Kernel* kernel : variants()) {
    uint8_t out[9];
    quantize_s8(x, 9, params, out, *kernel);
    for (int i = 0; i < 9; ++i) CHECK(out[i] == std::nearbyint(x[i] / 0.1f));
  }
}

TEST_CASE("quantize_s8: NaN is the lowest value on every instruction set") {
  const float x[] = {std::nanf(""), 1.0f};
  for (const ElementwiseS8Kernel* kernel : variants()) {
    uint8_t out[2];
    quantize_s8(x, 2, {1.0f, 5, false}, out, *kernel);
    CHECK(out[0] == 0);
    CHECK(out[1] == 6);
  }
}

TEST_CASE("dequantize_s8") {
  Random random(2);
  for (const int64_t size : kSizes) {
    const S8Params params = random_params(random);
    const auto x = random.bytes(size);
    for (const ElementwiseS8Kernel* kernel : variants()) {
      CAPTURE(kernel->name, size);
      std::vector<float> out(static_cast<size_t>(size) + 1, 99);
      dequantize_s8(x.data(), size, params, out.data(), *kernel);
      for (int64_t i = 0; i < size; ++i) {
        const int32_t centred = byte_value(x[i], params.is_signed) - params.zero_point;
        REQUIRE(out[i] == static_cast<float>(centred) * params.scale);
      }
      CHECK(out.back() == 99);
    }
  }
}

TEST_CASE("add and mul of integers") {
  Random random(3);
  for (const int64_t size : kSizes) {
    const S8Params a = random_params(random), b = random_params(random), y = random_params(random);
    const auto left = random.bytes(size), right = random.bytes(size);
    const int32_t lo = std::max(y.zero_point - 5, y.is_signed ? -128 : 0);
    const int32_t hi = y.is_signed ? 127 : 255;
    const float ma = static_cast<float>(double{a.scale} / y.scale);
    const float mb = static_cast<float>(double{b.scale} / y.scale);
    const float m = static_cast<float>(double{a.scale} * b.scale / y.scale);
    for (const ElementwiseS8Kernel* kernel : variants()) {
      CAPTURE(kernel->name, size);
      std::vector<uint8_t> sum(static_cast<size_t>(size) + 1, 99), product = sum;
      kernel->add(left.data(), right.data(), size, add_params(a, b, y, lo, hi), sum.data());
      kernel->mul(left.data(), right.data(), size, mul_params(a, b, y, lo, hi), product.data());
      for (int64_t i = 0; i < size; ++i) {
        const int32_t first = byte_value(left[i], a.is_signed) - a.zero_point;
        const int32_t second = byte_value(right[i], b.is_signed) - b.zero_point;
        const float added = static_cast<float>(first) * ma + static_cast<float>(second) * mb;
        REQUIRE(byte_value(sum[i], y.is_signed) == saturate(added, y, lo, hi));
        const float multiplied = static_cast<float>(first * second) * m;
        REQUIRE(byte_value(product[i], y.is_signed) == saturate(multiplied, y, lo, hi));
      }
      CHECK(sum.back() == 99);
      CHECK(product.back() == 99);
    }
  }
}

TEST_CASE("every table gives the same bytes in every kernel") {
  Random random(17);
  uint8_t table[256];
  for (uint8_t& entry : table) entry = static_cast<uint8_t>(random.integer(0, 255));
  std::vector<uint8_t> x(3 * 256 + 29), y(x.size());
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<uint8_t>(i);
  for (const ElementwiseS8Kernel* kernel : elementwise_s8_kernels()) {
    if (!runs_here(kernel->isa)) continue;
    lookup_s8(x.data(), static_cast<int64_t>(x.size()), table, y.data(), *kernel);
    for (size_t i = 0; i < x.size(); ++i) REQUIRE(y[i] == table[x[i]]);
  }
}

TEST_CASE("lookup_s8 equals dequantize, function, quantize") {
  Random random(4);
  const S8Params in = random_params(random), out = random_params(random);
  const auto sigmoid = [](float v) { return 1.0f / (1.0f + std::exp(-v)); };
  uint8_t table[256], bytes[256], mapped[256];
  make_lookup_s8(in, out, sigmoid, table);
  for (int i = 0; i < 256; ++i) bytes[i] = static_cast<uint8_t>(255 - i);
  lookup_s8(bytes, 256, table, mapped);
  for (int i = 0; i < 256; ++i) {
    const float value =
        static_cast<float>(byte_value(bytes[i], in.is_signed) - in.zero_point) * in.scale;
    CHECK(byte_value(mapped[i], out.is_signed) == saturate(sigmoid(value) / out.scale, out));
  }
}

// Every pixel of a window, the slow way.
template <class Visit>
int64_t visit_window(const PoolS8& p, int64_t oh, int64_t ow, int64_t padded_h, int64_t padded_w,
                     const Visit& visit) {
  int64_t with_padding = 0;
  for (int64_t ky = 0; ky < p.kernel_h; ++ky) {
    for (int64_t kx = 0; kx < p.kernel_w; ++kx) {
      const int64_t y = oh * p.stride_h + ky * p.dilation_h;
      const int64_t x = ow * p.stride_w + kx * p.dilation_w;
      with_padding += y < padded_h && x < padded_w;
      const int64_t in_y = y - p.pad_top, in_x = x - p.pad_left;
      if (in_y >= 0 && in_y < p.in_h && in_x >= 0 && in_x < p.in_w) visit(in_y, in_x);
    }
  }
  return with_padding;
}

TEST_CASE("pools") {
  Random random(5);
  const int64_t channels[] = {1, 3, 15, 16, 17, 31, 32, 33, 67};
  for (int round = 0; round < 150; ++round) {
    PoolS8 p;
    p.batch = random.integer(1, 2);
    p.channels = channels[round % 9];
    p.kernel_h = random.integer(1, 4), p.kernel_w = random.integer(1, 4);
    p.stride_h = random.integer(1, 3), p.stride_w = random.integer(1, 3);
    p.dilation_h = random.integer(1, 2), p.dilation_w = random.integer(1, 2);
    p.pad_top = random.integer(0, p.kernel_h - 1), p.pad_left = random.integer(0, p.kernel_w - 1);
    p.in_h = p.dilation_h * (p.kernel_h - 1) + random.integer(1, 6);
    p.in_w = p.dilation_w * (p.kernel_w - 1) + random.integer(1, 6);
    const int64_t padded_h = p.in_h + p.pad_top + random.integer(0, p.kernel_h - 1);
    const int64_t padded_w = p.in_w + p.pad_left + random.integer(0, p.kernel_w - 1);
    const int64_t ceil_h = random.integer(0, 1), ceil_w = random.integer(0, 1);
    const auto out_size = [](int64_t room, int64_t stride, int64_t up) {
      return (room + (up ? stride - 1 : 0)) / stride + 1;
    };
    p.out_h = out_size(padded_h - p.dilation_h * (p.kernel_h - 1) - 1, p.stride_h, ceil_h);
    p.out_w = out_size(padded_w - p.dilation_w * (p.kernel_w - 1) - 1, p.stride_w, ceil_w);
    const bool include_pad = random.integer(0, 1) == 1;
    const S8Params in = random_params(random);
    S8Params out = random_params(random);
    const auto x = random.bytes(p.batch * p.in_h * p.in_w * p.channels);
    CAPTURE(p.channels, p.kernel_h, p.kernel_w, p.stride_h, p.stride_w, p.in_h, p.in_w, p.pad_top,
            p.pad_left, include_pad, padded_h, padded_w);
    for (const ElementwiseS8Kernel* kernel : variants()) {
      CAPTURE(kernel->name);
      std::vector<uint8_t> average(static_cast<size_t>(p.batch * p.out_h * p.out_w * p.channels));
      std::vector<uint8_t> maximum = average;
      average_pool_s8(x.data(), in, p, include_pad, padded_h, padded_w, out, average.data(),
                      *kernel);
      max_pool_s8(x.data(), in.is_signed, p, maximum.data(), *kernel);
      for (int64_t i = 0; i < static_cast<int64_t>(average.size()); ++i) {
        const int64_t c = i % p.channels, ow = i / p.channels % p.out_w;
        const int64_t oh = i / p.channels / p.out_w % p.out_h;
        const int64_t n = i / p.channels / p.out_w / p.out_h;
        int32_t sum = 0, best = in.is_signed ? -128 : 0;
        int64_t valid = 0;
        const int64_t with_padding =
            visit_window(p, oh, ow, padded_h, padded_w, [&](int64_t y, int64_t column) {
              const int32_t value = byte_value(
                  x[((n * p.in_h + y) * p.in_w + column) * p.channels + c], in.is_signed);
              sum += value - in.zero_point;
              best = std::max(best, value);
              ++valid;
            });
        const int64_t count = std::max<int64_t>(1, include_pad ? with_padding : valid);
        const float m =
            static_cast<float>(double{in.scale} / out.scale / static_cast<double>(count));
        CAPTURE(i, oh, ow);
        REQUIRE(byte_value(average[i], out.is_signed) ==
                saturate(static_cast<float>(sum) * m, out));
        REQUIRE(byte_value(maximum[i], in.is_signed) == best);
      }
    }
  }
}

}  // namespace
}  // namespace compress::kernels
