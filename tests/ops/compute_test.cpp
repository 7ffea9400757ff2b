// What goldens cannot say: the rounding rule at its edges, errors of bad operands, thread counts.
#include <catch2/catch.hpp>

#include <cmath>
#include <limits>
#include <random>

#include "compress/core/parallel.h"
#include "compress/error.h"
#include "compress/quant/qparams.h"
#include "run.h"

namespace compress {
namespace {

using test::NodeCase;

Tensor random_tensor(const Shape& shape, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  Tensor tensor = Tensor::allocate(DType::float32, shape);
  for (float& value : tensor.mutable_as<float>()) value = normal(generator);
  return tensor;
}

// Values where rules of rounding differ: ties, neighbours of ties, ends of the range, no numbers.
std::vector<float> edge_values(float scale) {
  std::vector<float> values = {0.0f,     -0.0f,    1e-45f,    3.4e38f,
                               -3.4e38f, INFINITY, -INFINITY, std::nanf("")};
  for (int i = -700; i <= 700; ++i) {
    const float tie = static_cast<float>(i) * 0.5f * scale;
    values.push_back(tie);
    values.push_back(std::nextafter(tie, INFINITY));
    values.push_back(std::nextafter(tie, -INFINITY));
  }
  return values;
}

ErrorCode code_of(const NodeCase& c) {
  try {
    test::run(c);
  } catch (const Error& error) {
    return error.code();
  }
  return ErrorCode::internal;
}

}  // namespace

TEMPLATE_TEST_CASE("QuantizeLinear rounds as quantize_value does", "", uint8_t, int8_t, uint16_t) {
  const IntegerRange range = integer_range(dtype_of<TestType>(), false);
  for (const float scale : {1.0f, 0.1f, 0.0078125f, 3.3e-5f}) {
    for (const int zero : {0, 7, 100}) {
      const std::vector<float> values = edge_values(scale);
      const Shape shape{static_cast<int64_t>(values.size())};
      const Tensor q = test::run({"QuantizeLinear",
                                  {Tensor::from<float>(shape, values), Tensor::scalar(scale),
                                   Tensor::scalar(static_cast<TestType>(zero))},
                                  {},
                                  21})[0];
      const TensorData data = q.read();
      for (size_t i = 0; i < values.size(); ++i) {
        CAPTURE(values[i], scale, zero);
        REQUIRE(data.as<TestType>()[i] == quantize_value(values[i], scale, zero, range));
      }
    }
  }
}

TEST_CASE("STFT takes real signals without their last axis") {
  const Tensor signal = random_tensor({2, 40}, 1);
  const auto frames = [&](const Tensor& given) {
    return test::run(
        {"STFT",
         {given, Tensor::scalar<int64_t>(4), random_tensor({16}, 2), Tensor::scalar<int64_t>(16)},
         {},
         17})[0];
  };
  const Tensor ours = frames(signal);
  CHECK(ours.shape() == Shape{2, 7, 9, 2});
  CHECK(ours.to_doubles() == frames(signal.reshaped({2, 40, 1})).to_doubles());
}

TEST_CASE("results do not depend on the number of threads") {
  const std::vector<NodeCase> cases = {
      {"Conv", {random_tensor({2, 5, 19, 23}, 1), random_tensor({7, 5, 3, 3}, 2)}},
      {"MatMul", {random_tensor({3, 70, 65}, 3), random_tensor({65, 530}, 4)}},
      {"Gemm",
       {random_tensor({1, 640}, 5), random_tensor({128, 640}, 6)},
       {attr("transB", int64_t{1})}},
      {"LayerNormalization", {random_tensor({37, 130}, 7), random_tensor({130}, 8)}},
      {"LSTM",
       {random_tensor({4, 3, 5}, 9), random_tensor({1, 24, 5}, 10), random_tensor({1, 24, 6}, 11)}},
  };
  const int before = thread_count();
  for (const NodeCase& c : cases) {
    CAPTURE(c.op);
    set_thread_count(1);
    const Tensor one = test::run(c)[0];
    for (const int threads : {2, 3, 7}) {
      set_thread_count(threads);
      CHECK(same_content(test::run(c)[0], one));
    }
  }
  set_thread_count(before);
}

TEST_CASE("operands that do not fit are errors of the model") {
  const Tensor x = random_tensor({1, 4, 6, 6}, 1);
  const auto ints = [](std::vector<int64_t> values) { return values; };
  const std::vector<NodeCase> cases = {
      {"Conv", {x, random_tensor({3, 5, 3, 3}, 2)}},
      {"Conv", {x, random_tensor({3, 4, 9, 3}, 2)}},
      {"Conv", {x, random_tensor({3, 4, 3, 3}, 2), random_tensor({4}, 3)}},
      {"Conv", {x, random_tensor({3, 4, 3, 3}, 2)}, {attr("strides", ints({0, 1}))}},
      {"Conv", {x, random_tensor({3, 4, 3, 3}, 2)}, {attr("pads", ints({-1, 0, 0, 0}))}},
      {"Conv", {x, random_tensor({3, 4, 3, 3}, 2)}, {attr("group", int64_t{0})}},
      {"Conv", {x, random_tensor({3, 4, 3, 3}, 2)}, {attr("pads", ints({1, 1}))}},
      {"MaxPool", {x}, {attr("kernel_shape", ints({7, 1}))}},
      {"MaxPool", {x}, {attr("kernel_shape", ints({0, 1}))}},
      {"MaxPool", {x}, {attr("kernel_shape", ints({int64_t{1} << 40, 1}))}},
      {"MatMul", {x, random_tensor({5, 6}, 2)}},
      {"Gemm", {random_tensor({3, 4}, 1), random_tensor({4, 5}, 2), random_tensor({4}, 3)}},
      {"BatchNormalization",
       {x, random_tensor({4}, 1), random_tensor({4}, 2), random_tensor({3}, 3),
        random_tensor({4}, 4)}},
      {"LSTM",
       {random_tensor({4, 3, 5}, 1), random_tensor({1, 23, 5}, 2), random_tensor({1, 24, 6}, 3)}},
      {"DequantizeLinear",
       {Tensor::zeros(DType::uint8, {3, 4}), random_tensor({5}, 1),
        Tensor::zeros(DType::uint8, {5})}},
  };
  for (size_t i = 0; i < cases.size(); ++i) {
    CAPTURE(i, cases[i].op);
    CHECK(code_of(cases[i]) == ErrorCode::invalid_model);
  }
}

TEST_CASE("an index outside a quantized table is an error") {
  const NodeCase c{"GatherBlockQuantized",
                   {Tensor::zeros(DType::uint8, {4, 8}), Tensor::from<int64_t>({1}, {4}),
                    random_tensor({4, 1}, 1)},
                   {attr("block_size", int64_t{16}), attr("bits", int64_t{4})},
                   17,
                   1,
                   "com.microsoft"};
  CHECK(code_of(c) == ErrorCode::invalid_model);
}

TEST_CASE("a window wider than any input takes no time") {
  const int64_t wide = int64_t{1} << 29;
  const Tensor y = test::run({"MaxPool",
                              {random_tensor({1, 1, 3, 3}, 1)},
                              {attr("kernel_shape", std::vector<int64_t>{wide, wide}),
                               attr("pads", std::vector<int64_t>{wide, wide, wide, wide}),
                               attr("strides", std::vector<int64_t>{wide, wide})}})[0];
  CHECK(y.shape() == Shape{1, 1, 2, 2});
}

}  // namespace compress
