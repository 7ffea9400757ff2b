// The device backend, on emulated kernels: the same code as on a GPU, run by the CPU thread by
// thread, with memory of its own.
#include <catch2/catch.hpp>
#include <cstdlib>
#include <random>

#include "compress/error.h"
#include "compress/graph/builder.h"
#include "compress/quant/qparams.h"
#include "compress/runtime/device.h"
#include "compress/runtime/session.h"

namespace compress {
namespace {

using Ints = std::vector<int64_t>;

std::shared_ptr<Device> emulated() {
  setenv("COMPRESS_CUDA_LIBRARY", COMPRESS_CUDA_EMULATED, 0);  // a real one, where it is named
  return Device::cuda();
}

Tensor noise(const Shape& shape, uint32_t seed, float scale = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(static_cast<size_t>(shape.count()));
  for (float& value : values) value = normal(random);
  return Tensor::from<float>(shape, std::span<const float>(values));
}

template <class T>
Tensor bytes(const Shape& shape, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<T> values(static_cast<size_t>(shape.count()));
  for (T& value : values) value = static_cast<T>(random() & 0xFF);
  return Tensor::from<T>(shape, std::span<const T>(values));
}

struct Compared {
  int on_device = 0, on_cpu = 0;
  bool same_bytes = true;
  double error = 0;  // largest, over the largest of the CPU's
};

// Runs on both, twice, since a second run reuses what the first has left.
Compared compare(const Model& model, const std::vector<NamedTensor>& feeds) {
  SessionOptions options;
  options.device = emulated();
  Session cpu(model), device(model, options);
  Compared out;
  for (int run = 0; run < 2; ++run) {
    const std::vector<Tensor> expected = cpu.run(feeds), got = device.run(feeds);
    REQUIRE(expected.size() == got.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      REQUIRE(expected[i].shape() == got[i].shape());
      REQUIRE(expected[i].dtype() == got[i].dtype());
      out.same_bytes = out.same_bytes && same_content(expected[i], got[i]);
      const std::vector<double> a = expected[i].to_doubles(), b = got[i].to_doubles();
      double largest = 0, off = 0;
      for (size_t k = 0; k < a.size(); ++k) {
        REQUIRE(std::isfinite(b[k]) == std::isfinite(a[k]));
        largest = std::max(largest, std::abs(a[k]));
        off = std::max(off, std::abs(a[k] - b[k]));
      }
      out.error = std::max(out.error, off / std::max(largest, 1e-3));
    }
  }
  device.profile(feeds);
  for (const KernelRecord& kernel : device.kernels()) {
    ++(kernel.device == "cuda" ? out.on_device : out.on_cpu);
  }
  return out;
}

// Float sums of n products in another order are off by some n * 2^-24 of the largest.
constexpr double kTolerance = 1e-4;

void check_float(GraphBuilder&& b, const std::vector<NamedTensor>& feeds, int cpu_nodes = 0) {
  const Compared result = compare(std::move(b).model(17), feeds);
  CHECK(result.error <= kTolerance);
  CHECK(result.on_device > 0);
  CHECK(result.on_cpu == cpu_nodes);
}

TEST_CASE("convolutions on a device", "[device]") {
  struct Case {
    int64_t in, out, groups, kernel, stride, dilation;
    Ints pads;
  };
  for (const Case& c :
       {Case{3, 70, 1, 3, 2, 1, {1, 1, 1, 1}}, Case{16, 24, 2, 3, 1, 2, {2, 1, 0, 2}},
        Case{12, 12, 12, 5, 1, 1, {2, 2, 2, 2}}, Case{8, 16, 8, 3, 2, 1, {0, 1, 1, 0}},
        Case{33, 65, 1, 1, 1, 1, {0, 0, 0, 0}}}) {
    GraphBuilder b;
    const ValueId x = b.input("x", DType::float32, {2, c.in, 11, 9});
    const ValueId w = b.constant(noise({c.out, c.in / c.groups, c.kernel, c.kernel}, 1), "w");
    const ValueId bias = b.constant(noise({c.out}, 2), "b");
    const ValueId y = b.op(
        "Conv", {x, w, bias},
        {attr("group", c.groups), attr("pads", c.pads), attr("strides", Ints{c.stride, c.stride}),
         attr("dilations", Ints{c.dilation, c.dilation})});
    b.output(b.op("HardSwish", {y}), "y");
    INFO(c.in << " " << c.out << " " << c.groups);
    const Compared result = compare(std::move(b).model(17), {{"x", noise({2, c.in, 11, 9}, 3)}});
    CHECK(result.error <= kTolerance);
    CHECK(result.on_cpu == 0);
  }
}

TEST_CASE("a residual convolution, pools and a classifier on a device", "[device]") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {1, 8, 10, 10});
  const Attribute same = attr("pads", Ints{1, 1, 1, 1});
  const ValueId y =
      b.op("Relu", {b.op("Conv", {x, b.constant(noise({8, 8, 3, 3}, 1, 0.1f), "w")}, {same})});
  const ValueId sum = b.op(
      "Relu",
      {b.op("Add", {b.op("Conv", {y, b.constant(noise({8, 8, 3, 3}, 2, 0.1f), "v")}, {same}), x})});
  const ValueId most =
      b.op("MaxPool", {sum}, {attr("kernel_shape", Ints{3, 3}), same, attr("strides", Ints{2, 2})});
  const ValueId mean =
      b.op("AveragePool", {most},
           {attr("kernel_shape", Ints{2, 2}), attr("count_include_pad", int64_t{1}),
            attr("pads", Ints{1, 0, 0, 1})});
  const ValueId flat = b.op("Flatten", {b.op("GlobalAveragePool", {mean})});
  const ValueId logits =
      b.op("Gemm", {flat, b.constant(noise({8, 5}, 3), "g"), b.constant(noise({5}, 4), "h")},
           {attr("alpha", 0.5f)});
  b.output(mean, "mean");
  b.output(b.op("Softmax", {logits}), "y");
  check_float(std::move(b), {{"x", noise({1, 8, 10, 10}, 5)}});
}

TEST_CASE("products with batches, repeated and transposed operands on a device", "[device]") {
  GraphBuilder b;
  const ValueId a = b.input("a", DType::float32, {2, 3, 5, 67});
  const ValueId c = b.input("c", DType::float32, {3, 9, 67});
  const ValueId turned = b.op("Transpose", {c}, {attr("perm", Ints{0, 2, 1})});
  const ValueId y = b.op("MatMul", {a, turned});
  b.output(b.op("Sigmoid", {b.op("MatMul", {y, b.constant(noise({9, 130}, 1), "w")})}), "y");
  check_float(std::move(b), {{"a", noise({2, 3, 5, 67}, 2)}, {"c", noise({3, 9, 67}, 3)}});
}

TEST_CASE("attention and norms on a device", "[device]") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {2, 300, 32});
  const ValueId norm = b.op("LayerNormalization",
                            {x, b.constant(noise({32}, 1), "g"), b.constant(noise({32}, 2), "h")});
  const auto heads = [&](uint32_t seed, const Ints& perm) {
    const ValueId y = b.op("MatMul", {norm, b.constant(noise({32, 32}, seed, 0.2f), "w")});
    const ValueId split =
        b.op("Reshape", {y, b.constant(Tensor::from<int64_t>({4}, {2, 300, 4, 8}))});
    return b.op("Transpose", {split}, {attr("perm", perm)});
  };
  const ValueId scores = b.op("MatMul", {heads(3, {0, 2, 1, 3}), heads(4, {0, 2, 3, 1})});
  const ValueId scaled = b.op("Div", {scores, b.constant(Tensor::scalar<float>(2.8f))});
  const ValueId masked = b.op("Add", {scaled, b.input("mask", DType::float32, {2, 1, 1, 300})});
  const ValueId mixed = b.op("MatMul", {b.op("Softmax", {masked}), heads(5, {0, 2, 1, 3})});
  const ValueId joined =
      b.op("Reshape", {b.op("Transpose", {mixed}, {attr("perm", Ints{0, 2, 1, 3})}),
                       b.constant(Tensor::from<int64_t>({3}, {2, 300, 32}))});
  b.output(b.op("Add", {joined, x}), "y");
  std::vector<float> mask(600, 0);
  for (size_t i = 500; i < 600; ++i) mask[i] = -1e4f;
  check_float(std::move(b),
              {{"x", noise({2, 300, 32}, 6)},
               {"mask", Tensor::from<float>({2, 1, 1, 300}, std::span<const float>(mask))}});
}

TEST_CASE("moves and reductions on a device", "[device]") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {4, 6, 10});
  const auto split = b.op_n("Split", 2, {x, b.constant(Tensor::from<int64_t>({2}, {2, 4}))},
                            {attr("axis", int64_t{1})});
  const auto list = [&](std::initializer_list<int64_t> values) {
    return b.constant(Tensor::from<int64_t>({static_cast<int64_t>(values.size())}, values));
  };
  const ValueId slice =
      b.op("Slice", {split[1], list({9, 0}), list({-100, 4}), list({2, 1}), list({-3, 2})});
  const ValueId wide = b.op(
      "Expand", {b.op("Slice", {split[0], list({0}), list({1}), list({1})}), list({4, 2, 10})});
  b.output(b.op("Concat", {split[0], wide}, {attr("axis", int64_t{1})}), "joined");
  b.output(b.op("Gather", {x, list({-1, 0, 3})}, {attr("axis", int64_t{1})}), "rows");
  b.output(b.op("ReduceMean", {x}, {attr("axes", Ints{0, 2})}), "mean");
  b.output(b.op("ReduceMax", {x}, {attr("axes", Ints{1}), attr("keepdims", int64_t{0})}), "most");
  b.output(slice, "slice");
  const Compared result = compare(std::move(b).model(17), {{"x", noise({4, 6, 10}, 1)}});
  CHECK(result.error <= kTolerance);
  CHECK(result.on_cpu == 0);
}

// x (u8) -> DQ -> Conv with int8 weights -> Q, twice, a sum and pools between.
Model integer_net(int64_t groups) {
  GraphBuilder b;
  const auto scalar = [&](float v) { return b.constant(Tensor::scalar<float>(v)); };
  const auto zero = [&](int v) {
    return b.constant(Tensor::scalar<uint8_t>(static_cast<uint8_t>(v)));
  };
  const auto pair = [&](ValueId v, float scale, int point) {
    const ValueId q = b.op("QuantizeLinear", {v, scalar(scale), zero(point)});
    return b.op("DequantizeLinear", {q, scalar(scale), zero(point)});
  };
  const auto conv = [&](ValueId v, uint32_t seed, int64_t in, int64_t out) {
    const Shape shape = {out, in / groups, 3, 3};
    const ValueId w =
        b.op("DequantizeLinear", {b.constant(bytes<int8_t>(shape, seed), "w"), scalar(0.01f),
                                  b.constant(Tensor::scalar<int8_t>(0))});
    return b.op("Conv", {v, w}, {attr("group", groups), attr("pads", Ints{1, 1, 1, 1})});
  };
  const ValueId x = pair(b.input("x", DType::float32, {2, 6, 9, 7}), 0.05f, 131);
  const ValueId y = pair(b.op("Relu", {conv(x, 1, 6, 12)}), 0.1f, 0);
  const ValueId z = pair(b.op("Add", {pair(conv(y, 2, 12, 12), 0.2f, 120), y}), 0.3f, 90);
  const ValueId pool =
      pair(b.op("MaxPool", {z}, {attr("kernel_shape", Ints{2, 2}), attr("strides", Ints{2, 2})}),
           0.3f, 90);
  const ValueId mean = pair(b.op("GlobalAveragePool", {pool}), 0.05f, 100);
  const ValueId flat = b.op("Flatten", {mean});
  const ValueId w =
      b.op("DequantizeLinear", {b.constant(bytes<int8_t>({12, 10}, 5), "w"), scalar(0.01f),
                                b.constant(Tensor::scalar<int8_t>(0))});
  b.output(pair(b.op("MatMul", {flat, w}), 0.1f, 128), "y");
  return std::move(b).model(17);
}

TEST_CASE("integer layers give the same bytes on a device", "[device]") {
  for (const int64_t groups : {1, 2, 6}) {
    INFO("groups " << groups);
    const Compared result = compare(integer_net(groups), {{"x", noise({2, 6, 9, 7}, 9, 3)}});
    CHECK(result.same_bytes);
    CHECK(result.on_device > 5);
    CHECK(result.on_cpu == 0);
  }
}

TEST_CASE("dynamically quantized products give the same numbers on a device", "[device]") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {3, 70});
  const auto q = b.op_n("DynamicQuantizeLinear", 3, {x});
  const ValueId sums =
      b.op("MatMulInteger", {q[0], b.constant(bytes<int8_t>({70, 33}, 1), "w"), q[2]});
  const ValueId scale = b.op("Mul", {q[1], b.constant(Tensor::scalar<float>(0.02f))});
  b.output(b.op("Mul", {b.op("Cast", {sums}, {attr("to", int64_t{1})}), scale}), "y");
  const Compared result = compare(std::move(b).model(17), {{"x", noise({3, 70}, 2)}});
  CHECK(result.same_bytes);
  CHECK(result.on_device > 0);
}

TEST_CASE("weights in blocks of bits on a device", "[device]") {
  for (const int64_t bits : {4, 8}) {
    for (const int64_t block : {16, 64}) {
      constexpr int64_t k = 104, n = 21;  // a block that is cut short, columns that fill no warp
      const int64_t blocks = (k + block - 1) / block;
      GraphBuilder b;
      const ValueId x = b.input("x", DType::float32, {5, k});
      const ValueId codes = b.constant(bytes<uint8_t>({n, blocks, block * bits / 8}, 1), "codes");
      const ValueId scales = b.constant(noise({n * blocks}, 2), "scales");
      const ValueId zeros = b.constant(bytes<uint8_t>({n * ((blocks * bits + 7) / 8)}, 3), "zeros");
      b.output(b.op("MatMulNBits", {x, codes, scales, zeros},
                    {attr("K", k), attr("N", n), attr("bits", bits), attr("block_size", block)},
                    "com.microsoft"),
               "y");
      INFO(bits << " bits, blocks of " << block);
      check_float(std::move(b), {{"x", noise({5, k}, 4)}});
    }
  }
}

// Device, CPU, device: what a step reads is brought to where it runs, once.
TEST_CASE("nodes that a device does not have run on the CPU between the others", "[device]") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {6, 8});
  const ValueId y = b.op("Relu", {b.op("MatMul", {x, b.constant(noise({8, 8}, 1), "w")})});
  const ValueId order = b.op("CumSum", {y, b.constant(Tensor::scalar<int64_t>(1))});
  const ValueId z = b.op("MatMul", {order, b.constant(noise({8, 4}, 2), "v")});
  b.output(b.op("Add", {z, b.op("MatMul", {y, b.constant(noise({8, 4}, 3), "u")})}), "z");
  b.output(order, "order");
  check_float(std::move(b), {{"x", noise({6, 8}, 4)}}, 1);
}

TEST_CASE("observers see what a device has computed", "[device]") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {2, 8});
  const ValueId y = b.op("Relu", {b.op("MatMul", {x, b.constant(noise({8, 8}, 1), "w")})});
  b.output(b.op("MatMul", {y, b.constant(noise({8, 4}, 2), "v")}), "z");
  const std::string name = b.graph().value(y).name;
  const Model model = std::move(b).model(17);
  const auto seen = [&](std::shared_ptr<Device> device) {
    SessionOptions options;
    options.device = std::move(device);
    options.observed = {name};
    std::vector<float> values;
    const std::vector<NamedTensor> feeds = {{"x", noise({2, 8}, 3)}};
    Session(model, options).run(feeds, [&](const std::string&, const TensorView& view) {
      values.assign(view.as<const float>(), view.as<const float>() + view.count());
    });
    return values;
  };
  const std::vector<float> expected = seen(nullptr), got = seen(emulated());
  REQUIRE(expected.size() == 16);
  REQUIRE(got.size() == 16);
  for (size_t i = 0; i < 16; ++i) CHECK(got[i] == Approx(expected[i]).margin(1e-5));
}

TEST_CASE("a model that a device has no memory for says what it needs", "[device]") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {64, 1024});
  b.output(b.op("Relu", {b.op("MatMul", {x, b.constant(noise({1024, 1024}, 1), "w")})}), "y");
  SessionOptions options;
  options.device = emulated();
  Session session(std::move(b).model(17), options);
  setenv("COMPRESS_EMULATED_BYTES", "1000000", 1);
  std::string message;
  const std::vector<NamedTensor> feeds = {{"x", noise({64, 1024}, 2)}};
  try {
    session.run(feeds);
  } catch (const Error& error) {
    message = error.what();
  }
  unsetenv("COMPRESS_EMULATED_BYTES");
  CHECK(message.find("4194304 bytes were needed") != std::string::npos);
  CHECK(session.run(feeds).size() == 1);  // and goes on where there is room again
}

}  // namespace
}  // namespace compress
