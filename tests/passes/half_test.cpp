// float16 and bfloat16, --override and --rest.
#include "compress/error.h"
#include "passes/quantize/precision.h"
#include "tests/passes/support.h"

namespace compress {
namespace {

using test::count_ops;
using test::random_tensor;
using test::run;
using test::run_step;

// x -> Conv -> Relu -> GlobalAveragePool -> Flatten -> Gemm -> y
Model small_net() {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {1, 3, 8, 8});
  const ValueId a =
      b.op("Relu", {b.op("Conv", {x, b.constant(random_tensor({16, 3, 3, 3}, 1, 0.2f)),
                                  b.constant(random_tensor({16}, 2))})});
  b.output(b.op("Gemm",
                {b.op("Flatten", {b.op("GlobalAveragePool", {a})}),
                 b.constant(random_tensor({64, 16}, 5)), b.constant(random_tensor({64}, 6))},
                {attr("transB", int64_t{1})}),
           "y");
  return std::move(b).model();
}

std::vector<NamedTensor> feed(uint32_t seed = 100) {
  return {{"x", random_tensor({1, 3, 8, 8}, seed)}};
}

std::string reason_of(const PipelineResult& result, std::string_view pass) {
  std::string all;
  for (const PassRecord& row : result.passes) {
    if (row.name != pass) continue;
    for (const Skipped& skip : row.skipped) all += skip.node + ": " + skip.reason + "\n";
  }
  return all;
}

TEST_CASE("float16: arithmetic in half, inputs and outputs as they were", "[half]") {
  const Model before = small_net();
  Model model = before;
  const PipelineResult result = run_step(model, "quantize", {{"mode", "float16"}});
  CHECK(result.changed);
  const Graph& graph = model.graph;
  CHECK(count_ops(graph, "Cast") == 2);
  CHECK(graph.value(graph.inputs()[0]).type.dtype == DType::float32);
  CHECK(graph.value(graph.outputs()[0]).name == "y");
  CHECK(graph.value(graph.outputs()[0]).type.dtype == DType::float32);
  for (ValueId id = 0; id < graph.value_slots(); ++id) {
    if (graph.value(id).alive && graph.value(id).is_constant()) {
      CHECK(graph.value(id).constant.dtype() == DType::float16);
    }
  }
  CHECK(test::model_bytes(graph) < 0.62 * static_cast<double>(test::model_bytes(before.graph)));
  const double db = test::sqnr(run(before, feed()), run(model, feed()));
  CHECK(db > 55);  // each of four roundings adds about -73 dB
  CHECK(db < 90);
}

TEST_CASE("float16: --half-io leaves no Cast", "[half]") {
  Model model = small_net();
  run_step(model, "quantize", {{"mode", "float16"}, {"half-io", true}});
  CHECK(count_ops(model.graph, "Cast") == 0);
  CHECK(model.graph.value(model.graph.inputs()[0]).type.dtype == DType::float16);
  CHECK(model.graph.value(model.graph.outputs()[0]).type.dtype == DType::float16);
}

TEST_CASE("float16: what would leave the range stays float32", "[half]") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {2, 8});
  // A norm by hand: the square and what follows it up to the division.
  const ValueId mean = b.op("ReduceMean", {x}, {attr("axes", std::vector<int64_t>{1})});
  const ValueId centred = b.op("Sub", {x, mean});
  const ValueId square = b.op("Pow", {centred, b.constant(Tensor::scalar(2.0f))});
  const ValueId variance = b.op("ReduceMean", {square}, {attr("axes", std::vector<int64_t>{1})});
  const ValueId root = b.op("Sqrt", {b.op("Add", {variance, b.constant(Tensor::scalar(1e-12f))})});
  const ValueId normed = b.op("Div", {centred, root});
  // A mask beyond float16: what reads it stays float32 up to the Softmax.
  const ValueId masked = b.op("Add", {normed, b.constant(Tensor::scalar(-1e6f))});
  const ValueId shares = b.op("Softmax", {b.op("Neg", {masked})});
  b.output(b.op("MatMul", {shares, b.constant(random_tensor({8, 64}, 3))}), "y");
  const Model before = std::move(b).model();
  Model model = before;
  const PipelineResult result = run_step(model, "quantize", {{"mode", "float16"}});
  const std::string reasons = reason_of(result, "convert_half");
  CHECK_THAT(reasons, Catch::Contains("Pow easily leaves the range"));
  CHECK_THAT(reasons, Catch::Contains("stays float32 for its range"));
  CHECK_THAT(reasons, Catch::Contains("reaches 1e+06, beyond float16"));
  CHECK_THAT(reasons, Catch::Contains("took beyond float16"));
  const Graph& graph = model.graph;
  const auto type_of_first = [&](const char* op) {
    for (NodeId id = 0; id < graph.node_slots(); ++id) {
      const Node& node = graph.node(id);
      if (!node.alive || !node.is(op)) continue;
      const NodeId reader = graph.uses(node.outputs[0])[0].node;
      // Types are forgotten where files would not hold them; who reads a half result as float32
      // does so through a Cast.
      return graph.node(reader).is("Cast");
    }
    return false;
  };
  CHECK(type_of_first("Sqrt"));  // float32, cast to half for Div
  CHECK(type_of_first("Div"));   // half, cast to float32 for the mask
  const std::vector<NamedTensor> feeds = {{"x", random_tensor({2, 8}, 9)}};
  CHECK(test::sqnr(run(before, feeds), run(model, feeds)) > 35);
}

TEST_CASE("float16: a value that is large on the samples stays float32", "[half]") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {1, 8});
  const ValueId big = b.op("Mul", {x, b.constant(Tensor::scalar(60000.0f))});
  b.output(b.op("Tanh", {big}), "y");
  const Model before = std::move(b).model();
  Model with_data = before;
  const PipelineResult result =
      run_step(with_data, "quantize", {{"mode", "float16"}},
               test::with_statistics({{{"x", random_tensor({1, 8}, 1, 4.0f)}}}));
  CHECK_THAT(reason_of(result, "convert_half"), Catch::Contains("on the samples"));
  CHECK(!result.changed);
}

TEST_CASE("weight-only float16: half the bytes, a Cast ahead of each reader", "[half]") {
  for (const char* type : {"float16", "bfloat16"}) {
    const Model before = small_net();
    Model model = before;
    run_step(model, "quantize", {{"mode", "weight-only"}, {"weights", type}});
    CHECK(count_ops(model.graph, "Cast") == 2);
    const double db = test::sqnr(run(before, feed()), run(model, feed()));
    INFO(type << " " << db);
    CHECK(db > (std::string_view(type) == "float16" ? 60 : 42));
    CHECK(db < (std::string_view(type) == "float16" ? 95 : 75));
  }
}

TEST_CASE("override: patterns give nodes another precision, the first that matches", "[override]") {
  Model model = small_net();
  for (NodeId id = 0; id < model.graph.node_slots(); ++id) {
    model.graph.edit(id).name = model.graph.node(id).op_type + "_0";
  }
  const Json options = {{"mode", "static"},
                        {"override", {"^Gemm_0$=weight-only/int4/block:16", "Gemm=float32"}}};
  const PipelineResult result =
      run_step(model, "quantize", options, test::with_statistics({feed(), feed()}));
  CHECK(result.changed);
  CHECK(count_ops(model.graph, "MatMulNBits") == 1);
  CHECK(count_ops(model.graph, "Conv") == 1);
  CHECK(count_ops(model.graph, "QuantizeLinear") >= 1);
}

TEST_CASE("override: what is no precision is refused", "[override]") {
  for (const char* text : {"conv", "=static", "conv=statik", "conv=static/int9", "(=static",
                           "conv=weight-only/int4/block:33", "conv=float32/int8"}) {
    Model model = small_net();
    INFO(text);
    CHECK_THROWS_AS(run_step(model, "quantize", {{"mode", "weight-only"}, {"override", {text}}}),
                    Error);
  }
}

TEST_CASE("override: a pattern of a label matches that label alone", "[override]") {
  const std::regex regex(exact_pattern("a.b[0]/c(1)+x"));
  CHECK(std::regex_search("a.b[0]/c(1)+x", regex));
  CHECK(!std::regex_search("aXb[0]/c(1)+x", regex));
  CHECK(!std::regex_search("a.b[0]/c(1)+xy", regex));
}

TEST_CASE("static: 4-bit weights, and 16-bit activations that lose nearly nothing", "[quantize]") {
  const auto sqnr_of = [](Json options) {
    Model before = small_net();
    before.opsets[""] = 21;
    Model model = before;
    options["mode"] = "static";
    run_step(model, "quantize", options, test::with_statistics({feed(), feed(101), feed(102)}));
    return test::sqnr(run(before, feed(103)), run(model, feed(103)));
  };
  const double w4 = sqnr_of({{"weights", "int4"}});
  const double w8 = sqnr_of({{"weights", "int8"}});
  const double w8a16 = sqnr_of({{"weights", "int8"}, {"activations", "uint16"}});
  INFO(w4 << " " << w8 << " " << w8a16);
  CHECK(w4 > 12);
  CHECK(w8 > w4 + 8);
  CHECK(w8a16 > w8 + 0.5);
}

TEST_CASE("static: one node's activations in 16 bits by --override", "[override]") {
  Model model = small_net();
  model.opsets[""] = 21;
  for (NodeId id = 0; id < model.graph.node_slots(); ++id) {
    model.graph.edit(id).name = model.graph.node(id).op_type + "_0";
  }
  run_step(model, "quantize",
           {{"mode", "static"}, {"override", {"Gemm=static/int8/channel/uint16"}}},
           test::with_statistics({feed()}));
  int wide = 0, narrow = 0;
  for (NodeId id = 0; id < model.graph.node_slots(); ++id) {
    const Node& node = model.graph.node(id);
    if (!node.alive || !node.is("QuantizeLinear")) continue;
    (model.graph.constant_input(node, 2)->dtype() == DType::uint16 ? wide : narrow) += 1;
  }
  CHECK(wide >= 1);
  CHECK(narrow >= 1);
}

}  // namespace
}  // namespace compress
