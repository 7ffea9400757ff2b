// Removal of channels. The oracle: a model without some channels computes what the model computes
// in which everything of theirs is zero.
#include <functional>

#include "compress/error.h"
#include "tests/passes/channels.h"

namespace compress {
namespace {

using test::random_tensor;
using test::run_step;

Tensor wide(const Shape& shape, uint32_t seed) {
  return convert(random_tensor(shape, seed, 0.5f), DType::float64);
}

int64_t parameters(const Model& model) {
  int64_t count = 0;
  for (ValueId id = 0; id < model.graph.value_slots(); ++id) {
    const Value& value = model.graph.value(id);
    if (value.alive && value.is_constant() && is_float(value.constant.dtype())) {
      count += value.constant.count();
    }
  }
  return count;
}

// A small network in float64, with what its constants are called by.
class Net {
 public:
  GraphBuilder b;
  ValueId x = kNoValue;

  explicit Net(std::initializer_list<int64_t> dims) { x = b.input("x", DType::float64, dims); }
  ValueId constant(const Shape& shape) { return b.constant(wide(shape, ++seed_), "w"); }
  ValueId conv(ValueId in, const Shape& weights, bool bias = true, int64_t group = 1) {
    std::vector<ValueId> inputs = {in, constant(weights)};
    if (bias) inputs.push_back(constant({weights[0]}));
    const int64_t pad = weights[2] / 2;
    return b.op("Conv", inputs,
                {attr("group", group), attr("pads", std::vector<int64_t>{pad, pad, pad, pad})});
  }
  ValueId norm(ValueId in, int64_t channels) {
    const Tensor variance =
        Tensor::from<double>({channels}, std::vector<double>(static_cast<size_t>(channels), 0.5));
    return b.op("BatchNormalization", {in, constant({channels}), constant({channels}),
                                       constant({channels}), b.constant(variance, "variance")});
  }
  ValueId relu(ValueId in) { return b.op("Relu", {in}); }
  ValueId ints(std::initializer_list<int64_t> values) { return b.constant(test::ints(values)); }
  Model done(ValueId out) {
    b.output(out, "y");
    return std::move(b).model();
  }

 private:
  uint32_t seed_ = 0;
};

struct Case {
  std::string name;
  std::function<Model()> make;
  // Shapes of some weights with half of the channels gone, as they must come out, in any order.
  std::vector<Shape> shapes;
};

const std::vector<Case> kCases = {
    {"a chain with BatchNormalization and activations",
     [] {
       Net n({2, 3, 6, 6});
       ValueId v = n.relu(n.norm(n.conv(n.x, {8, 3, 3, 3}, false), 8));
       v = n.b.op("PRelu", {n.conv(v, {6, 8, 3, 3}), n.constant({6, 1, 1})});
       v = n.b.op("Mul", {n.b.op("Sigmoid", {v}), n.constant({1, 6, 1, 1})});
       return n.done(n.conv(v, {4, 6, 1, 1}));
     },
     {{4, 3, 3, 3}, {3, 4, 3, 3}, {3, 1, 1}, {1, 3, 1, 1}, {4, 3, 1, 1}}},
    {"a residual sum is one group",
     [] {
       Net n({1, 3, 5, 5});
       const ValueId stem = n.relu(n.conv(n.x, {8, 3, 3, 3}));
       const ValueId inner = n.relu(n.conv(stem, {6, 8, 1, 1}));
       const ValueId sum = n.b.op("Add", {stem, n.norm(n.conv(inner, {8, 6, 3, 3}, false), 8)});
       return n.done(n.conv(sum, {2, 8, 1, 1}));
     },
     {{4, 3, 3, 3}, {3, 4, 1, 1}, {4, 3, 3, 3}, {2, 4, 1, 1}}},
    {"depthwise convolutions, also with two filters a channel",
     [] {
       Net n({1, 3, 5, 5});
       ValueId v = n.conv(n.x, {6, 3, 1, 1});
       v = n.relu(n.conv(v, {6, 1, 3, 3}, true, 6));
       v = n.relu(n.conv(v, {12, 1, 3, 3}, true, 6));
       return n.done(n.conv(v, {2, 12, 1, 1}));
     },
     {{3, 3, 1, 1}, {3, 1, 3, 3}, {6, 1, 3, 3}, {2, 6, 1, 1}}},
    {"groups lose the same of their channels",
     [] {
       Net n({1, 3, 5, 5});
       ValueId v = n.relu(n.conv(n.x, {8, 3, 1, 1}));
       v = n.relu(n.conv(v, {12, 4, 3, 3}, true, 2));
       return n.done(n.conv(v, {2, 12, 1, 1}));
     },
     {{4, 3, 1, 1}, {6, 2, 3, 3}, {2, 6, 1, 1}}},
    {"Concat, and a normalization behind it",
     [] {
       Net n({1, 3, 5, 5});
       const ValueId a = n.relu(n.conv(n.x, {4, 3, 1, 1}));
       const ValueId c = n.relu(n.conv(n.x, {6, 3, 3, 3}));
       ValueId v = n.b.op("Concat", {a, n.x, c}, {attr("axis", int64_t{1})});
       return n.done(n.conv(n.relu(n.norm(v, 13)), {2, 13, 1, 1}));
     },
     {{2, 3, 1, 1}, {3, 3, 3, 3}, {2, 8, 1, 1}, {8}}},
    {"Flatten before Gemm",
     [] {
       Net n({2, 3, 4, 4});
       ValueId v = n.b.op("Flatten", {n.relu(n.conv(n.x, {6, 3, 3, 3}))});
       v = n.relu(n.b.op("Gemm", {v, n.constant({10, 96}), n.constant({10})},
                         {attr("transB", int64_t{1})}));
       return n.done(n.b.op("Gemm", {v, n.constant({10, 3}), n.constant({1, 3})}));
     },
     {{3, 3, 3, 3}, {5, 48}, {5}, {5, 3}}},
    {"Reshape to a written and to an open size",
     [] {
       Net n({2, 3, 4, 4});
       const ValueId v = n.relu(n.conv(n.x, {6, 3, 3, 3}));
       const ValueId a = n.b.op("Reshape", {v, n.ints({-1, 96})});
       const ValueId c = n.b.op("Reshape", {v, n.ints({2, -1})});
       return n.done(n.b.op("Add", {n.b.op("MatMul", {a, n.constant({96, 3})}),
                                    n.b.op("MatMul", {c, n.constant({96, 3})})}));
     },
     {{3, 3, 3, 3}, {48, 3}, {48, 3}}},
    {"Split and Slice",
     [] {
       Net n({1, 3, 5, 5});
       const ValueId v = n.relu(n.conv(n.x, {12, 3, 1, 1}));
       const std::vector<ValueId> parts = n.b.op_n("Split", 2, {v}, {attr("axis", int64_t{1})});
       const ValueId last =
           n.b.op("Slice", {v, n.ints({-5}), n.ints({9999}), n.ints({1}), n.ints({1})});
       const ValueId a = n.conv(n.relu(parts[0]), {4, 6, 1, 1});
       const ValueId c = n.conv(parts[1], {4, 6, 3, 3});
       return n.done(n.b.op("Sum", {a, c, n.conv(last, {4, 5, 1, 1})}));
     },
     {{6, 3, 1, 1}}},
    {"a channel shuffle",
     [] {
       Net n({1, 3, 4, 4});
       ValueId v = n.relu(n.conv(n.x, {8, 3, 1, 1}));
       v = n.b.op("Reshape", {v, n.ints({1, 2, 4, 4, 4})});
       v = n.b.op("Transpose", {v}, {attr("perm", std::vector<int64_t>{0, 2, 1, 3, 4})});
       v = n.b.op("Reshape", {v, n.ints({1, -1, 4, 4})});
       return n.done(n.conv(n.relu(v), {2, 8, 3, 3}));
     },
     {{4, 3, 1, 1}, {2, 4, 3, 3}}},
    {"squeeze and excitation",
     [] {
       Net n({2, 3, 5, 5});
       const ValueId v = n.relu(n.conv(n.x, {8, 3, 3, 3}));
       ValueId s = n.b.op("GlobalAveragePool", {v});
       s = n.relu(n.conv(s, {4, 8, 1, 1}));
       s = n.b.op("HardSigmoid", {n.conv(s, {8, 4, 1, 1})});
       return n.done(n.conv(n.b.op("Mul", {v, s}), {2, 8, 1, 1}));
     },
     {{4, 3, 3, 3}, {2, 4, 1, 1}, {4, 2, 1, 1}, {2, 4, 1, 1}}},
    {"ConvTranspose",
     [] {
       Net n({1, 3, 4, 4});
       ValueId v = n.relu(n.conv(n.x, {6, 3, 1, 1}));
       v = n.relu(n.b.op("ConvTranspose", {v, n.constant({6, 8, 2, 2}), n.constant({8})}));
       v = n.b.op("ConvTranspose", {v, n.constant({8, 1, 2, 2})}, {attr("group", int64_t{8})});
       return n.done(n.b.op("ConvTranspose", {v, n.constant({8, 2, 2, 2})}));
     },
     {{3, 3, 1, 1}, {3, 4, 2, 2}, {4, 1, 2, 2}, {4, 2, 2, 2}}},
    {"neurons of a transformer's perceptron",
     [] {
       Net n({2, 5, 6});
       ValueId v = n.b.op("MatMul", {n.x, n.constant({6, 16})});
       v = n.b.op("Add", {n.constant({16}), v});
       const ValueId half = n.b.constant(Tensor::scalar(0.5), "half");
       v = n.b.op("Mul", {n.b.op("Mul", {v, n.b.op("Erf", {n.b.op("Div", {v, half})})}), half});
       return n.done(n.b.op("Add", {n.x, n.b.op("MatMul", {v, n.constant({16, 6})})}));
     },
     {{6, 8}, {8}, {8, 6}}},
    {"Transpose, pools, Pad, Resize, ReduceMean, Unsqueeze and Squeeze",
     [] {
       Net n({1, 3, 6, 6});
       ValueId v = n.b.op("MaxPool", {n.conv(n.x, {8, 3, 3, 3})},
                          {attr("kernel_shape", std::vector<int64_t>{2, 2})});
       v = n.b.op("Pad", {v, n.ints({0, 0, 1, 1, 0, 0, 1, 1})});
       const Tensor scales = Tensor::from<float>({4}, {1, 1, 2, 2});
       v = n.b.op("Resize", {v, kNoValue, n.b.constant(scales, "scales")},
                  {attr("mode", std::string("nearest"))});
       v = n.b.op("Transpose", {v}, {attr("perm", std::vector<int64_t>{0, 2, 3, 1})});
       v = n.b.op("Unsqueeze", {v, n.ints({0, 4})});
       v = n.b.op("Squeeze", {v, n.ints({0})});
       v = n.b.op("ReduceMean", {v},
                  {attr("axes", std::vector<int64_t>{1, 3}), attr("keepdims", int64_t{0})});
       return n.done(n.b.op("MatMul", {v, n.constant({8, 3})}));
     },
     {{4, 3, 3, 3}, {4, 3}}},
    {"weights that two layers share",
     [] {
       Net n({1, 3, 5, 5});
       const ValueId w = n.constant({8, 3, 1, 1});
       const ValueId a = n.relu(n.b.op("Conv", {n.x, w}));
       const ValueId c = n.b.op("Conv", {n.b.op("Neg", {n.x}), w});
       return n.done(n.b.op("Add", {n.conv(a, {2, 8, 1, 1}), n.conv(c, {2, 8, 3, 3})}));
     },
     {{4, 3, 1, 1}, {2, 4, 1, 1}, {2, 4, 3, 3}}},
};

std::vector<Shape> weight_shapes(const Model& model) {
  std::vector<Shape> out;
  for (ValueId id = 0; id < model.graph.value_slots(); ++id) {
    const Value& value = model.graph.value(id);
    if (value.alive && value.is_constant()) out.push_back(value.constant.shape());
  }
  return out;
}

TEST_CASE("a model without channels computes what it does with zeros there", "[prune]") {
  for (const Case& row : kCases) {
    const Model before = row.make();
    for (const Json& options :
         {Json{{"sparsity", 0.5}}, Json{{"sparsity", 0.3}}, Json{{"sparsity", 1.0}},
          Json{{"sparsity", 0.4}, {"scope", "global"}}}) {
      INFO(row.name << " " << options.dump());
      Json given = options;
      given["granularity"] = "channel";
      Model after = before;
      const PipelineResult result = run_step(after, "prune", given);
      CHECK(result.changed);
      CHECK(parameters(after) < parameters(before));
      const auto feed = random_feed(before, {}, 3);
      // float64 throughout: what differs is the order of some thousand additions.
      CHECK(test::relative_error(test::run(after, feed),
                                 test::run(test::masked_channels(before, options), feed)) < 1e-12);
      if (options != Json{{"sparsity", 0.5}}) continue;
      std::vector<Shape> shapes = weight_shapes(after);
      for (const Shape& shape : row.shapes) {
        const auto found = std::find(shapes.begin(), shapes.end(), shape);
        INFO("wanted " << shape.to_string());
        REQUIRE(found != shapes.end());
        shapes.erase(found);
      }
    }
  }
}

// What holds channels, and the words that say so.
struct Holder {
  std::string name;
  std::function<Model()> make;
  std::string reason;
};

const std::vector<Holder> kHolders = {
    {"output",
     [] {
       Net n({1, 3, 4, 4});
       return n.done(n.relu(n.conv(n.x, {8, 3, 1, 1})));
     },
     "output 'y'"},
    {"Softmax over channels",
     [] {
       Net n({1, 3, 4, 4});
       const ValueId v = n.b.op("Softmax", {n.conv(n.x, {8, 3, 1, 1})}, {attr("axis", int64_t{1})});
       return n.done(n.conv(v, {2, 8, 1, 1}));
     },
     "Softmax"},
    {"an operator that the walk does not know",
     [] {
       Net n({1, 8, 4, 4});
       const ValueId v = n.b.op("LRN", {n.conv(n.x, {8, 8, 1, 1})}, {attr("size", int64_t{3})});
       return n.done(n.conv(v, {2, 8, 1, 1}));
     },
     "LRN"},
    {"a sum with what stays",
     [] {
       Net n({1, 8, 4, 4});
       return n.done(n.conv(n.b.op("Add", {n.x, n.conv(n.x, {8, 8, 1, 1})}), {2, 8, 1, 1}));
     },
     "beside 'x'"},
    {"weights with another reader",
     [] {
       Net n({1, 3, 4, 4});
       const ValueId w = n.constant({8, 3, 1, 1});
       n.b.output(n.b.op("Exp", {w}), "weights");
       return n.done(n.conv(n.b.op("Conv", {n.x, w}), {2, 8, 1, 1}));
     },
     "also read by"},
    {"two axes of one weight that only one reader could lose",
     [] {
       Net n({1, 8, 4, 4});
       const ValueId w = n.constant({8, 8, 1, 1});
       const ValueId v = n.b.op("Conv", {n.b.op("Conv", {n.x, w}), w});
       return n.done(n.conv(v, {2, 8, 1, 1}));
     },
     "also read by"},
};

TEST_CASE("channels that something needs whole stay, with the reason", "[prune]") {
  for (const Holder& row : kHolders) {
    INFO(row.name);
    Model model = row.make();
    const Model before = model;
    const PipelineResult result = run_step(model, "prune", {{"granularity", "channel"}});
    CHECK_FALSE(result.changed);
    CHECK(same_graph(model.graph, before.graph));
    const std::vector<Skipped>& skipped = result.passes.back().skipped;
    const bool says = std::any_of(skipped.begin(), skipped.end(), [&](const Skipped& skip) {
      return skip.reason.find(row.reason) != std::string::npos;
    });
    if (!says) {
      for (const Skipped& skip : skipped) WARN(skip.node << ": " << skip.reason);
    }
    CHECK(says);
  }
}

TEST_CASE("groups keep one channel, and multiples where asked", "[prune]") {
  const auto kept = [](const Json& options) {
    Net n({1, 3, 4, 4});
    ValueId v = n.relu(n.conv(n.x, {20, 3, 1, 1}));
    Model model = n.done(n.conv(v, {2, 20, 1, 1}));
    Json given = options;
    given["granularity"] = "channel";
    run_step(model, "prune", given);
    return test::count_ops(model.graph, "Conv") == 2
               ? model.graph.value(model.graph.node(0).inputs[1]).constant.shape()[0]
               : -1;
  };
  CHECK(kept({{"sparsity", 0.0}}) == 20);
  CHECK(kept({{"sparsity", 0.5}}) == 10);
  CHECK(kept({{"sparsity", 1.0}}) == 1);
  CHECK(kept({{"sparsity", 1.0}, {"scope", "global"}}) == 1);
  CHECK(kept({{"sparsity", 0.5}, {"channel-multiple", 8}}) == 16);
  CHECK(kept({{"sparsity", 0.6}, {"channel-multiple", 8}}) == 8);
  CHECK(kept({{"sparsity", 1.0}, {"channel-multiple", 8}}) == 8);
  CHECK(kept({{"sparsity", 1.0}, {"channel-multiple", 8}, {"scope", "global"}}) == 8);
  CHECK(kept({{"sparsity", 0.5}, {"channel-multiple", 32}}) == 20);
  CHECK(kept({{"sparsity", 0.5}, {"exclude", {".*"}}}) == 20);
}

TEST_CASE("the channels of least weight go", "[prune]") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {1, 2});
  // Sizes of rows 1, 3, 2, 4 and of the columns that read them 1, 1, 1, 1.
  const Tensor w = Tensor::from<float>({4, 2}, {1, 0, 0, 3, 2, 0, 0, 4});
  const ValueId h =
      b.op("Relu", {b.op("Gemm", {x, b.constant(w, "w")}, {attr("transB", int64_t{1})})});
  const Tensor v = Tensor::from<float>({1, 4}, {1, 1, 1, 1});
  b.output(b.op("Gemm", {h, b.constant(v, "v")}, {attr("transB", int64_t{1})}), "y");
  Model model = std::move(b).model();
  run_step(model, "prune", {{"granularity", "channel"}});
  const ValueId id = model.graph.find_value("w");
  CHECK(model.graph.value(id).constant.to_doubles() == std::vector<double>{0, 3, 0, 4});
}

}  // namespace
}  // namespace compress
