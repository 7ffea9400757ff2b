// Patterns of float nodes that lowering makes one node of: each fires, gives the numbers of the
// nodes one by one, and leaves alone what somebody else reads or watches.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <functional>
#include <random>

#include "compress/core/half.h"
#include "compress/graph/builder.h"
#include "compress/runtime/session.h"

namespace compress {
namespace {

std::mt19937 random_bits(19);

Tensor normal(const Shape& shape, float deviation = 1) {
  std::normal_distribution<float> values(0, deviation);
  Tensor tensor = Tensor::allocate(DType::float32, shape);
  for (float& value : tensor.mutable_as<float>()) value = values(random_bits);
  return tensor;
}

struct Fusion {
  std::string name;
  Shape shape;         // of the input x
  std::string kernel;  // prefix of the one kernel that runs
  // Makes the pattern; appends its inner values to the list.
  std::function<ValueId(GraphBuilder&, ValueId x, std::vector<ValueId>& inner)> make;
};

ValueId number(GraphBuilder& b, float value) { return b.constant(Tensor::scalar<float>(value)); }

// Records its result as an inner value.
struct Inner {
  GraphBuilder& b;
  std::vector<ValueId>& values;
  ValueId op(const std::string& type, std::vector<ValueId> inputs,
             std::vector<Attribute> attributes = {}) {
    values.push_back(b.op(type, std::move(inputs), std::move(attributes)));
    return values.back();
  }
};

const std::vector<Attribute> kLastAxis = {attr("axes", std::vector<int64_t>{-1})};

std::vector<Fusion> fusions() {
  using Values = std::vector<ValueId>;
  const Shape image{1, 6, 9, 7}, rows{2, 5, 24};
  const auto conv = [](Inner& in, ValueId x) {
    return in.op("Conv",
                 {x, in.b.constant(normal({8, 6, 3, 3}, 0.2f)), in.b.constant(normal({8}))});
  };
  const auto product = [](Inner& in, ValueId x) {
    const ValueId y = in.op("MatMul", {x, in.b.constant(normal({24, 40}, 0.3f))});
    return in.op("Add", {y, in.b.constant(normal({40}))});
  };
  const auto erf_gelu = [](Inner& in, ValueId x) {
    const ValueId curve = in.op("Erf", {in.op("Div", {x, number(in.b, 1.41421356f)})});
    const ValueId raised = in.op("Add", {curve, number(in.b, 1)});
    return in.b.op("Mul", {in.op("Mul", {x, raised}), number(in.b, 0.5f)});
  };
  const auto tanh_gelu = [](Inner& in, ValueId x) {
    const ValueId cubic =
        in.op("Mul", {in.op("Pow", {x, number(in.b, 3)}), number(in.b, 0.044715f)});
    const ValueId inside = in.op("Mul", {in.op("Add", {x, cubic}), number(in.b, 0.79788456f)});
    const ValueId raised = in.op("Add", {in.op("Tanh", {inside}), number(in.b, 1)});
    return in.b.op("Mul", {in.op("Mul", {x, number(in.b, 0.5f)}), raised});
  };
  const auto silu = [](Inner& in, ValueId x) { return in.b.op("Mul", {x, in.op("Sigmoid", {x})}); };
  const auto hard_swish = [](Inner& in, ValueId x) {
    const ValueId clipped =
        in.op("Clip", {in.op("Add", {x, number(in.b, 3)}), number(in.b, 0), number(in.b, 6)});
    return in.b.op("Div", {in.op("Mul", {x, clipped}), number(in.b, 6)});
  };
  std::vector<Fusion> all;
  const auto after = [&](const std::string& name, const Shape& shape, const std::string& kernel,
                         auto first, auto then) {
    all.push_back({name, shape, kernel, [=](GraphBuilder& b, ValueId x, Values& inner) {
                     Inner in{b, inner};
                     return then(in, first(in, x));
                   }});
  };
  after("Conv, SiLU", image, "conv_f32/", conv, silu);
  after("Conv, HardSwish", image, "conv_f32/", conv, hard_swish);
  after("Conv, LeakyRelu", image, "conv_f32/", conv,
        [](Inner& in, ValueId x) { return in.b.op("LeakyRelu", {x}, {attr("alpha", 0.2f)}); });
  after("Conv, Clip", image, "conv_f32/", conv, [](Inner& in, ValueId x) {
    return in.b.op("Clip", {x, number(in.b, -1), number(in.b, 2)});
  });
  after("Conv, BatchNormalization, Relu", image, "conv_f32/", conv, [](Inner& in, ValueId x) {
    Tensor variance = normal({8});
    for (float& v : variance.mutable_as<float>()) v = v * v + 0.1f;
    const ValueId y =
        in.op("BatchNormalization", {x, in.b.constant(normal({8})), in.b.constant(normal({8})),
                                     in.b.constant(normal({8})), in.b.constant(variance)});
    return in.b.op("Relu", {y});
  });
  after(
      "Pad, Conv", image, "conv_f32/",
      [](Inner& in, ValueId x) {
        const std::vector<int64_t> pads = {0, 0, 1, 0, 0, 0, 2, 1};
        return in.op("Pad", {x, in.b.constant(Tensor::from<int64_t>({8}, pads))});
      },
      [](Inner& in, ValueId x) {
        return in.b.op("Conv", {x, in.b.constant(normal({8, 6, 3, 3}, 0.2f))});
      });
  after("MatMul, bias, Gelu by erf", rows, "gemm_f32/", product, erf_gelu);
  after("MatMul, bias, Gelu by tanh", rows, "gemm_f32/", product, tanh_gelu);
  after("MatMul, bias, SiLU", rows, "gemm_f32/", product, silu);
  after("MatMul, bias, Relu", rows, "gemm_f32/", product,
        [](Inner& in, ValueId x) { return in.b.op("Relu", {x}); });
  const auto nothing = [](Inner&, ValueId x) { return x; };
  after("LayerNorm", rows, "layer_norm_f32/", nothing, [](Inner& in, ValueId x) {
    const ValueId d = in.op("Sub", {x, in.op("ReduceMean", {x}, kLastAxis)});
    const ValueId variance = in.op("ReduceMean", {in.op("Pow", {d, number(in.b, 2)})}, kLastAxis);
    const ValueId root = in.op("Sqrt", {in.op("Add", {variance, number(in.b, 1e-5f)})});
    const ValueId scaled = in.op("Mul", {in.op("Div", {d, root}), in.b.constant(normal({24}))});
    return in.b.op("Add", {scaled, in.b.constant(normal({24}))});
  });
  after("RMSNorm", rows, "rms_norm_f32/", nothing, [](Inner& in, ValueId x) {
    const ValueId mean = in.op("ReduceMean", {in.op("Mul", {x, x})}, kLastAxis);
    const ValueId root = in.op("Sqrt", {in.op("Add", {mean, number(in.b, 1e-6f)})});
    const ValueId scaled = in.op("Mul", {x, in.op("Reciprocal", {root})});
    return in.b.op("Mul", {in.b.constant(normal({24})), scaled});
  });
  // Queries, keys and values out of one image [batch, rows, heads, elements].
  const auto attention = [](Inner& in, ValueId x, bool with_mask) {
    const auto turned = [&](std::vector<int64_t> perm) {
      return in.b.op("Transpose", {x}, {attr("perm", std::move(perm))});
    };
    ValueId scores = in.op("MatMul", {turned({0, 2, 1, 3}), turned({0, 2, 3, 1})});
    scores = in.op("Div", {scores, number(in.b, 2.8f)});
    if (with_mask) scores = in.op("Add", {scores, in.b.constant(normal({2, 1, 1, 70}))});
    const ValueId weights = in.op("Softmax", {scores}, {attr("axis", int64_t{-1})});
    const ValueId sum = in.b.op("MatMul", {weights, turned({0, 2, 1, 3})});
    return in.b.op("Transpose", {sum}, {attr("perm", std::vector<int64_t>{0, 2, 1, 3})});
  };
  const Shape sequence{2, 70, 3, 8};
  after("attention", sequence, "attention_f32/", nothing,
        [=](Inner& in, ValueId x) { return attention(in, x, false); });
  after("attention with a mask", sequence, "attention_f32/", nothing,
        [=](Inner& in, ValueId x) { return attention(in, x, true); });
  after("attention, heads first, a number a row as the mask", {2, 3, 37, 8}, "attention_f32/",
        nothing, [](Inner& in, ValueId x) {
          const ValueId keys =
              in.b.op("Transpose", {x}, {attr("perm", std::vector<int64_t>{0, 1, 3, 2})});
          const ValueId scores =
              in.op("Add", {in.b.constant(normal({3, 37, 1})), in.op("MatMul", {x, keys})});
          const ValueId weights = in.op("Softmax", {scores}, {attr("axis", int64_t{3})});
          return in.b.op("MatMul", {weights, x});
        });
  after(
      "Exp, HardSwish", rows, "elements_f32/",
      [](Inner& in, ValueId x) { return in.op("Exp", {x}); }, hard_swish);
  after("a chain of elements", rows, "elements_f32/", nothing, [](Inner& in, ValueId x) {
    const ValueId a = in.op("Exp", {in.op("Neg", {in.op("Abs", {x})})});
    const ValueId c = in.op("Mul", {a, in.b.constant(normal({24}))});
    return in.b.op("Tanh", {in.op("Sub", {c, x})});
  });
  return all;
}

double relative_error(const Tensor& a, const Tensor& b) {
  REQUIRE(a.shape() == b.shape());
  const std::vector<double> x = a.to_doubles(), y = b.to_doubles();
  double error = 0, most = 1e-6;
  for (size_t i = 0; i < x.size(); ++i) {
    error = std::max(error, std::abs(x[i] - y[i]));
    most = std::max(most, std::abs(y[i]));
  }
  return error / most;
}

// Distinct kernels that do arithmetic: those a record names first, for a step.
int64_t steps_of(const Session& session) {
  int64_t steps = 0;
  std::string last;
  for (const KernelRecord& record : session.kernels()) {
    if (record.milliseconds > 0 && !record.kernel.starts_with("transpose")) ++steps;
  }
  return steps;
}

struct Made {
  Model model;
  std::vector<std::string> inner;
};

// `extra`: the inner value that another node reads; `exposed`: one that is a graph output.
Made build(const Fusion& fusion, int extra, int exposed) {
  random_bits.seed(5);
  GraphBuilder b;
  const ValueId x = b.graph().add_input("x", {DType::float32, true, fusion.shape});
  std::vector<ValueId> inner;
  b.output(fusion.make(b, x, inner), "y");
  std::vector<std::string> names;
  for (const ValueId id : inner) names.push_back(b.graph().value(id).name);
  if (extra >= 0) b.output(b.op("Floor", {inner[static_cast<size_t>(extra)]}), "floor");
  if (exposed >= 0) b.output(inner[static_cast<size_t>(exposed)], "exposed");
  return {std::move(b).model(13), names};
}

void compare(const Model& model, const Tensor& x) {
  SessionOptions plain;
  plain.lower = false;
  Session lowered(model), oracle(model, plain);
  const std::vector<NamedTensor> feed = {{"x", x}};
  const std::vector<Tensor> ours = lowered.run(feed), theirs = oracle.run(feed);
  for (size_t i = 0; i < ours.size(); ++i) CHECK(relative_error(ours[i], theirs[i]) <= 5e-6);
}

TEST_CASE("each pattern runs as one kernel and gives the same numbers") {
  for (const Fusion& fusion : fusions()) {
    CAPTURE(fusion.name);
    const Made made = build(fusion, -1, -1);
    const Tensor x = normal(fusion.shape);
    compare(made.model, x);
    Session session(made.model);
    const std::vector<NamedTensor> feed = {{"x", x}};
    session.run(feed);
    session.profile(feed);
    CHECK(steps_of(session) == 1);
    const std::vector<KernelRecord> records = session.kernels();
    CHECK(std::any_of(records.begin(), records.end(), [&](const KernelRecord& record) {
      return record.kernel.starts_with(fusion.kernel);
    }));
  }
}

TEST_CASE("a pattern whose inner value is read, put out or observed stays apart there") {
  for (const Fusion& fusion : fusions()) {
    const auto count = static_cast<int>(build(fusion, -1, -1).inner.size());
    const Tensor x = normal(fusion.shape);
    for (int i = 0; i < count; ++i) {
      CAPTURE(fusion.name, i);
      for (const bool as_output : {false, true}) {
        const Made made = build(fusion, as_output ? -1 : i, as_output ? i : -1);
        compare(made.model, x);
        Session session(made.model);
        const std::vector<NamedTensor> feed = {{"x", x}};
        session.run(feed);
        session.profile(feed);
        CHECK(steps_of(session) >= 2);
      }
      const Made made = build(fusion, -1, -1);
      SessionOptions options;
      options.observed = {made.inner[static_cast<size_t>(i)]};
      SessionOptions plain = options;
      plain.lower = false;
      const auto watch = [&](const SessionOptions& of) {
        Session session(made.model, of);
        Tensor seen;
        session.run(std::vector<NamedTensor>{{"x", x}},
                    [&](const std::string&, const TensorView& view) {
                      seen = Tensor::allocate(view.dtype, view.shape);
                      std::memcpy(seen.mutable_data(), view.data, view.bytes());
                    });
        REQUIRE(seen);
        return seen;
      };
      CHECK(relative_error(watch(options), watch(plain)) <= 5e-6);
    }
  }
}

TEST_CASE("inputs of one element a row are put side by side") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {7, 5});
  const auto column = [&](const char* op) {
    const ValueId axes = b.constant(Tensor::from<int64_t>({1}, {-1}));
    return b.op("Unsqueeze", {b.op(op, {x}), axes});
  };
  const std::vector<ValueId> columns = {column("Neg"), column("Abs"), column("Floor")};
  b.output(b.op("Concat", columns, {attr("axis", int64_t{-1})}), "y");
  const Tensor feed = normal({7, 5});
  Session session(std::move(b).model(17));
  const Tensor y = session.run(std::vector<NamedTensor>{{"x", feed}})[0];
  REQUIRE(y.shape() == Shape{7, 5, 3});
  const TensorData values = y.read(), given = feed.read();
  for (size_t i = 0; i < 35; ++i) {
    const float v = given.as<float>()[i];
    CHECK(values.as<float>()[3 * i] == -v);
    CHECK(values.as<float>()[3 * i + 1] == std::fabs(v));
    CHECK(values.as<float>()[3 * i + 2] == std::floor(v));
  }
}

TEST_CASE("MultiHeadAttention runs on the kernel of its nodes") {
  for (const bool with_bias : {false, true}) {
    GraphBuilder b;
    const ValueId x = b.input("x", DType::float32, {2, 9, 24});
    const ValueId keys = b.constant(normal({2, 13, 24})), values = b.constant(normal({2, 13, 12}));
    std::vector<ValueId> inputs = {x, keys, values};
    if (with_bias) {
      inputs.insert(inputs.end(), {kNoValue, kNoValue, b.constant(normal({1, 3, 9, 13}))});
    }
    b.output(b.op("MultiHeadAttention", inputs, {attr("num_heads", int64_t{3})}, "com.microsoft"),
             "y");
    const Model model = std::move(b).model(17);
    const Tensor feed = normal({2, 9, 24});
    compare(model, feed);
    Session session(model);
    session.run(std::vector<NamedTensor>{{"x", feed}});
    const std::vector<KernelRecord> records = session.kernels();
    CHECK(std::any_of(records.begin(), records.end(), [](const KernelRecord& record) {
      return record.op == "MultiHeadAttention" && record.kernel.starts_with("attention_f32/");
    }));
  }
}

TEST_CASE("a norm of a sum runs as a sum and a norm, its sum read or not") {
  for (const bool centred : {true, false}) {
    for (const bool with_bias : {false, true}) {
      for (const Shape& skip : {Shape{2, 5, 24}, Shape{1, 5, 24}, Shape{5, 24}}) {
        CAPTURE(centred, with_bias, skip.to_string());
        GraphBuilder b;
        const ValueId x = b.input("x", DType::float32, {2, 5, 24});
        std::vector<ValueId> inputs = {x, b.constant(normal(skip)), b.constant(normal({24}))};
        if (centred) inputs.push_back(b.constant(normal({24})));
        if (with_bias) inputs.push_back(b.constant(normal({24})));
        Node node;
        node.op_type = centred ? "SkipLayerNormalization" : "SkipSimplifiedLayerNormalization";
        node.domain = "com.microsoft";
        node.name = "norm";
        node.inputs = inputs;
        const TypeInfo type{DType::float32, true, {2, 5, 24}};
        node.outputs = {b.graph().add_value("y", type), kNoValue, kNoValue,
                        b.graph().add_value("sum", type)};
        const std::vector<ValueId> outputs = node.outputs;
        b.graph().add_node_raw(std::move(node));
        b.graph().add_output(outputs[0]);
        if (with_bias) b.graph().add_output(outputs[3]);
        Model model = std::move(b).model(17);
        model.opsets["com.microsoft"] = 1;
        const Tensor feed = normal({2, 5, 24});
        compare(model, feed);
        Session session(model);
        session.run(std::vector<NamedTensor>{{"x", feed}});
        for (const KernelRecord& record : session.kernels()) {
          CAPTURE(record.kernel);
          CHECK(record.node == "norm");
          CHECK(record.kernel.find("_ref") == std::string::npos);
        }
      }
    }
  }
}

TEST_CASE("a float16 graph runs in float32 between casts") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float16, {1, 6, 9, 7});
  const ValueId y =
      b.op("Conv", {x, b.constant(convert(normal({8, 6, 3, 3}, 0.2f), DType::float16))});
  b.output(b.op("Relu", {y}), "y");
  const Model model = std::move(b).model(13);
  const std::vector<NamedTensor> feed = {{"x", convert(normal({1, 6, 9, 7}), DType::float16)}};
  SessionOptions plain;
  plain.lower = false;
  Session lowered(model), oracle(model, plain);
  const Tensor ours = lowered.run(feed)[0], theirs = oracle.run(feed)[0];
  CHECK(ours.dtype() == DType::float16);
  // Half a step of float16, 2^-11, of the largest value, on either side.
  CHECK(relative_error(ours, theirs) <= 1.0 / 1024);
  const std::vector<KernelRecord> records = lowered.kernels();
  CHECK(std::any_of(records.begin(), records.end(), [](const KernelRecord& record) {
    return record.kernel.starts_with("conv_f32/");
  }));
}

TEST_CASE("a line convolution is a product, along either axis") {
  for (const bool upright : {false, true}) {
    GraphBuilder b;
    const Shape shape = upright ? Shape{2, 6, 30, 1} : Shape{2, 6, 4, 30};
    const Shape kernel = upright ? Shape{8, 6, 5, 1} : Shape{8, 6, 1, 5};
    const ValueId x = b.graph().add_input("x", {DType::float32, true, shape});
    b.output(b.op("Conv", {x, b.constant(normal(kernel)), b.constant(normal({8}))},
                  {attr("strides", std::vector<int64_t>{2, 2})}),
             "y");
    const Model model = std::move(b).model(13);
    compare(model, normal(shape));
    Session session(model);
    session.run(std::vector<NamedTensor>{{"x", normal(shape)}});
    const std::vector<KernelRecord> records = session.kernels();
    CHECK(std::any_of(records.begin(), records.end(), [](const KernelRecord& record) {
      return record.kernel.starts_with("conv_f32/gemm");
    }));
  }
}

TEST_CASE("channels change places and images grow without leaving the layout") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {2, 6, 9, 7});
  const ValueId y = b.op("Conv", {x, b.constant(normal({8, 6, 3, 3}, 0.2f))});
  const auto dims = [&](std::vector<int64_t> values) {
    const auto count = static_cast<int64_t>(values.size());
    return b.constant(Tensor::from<int64_t>({count}, values));
  };
  const ValueId apart = b.op("Reshape", {y, dims({2, 2, 4, 7, 5})});
  const ValueId turned =
      b.op("Transpose", {apart}, {attr("perm", std::vector<int64_t>{0, 2, 1, 3, 4})});
  const ValueId joined = b.op("Reshape", {turned, dims({2, 8, 7, 5})});
  Tensor scales = Tensor::allocate(DType::float32, {4});
  const std::vector<float> factors = {1, 1, 2, 1.5f};
  std::copy(factors.begin(), factors.end(), scales.mutable_as<float>().begin());
  const ValueId larger =
      b.op("Resize", {joined, kNoValue, b.constant(scales)}, {attr("mode", std::string("linear"))});
  b.output(b.op("Conv", {larger, b.constant(normal({4, 8, 1, 1}))}), "y");
  const Model model = std::move(b).model(13);
  const Tensor input = normal({2, 6, 9, 7});
  compare(model, input);
  Session session(model);
  const std::vector<NamedTensor> feed = {{"x", input}};
  session.run(feed);
  const std::vector<KernelRecord> records = session.kernels();
  // In, within the pixels, and out.
  CHECK(std::count_if(records.begin(), records.end(), [](const KernelRecord& record) {
          return record.kernel.starts_with("transpose");
        }) == 3);
}

}  // namespace
}  // namespace compress
