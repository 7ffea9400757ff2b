// Half-precision models as input of quantization, and convolutions without an integer kernel.
#include "support.h"

namespace compress {
namespace {

using test::count_ops;
using test::only_node;
using test::random_tensor;
using test::run;
using test::run_step;

// Conv -> Relu -> Conv in half precision; a Cast in the middle, as exporters leave them.
Model half_net(DType dtype) {
  GraphBuilder b;
  const auto half = [&](const Shape& shape, uint32_t seed) {
    return b.constant(convert(random_tensor(shape, seed, 0.2f), dtype));
  };
  const ValueId x = b.input("x", dtype, {1, 8, 12, 12});
  const ValueId y = b.op("Relu", {b.op("Conv", {x, half({16, 8, 3, 3}, 1), half({16}, 2)})});
  const ValueId z = b.op("Cast", {b.op("Conv", {y, half({8, 16, 3, 3}, 3)})},
                         {attr("to", static_cast<int64_t>(dtype))});
  b.output(b.op("Mul", {z, half({1}, 4)}), "y");
  b.graph().set_type(b.graph().outputs()[0], {dtype, false, {}});
  return std::move(b).model();
}

std::vector<NamedTensor> half_feed(DType dtype, uint32_t seed = 5) {
  return {{"x", convert(random_tensor({1, 8, 12, 12}, seed), dtype)}};
}

std::string reasons(const PipelineResult& result) {
  std::string out;
  for (const PassRecord& pass : result.passes) {
    for (const Skipped& skip : pass.skipped) out += skip.node + ": " + skip.reason + "\n";
  }
  return out;
}

}  // namespace

TEST_CASE("models in half precision are quantized, their interface stays", "[quantize]") {
  struct Case {
    Json options;
    const char* op;
    int count;
  };
  const std::vector<Case> cases = {
      {{{"mode", "static"}}, "QuantizeLinear", 2},
      {{{"mode", "dynamic"}, {"op-types", {"Conv"}}}, "ConvInteger", 2},
  };
  for (const DType dtype : {DType::float16, DType::bfloat16}) {
    for (const Case& row : cases) {
      CAPTURE(info(dtype).name, row.options.dump());
      const Model before = half_net(dtype);
      Model model = before;
      const PipelineResult result =
          run_step(model, "quantize", row.options,
                   test::with_statistics({half_feed(dtype), half_feed(dtype, 6)}));
      INFO(reasons(result));
      CHECK(count_ops(model.graph, row.op) >= row.count);
      CHECK(test::model_bytes(model.graph) < test::model_bytes(before.graph));
      CHECK(model.graph.value(model.graph.inputs()[0]).type.dtype == dtype);
      CHECK(model.graph.value(model.graph.outputs()[0]).name == "y");
      const std::vector<Tensor> y = run(model, half_feed(dtype));
      CHECK(y[0].dtype() == dtype);
      // bfloat16 has 8 bits of its own: what both round differently is 45 dB.
      CHECK(test::sqnr(run(before, half_feed(dtype)), y) > 28);
    }
  }
}

TEST_CASE("half precision stays where no integers are asked for", "[quantize]") {
  const Model before = half_net(DType::float16);
  for (const char* mode : {"float16", "weight-only"}) {
    Model model = before;
    Json options = {{"mode", mode}};
    if (options["mode"] == "weight-only") options["weights"] = "float16";
    run_step(model, "quantize", options);
    CHECK(model.graph.constant_input(model.graph.node(model.graph.order()[0]), 1)->dtype() ==
          DType::float16);
  }
}

TEST_CASE("ConvTranspose: no Q/DQ for it, its weights in 8 bits where asked for", "[quantize]") {
  for (const int64_t groups : {1, 2}) {
    GraphBuilder b;
    const ValueId x = b.input("x", DType::float32, {1, 16, 6, 6});
    const ValueId y =
        b.op("ConvTranspose", {x, b.constant(random_tensor({16, 12, 2, 2}, 1, 0.2f), "w")},
             {attr("group", groups), attr("strides", std::vector<int64_t>{2, 2})});
    b.output(b.op("Relu", {y}), "y");
    const Model before = std::move(b).model();
    const std::vector<NamedTensor> feed = {{"x", random_tensor({1, 16, 6, 6}, 2)}};
    const std::string name = only_node(before.graph, "ConvTranspose").name;

    Model plain = before;
    const PipelineResult result =
        run_step(plain, "quantize", {{"mode", "static"}}, test::with_statistics({feed}));
    CHECK(count_ops(plain.graph, "QuantizeLinear") == 0);
    CHECK_THAT(reasons(result), Catch::Contains("no integer kernel for ConvTranspose"));

    for (const Json& options :
         {Json{{"mode", "static"}, {"override", {"^" + name + "$=weight-only/int8/channel"}}},
          Json{{"mode", "weight-only"}, {"weights", "int8"}, {"op-types", {"ConvTranspose"}}}}) {
      CAPTURE(options.dump(), groups);
      Model model = before;
      run_step(model, "quantize", options, test::with_statistics({feed}));
      CHECK(count_ops(model.graph, "QuantizeLinear") == 0);
      const Node& dequantize = only_node(model.graph, "DequantizeLinear");
      CHECK(dequantize.int_or("axis", 1) == 1);
      CHECK(model.graph.constant_input(dequantize, 1)->count() == 12);
      CHECK(test::model_bytes(model.graph) < 0.5 * test::model_bytes(before.graph));
      const double db = test::sqnr(run(before, feed), run(model, feed));
      CHECK(db > 35);  // 8 bits of weights: 45 dB and a margin of ten
      CHECK(db < 80);
    }
  }
}

}  // namespace compress
