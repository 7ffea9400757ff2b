// What ONNX's node cases miss of the families that move, reduce and select.
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

Tensor ints(std::initializer_list<int64_t> list) {
  return Tensor::from<int64_t>({static_cast<int64_t>(list.size())}, list);
}

Tensor counted(const Shape& shape) {
  Tensor tensor = Tensor::allocate(DType::float32, shape);
  float next = 0;
  for (float& x : tensor.mutable_as<float>()) x = next++;
  return tensor;
}

}  // namespace

TEST_CASE("operands that decide shapes may be constants or arrive at run time") {
  const Tensor x = counted({2, 6});
  for (const bool constants : {false, true}) {
    CAPTURE(constants);
    const auto with = [&](std::string op, std::vector<Tensor> inputs) {
      return run({op, inputs, {}, 17, 1, "", constants})[0];
    };
    CHECK(with("Reshape", {x, ints({3, -1})}).shape() == Shape{3, 4});
    CHECK(with("Expand", {x, ints({2, 1, 1})}).shape() == Shape{2, 2, 6});
    CHECK(with("Tile", {x, ints({1, 2})}).shape() == Shape{2, 12});
    CHECK(values<float>(with("Slice", {x, ints({5}), ints({0}), ints({1}), ints({-2})})) ==
          std::vector<float>{5, 3, 1, 11, 9, 7});
    CHECK(values<float>(with("ReduceSum", {x, ints({0})})) ==
          std::vector<float>{6, 8, 10, 12, 14, 16});
    CHECK(with("Pad", {x, ints({0, 1, 0, -2})}).shape() == Shape{2, 5});
    CHECK(with("ConstantOfShape", {ints({2, 3})}).shape() == Shape{2, 3});
    CHECK(values<int64_t>(with("NonZero", {Tensor::from<float>({3}, {0, 5, 7})})) ==
          std::vector<int64_t>{1, 2});
  }
}

TEST_CASE("stored types below eight bits are moved through bytes") {
  Tensor packed = Tensor::allocate(DType::uint4, {2, 3});
  packed.mutable_data()[0] = std::byte{0x21};
  packed.mutable_data()[1] = std::byte{0x43};
  packed.mutable_data()[2] = std::byte{0x65};
  const Tensor turned = run({"Transpose", {packed}})[0];
  CHECK(turned.dtype() == DType::uint4);
  CHECK(turned.to_ints() == std::vector<int64_t>{1, 4, 2, 5, 3, 6});
}

TEST_CASE("a large transpose is split over threads without a seam") {
  const int64_t rows = 301, columns = 203;
  const std::vector<float> out = values<float>(run({"Transpose", {counted({rows, columns})}})[0]);
  bool equal = true;
  for (int64_t c = 0; c < columns; ++c) {
    for (int64_t r = 0; r < rows; ++r) {
      equal &= out[static_cast<size_t>(c * rows + r)] == static_cast<float>(r * columns + c);
    }
  }
  CHECK(equal);
}

TEST_CASE("reductions over nothing give the neutral element") {
  const Tensor empty = Tensor::allocate(DType::float32, {2, 0});
  const auto reduce = [&](const char* op) {
    return values<float>(run({op, {empty}, {attr("axes", std::vector<int64_t>{1})}, 11})[0]);
  };
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  CHECK(reduce("ReduceSum") == std::vector<float>{0, 0});
  CHECK(reduce("ReduceProd") == std::vector<float>{1, 1});
  CHECK(reduce("ReduceMax") == std::vector<float>{-kInfinity, -kInfinity});
  CHECK(reduce("ReduceLogSumExp") == std::vector<float>{-kInfinity, -kInfinity});
}

TEST_CASE("reductions agree over every set of axes") {
  const Tensor x = counted({3, 4, 5, 2});
  const std::vector<float> in = values<float>(x);
  for (unsigned mask = 1; mask < 16; ++mask) {
    CAPTURE(mask);
    std::vector<int64_t> axes;
    for (int d = 0; d < 4; ++d) {
      if (mask >> d & 1) axes.push_back(d);
    }
    const Tensor out = run({"ReduceSum", {x}, {attr("axes", axes)}, 11})[0];
    std::vector<double> want(static_cast<size_t>(out.count()), 0);
    const Shape steps = strides_of(out.shape());
    for (int64_t i = 0; i < x.count(); ++i) {
      int64_t rest = i, at = 0;
      for (int d = 3; d >= 0; --d) {
        if ((mask >> d & 1) == 0) at += rest % x.shape()[d] * steps[d];
        rest /= x.shape()[d];
      }
      want[static_cast<size_t>(at)] += static_cast<double>(in[static_cast<size_t>(i)]);
    }
    CHECK(out.to_doubles() == want);
  }
}

TEST_CASE("Softmax before opset 13 takes all trailing dimensions together") {
  const Tensor x = Tensor::zeros(DType::float64, {2, 2, 2});
  CHECK(values<double>(run({"Softmax", {x}, {}, 11})[0])[0] == 0.25);
  CHECK(values<double>(run({"Softmax", {x}, {}, 13})[0])[0] == 0.5);
}

TEST_CASE("indices out of range are errors that name the node") {
  const Tensor x = counted({3, 2});
  CHECK_THROWS_WITH(run({"Gather", {x, ints({3})}}),
                    Catch::Contains("Gather") && Catch::Contains("index 3"));
  CHECK_THROWS_AS(run({"GatherND", {x, Tensor::from<int64_t>({1, 2}, {0, -3})}}), Error);
  CHECK_THROWS_AS(run({"ScatterND", {x, Tensor::from<int64_t>({1, 1}, {7}), counted({1, 2})}}),
                  Error);
  CHECK_THROWS_AS(
      run({"ScatterElements", {x, Tensor::from<int64_t>({1, 1}, {9}), counted({1, 1})}}), Error);
}

TEST_CASE("TopK orders ties by index and puts NaN last") {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  const Tensor x = Tensor::from<float>({5}, {1, kNan, 3, 3, 2});
  const std::vector<Tensor> out = run({"TopK", {x, ints({4})}, {}, 17, 2});
  CHECK(values<int64_t>(out[1]) == std::vector<int64_t>{2, 3, 4, 0});
}

TEST_CASE("casts clamp and truncate") {
  const Tensor x = Tensor::from<float>({4}, {-1.9f, 300.0f, std::nanf(""), 1e30f});
  const auto cast = [&](DType to) {
    return run({"Cast", {x}, {attr("to", static_cast<int64_t>(to))}})[0].to_ints();
  };
  CHECK(cast(DType::int32) == std::vector<int64_t>{-1, 300, 0, 2147483647});
  CHECK(cast(DType::uint8) == std::vector<int64_t>{0, 255, 0, 255});
}

}  // namespace compress
