// Lowered graphs against the same graphs op by op.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <random>

#include "compress/graph/builder.h"
#include "compress/quant/qparams.h"
#include "compress/runtime/session.h"

namespace compress {
namespace {

std::mt19937 random_bits(7);

Tensor normal(const Shape& shape, float deviation = 1) {
  std::normal_distribution<float> values(0, deviation);
  Tensor tensor = Tensor::allocate(DType::float32, shape);
  for (float& value : tensor.mutable_as<float>()) value = values(random_bits);
  return tensor;
}

Tensor bytes(DType dtype, const Shape& shape, int low, int high) {
  std::uniform_int_distribution<int> values(low, high);
  Tensor tensor = Tensor::allocate(dtype, shape);
  for (int64_t i = 0; i < tensor.count(); ++i) {
    reinterpret_cast<int8_t*>(tensor.mutable_data())[i] = static_cast<int8_t>(values(random_bits));
  }
  return tensor;
}

Tensor zero_point_of(DType dtype, int value) {
  if (dtype == DType::int8) return Tensor::scalar<int8_t>(static_cast<int8_t>(value));
  return Tensor::scalar<uint8_t>(static_cast<uint8_t>(value));
}

Tensor ints(std::vector<int64_t> values) {
  return Tensor::from<int64_t>({static_cast<int64_t>(values.size())}, values);
}

struct Graphs {
  GraphBuilder b;
  ValueId quantize(ValueId x, float scale, int zero_point, DType dtype) {
    return b.op("QuantizeLinear", {x, b.constant(Tensor::scalar<float>(scale)),
                                   b.constant(zero_point_of(dtype, zero_point))});
  }
  ValueId dequantize(ValueId q, float scale, int zero_point, DType dtype) {
    return b.op("DequantizeLinear", {q, b.constant(Tensor::scalar<float>(scale)),
                                     b.constant(zero_point_of(dtype, zero_point))});
  }
  // x through Q and DQ.
  ValueId both(ValueId x, float scale, int zero_point, DType dtype) {
    return dequantize(quantize(x, scale, zero_point, dtype), scale, zero_point, dtype);
  }
  // int8 weights, scales a channel of `axis` (or one).
  ValueId weights(const Shape& shape, int axis, bool per_channel) {
    const int64_t channels = per_channel ? shape[axis] : 1;
    Tensor scales = Tensor::allocate(DType::float32, per_channel ? Shape{channels} : Shape());
    Tensor zeros = Tensor::zeros(DType::int8, per_channel ? Shape{channels} : Shape());
    for (float& s : scales.mutable_as<float>()) {
      s = 0.01f + 0.0001f * static_cast<float>(random_bits() % 100);
    }
    return b.op(
        "DequantizeLinear",
        {b.constant(bytes(DType::int8, shape, -127, 127)), b.constant(scales), b.constant(zeros)},
        {attr("axis", int64_t{axis})});
  }
};

bool has_kernel(const Session& session, const std::string& op, const std::string& kernel) {
  for (const KernelRecord& record : session.kernels()) {
    if (record.op == op && record.kernel.starts_with(kernel)) return true;
  }
  return false;
}

// Runs both and compares outputs in units of `step`: at most one, on at most 0.1 % of the elements.
void compare_steps(const Model& model, const std::vector<NamedTensor>& feeds, float step,
                   const std::string& op, const std::string& kernel) {
  Session lowered(model);
  SessionOptions plain;
  plain.lower = false;
  Session oracle(model, plain);
  const std::vector<Tensor> ours = lowered.run(feeds);
  const std::vector<Tensor> theirs = oracle.run(feeds);
  CHECK(has_kernel(lowered, op, kernel));
  CHECK_FALSE(has_kernel(oracle, op, kernel));
  for (size_t i = 0; i < ours.size(); ++i) {
    REQUIRE(ours[i].shape() == theirs[i].shape());
    const std::vector<double> a = ours[i].to_doubles();
    const std::vector<double> b = theirs[i].to_doubles();
    int64_t differ = 0;
    double spread = 0;
    for (size_t k = 0; k < a.size(); ++k) {
      const double steps = std::abs(a[k] - b[k]) / static_cast<double>(step);
      REQUIRE(steps < 1.5);
      differ += steps > 0.5 ? 1 : 0;
      spread = std::max(spread, std::abs(b[k] - b[0]));
    }
    CHECK(differ <= std::max<int64_t>(1, static_cast<int64_t>(a.size()) / 1000));
    CHECK(spread > 10 * static_cast<double>(step));  // the outputs are not all alike
  }
}

struct ConvCase {
  int64_t channels, filters, groups, kernel, stride;
  std::vector<int64_t> pads;
  DType dtype;
  bool per_channel;
  int bias;  // 0: none, 1: float, 2: int32
  std::string activation;
};

void check_conv(const ConvCase& c) {
  const int zero = c.dtype == DType::int8 ? -3 : 117;
  Graphs g;
  const ValueId x = g.b.input("x", DType::float32, {2, c.channels, 13, 11});
  const ValueId in = g.both(x, 0.02f, zero, c.dtype);
  const Shape w{c.filters, c.channels / c.groups, c.kernel, c.kernel};
  std::vector<ValueId> inputs = {in, g.weights(w, 0, c.per_channel)};
  if (c.bias == 1) inputs.push_back(g.b.constant(normal({c.filters})));
  if (c.bias == 2 && !c.per_channel) {
    const Node& dq = g.b.graph().node(g.b.graph().value(inputs[1]).producer);
    const float scale = 0.02f * static_cast<float>(g.b.graph().constant_input(dq, 1)->to_double());
    Tensor values = Tensor::allocate(DType::int32, {c.filters});
    for (int32_t& v : values.mutable_as<int32_t>()) v = static_cast<int32_t>(random_bits() % 2000);
    inputs.push_back(g.b.op("DequantizeLinear",
                            {g.b.constant(values), g.b.constant(Tensor::scalar<float>(scale))}));
  }
  ValueId y = g.b.op("Conv", inputs,
                     {attr("group", c.groups), attr("pads", c.pads),
                      attr("strides", std::vector<int64_t>{c.stride, c.stride})});
  if (c.activation == "Clip") {
    y = g.b.op("Clip",
               {y, g.b.constant(Tensor::scalar<float>(0)), g.b.constant(Tensor::scalar<float>(6))});
  } else if (!c.activation.empty()) {
    y = g.b.op(c.activation, {y});
  }
  g.b.output(g.both(y, 0.11f, zero, c.dtype), "y");
  const Model model = std::move(g.b).model(13);
  compare_steps(model, {{"x", normal({2, c.channels, 13, 11})}}, 0.11f, "Conv", "conv_s8/");
}

TEST_CASE("quantized convolutions become integer kernels") {
  const std::vector<int64_t> none = {0, 0, 0, 0}, same = {1, 1, 1, 1}, odd = {0, 2, 1, 0};
  check_conv({3, 16, 1, 3, 2, odd, DType::uint8, true, 1, "Relu"});
  check_conv({17, 5, 1, 1, 1, none, DType::uint8, false, 2, ""});
  check_conv({8, 8, 8, 3, 1, same, DType::uint8, true, 1, "Clip"});
  check_conv({33, 33, 33, 3, 2, odd, DType::int8, true, 0, "Relu"});
  check_conv({6, 9, 3, 3, 1, same, DType::int8, false, 1, ""});
  check_conv({7, 12, 1, 5, 1, odd, DType::int8, false, 2, "Clip"});
}

TEST_CASE("quantized products become integer kernels") {
  for (const bool per_channel : {false, true}) {
    Graphs g;
    const ValueId x = g.b.input("x", DType::float32, {3, 5, 37});
    const ValueId in = g.both(x, 0.02f, 131, DType::uint8);
    const ValueId product = g.b.op("MatMul", {in, g.weights({37, 19}, 1, per_channel)});
    const ValueId sum = g.b.op("Add", {product, g.b.constant(normal({19}))});
    g.b.output(g.both(sum, 0.3f, 120, DType::uint8), "y");
    compare_steps(std::move(g.b).model(13), {{"x", normal({3, 5, 37})}}, 0.3f, "MatMul",
                  "gemm_s8/");

    Graphs h;
    const ValueId flat = h.b.input("x", DType::float32, {4, 37});
    const ValueId q = h.both(flat, 0.02f, 3, DType::int8);
    const ValueId out =
        h.b.op("Gemm", {q, h.weights({19, 37}, 0, per_channel), h.b.constant(normal({19}))},
               {attr("transB", int64_t{1})});
    h.b.output(h.both(h.b.op("Relu", {out}), 0.1f, -128, DType::int8), "y");
    compare_steps(std::move(h.b).model(13), {{"x", normal({4, 37})}}, 0.1f, "Gemm", "gemm_s8/");
  }
}

TEST_CASE("elementwise work, pools and moves run on the integers") {
  const auto run = [](const std::string& op, const std::string& kernel,
                      const std::function<ValueId(Graphs&, ValueId, ValueId)>& make, float step) {
    Graphs g;
    const ValueId x = g.b.input("x", DType::float32, {2, 6, 8, 9});
    const ValueId z = g.b.input("z", DType::float32, {2, 6, 8, 9});
    const ValueId a = g.both(x, 0.03f, 120, DType::uint8);
    const ValueId b = g.both(z, 0.02f, 140, DType::uint8);
    g.b.output(g.both(make(g, a, b), step, 100, DType::uint8), "y");
    compare_steps(std::move(g.b).model(13),
                  {{"x", normal({2, 6, 8, 9})}, {"z", normal({2, 6, 8, 9})}}, step, op, kernel);
  };
  using Made = ValueId;
  run(
      "Add", "add_s8/",
      [](Graphs& g, Made a, Made b) {
        return g.b.op("Add", {a, b});
      },
      0.05f);
  run(
      "Mul", "mul_s8/",
      [](Graphs& g, Made a, Made b) {
        return g.b.op("Mul", {a, b});
      },
      0.05f);
  run(
      "Sigmoid", "lookup_s8", [](Graphs& g, Made a, Made) { return g.b.op("Sigmoid", {a}); },
      0.01f);
  run(
      "HardSigmoid", "lookup_s8",
      [](Graphs& g, Made a, Made) {
        return g.b.op("Mul", {g.b.op("HardSigmoid", {a}), g.b.constant(Tensor::scalar<float>(3))});
      },
      0.03f);
  run(  // HardSwish, spelled out
      "Add", "lookup_s8",
      [](Graphs& g, Made a, Made) {
        const auto number = [&](float v) { return g.b.constant(Tensor::scalar<float>(v)); };
        const ValueId gate = g.b.op("Clip", {g.b.op("Add", {a, number(3)}), number(0), number(6)});
        return g.b.op("Div", {g.b.op("Mul", {a, gate}), number(6)});
      },
      0.03f);
  run(
      "MaxPool", "max_pool_s8/",
      [](Graphs& g, Made a, Made) {
        return g.b.op("MaxPool", {a},
                      {attr("kernel_shape", std::vector<int64_t>{3, 2}),
                       attr("pads", std::vector<int64_t>{1, 0, 0, 1})});
      },
      0.03f);
  run(
      "AveragePool", "average_pool_s8/",
      [](Graphs& g, Made a, Made) {
        return g.b.op("AveragePool", {a},
                      {attr("kernel_shape", std::vector<int64_t>{2, 2}),
                       attr("strides", std::vector<int64_t>{2, 2})});
      },
      0.017f);  // no simple ratio to 0.03, whose exact ties either side may round its way
  run(
      "Concat", "concat_uint8",
      [](Graphs& g, Made a, Made b) {
        return g.b.op("Concat", {a, b}, {attr("axis", int64_t{1})});
      },
      0.03f);
}

// max |a - b| relative to max |b|.
double relative_error(const Tensor& a, const Tensor& b) {
  REQUIRE(a.shape() == b.shape());
  const std::vector<double> x = a.to_doubles();
  const std::vector<double> y = b.to_doubles();
  double error = 0, most = 1e-6;
  for (size_t i = 0; i < x.size(); ++i) {
    error = std::max(error, std::abs(x[i] - y[i]));
    most = std::max(most, std::abs(y[i]));
  }
  return error / most;
}

void compare_floats(const Model& model, const std::vector<NamedTensor>& feeds, double tolerance) {
  SessionOptions plain;
  plain.lower = false;
  Session lowered(model);
  Session oracle(model, plain);
  const std::vector<Tensor> ours = lowered.run(feeds);
  const std::vector<Tensor> theirs = oracle.run(feeds);
  for (size_t i = 0; i < ours.size(); ++i) CHECK(relative_error(ours[i], theirs[i]) <= tolerance);
}

// One operator of the QOperator form between Quantize and Dequantize. `make` gets the quantized
// input (scale 0.02) and gives the operator's output, of scale 0.05.
template <class Make>
void check_qoperator(DType dtype, const Shape& shape, const std::string& op,
                     const std::string& kernel, Make&& make) {
  CAPTURE(op, info(dtype).name);
  const int zero = dtype == DType::int8 ? -3 : 117;
  Graphs g;
  const ValueId x = g.b.input("x", DType::float32, {2, 16, 9, 7});
  ValueId in = x;
  if (shape.rank() == 2) in = g.b.op("Reshape", {x, g.b.constant(ints({2, -1}))});
  const ValueId y = make(g, g.quantize(in, 0.02f, zero, dtype), zero);
  const bool is_float = g.b.graph().node(g.b.graph().value(y).producer).op_type == "QGemm" &&
                        g.b.graph().node(g.b.graph().value(y).producer).inputs.size() < 8;
  g.b.output(is_float ? y : g.dequantize(y, 0.05f, zero, dtype), "y");
  const Model model = std::move(g.b).model(17);
  compare_steps(model, {{"x", normal({2, 16, 9, 7})}}, 0.05f, op, kernel);
}

TEST_CASE("operators of the QOperator form run on the same kernels") {
  for (const DType dtype : {DType::uint8, DType::int8}) {
    const Shape image{2, 16, 9, 7};
    const auto scale = [](Graphs& g, float value) {
      return g.b.constant(Tensor::scalar<float>(value));
    };
    const auto point = [&](Graphs& g, int value) {
      return g.b.constant(zero_point_of(dtype, value));
    };
    for (const int i : {0, 1, 2, 3}) {
      const std::string op = i % 2 == 0 ? "QLinearAdd" : "QLinearMul";
      const Shape repeated = i < 2 ? Shape{16, 1, 1} : Shape{7};  // along lines, or within them
      check_qoperator(dtype, image, op, op == "QLinearAdd" ? "add_s8/" : "mul_s8/",
                      [&](Graphs& g, ValueId x, int zero) {
                        const ValueId other = g.b.constant(bytes(dtype, repeated, -128, 127));
                        return g.b.op(op,
                                      {x, scale(g, 0.02f), point(g, zero), other, scale(g, 0.03f),
                                       point(g, zero + 5), scale(g, 0.05f), point(g, zero)},
                                      {}, "com.microsoft");
                      });
    }
    // Scales without a simple ratio: halves would be rounded by the last bit of either way.
    check_qoperator(dtype, image, "QLinearAveragePool", "average_pool_s8/",
                    [&](Graphs& g, ValueId x, int zero) {
                      return g.b.op(
                          "QLinearAveragePool",
                          {x, scale(g, 0.0213f), point(g, zero), scale(g, 0.0507f), point(g, zero)},
                          {attr("kernel_shape", std::vector<int64_t>{3, 2}),
                           attr("pads", std::vector<int64_t>{1, 0, 1, 1}),
                           attr("strides", std::vector<int64_t>{2, 1})},
                          "com.microsoft");
                    });
    // Sums of 63 values around 0: a mean spans few steps, so that their scale is a smaller one.
    check_qoperator(dtype, image, "QLinearGlobalAveragePool", "average_pool_s8/",
                    [&](Graphs& g, ValueId x, int zero) {
                      return g.b.op(
                          "QLinearGlobalAveragePool",
                          {x, scale(g, 0.4f), point(g, zero), scale(g, 0.05f), point(g, zero)}, {},
                          "com.microsoft");
                    });
    check_qoperator(dtype, image, "QLinearConcat", "concat", [&](Graphs& g, ValueId x, int zero) {
      return g.b.op("QLinearConcat",
                    {scale(g, 0.05f), point(g, zero), x, scale(g, 0.02f), point(g, zero), x,
                     scale(g, 0.04f), point(g, zero + 9)},
                    {attr("axis", int64_t{1})}, "com.microsoft");
    });
    for (const std::string op : {"QLinearSigmoid", "QLinearLeakyRelu"}) {
      check_qoperator(dtype, image, op, "lookup_s8", [&](Graphs& g, ValueId x, int zero) {
        // A scale of 0.1 spreads the logistic function over more than ten steps.
        return g.b.op(op, {x, scale(g, 0.1f), point(g, zero), scale(g, 0.05f), point(g, zero)},
                      op == "QLinearSigmoid" ? std::vector<Attribute>{}
                                             : std::vector<Attribute>{attr("alpha", 0.2f)},
                      "com.microsoft");
      });
    }
    for (const bool is_float : {false, true}) {
      check_qoperator(
          dtype, {2, 16 * 9 * 7}, "QGemm", "gemm_s8/", [&](Graphs& g, ValueId x, int zero) {
            std::vector<ValueId> inputs = {
                x,
                scale(g, 0.02f),
                point(g, zero),
                g.b.constant(bytes(DType::int8, {40, 16 * 9 * 7}, -127, 127)),
                scale(g, 0.003f),
                g.b.constant(zero_point_of(DType::int8, 0)),
                g.b.constant(Tensor::zeros(DType::int32, {40}))};
            if (!is_float) {
              inputs.push_back(scale(g, 0.05f));
              inputs.push_back(point(g, zero));
            }
            return g.b.op("QGemm", inputs, {attr("transB", int64_t{1})}, "com.microsoft");
          });
    }
  }
}

TEST_CASE("casts to the type that is there leave nothing to run") {
  Graphs g;
  const ValueId x = g.b.input("x", DType::float32, {2, 16, 9, 7});
  const ValueId q = g.b.op("Cast", {g.quantize(x, 0.02f, 117, DType::uint8)},
                           {attr("to", static_cast<int64_t>(DType::uint8))});
  const ValueId in = g.b.op("Identity", {g.dequantize(q, 0.02f, 117, DType::uint8)});
  const ValueId y = g.b.op("Conv", {in, g.weights({8, 16, 1, 1}, 0, true)});
  g.b.output(g.both(y, 0.11f, 117, DType::uint8), "y");
  const Model model = std::move(g.b).model(13);
  compare_steps(model, {{"x", normal({2, 16, 9, 7})}}, 0.11f, "Conv", "conv_s8/");
  Session session(model);
  session.run(std::vector<NamedTensor>{{"x", normal({2, 16, 9, 7})}});
  CHECK_FALSE(has_kernel(session, "Cast", ""));
}

TEST_CASE("a float region runs channels-last and gives the same numbers") {
  GraphBuilder b;
  // A symbol says that the operands of the Add have one batch size.
  const int64_t any = b.graph().symbol("batch");
  const ValueId x = b.input("x", DType::float32, {any, 5, 12, 10});
  const std::vector<Attribute> same = {attr("pads", std::vector<int64_t>{1, 1, 1, 1})};
  const ValueId first = b.op(
      "Relu", {b.op("Conv", {x, b.constant(normal({8, 5, 3, 3})), b.constant(normal({8}))}, same)});
  const ValueId second = b.op("Conv", {first, b.constant(normal({8, 8, 3, 3}, 0.1f))}, same);
  const ValueId sum = b.op("Relu", {b.op("Add", {second, first})});
  const ValueId gate =
      b.op("Sigmoid",
           {b.op("Conv", {b.op("GlobalAveragePool", {sum}), b.constant(normal({8, 8, 1, 1}))})});
  const ValueId scaled = b.op("Mul", {sum, gate});
  const ValueId shifted = b.op("Add", {scaled, b.constant(normal({8, 1, 1}))});
  const ValueId joined = b.op("Concat", {shifted, first}, {attr("axis", int64_t{1})});
  const ValueId pooled = b.op("MaxPool", {joined},
                              {attr("kernel_shape", std::vector<int64_t>{2, 2}),
                               attr("strides", std::vector<int64_t>{2, 2})});
  const ValueId turned =
      b.op("Transpose", {pooled}, {attr("perm", std::vector<int64_t>{0, 2, 3, 1})});
  b.output(b.op("Flatten", {pooled}), "flat");
  b.output(turned, "turned");
  const Model model = std::move(b).model(13);
  for (const int64_t batch : {1, 3}) {
    compare_floats(model, {{"x", normal({batch, 5, 12, 10})}}, 1e-5);
  }
  Session session(model);
  session.run(std::vector<NamedTensor>{{"x", normal({1, 5, 12, 10})}});
  CHECK(has_kernel(session, "Conv", "conv_f32/"));
  CHECK(has_kernel(session, "Add", "conv_f32/"));  // the residual is inside
}

TEST_CASE("float products go through the library") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {2, 7, 24});
  const ValueId sum =
      b.op("Add", {b.op("MatMul", {x, b.constant(normal({24, 16}))}), b.constant(normal({16}))});
  const ValueId back = b.op("Transpose", {sum}, {attr("perm", std::vector<int64_t>{0, 2, 1})});
  b.output(b.op("MatMul", {sum, back}), "y");
  const Model model = std::move(b).model(13);
  compare_floats(model, {{"x", normal({2, 7, 24})}}, 1e-5);
  GraphBuilder c;
  const ValueId row = c.input("x", DType::float32, {-1, 200});
  c.output(c.op("Gemm", {row, c.constant(normal({70, 200})), c.constant(normal({70}))},
                {attr("transB", int64_t{1}), attr("alpha", 0.5f)}),
           "y");
  const Model gemm = std::move(c).model(13);
  compare_floats(gemm, {{"x", normal({1, 200})}}, 1e-5);  // one row: our own kernel
  compare_floats(gemm, {{"x", normal({3, 200})}}, 1e-5);
}

TEST_CASE("block-quantized and dynamic products run on their integers") {
  for (const int64_t level : {0, 4}) {
    GraphBuilder b;
    const ValueId x = b.input("x", DType::float32, {5, 64});
    const ValueId y =
        b.op("MatMulNBits",
             {x, b.constant(bytes(DType::uint8, {24, 2, 16}, -128, 127)),
              b.constant(normal({48}, 0.1f))},
             {attr("K", int64_t{64}), attr("N", int64_t{24}), attr("bits", int64_t{4}),
              attr("block_size", int64_t{32}), attr("accuracy_level", level)},
             "com.microsoft");
    b.output(y, "y");
    const Model model = std::move(b).model(17);
    // Level 4 quantizes activations to 8 bits a block: half a step of 1/127 in each.
    compare_floats(model, {{"x", normal({5, 64})}}, level == 4 ? 1e-2 : 1e-5);
    Session session(model);
    session.run(std::vector<NamedTensor>{{"x", normal({5, 64})}});
    CHECK(has_kernel(session, "MatMulNBits", "gemm_w4/"));
  }
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {5, 64});
  const std::vector<ValueId> q = b.op_n("DynamicQuantizeLinear", 3, {x});
  const ValueId sum =
      b.op("MatMulInteger", {q[0], b.constant(bytes(DType::int8, {64, 20}, -127, 127)), q[2],
                             b.constant(Tensor::scalar<int8_t>(0))});
  const ValueId wide = b.op("Cast", {sum}, {attr("to", int64_t{1})});
  const ValueId scales = b.op("Mul", {q[1], b.constant(normal({20}, 0.1f))});
  b.output(b.op("Add", {b.op("Mul", {wide, scales}), b.constant(normal({20}))}), "y");
  const Model model = std::move(b).model(17);
  compare_floats(model, {{"x", normal({5, 64})}}, 1e-6);
  Session session(model);
  session.run(std::vector<NamedTensor>{{"x", normal({5, 64})}});
  CHECK(has_kernel(session, "MatMulInteger", "gemm_s8/"));
  CHECK(has_kernel(session, "Add", "gemm_s8/"));
}

}  // namespace
}  // namespace compress
