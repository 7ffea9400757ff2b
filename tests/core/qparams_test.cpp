#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cfloat>
#include <cmath>
#include <limits>
#include <random>

#include "compress/core/parallel.h"
#include "compress/error.h"
#include "compress/quant/qparams.h"

using namespace compress;

TEST_CASE("rounding is half to even after a division") {
  const IntegerRange u8 = integer_range(DType::uint8, false);
  CHECK(quantize_value(0.5f, 1.0f, 0, u8) == 0);
  CHECK(quantize_value(1.5f, 1.0f, 0, u8) == 2);
  CHECK(quantize_value(2.5f, 1.0f, 3, u8) == 5);
  CHECK(quantize_value(-9.0f, 1.0f, 3, u8) == 0);
  CHECK(quantize_value(1e30f, 1e-3f, 3, u8) == 255);
  CHECK(quantize_value(std::numeric_limits<float>::infinity(), 1.0f, 3, u8) == 255);
  CHECK(quantize_value(std::nanf(""), 1.0f, 3, u8) == 3);
  // 0.1f * (1 / 0.2f) and 0.1f / 0.2f differ in general; the rule is the division.
  int differs = 0;
  for (int i = 1; i < 2000; ++i) {
    const float scale = static_cast<float>(i) * 0.001f;
    const float x = scale * 2.5f;
    differs += std::nearbyintf(x / scale) != std::nearbyintf(x * (1.0f / scale));
    CHECK(quantize_value(x, scale, 0, u8) == static_cast<int>(std::nearbyintf(x / scale)));
  }
  CHECK(differs > 0);
}

TEST_CASE("integer ranges") {
  CHECK(integer_range(DType::int8, true).min == -127);
  CHECK(integer_range(DType::int8, false).min == -128);
  CHECK(integer_range(DType::int4, true).min == -8);
  CHECK(integer_range(DType::int4, true).max == 7);
  CHECK(integer_range(DType::uint16, false).max == 65535);
  CHECK(integer_range(DType::uint8, false, true).max == 127);
  CHECK(integer_range(DType::int8, true, true).min == -64);
}

TEST_CASE("scales: zero is always representable, exactly") {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> draw(-10, 10);
  for (int i = 0; i < 1000; ++i) {
    const float a = draw(random);
    const float b = draw(random);
    const auto [scale, zero] = choose_scale(std::min(a, b), std::max(a, b), DType::uint8, false);
    const IntegerRange range = integer_range(DType::uint8, false);
    CHECK(scale > 0);
    CHECK(quantize_value(0.0f, scale, zero, range) == zero);
    CHECK(dequantize_value(zero, scale, zero) == 0.0f);
    // Ends are within half a step, plus half a step that rounding the zero point costs.
    for (const float end : {std::min(a, 0.0f), std::max(b, 0.0f)}) {
      const float back = dequantize_value(quantize_value(end, scale, zero, range), scale, zero);
      if (end == std::clamp(end, std::min(a, b), std::max(a, b))) {
        CHECK(std::fabs(back - end) <= scale * 1.001f);
      }
    }
  }
  CHECK(choose_scale(0, 0, DType::uint8, false).scale == 1.0f);
  CHECK(choose_scale(-1e-45, 0, DType::int8, true).scale == 1.0f);
  CHECK(choose_scale(-2, 1, DType::int8, true).scale == Approx(2.0 / 127));
  CHECK(choose_scale(-2, 1, DType::uint8, true).zero_point == 128);
}

TEST_CASE("the signed int4 scale makes the extreme exact") {
  const std::array<float, 3> positive{1.0f, 4.0f, -2.0f};
  const float scale = choose_signed_scale(positive, DType::int4);
  CHECK(scale == -0.5f);
  CHECK(quantize_value(4.0f, scale, 0, integer_range(DType::int4, true)) == -8);
  const std::array<float, 2> none{0.0f, 0.0f};
  CHECK(choose_signed_scale(none, DType::int4) == 1.0f);
}

TEST_CASE("whole tensors: per tensor, channel, block; any thread count gives the same bytes") {
  const Shape shape{3, 37, 5};
  std::mt19937 random(2);
  std::normal_distribution<float> draw;
  std::vector<float> values(static_cast<size_t>(shape.count()));
  for (float& v : values) v = draw(random);
  const Tensor weights = Tensor::from<float>(shape, std::span<const float>(values));
  struct Case {
    DType dtype;
    bool symmetric;
    std::optional<int> axis;
    int64_t block;
    size_t scales;
  };
  const std::array<Case, 6> cases{{{DType::int8, true, std::nullopt, 0, 1},
                                   {DType::uint8, false, 1, 0, 37},
                                   {DType::int8, true, -1, 0, 5},
                                   {DType::int4, true, 1, 16, 3 * 3 * 5},
                                   {DType::uint4, false, 1, 16, 3 * 3 * 5},
                                   {DType::int16, true, 0, 2, 2 * 37 * 5}}};
  for (const Case& c : cases) {
    const QuantParams params = weight_params(weights, c.dtype, c.symmetric, c.axis, c.block);
    REQUIRE(params.scales.size() == c.scales);
    set_thread_count(1);
    const Tensor one = quantize(weights, params);
    set_thread_count(2);
    CHECK(same_content(one, quantize(weights, params)));
    const Tensor back = dequantize(one, params);
    const float largest = *std::max_element(params.scales.begin(), params.scales.end());
    const float smallest = *std::min_element(params.scales.begin(), params.scales.end());
    const float step = std::max(largest, -smallest);
    const TensorData read_back = back.read();
    for (size_t i = 0; i < values.size(); ++i) {
      // Half a step, a whole one where int4's positive end (7 steps) clips the far side.
      REQUIRE(std::fabs(read_back.as<float>()[i] - values[i]) <= step * 1.0001f);
    }
  }
  values[5] = std::nanf("");
  const Tensor broken = Tensor::from<float>(shape, std::span<const float>(values));
  CHECK_THROWS_AS(weight_params(broken, DType::int8, true, 0), Error);
}
