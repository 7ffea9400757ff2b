// Every row of the table on operands that no sound model has: each ends in outputs or in an Error,
// never in a crash. Run by the sanitizer build too.
#include <catch2/catch.hpp>

#include <cstdlib>
#include <iostream>
#include <limits>
#include <new>
#include <random>

#include "compress/error.h"
#include "run.h"

namespace compress {
namespace {

const std::vector<Shape>& shapes() {
  static const std::vector<Shape> list = {{},        {0},       {1},          {2},
                                          {4},       {2, 3},    {3, 2},       {0, 3},
                                          {2, 0, 3}, {1, 2, 4}, {1, 2, 4, 4}, {2, 1, 3, 3, 1}};
  return list;
}

constexpr DType kTypes[] = {DType::float32, DType::int64,   DType::float32, DType::uint8,
                            DType::int8,    DType::float16, DType::int32,   DType::boolean,
                            DType::float64, DType::uint4};

// Small numbers, with some that no index, axis or size can be.
Tensor tensor_of(DType dtype, const Shape& shape, std::mt19937& random) {
  constexpr int64_t kOdd[] = {0, 1, -1, 2, 3, 1, 2, -3, 7, 100, 4, 0, 1};
  Tensor wide = Tensor::allocate(DType::int64, shape);
  for (int64_t& value : wide.mutable_as<int64_t>()) value = kOdd[random() % std::size(kOdd)];
  if (dtype == DType::uint4) return Tensor::zeros(dtype, shape);
  return convert(wide, dtype);
}

std::vector<Attribute> attributes_of(std::mt19937& random) {
  const auto number = [&] { return static_cast<int64_t>(random() % 7) - 2; };
  const auto list = [&](size_t n) {
    std::vector<int64_t> values;
    for (size_t i = 0; i < n; ++i) values.push_back(number());
    return values;
  };
  std::vector<Attribute> attributes;
  const auto maybe = [&](const char* name, AttributeValue value) {
    if (random() % 3 == 0) attributes.push_back(attr(name, std::move(value)));
  };
  const size_t spatial = 1 + random() % 3;
  maybe("axis", number());
  maybe("axes", list(random() % 3));
  maybe("keepdims", number());
  maybe("perm", list(random() % 4));
  maybe("kernel_shape", list(spatial));
  maybe("strides", list(spatial));
  maybe("dilations", list(spatial));
  maybe("pads", list(2 * spatial));
  maybe("group", number());
  maybe("blocksize", number());
  maybe("block_size", number());
  maybe("to", int64_t{1} + static_cast<int64_t>(random() % 24));
  maybe("batch_dims", number());
  maybe("hidden_size", number());
  maybe("num_heads", number());
  maybe("k", number());
  maybe("K", number());
  maybe("N", number());
  maybe("bits", int64_t{4});
  maybe("num_outputs", number());
  maybe("split", list(2));
  maybe("start", number());
  maybe("ceil_mode", int64_t{1});
  maybe("auto_pad", std::string("SAME_UPPER"));
  const char* modes[] = {"linear",  "cubic", "reflect",  "edge", "wrap",
                         "nearest", "CRD",   "circular", "max"};
  maybe("mode", std::string(modes[random() % std::size(modes)]));
  maybe("size", number());
  maybe("batch_axis", number());
  maybe("time_axis", number());
  maybe("sampling_ratio", number());
  maybe("offset_group", number());
  maybe("align_corners", number());
  maybe("padding_mode", std::string(random() % 2 == 0 ? "border" : "reflection"));
  maybe("onesided", number());
  maybe("inverse", number());
  maybe("training_mode", int64_t{1});
  maybe("sample_size", number());
  maybe("shape", list(random() % 4));
  return attributes;
}

// The message of the Error that the case ends in; "" where it runs.
std::string refusal(const test::NodeCase& c) {
  try {
    test::run(c);
    return "";
  } catch (const Error& error) {
    CHECK(error.code() != ErrorCode::internal);
    return error.what();
  }
}

template <class T>
Tensor list(std::initializer_list<T> values) {
  return Tensor::from<T>({static_cast<int64_t>(values.size())}, values);
}
Tensor floats(const Shape& shape) { return Tensor::zeros(DType::float32, shape); }

constexpr int64_t kHuge = int64_t{1} << 62;
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

}  // namespace

TEST_CASE("indices beyond their tensor are refused") {
  const Tensor x = floats({1, 1, 2});
  const auto unpool = [&](std::initializer_list<int64_t> indices) {
    return refusal({"MaxUnpool",
                    {x, Tensor::from<int64_t>({1, 1, 2}, indices)},
                    {attr("kernel_shape", std::vector<int64_t>{2}),
                     attr("strides", std::vector<int64_t>{2})}});
  };
  CHECK(unpool({0, 3}) == "");
  for (const int64_t index : {int64_t{-1}, int64_t{4}, kHuge, -kHuge}) {
    CHECK(unpool({0, index}).find("is outside 4 elements") != std::string::npos);
  }
  const auto scatter = [&](int64_t index, const char* mode) {
    return refusal({"TensorScatter",
                    {floats({1, 4, 2}), floats({1, 2, 2}), list<int64_t>({index})},
                    {attr("mode", std::string(mode))},
                    24});
  };
  CHECK(scatter(2, "linear") == "");
  CHECK(scatter(kHuge, "circular") == "");
  for (const int64_t index : {int64_t{3}, int64_t{-1}, kHuge}) {
    CHECK(scatter(index, "linear").find("of a cache of 4") != std::string::npos);
  }
  const auto reverse = [&](int64_t length) {
    return refusal({"ReverseSequence", {floats({3, 1, 2}), list<int64_t>({length})}});
  };
  CHECK(reverse(3) == "");
  CHECK(reverse(4).find("a sequence of 4 in 3 steps") != std::string::npos);
  CHECK(reverse(-kHuge) != "");
  const auto roi = [&](int64_t image, float edge) {
    return refusal({"RoiAlign",
                    {floats({1, 1, 3, 3}), Tensor::from<float>({1, 4}, {0, 0, edge, 2}),
                     list<int64_t>({image})}});
  };
  CHECK(roi(0, 2) == "");
  CHECK(roi(1, 2).find("image 1 of 1") != std::string::npos);
  CHECK(roi(-1, 2) != "");
  for (const float edge : {1e30f, kInfinity, kNaN}) CHECK(roi(0, edge).find("a region of") < 100);
  const auto extract = [&](int64_t index) {
    return refusal({"ArrayFeatureExtractor",
                    {floats({2, 3}), list<int64_t>({index})},
                    {},
                    1,
                    1,
                    "ai.onnx.ml"});
  };
  CHECK(extract(2) == "");
  CHECK(extract(3) != "");
  CHECK(extract(-1) != "");
}

TEST_CASE("trees that do not fit their tables, or never end, are refused") {
  const auto tree = [](std::vector<int64_t> yes, std::vector<int64_t> yes_is_leaf,
                       std::vector<int64_t> features) {
    const std::vector<uint8_t> modes(yes.size(), 0);
    const std::vector<float> splits(yes.size(), 1);
    const auto count = static_cast<int64_t>(yes.size());
    return refusal(
        {"TreeEnsemble",
         {floats({1, 2})},
         {attr("nodes_modes", Tensor::from<uint8_t>({count}, modes)),
          attr("nodes_splits", Tensor::from<float>({count}, splits)),
          attr("leaf_weights", list<float>({1, 2})),
          attr("leaf_targetids", std::vector<int64_t>{0, 0}), attr("nodes_featureids", features),
          attr("nodes_truenodeids", yes), attr("nodes_trueleafs", yes_is_leaf),
          attr("nodes_falsenodeids", std::vector<int64_t>(yes.size(), 1)),
          attr("nodes_falseleafs", std::vector<int64_t>(yes.size(), 1)),
          attr("tree_roots", std::vector<int64_t>{0})},
         5,
         1,
         "ai.onnx.ml"});
  };
  CHECK(tree({1, 0}, {0, 1}, {0, 1}) == "");
  CHECK(tree({1, 0}, {0, 0}, {0, 1}).find("ring") != std::string::npos);
  CHECK(tree({2, 0}, {0, 1}, {0, 1}) != "");  // beyond the nodes
  CHECK(tree({1, 2}, {0, 1}, {0, 1}) != "");  // beyond the leaves
  CHECK(tree({1, 0}, {0, 1}, {0, 2}) != "");  // beyond the features
  CHECK(tree({1, 0}, {0, 1}, {0, -1}) != "");
}

TEST_CASE("sizes that no memory holds, and lengths that no time ends, are refused") {
  const auto number = [](int64_t value) { return Tensor::scalar<int64_t>(value); };
  const auto dft = [&](int64_t length) {
    return refusal({"DFT", {floats({1, 4, 1}), number(length)}, {}, 17, 1, "", true});
  };
  CHECK(dft(8) == "");
  for (const int64_t length : {int64_t{0}, int64_t{-1}, kHuge, int64_t{1'000'000'007}}) {
    CHECK(dft(length) != "");
  }
  const auto stft = [&](int64_t step, int64_t length) {
    return refusal(
        {"STFT", {floats({1, 8, 1}), number(step), Tensor(), number(length)}, {}, 17, 1, "", true});
  };
  CHECK(stft(2, 4) == "");
  CHECK(stft(0, 4) != "");
  CHECK(stft(1, 9) != "");
  CHECK(stft(-kHuge, 4) != "");
  const auto image = [&](int64_t height, int64_t block, int64_t pad) {
    return refusal({"Col2Im",
                    {floats({1, 4, 4}), list<int64_t>({height, 4}), list<int64_t>({block, 2})},
                    {attr("strides", std::vector<int64_t>{2, 2}),
                     attr("pads", std::vector<int64_t>{pad, 0, 0, 0})},
                    18});
  };
  CHECK(image(4, 2, 0) == "");
  CHECK(image(kHuge, 2, 0) != "");
  CHECK(image(4, kHuge, 0) != "");
  CHECK(image(4, 2, kHuge) != "");
  CHECK(image(4, 0, 0) != "");
  const auto mel = [&](int64_t bands, int64_t length, float high) {
    return refusal({"MelWeightMatrix",
                    {number(bands), number(length), number(8000), Tensor::scalar(0.0f),
                     Tensor::scalar(high)}});
  };
  CHECK(mel(4, 16, 4000) == "");
  for (const float high : {-1.0f, 4001.0f, kInfinity, kNaN}) CHECK(mel(4, 16, high) != "");
  CHECK(mel(0, 16, 4000) != "");
  CHECK(mel(4, kHuge, 4000) != "");
  const auto pool = [&](int64_t height, int64_t ratio) {
    return refusal({"RoiAlign",
                    {floats({1, 1, 3, 3}), floats({1, 4}), list<int64_t>({0})},
                    {attr("output_height", height), attr("sampling_ratio", ratio)}});
  };
  CHECK(pool(1, 1) == "");
  CHECK(pool(0, 1) != "");
  CHECK(pool(1, kHuge) != "");
  CHECK(pool(1, -1) != "");
}

TEST_CASE("coordinates and scores that are no numbers read nothing") {
  for (const char* padding : {"zeros", "border", "reflection"}) {
    for (const char* mode : {"nearest", "linear", "cubic"}) {
      for (const float odd : {kNaN, kInfinity, -kInfinity, 3e38f, -3e38f}) {
        const std::vector<Tensor> out = test::run(
            {"GridSample",
             {floats({1, 1, 2, 2}), Tensor::from<float>({1, 1, 1, 2}, {odd, 0.5f})},
             {attr("mode", std::string(mode)), attr("padding_mode", std::string(padding))},
             20});
        CHECK(out[0].to_double() == 0);
      }
    }
  }
  CHECK(refusal({"GridSample", {floats({1, 1, 0, 2}), floats({1, 1, 1, 2})}, {}, 20}) != "");
  const std::vector<Tensor> kept =
      test::run({"NonMaxSuppression",
                 {Tensor::from<float>({1, 2, 4}, {0, 0, 1, 1, kNaN, kInfinity, 2, 2}),
                  Tensor::from<float>({1, 1, 2}, {kNaN, 0.5f}), Tensor::scalar<int64_t>(kHuge)}});
  CHECK(kept[0].shape() == Shape{1, 3});
  CHECK(kept[0].to_ints() == std::vector<int64_t>{0, 0, 1});
  const Tensor offsets = Tensor::from<float>({1, 2, 1, 1}, {kNaN, kInfinity});
  const std::vector<Tensor> out =
      test::run({"DeformConv", {floats({1, 1, 1, 1}), floats({1, 1, 1, 1}), offsets}, {}, 19});
  CHECK(out[0].to_double() == 0);
}

TEST_CASE("no row crashes on operands that do not fit it") {
  // Each case is a function of its number, so that a crash can be repeated from there.
  const char* only = std::getenv("COMPRESS_HOSTILE_FROM");
  const bool trace = std::getenv("COMPRESS_TEST_TRACE") != nullptr;
  uint32_t number = 0;
  size_t ran = 0, refused = 0;
  for (const auto& family : op_families()) {
    for (const OpDef& op : family) {
      for (int repeat = 0; repeat < 400; ++repeat) {
        ++number;
        if (only != nullptr && number < static_cast<uint32_t>(std::atoi(only))) continue;
        std::mt19937 random(number);
        test::NodeCase c;
        c.op = std::string(op.name);
        c.domain = std::string(op.domain);
        c.opset = op.domain.empty() ? op.since_version + static_cast<int>(random() % 16)
                                    : op.since_version;
        c.attributes = attributes_of(random);
        c.outputs = 1 + random() % 3;
        c.constants = random() % 2 == 0;
        const size_t inputs = random() % 6;
        const DType first = kTypes[random() % std::size(kTypes)];
        const Shape& shape = shapes()[random() % shapes().size()];
        for (size_t i = 0; i < inputs; ++i) {
          const bool same = random() % 2 == 0;
          const DType dtype = random() % 2 == 0 ? first : kTypes[random() % std::size(kTypes)];
          c.inputs.push_back(
              tensor_of(dtype, same ? shape : shapes()[random() % shapes().size()], random));
          if (random() % 12 == 0) c.inputs.back() = Tensor();
        }
        if (trace) std::cerr << number << ' ' << c.op << ' ' << c.opset << std::endl;
        try {
          test::run(c);
          ++ran;
        } catch (const Error& error) {
          CHECK(error.code() != ErrorCode::internal);
          ++refused;
        } catch (const std::bad_alloc&) {  // asked for more than there is: refused as well
          ++refused;
        }
      }
    }
  }
  CHECK(ran + refused > 0);
  if (only == nullptr) CHECK(ran > 1000);
  std::cout << ran << " hostile cases ran, " << refused << " were refused\n";
}

}  // namespace compress
