#include <catch2/catch.hpp>

#include <cmath>
#include <limits>

#include "compress/error.h"
#include "run.h"

namespace compress {
namespace {

using test::run;

template <class T>
std::vector<T> values(const Tensor& tensor) {
  const TensorData data = tensor.read();
  const auto span = data.as<T>();
  return {span.begin(), span.end()};
}

}  // namespace

TEST_CASE("operands broadcast in every direction") {
  const Tensor a = Tensor::from<float>({2, 1, 3}, {1, 2, 3, 4, 5, 6});
  const Tensor b = Tensor::from<float>({2, 1}, {10, 20});
  const Tensor sum = run({"Add", {a, b}})[0];
  CHECK(sum.shape() == Shape{2, 2, 3});
  CHECK(values<float>(sum) == std::vector<float>{11, 12, 13, 21, 22, 23, 14, 15, 16, 24, 25, 26});
  const Tensor difference = run({"Sub", {Tensor::scalar<float>(1), a}})[0];
  CHECK(values<float>(difference) == std::vector<float>{0, -1, -2, -3, -4, -5});
}

TEST_CASE("integer arithmetic wraps and never traps") {
  const int32_t least = std::numeric_limits<int32_t>::min();
  const Tensor a = Tensor::from<int32_t>({4}, {7, -7, least, 5});
  const Tensor b = Tensor::from<int32_t>({4}, {2, 2, -1, 0});
  CHECK(values<int32_t>(run({"Div", {a, b}})[0]) == std::vector<int32_t>{3, -3, least, 0});
  CHECK(values<int32_t>(run({"Mod", {a, b}})[0]) == std::vector<int32_t>{1, 1, 0, 0});
  CHECK(values<int32_t>(run({"Mul", {a, a}})[0]) == std::vector<int32_t>{49, 49, 0, 25});
  CHECK(values<int32_t>(run({"Abs", {a}})[0])[2] == least);
}

TEST_CASE("float16 is computed in float32 and rounded once") {
  // 1 + 2^-11 + 2^-11: rounding after each addition would give 1.
  const Half one = to_half(1), small = to_half(0x1p-11f);
  const Tensor a = Tensor::from<Half>({1}, {one});
  const Tensor b = Tensor::from<Half>({1}, {small});
  const Tensor sum = run({"Sum", {a, b, b}})[0];
  CHECK(sum.dtype() == DType::float16);
  CHECK(to_float(values<Half>(sum)[0]) == 1 + 0x1p-10f);
  const Tensor wide = Tensor::from<BFloat16>({2, 1}, {to_bfloat16(-1), to_bfloat16(2)});
  const Tensor relu = run({"Relu", {wide}})[0];
  CHECK(to_float(values<BFloat16>(relu)[0]) == 0);
  CHECK(to_float(values<BFloat16>(relu)[1]) == 2);
}

TEST_CASE("float64 keeps its digits") {
  const Tensor x = Tensor::from<double>({1}, {1.0 / 3});
  CHECK(values<double>(run({"Exp", {x}})[0])[0] == std::exp(1.0 / 3));
  CHECK(values<double>(run({"Mul", {x, x}})[0])[0] == 1.0 / 3 * (1.0 / 3));
}

TEST_CASE("empty tensors pass through") {
  const Tensor empty = Tensor::allocate(DType::float32, {2, 0, 3});
  CHECK(run({"Add", {empty, Tensor::scalar<float>(1)}})[0].shape() == Shape{2, 0, 3});
  CHECK(run({"Exp", {empty}})[0].shape() == Shape{2, 0, 3});
}

TEST_CASE("large rows are split over threads without a seam") {
  const int64_t n = 100'003;
  Tensor x = Tensor::allocate(DType::float32, {3, n});
  auto data = x.mutable_as<float>();
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<float>(i % 1000);
  const Tensor column = Tensor::from<float>({3, 1}, {0, 1, 2});
  const std::vector<float> out = values<float>(run({"Add", {x, column}})[0]);
  bool equal = true;
  for (size_t i = 0; i < data.size(); ++i) {
    equal &= out[i] == data[i] + static_cast<float>(i / static_cast<size_t>(n));
  }
  CHECK(equal);
}

TEST_CASE("mistyped and misshapen operands are errors that name the node") {
  const Tensor a = Tensor::from<float>({2}, {1, 2});
  const Tensor b = Tensor::from<int32_t>({2}, {1, 2});
  const Tensor c = Tensor::from<float>({3}, {1, 2, 3});
  CHECK_THROWS_WITH(run({"Add", {a, b}}), Catch::Contains("Add") && Catch::Contains("int32"));
  CHECK_THROWS_WITH(run({"Add", {a, c}}), Catch::Contains("do not broadcast"));
  CHECK_THROWS_AS(run({"Add", {a}}), Error);
  CHECK_THROWS_AS(run({"Exp", {b}}), Error);
}

TEST_CASE("Clip takes its bounds from attributes or inputs") {
  const Tensor x = Tensor::from<float>({4}, {-2, 0, 3, 9});
  const std::vector<float> want = {-1, 0, 3, 6};
  CHECK(values<float>(run({"Clip", {x}, {attr("min", -1.0f), attr("max", 6.0f)}, 6})[0]) == want);
  CHECK(values<float>(
            run({"Clip", {x, Tensor::scalar<float>(-1), Tensor::scalar<float>(6)}, {}, 13})[0]) ==
        want);
  CHECK(values<float>(run({"Clip", {x, Tensor(), Tensor::scalar<float>(6)}, {}, 13})[0]) ==
        std::vector<float>{-2, 0, 3, 6});
}

}  // namespace compress
