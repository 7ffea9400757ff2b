// Models whose shapes contradict each other: each ends in one Error, op by op and lowered, whatever
// pattern the lowering finds in it.
#include <catch2/catch.hpp>

#include <functional>
#include <string>
#include <vector>

#include "compress/error.h"
#include "compress/graph/builder.h"
#include "compress/ops/op.h"
#include "compress/runtime/session.h"

namespace compress {
namespace {

Tensor ones(const Shape& shape) {
  Tensor tensor = Tensor::allocate(DType::float32, shape);
  for (float& value : tensor.mutable_as<float>()) value = 1;
  return tensor;
}

// A graph with an input x whose shape is known, or only its rank.
struct Case {
  std::string name;
  Shape x;
  std::function<ValueId(GraphBuilder&, ValueId)> body;
};

ValueId constant(GraphBuilder& b, const Shape& shape) { return b.constant(ones(shape)); }

// What the weights, bytes or biases are once dequantized: per tensor.
ValueId dequantized(GraphBuilder& b, Tensor values) {
  return b.op("DequantizeLinear",
              {b.constant(std::move(values)), b.constant(Tensor::scalar(0.1f))});
}
ValueId through_bytes(GraphBuilder& b, ValueId x) {
  const ValueId scale = b.constant(Tensor::scalar(0.1f));
  const ValueId zero = b.constant(Tensor::scalar<uint8_t>(128));
  return b.op("DequantizeLinear", {b.op("QuantizeLinear", {x, scale, zero}), scale, zero});
}

Attribute ints(const char* name, std::vector<int64_t> values) {
  return attr(name, std::move(values));
}

const std::vector<Case>& cases() {
  static const std::vector<Case> list = {
      {"a group count beyond the channels",
       {1, 3, 8, 8},
       [](GraphBuilder& b, ValueId x) {
         return b.op("Conv", {x, constant(b, {4, 3, 3, 3})}, {attr("group", int64_t{1} << 62)});
       }},
      {"weights of other channels",
       {1, 3, 8, 8},
       [](GraphBuilder& b, ValueId x) {
         return b.op("Conv", {x, constant(b, {4, 5, 3, 3})});
       }},
      {"a short bias",
       {1, 3, 8, 8},
       [](GraphBuilder& b, ValueId x) {
         return b.op("Conv", {x, constant(b, {4, 3, 3, 3}), constant(b, {2})});
       }},
      {"a long bias, and an activation",
       {1, 3, 8, 8},
       [](GraphBuilder& b, ValueId x) {
         return b.op("Relu", {b.op("Conv", {x, constant(b, {4, 3, 3, 3}), constant(b, {7})})});
       }},
      {"a short bias of a depthwise convolution",
       {1, 4, 8, 8},
       [](GraphBuilder& b, ValueId x) {
         return b.op("Conv", {x, constant(b, {4, 1, 3, 3}), constant(b, {1})},
                     {attr("group", int64_t{4})});
       }},
      {"a BatchNormalization of other channels behind a convolution",
       {1, 3, 8, 8},
       [](GraphBuilder& b, ValueId x) {
         const ValueId y = b.op("Conv", {x, constant(b, {4, 3, 3, 3})});
         return b.op("BatchNormalization",
                     {y, constant(b, {2}), constant(b, {2}), constant(b, {2}), constant(b, {2})});
       }},
      {"a residual of another size",
       {1, 3, 8, 8},
       [](GraphBuilder& b, ValueId x) {
         const ValueId y = b.op("Conv", {x, constant(b, {3, 3, 3, 3})});
         return b.op("Relu", {b.op("Add", {y, x})});
       }},
      {"an absurd output_padding",
       {1, 3, 8, 8},
       [](GraphBuilder& b, ValueId x) {
         return b.op("ConvTranspose", {x, constant(b, {3, 4, 3, 3})},
                     {ints("output_padding", {int64_t{1} << 40, 1})});
       }},
      {"a short bias of a transposed convolution",
       {1, 3, 8, 8},
       [](GraphBuilder& b, ValueId x) {
         return b.op("ConvTranspose", {x, constant(b, {3, 4, 3, 3}), constant(b, {3})});
       }},
      {"a C of Gemm that does not broadcast",
       {2, 4},
       [](GraphBuilder& b, ValueId x) {
         return b.op("Gemm", {x, constant(b, {4, 3}), constant(b, {11})});
       }},
      {"inner sizes of Gemm that differ",
       {2, 4},
       [](GraphBuilder& b, ValueId x) {
         return b.op("Gemm", {x, constant(b, {5, 3})});
       }},
      {"a bias behind MatMul that does not broadcast",
       {2, 4},
       [](GraphBuilder& b, ValueId x) {
         return b.op("Relu",
                     {b.op("Add", {b.op("MatMul", {x, constant(b, {4, 3})}), constant(b, {2})})});
       }},
      {"a scale of LayerNormalization of another size",
       {2, 4},
       [](GraphBuilder& b, ValueId x) {
         return b.op("LayerNormalization", {x, constant(b, {3}), constant(b, {4})});
       }},
      {"a quantized convolution with a short bias",
       {1, 3, 8, 8},
       [](GraphBuilder& b, ValueId x) {
         const ValueId w = dequantized(b, Tensor::zeros(DType::int8, {4, 3, 3, 3}));
         const ValueId bias = b.op(
             "DequantizeLinear",
             {b.constant(Tensor::zeros(DType::int32, {2})), b.constant(Tensor::scalar(0.01f))});
         return through_bytes(b, b.op("Conv", {through_bytes(b, x), w, bias}));
       }},
      {"a quantized convolution over other channels",
       {1, 3, 8, 8},
       [](GraphBuilder& b, ValueId x) {
         const ValueId w = dequantized(b, Tensor::zeros(DType::int8, {4, 5, 3, 3}));
         return through_bytes(b, b.op("Conv", {through_bytes(b, x), w}));
       }},
      {"a quantized Gemm whose C does not broadcast",
       {2, 4},
       [](GraphBuilder& b, ValueId x) {
         const ValueId w = dequantized(b, Tensor::zeros(DType::int8, {4, 3}));
         const ValueId bias = b.op(
             "DequantizeLinear",
             {b.constant(Tensor::zeros(DType::int32, {11})), b.constant(Tensor::scalar(0.01f))});
         return through_bytes(b, b.op("Gemm", {through_bytes(b, x), w, bias}));
       }},
      {"scales of weights of another count",
       {1, 3, 8, 8},
       [](GraphBuilder& b, ValueId x) {
         const ValueId w = b.op("DequantizeLinear",
                                {b.constant(Tensor::zeros(DType::int8, {4, 3, 3, 3})),
                                 constant(b, {3}), b.constant(Tensor::zeros(DType::int8, {3}))},
                                {attr("axis", int64_t{0})});
         return through_bytes(b, b.op("Conv", {through_bytes(b, x), w}));
       }},
      {"blocks of weights with too few scales",
       {2, 64},
       [](GraphBuilder& b, ValueId x) {
         return b.op("MatMulNBits",
                     {x, b.constant(Tensor::zeros(DType::uint8, {8, 2, 16})), constant(b, {8})},
                     {attr("K", int64_t{64}), attr("N", int64_t{8}), attr("bits", int64_t{4}),
                      attr("block_size", int64_t{32})},
                     "com.microsoft");
       }},
  };
  return list;
}

// The message that the case ends in; "" where it runs.
std::string refusal(const Case& c, bool lower, bool sized) {
  GraphBuilder b;
  ValueId x = kNoValue;
  if (sized) {
    x = b.graph().add_input("x", {DType::float32, true, c.x});
  } else {  // a batch that is told by what is fed
    Shape open = c.x;
    open[0] = kUnknownDim;
    x = b.graph().add_input("x", {DType::float32, true, open});
  }
  b.output(c.body(b, x), "y");
  const Model model = std::move(b).model();
  SessionOptions options;
  options.lower = lower;
  try {
    Session session(model, options);
    session.run(std::vector<NamedTensor>{{"x", ones(c.x)}});
    return "";
  } catch (const Error& error) {
    CHECK(error.code() != ErrorCode::internal);
    return error.what();
  }
}

}  // namespace

TEST_CASE("shapes that contradict each other are refused, op by op and lowered") {
  const Case sound = {"sound", {1, 3, 8, 8}, [](GraphBuilder& b, ValueId x) {
                        const ValueId w = constant(b, {4, 3, 3, 3});
                        return b.op("Relu", {b.op("Conv", {x, w, constant(b, {4})})});
                      }};
  for (const bool sized : {true, false}) {
    CHECK(refusal(sound, false, sized) == "");
    CHECK(refusal(sound, true, sized) == "");
  }
  for (const Case& c : cases()) {
    for (const bool sized : {true, false}) {
      INFO(c.name << (sized ? "" : ", with a batch that is not known"));
      CHECK(refusal(c, false, sized) != "");
      CHECK(refusal(c, true, sized) != "");
    }
  }
}

TEST_CASE("a bias of the wrong length is found by inference alone") {
  const auto said = [](const Shape& input,
                       const std::function<ValueId(GraphBuilder&, ValueId)>& body) {
    GraphBuilder b;
    const ValueId x = b.graph().add_input("x", {DType::float32, true, input});
    b.output(body(b, x), "y");
    Model model = std::move(b).model();
    try {
      infer_types(model);
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::invalid_model);
      return std::string(error.what());
    }
    return std::string();
  };
  const auto conv = [&](const Shape& bias) {
    return said({kUnknownDim, 3, 8, 8}, [&](GraphBuilder& b, ValueId x) {
      return b.op("Conv", {x, constant(b, {4, 3, 3, 3}), constant(b, bias)});
    });
  };
  CHECK(conv({4}) == "");
  CHECK_THAT(conv({2}), Catch::Contains("[2]") && Catch::Contains("4 output channels"));
  const auto transposed = [&](const Shape& bias) {
    return said({1, 3, 8, 8}, [&](GraphBuilder& b, ValueId x) {
      return b.op("ConvTranspose", {x, constant(b, {3, 2, 3, 3}), constant(b, bias)});
    });
  };
  CHECK(transposed({2}) == "");
  CHECK_THAT(transposed({3}), Catch::Contains("2 output channels"));
  const auto gemm = [&](const Shape& addend) {
    return said({kUnknownDim, 4}, [&](GraphBuilder& b, ValueId x) {
      return b.op("Gemm", {x, constant(b, {4, 3}), constant(b, addend)});
    });
  };
  for (const Shape& fits : {Shape{3}, Shape{1}, Shape{}, Shape{2, 3}, Shape{7, 1}}) {
    CHECK(gemm(fits) == "");
  }
  CHECK_THAT(gemm({11}), Catch::Contains("[11]"));
  CHECK_THAT(gemm({1, 1, 3}), Catch::Contains("[1,1,3]"));
  const auto quantized = [&](int64_t channels) {
    return said({1, 3, 8, 8}, [&](GraphBuilder& b, ValueId x) {
      const ValueId scale = b.constant(Tensor::scalar(0.1f));
      const ValueId zero = b.constant(Tensor::scalar<uint8_t>(128));
      const ValueId w_zero = b.constant(Tensor::scalar<int8_t>(0));
      return b.op("QLinearConv",
                  {b.op("QuantizeLinear", {x, scale, zero}), scale, zero,
                   b.constant(Tensor::zeros(DType::int8, {4, 3, 3, 3})), scale, w_zero, scale, zero,
                   b.constant(Tensor::zeros(DType::int32, {channels}))});
    });
  };
  CHECK(quantized(4) == "");
  CHECK_THAT(quantized(5), Catch::Contains("[5]"));
}

}  // namespace compress
