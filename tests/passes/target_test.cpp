// What --target, --format qoperator and --min-cosine write.
#include "compress/error.h"
#include "tests/passes/support.h"

namespace compress {
namespace {

using test::count_ops;
using test::random_tensor;
using test::run;
using test::run_step;

constexpr int64_t kSamples = 8;

class Feeds : public SampleSource {
 public:
  explicit Feeds(Shape shape) : shape_(std::move(shape)) {}
  int64_t size() const override { return kSamples; }
  Sample get(int64_t index) override {
    return {{{"x", random_tensor(shape_, static_cast<uint32_t>(100 + index))}}, {}};
  }
  bool labelled() const override { return false; }
  std::string description() const override { return "noise"; }

 private:
  Shape shape_;
};

struct Quantized {
  Model before;
  Model after;
  PipelineResult result;
  std::vector<NamedTensor> feed;

  double sqnr() const { return test::sqnr(run(before, feed), run(after, feed)); }
  std::string reasons() const {
    std::string all;
    for (const PassRecord& pass : result.passes) {
      for (const Skipped& row : pass.skipped) all += row.node + ": " + row.reason + "\n";
    }
    return all;
  }
};

Quantized quantized(const Model& model, Json options, const Shape& shape = {1, 3, 12, 12}) {
  Feeds feeds(shape);
  std::vector<std::vector<NamedTensor>> inputs;
  CalibrationSamples samples{&feeds, {}};
  for (int64_t i = 0; i < kSamples; ++i) {
    inputs.push_back(feeds.get(i).inputs);
    samples.indices.push_back(i);
  }
  PipelineOptions pipeline = test::with_statistics(inputs);
  pipeline.samples = [&] { return samples; };
  Quantized out{model, model, {}, inputs[0]};
  out.result = run_step(out.after, "quantize", options, pipeline);
  return out;
}

// Two branches, pools of both kinds, a concatenation, a product.
Model branched_net() {
  GraphBuilder b;
  const std::vector<int64_t> pads = {1, 1, 1, 1}, two = {2, 2};
  const auto conv = [&](ValueId x, const Shape& shape, uint32_t seed) {
    return b.op("Conv",
                {x, b.constant(random_tensor(shape, seed, 0.2f)),
                 b.constant(random_tensor({shape[0]}, seed + 50, 0.3f))},
                {attr("pads", pads)});
  };
  const ValueId x = b.input("x", DType::float32, {1, 3, 12, 12});
  const ValueId a = b.op("Relu", {conv(x, {16, 3, 3, 3}, 1)});
  const ValueId sum = b.op("Relu", {b.op("Add", {a, conv(a, {16, 16, 3, 3}, 2)})});
  const ValueId pool = b.op("MaxPool", {sum}, {attr("kernel_shape", two), attr("strides", two)});
  const ValueId left = b.op("LeakyRelu", {conv(pool, {8, 16, 3, 3}, 3)});
  const ValueId right = conv(pool, {8, 16, 3, 3}, 4);
  const ValueId gate = b.op("Mul", {right, b.op("Sigmoid", {right})});
  const ValueId joined = b.op("Concat", {left, gate}, {attr("axis", int64_t{1})});
  const ValueId flat =
      b.op("Flatten", {b.op("GlobalAveragePool", {conv(joined, {16, 16, 3, 3}, 5)})});
  b.output(b.op("Gemm",
                {flat, b.constant(random_tensor({10, 16}, 6)), b.constant(random_tensor({10}, 7))},
                {attr("transB", int64_t{1})}),
           "y");
  return std::move(b).model();
}

TEST_CASE("QOperator: no float operator is left, results are those of Q/DQ", "[target]") {
  for (const char* granularity : {"tensor", "channel"}) {
    INFO(granularity);
    const Model before = branched_net();
    const Quantized qdq = quantized(before, {{"mode", "static"}, {"granularity", granularity}});
    const Quantized q = quantized(
        before, {{"mode", "static"}, {"granularity", granularity}, {"format", "qoperator"}});
    INFO(q.reasons());
    const Graph& graph = q.after.graph;
    CHECK(count_ops(graph, "QLinearConv") == 5);
    CHECK(count_ops(graph, "Conv") == 0);
    for (const char* op : {"QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearLeakyRelu",
                           "QLinearConcat", "QLinearGlobalAveragePool", "QGemm"}) {
      INFO(op);
      CHECK(count_ops(graph, op) == 1);
    }
    // The input becomes integers; the product gives floats by itself.
    CHECK(count_ops(graph, "QuantizeLinear") == 1);
    CHECK(count_ops(graph, "DequantizeLinear") == 0);
    CHECK(graph.value(graph.outputs()[0]).name == "y");
    const double alike = test::sqnr(run(qdq.after, q.feed), run(q.after, q.feed));
    CHECK(alike > 35);
    CHECK(std::fabs(q.sqnr() - qdq.sqnr()) < 2);
    Session lowered(q.after);
    CHECK(test::sqnr(run(q.after, q.feed), lowered.run(q.feed)) > 35);
  }
}

TEST_CASE("QOperator is for static quantization", "[target]") {
  Model model = branched_net();
  CHECK_THROWS_WITH(run_step(model, "quantize", {{"mode", "weight-only"}, {"format", "qoperator"}}),
                    Catch::Contains("--format qoperator is for --mode static"));
}

TEST_CASE("TensorRT: symmetric int8 on what layers read, biases in float", "[target]") {
  const Quantized q = quantized(branched_net(), {{"mode", "static"}, {"target", "tensorrt"}});
  INFO(q.reasons());
  const Graph& graph = q.after.graph;
  for (NodeId id = 0; id < graph.node_slots(); ++id) {
    const Node& node = graph.node(id);
    if (!node.alive) continue;
    if (node.is("QuantizeLinear") || node.is("DequantizeLinear")) {
      const Tensor* zero = graph.constant_input(node, 2);
      REQUIRE(zero != nullptr);
      CHECK(zero->dtype() == DType::int8);
      for (const int64_t z : zero->to_ints()) CHECK(z == 0);
      continue;
    }
    if (node.is("Conv") || node.is("Gemm")) {
      INFO(node.name);
      // A pair of its own, weights behind DequantizeLinear, a float bias, a float result.
      const ValueId read = node.inputs[0];
      CHECK(graph.node(graph.value(read).producer).is("DequantizeLinear"));
      CHECK(graph.uses(read).size() == 1);
      CHECK(graph.node(graph.value(node.inputs[1]).producer).is("DequantizeLinear"));
      CHECK(graph.constant_input(node, 2) != nullptr);
      CHECK(graph.constant_input(node, 2)->dtype() == DType::float32);
    }
    // The branch past the convolution alone: the other one is summed inside its kernel.
    if (node.is("Add")) {
      int integers = 0;
      for (const ValueId in : node.inputs) {
        integers += graph.node(graph.value(in).producer).is("DequantizeLinear");
      }
      CHECK(integers == 1);
    }
  }
  CHECK(count_ops(graph, "Relu") == 2);
  CHECK(q.sqnr() > 20);
  CHECK(q.sqnr() < 60);
  Session lowered(q.after);
  CHECK(test::sqnr(run(q.after, q.feed), lowered.run(q.feed)) > 30);
  CHECK_THROWS_WITH(
      quantized(branched_net(),
                {{"mode", "static"}, {"target", "tensorrt"}, {"activations", "uint8"}}),
      Catch::Contains("takes int8 activations"));
}

TEST_CASE("TensorRT: means of channels are corrected in float biases", "[target]") {
  const Json plain = {{"mode", "static"}, {"target", "tensorrt"}, {"weights", "int8"}};
  Json corrected = plain;
  corrected["recover"] = {"bias"};
  const Quantized q = quantized(branched_net(), corrected);
  for (const PassRecord& pass : q.result.passes) {
    if (pass.name == "quantize_model") CHECK(pass.details.at("bias_corrected_layers") == 6);
  }
}

TEST_CASE("OpenVINO: both summands, asymmetric uint8, no Q/DQ behind layers", "[target]") {
  const Quantized q = quantized(branched_net(), {{"mode", "static"}, {"target", "openvino"}});
  const Graph& graph = q.after.graph;
  for (NodeId id = 0; id < graph.node_slots(); ++id) {
    const Node& node = graph.node(id);
    if (!node.alive || !node.is("Add")) continue;
    for (const ValueId in : node.inputs) {
      CHECK(graph.node(graph.value(in).producer).is("DequantizeLinear"));
    }
  }
  CHECK(count_ops(graph, "Relu") == 2);
  CHECK(q.sqnr() > 20);
}

TEST_CASE("CUDA: no Q/DQ, float16 where there is no transformer", "[target]") {
  const Quantized q = quantized(branched_net(), {{"target", "ort-cuda"}});
  CHECK(count_ops(q.after.graph, "QuantizeLinear") == 0);
  CHECK(count_ops(q.after.graph, "Cast") > 0);
}

// Convolutions in a row, one of which makes a few values that are 400 times larger than all others:
// in 8 bits the others vanish.
Model net_with_outliers() {
  GraphBuilder b;
  ValueId at = b.input("x", DType::float32, {1, 3, 12, 12});
  for (uint32_t layer = 0; layer < 5; ++layer) {
    const int64_t from = layer == 0 ? 3 : 16;
    Tensor weight = random_tensor({16, from, 1, 1}, 30 + layer, 0.3f);
    auto w = weight.mutable_as<float>();
    if (layer == 2) {
      for (int64_t i = 0; i < from; ++i) w[static_cast<size_t>(i)] *= 400;
    }
    if (layer == 3) {
      for (int64_t r = 0; r < 16; ++r) w[static_cast<size_t>(r * from)] /= 400;
    }
    at = b.op("Conv", {at, b.constant(weight), b.constant(random_tensor({16}, 40 + layer, 0.1f))});
    b.graph().edit(b.graph().value(at).producer).name = fmt::format("conv{}", layer);
    if (layer < 4) at = b.op("Relu", {at});
  }
  b.output(at, "y");
  return std::move(b).model();
}

TEST_CASE("--min-cosine keeps the layers that do harm in float and says why", "[target]") {
  const Json plain = {{"mode", "static"}, {"calibrator", "minmax"}};
  const Quantized all = quantized(net_with_outliers(), plain);
  const double reached = all.sqnr();
  REQUIRE(reached < 10);
  Json options = plain;
  options["min-cosine"] = 0.99;
  const Quantized q = quantized(net_with_outliers(), options);
  INFO(q.reasons());
  CHECK(q.sqnr() > 17);  // cosine 0.99
  const PassRecord* pass = nullptr;
  for (const PassRecord& row : q.result.passes) {
    if (row.name == "quantize_model") pass = &row;
  }
  REQUIRE(pass != nullptr);
  CHECK(pass->details.at("cosine").get<double>() >= 0.99);
  CHECK(pass->details.at("cosine_of_integers").get<double>() < 0.99);
  const Json kept = pass->details.at("kept_in_float");
  // Who makes the values, and who reads them.
  CHECK(kept == Json({"conv2", "conv3"}));
  CHECK_THAT(q.reasons(), Catch::Contains("conv3: --min-cosine 0.99: "));
  CHECK(pass->details.at("quantized_nodes") == 3);
  // A floor that holds already costs nothing.
  const Model calm = branched_net();
  const Json mode = {{"mode", "static"}};
  options = mode;
  options["min-cosine"] = 0.9;
  CHECK(same_graph(quantized(calm, options).after.graph, quantized(calm, mode).after.graph));
}

TEST_CASE("--min-cosine is for static quantization", "[target]") {
  Model model = branched_net();
  CHECK_THROWS_WITH(run_step(model, "quantize", {{"mode", "weight-only"}, {"min-cosine", 0.99}}),
                    Catch::Contains("--min-cosine is for --mode static"));
}

}  // namespace
}  // namespace compress
