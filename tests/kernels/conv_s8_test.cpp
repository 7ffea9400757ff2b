#include "compress/kernels/conv_s8/conv_s8.h"

#include <catch2/catch.hpp>
#include <cmath>

#include "compress/core/parallel.h"
#include "tests/kernels/kernel_test_util.h"

namespace compress::kernels {
extern const GemmS8Kernel kGemmS8Avx512VnniEmulated;
extern const DepthwiseS8Kernel kDepthwiseS8Avx512VnniEmulated;

namespace {

using testing::byte_value;
using testing::Random;
using testing::Workspace;

struct Variant {
  const GemmS8Kernel* gemm;
  const DepthwiseS8Kernel* depthwise;
};

std::vector<Variant> variants() {
  std::vector<Variant> out;
  for (size_t i = 0; i < gemm_s8_kernels().size(); ++i) {
    const Variant variant{gemm_s8_kernels()[i], depthwise_s8_kernels()[i]};
    REQUIRE(variant.gemm->isa == variant.depthwise->isa);
    if (!runs_here(variant.gemm->isa)) continue;
    out.push_back(variant);
    if (variant.gemm->of_entries != nullptr)
      out.push_back({variant.gemm->of_entries, variant.depthwise});
  }
  out.push_back({&kGemmS8Avx512VnniEmulated, &kDepthwiseS8Avx512VnniEmulated});
  return out;
}

struct Problem {
  ConvS8Params p;
  int64_t batch, in_h, in_w;
  bool x_signed, w_signed;
  int w_zero_points;  // 0 none, 1 one for all, 2 one a channel
  int32_t x_zero = 0;
  std::vector<uint8_t> x, w, w_zero;
  std::vector<int32_t> bias;
  std::vector<float> scale;

  void fill(Random& random) {
    x = random.bytes(batch * in_h * in_w * p.in_channels);
    w = random.bytes(p.out_channels * (p.in_channels / p.groups) * p.kernel_h * p.kernel_w);
    w_zero = random.bytes(p.out_channels);
    x_zero = byte_value(random.bytes(1)[0], x_signed);
    bias = random.integers(p.out_channels, -100000, 100000);
    scale = random.floats(p.out_channels, 1e-5f, 3e-3f);
  }

  int64_t pixels() const { return batch * p.out_h(in_h) * p.out_w(in_w); }

  int64_t exact(int64_t pixel, int64_t o) const {
    const int64_t ow = pixel % p.out_w(in_w), oh = pixel / p.out_w(in_w) % p.out_h(in_h);
    const int64_t n = pixel / p.out_w(in_w) / p.out_h(in_h);
    const int64_t channels = p.in_channels / p.groups;
    const int64_t first = o / (p.out_channels / p.groups) * channels;
    const int32_t zero =
        w_zero_points == 0 ? 0 : byte_value(w_zero[w_zero_points == 2 ? o : 0], w_signed);
    int64_t sum = bias[o];
    for (int64_t ky = 0; ky < p.kernel_h; ++ky) {
      for (int64_t kx = 0; kx < p.kernel_w; ++kx) {
        const int64_t y = oh * p.stride_h - p.pad_top + ky * p.dilation_h;
        const int64_t column = ow * p.stride_w - p.pad_left + kx * p.dilation_w;
        if (y < 0 || y >= in_h || column < 0 || column >= in_w) continue;
        for (int64_t c = 0; c < channels; ++c) {
          const uint8_t value = x[((n * in_h + y) * in_w + column) * p.in_channels + first + c];
          const uint8_t weight = w[((o * channels + c) * p.kernel_h + ky) * p.kernel_w + kx];
          sum +=
              int64_t{byte_value(value, x_signed) - x_zero} * (byte_value(weight, w_signed) - zero);
        }
      }
    }
    return sum;
  }
};

template <class T>
std::vector<T> run(const Problem& problem, const PackedConvS8& packed, const S8Epilogue& epilogue) {
  std::vector<T> out(static_cast<size_t>(problem.pixels() * problem.p.out_channels));
  Workspace workspace(conv_s8_workspace_bytes(packed, problem.batch, problem.in_h, problem.in_w));
  conv_s8(packed, {problem.batch, problem.in_h, problem.in_w, problem.x.data(), problem.x_signed,
                   problem.x_zero, out.data(), epilogue, workspace.get()});
  CHECK(workspace.intact());
  return out;
}

void check(const Problem& problem, bool output_signed) {
  const ConvS8Params& p = problem.p;
  CAPTURE(p.in_channels, p.out_channels, p.groups, p.kernel_h, p.kernel_w, p.stride_h, p.stride_w,
          p.dilation_h, p.dilation_w, p.pad_top, p.pad_left, p.pad_bottom, p.pad_right,
          problem.batch, problem.in_h, problem.in_w, problem.x_signed, problem.w_signed,
          problem.w_zero_points);
  S8Epilogue raw, quantized, floating;
  raw.bias = quantized.bias = floating.bias = problem.bias.data();
  quantized.scale = floating.scale = problem.scale.data();
  raw.output = S8Output::int32;
  floating.output = S8Output::float32;
  quantized.is_signed = output_signed;
  quantized.lo = output_signed ? -128 : 0;
  quantized.hi = quantized.lo + 255;
  quantized.zero_point = quantized.lo + 17;
  ConvS8Weights weights{problem.w.data(), problem.w_signed};
  if (problem.w_zero_points > 0) weights.zero_point = problem.w_zero.data();
  weights.zero_point_per_channel = problem.w_zero_points == 2;

  for (const Variant& variant : variants()) {
    const PackedConvS8 packed = pack_conv_s8(p, weights, *variant.gemm, *variant.depthwise);
    CAPTURE(packed.name());
    const auto sums = run<int32_t>(problem, packed, raw);
    const auto bytes = run<uint8_t>(problem, packed, quantized);
    const auto floats = run<float>(problem, packed, floating);
    for (int64_t pixel = 0; pixel < problem.pixels(); ++pixel) {
      for (int64_t o = 0; o < p.out_channels; ++o) {
        CAPTURE(pixel, o);
        const int64_t at = pixel * p.out_channels + o, exact = problem.exact(pixel, o);
        REQUIRE(sums[at] == exact);
        const float scaled = static_cast<float>(exact) * problem.scale[o];
        REQUIRE(floats[at] == scaled);
        const double rounded = std::nearbyint(double{scaled}) + quantized.zero_point;
        REQUIRE(byte_value(bytes[at], output_signed) ==
                std::min<double>(std::max<double>(rounded, quantized.lo), quantized.hi));
      }
    }
  }
}

Problem random_problem(Random& random, int64_t channels, int64_t groups, int64_t outputs) {
  Problem problem;
  ConvS8Params& p = problem.p;
  p.in_channels = channels;
  p.out_channels = outputs;
  p.groups = groups;
  p.kernel_h = random.integer(1, 4);
  p.kernel_w = random.integer(1, 4);
  p.stride_h = random.integer(1, 3);
  p.stride_w = random.integer(1, 3);
  p.dilation_h = random.integer(1, 2);
  p.dilation_w = random.integer(1, 2);
  p.pad_top = random.integer(0, 3);
  p.pad_left = random.integer(0, 3);
  p.pad_bottom = random.integer(0, 3);
  p.pad_right = random.integer(0, 3);
  problem.batch = random.integer(1, 2);
  problem.in_h = p.dilation_h * (p.kernel_h - 1) + random.integer(1, 7);
  problem.in_w = p.dilation_w * (p.kernel_w - 1) + random.integer(1, 7);
  problem.x_signed = random.integer(0, 1) == 1;
  problem.w_signed = random.integer(0, 1) == 1;
  problem.w_zero_points = static_cast<int>(random.integer(0, 2));
  problem.fill(random);
  return problem;
}

TEST_CASE("conv_s8: every variant equals the definition") {
  Random random(21);
  const int64_t channels[] = {1, 2, 3, 4, 5, 8, 15, 16, 17};
  for (int i = 0; i < 120; ++i) {
    const int64_t in = channels[random.integer(0, 8)], out = channels[random.integer(0, 8)];
    check(random_problem(random, in, 1, out), i % 2 == 0);
  }
}

TEST_CASE("conv_s8: lines that are not copied with their padding") {
  Random random(24);
  for (const int64_t groups : {1, 2}) {
    for (int i = 0; i < 8; ++i) {
      Problem problem = random_problem(random, groups * random.integer(2, 9), groups, 4 * groups);
      problem.p.kernel_w = random.integer(2, 4);
      problem.p.pad_left = random.integer(1, 3);
      problem.batch = 1;
      problem.in_h = problem.p.dilation_h * (problem.p.kernel_h - 1) + 1;
      problem.in_w = 1024 / problem.p.in_channels + random.integer(1, 9);
      problem.fill(random);
      check(problem, i % 2 == 0);
    }
  }
}

TEST_CASE("conv_s8: groups") {
  Random random(22);
  for (int i = 0; i < 40; ++i) {
    const int64_t groups = random.integer(2, 4);
    check(random_problem(random, groups * random.integer(1, 5), groups,
                         groups * random.integer(1, 6)),
          i % 2 == 0);
  }
}

TEST_CASE("conv_s8: depthwise") {
  Random random(23);
  for (const int64_t channels : {2, 5, 15, 16, 17, 31, 32, 33, 47}) {
    for (int i = 0; i < 8; ++i) {
      Problem problem = random_problem(random, channels, channels, channels);
      if (i % 2 == 0) {  // the dedicated kernel: weights without a zero point, u8 ones around 128
        problem.w_zero_points = i % 4 == 0 ? 2 : 1;
        std::fill(problem.w_zero.begin(), problem.w_zero.end(), problem.w_signed ? 0 : 128);
        const ConvS8Weights weights{problem.w.data(), problem.w_signed, problem.w_zero.data(),
                                    problem.w_zero_points == 2};
        CHECK(pack_conv_s8(problem.p, weights).depthwise != nullptr);
      }
      check(problem, i % 4 == 1);
    }
  }
}

TEST_CASE("conv_s8: depthwise by whole lines") {
  Random random(26);
  for (const int64_t size : {3, 5}) {
    for (const int64_t stride : {1, 2}) {
      for (const int64_t channels : {2, 3, 8, 15, 16, 17, 40}) {
        for (int64_t i = 0; i < 8; ++i) {  // widths with every rest of the tiles
          Problem problem;
          problem.p = {channels, channels, channels, size, size, i % 3 + 1, stride, 1, 1};
          problem.p.pad_top = i % 3, problem.p.pad_bottom = random.integer(0, 3);
          problem.p.pad_left = random.integer(0, 3), problem.p.pad_right = random.integer(0, 3);
          problem.batch = 2, problem.in_h = size + 3, problem.in_w = size + (i + 1) * stride;
          problem.x_signed = i % 2 == 1, problem.w_signed = true, problem.w_zero_points = 0;
          problem.fill(random);
          if (i < 4) problem.x_zero = byte_value(i < 2 ? 0 : 255, problem.x_signed);
          if (i == 7) std::fill(problem.w.begin(), problem.w.end(), uint8_t{0x80});
          check(problem, i % 4 == 0);
          const DepthwiseS8Kernel& kernel = kDepthwiseS8Avx2;
          const ConvS8Weights weights{problem.w.data()};
          CHECK(pack_conv_s8(problem.p, weights, kGemmS8Avx2, kernel).line != nullptr);
        }
      }
    }
  }
  Problem narrow;  // an image narrower than its padding, and wider steps than a tile
  narrow.p = {20, 20, 20, 5, 5, 1, 1, 1, 1, 6, 6, 6, 6};
  narrow.batch = 1, narrow.in_h = 2, narrow.in_w = 1;
  narrow.x_signed = false, narrow.w_signed = true, narrow.w_zero_points = 0;
  narrow.fill(random);
  check(narrow, false);
}

TEST_CASE("conv_s8: usual layers") {
  Random random(24);
  Problem stem;
  stem.p = {3, 24, 1, 7, 7, 2, 2, 1, 1, 3, 3, 3, 3};
  stem.batch = 1, stem.in_h = 21, stem.in_w = 20;
  stem.x_signed = false, stem.w_signed = true, stem.w_zero_points = 0;
  stem.fill(random);
  check(stem, false);
  Problem body = stem;
  body.p = {64, 33, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1};
  body.in_h = body.in_w = 9;
  body.fill(random);
  check(body, false);
  Problem wide = body;  // a kernel wider than the image
  wide.p = {3, 5, 1, 3, 9, 1, 1, 1, 1, 1, 6, 1, 6};
  wide.in_h = 4, wide.in_w = 2;
  wide.fill(random);
  check(wide, true);
}

TEST_CASE("conv_s8: threads leave no trace") {
  const int before = thread_count();
  Random random(25);
  for (const int64_t groups : {1, 20}) {
    Problem problem;
    problem.p = {20, 20, groups, 5, 5, 1, 1, 1, 1, 2, 2, 2, 2};
    problem.batch = 2, problem.in_h = 13, problem.in_w = 40;
    problem.x_signed = false, problem.w_signed = true, problem.w_zero_points = 0;
    problem.fill(random);
    for (const int threads : {1, 2, 5}) {
      set_thread_count(threads);
      check(problem, false);
    }
  }
  set_thread_count(before);
}

}  // namespace
}  // namespace compress::kernels
