#include "compress/core/int4.h"
#include "compress/error.h"
#include "passes/quantize/pack.h"
#include "tests/passes/support.h"

namespace compress {
namespace {

using test::count_ops;
using test::only_node;
using test::random_tensor;
using test::run;
using test::run_step;

std::vector<std::vector<NamedTensor>> feeds(const Shape& shape, int count) {
  std::vector<std::vector<NamedTensor>> out;
  for (int i = 0; i < count; ++i) {
    out.push_back({{"x", random_tensor(shape, static_cast<uint32_t>(100 + i))}});
  }
  return out;
}

std::string reasons(const PipelineResult& result) {
  std::string all;
  for (const PassRecord& pass : result.passes) {
    for (const Skipped& row : pass.skipped) all += row.node + ": " + row.reason + "\n";
  }
  return all;
}

// Conv -> Relu -> Conv -> (+ first) -> GlobalAveragePool -> Flatten -> Gemm
Model residual_net() {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {1, 3, 8, 8});
  const std::vector<int64_t> pads = {1, 1, 1, 1};
  const ValueId a = b.op("Relu", {b.op("Conv",
                                       {x, b.constant(random_tensor({16, 3, 3, 3}, 1, 0.2f)),
                                        b.constant(random_tensor({16}, 2))},
                                       {attr("pads", pads)})});
  const ValueId c = b.op(
      "Conv",
      {a, b.constant(random_tensor({16, 16, 3, 3}, 3, 0.1f)), b.constant(random_tensor({16}, 4))},
      {attr("pads", pads)});
  const ValueId pooled = b.op("GlobalAveragePool", {b.op("Relu", {b.op("Add", {a, c})})});
  b.output(b.op("Gemm",
                {b.op("Flatten", {pooled}), b.constant(random_tensor({10, 16}, 5)),
                 b.constant(random_tensor({10}, 6))},
                {attr("transB", int64_t{1})}),
           "y");
  return std::move(b).model();
}

TEST_CASE("static: integer islands without gaps, activations absorbed", "[quantize]") {
  const Model before = residual_net();
  Model model = before;
  const PipelineResult result = run_step(model, "quantize", {{"mode", "static"}},
                                         test::with_statistics(feeds({1, 3, 8, 8}, 8)));
  INFO(reasons(result));
  CHECK(result.changed);
  CHECK(count_ops(model.graph, "Relu") == 0);
  // x, first Conv, second Conv, Add, pool and Flatten carry Q/DQ; the Gemm's result stays float.
  CHECK(count_ops(model.graph, "QuantizeLinear") == 6);
  // One each, three weights and three biases.
  CHECK(count_ops(model.graph, "DequantizeLinear") == 6 + 6);
  for (NodeId id = 0; id < model.graph.node_slots(); ++id) {
    const Node& node = model.graph.node(id);
    if (!node.alive || node.is("QuantizeLinear") || node.is("DequantizeLinear")) continue;
    for (const ValueId in : node.inputs) {
      INFO(node.op_type);
      CHECK(model.graph.node(model.graph.value(in).producer).is("DequantizeLinear"));
    }
  }
  CHECK(model.graph.value(model.graph.outputs()[0]).name == "y");
  const auto feed = feeds({1, 3, 8, 8}, 1)[0];
  const double db = test::sqnr(run(before, feed), run(model, feed));
  CHECK(db > 25);
  CHECK(db < 60);
  CHECK(model.graph.find_value("x_scale") != kNoValue);
  CHECK(model.graph.find_value("x_QuantizeLinear_Output") != kNoValue);
}

TEST_CASE("static: Flatten shares the scale of what it moves", "[quantize]") {
  Model model = residual_net();
  run_step(model, "quantize", {{"mode", "static"}}, test::with_statistics(feeds({1, 3, 8, 8}, 4)));
  const Node& flatten = only_node(model.graph, "Flatten");
  const Node& in = model.graph.node(model.graph.value(flatten.inputs[0]).producer);
  const Node& out = model.graph.node(model.graph.uses(flatten.outputs[0])[0].node);
  CHECK(out.is("QuantizeLinear"));
  CHECK(in.inputs[1] == out.inputs[1]);
  CHECK(in.inputs[2] == out.inputs[2]);
}

TEST_CASE("static: a float operator between integer ones is named", "[quantize]") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {1, 8, 6, 6});
  const ValueId a = b.op("Tanh", {b.op("Conv", {x, b.constant(random_tensor({8, 8, 3, 3}, 1))})});
  b.output(b.op("Conv", {a, b.constant(random_tensor({8, 8, 3, 3}, 2))}), "y");
  Model model = std::move(b).model();
  const PipelineResult result = run_step(model, "quantize", {{"mode", "static"}},
                                         test::with_statistics(feeds({1, 8, 6, 6}, 2)));
  CHECK_THAT(reasons(result), Catch::Contains("Tanh has no integer kernel"));
  const Node& y = model.graph.node(model.graph.value(model.graph.outputs()[0]).producer);
  CHECK(y.is("DequantizeLinear"));
  CHECK(model.graph.find_value("y_QuantizeLinear_Input") != kNoValue);
}

TEST_CASE("static: Clip goes where saturation does its work, else it stays", "[quantize]") {
  for (const float bound : {6.0f, 1.0f}) {
    GraphBuilder b;
    const ValueId x = b.input("x", DType::float32, {1, 8, 6, 6});
    const ValueId conv = b.op("Conv", {x, b.constant(random_tensor({8, 8, 3, 3}, 1))});
    b.output(
        b.op("Clip", {conv, b.constant(Tensor::scalar(0.0f)), b.constant(Tensor::scalar(bound))}),
        "y");
    Model model = std::move(b).model();
    PipelineOptions options = test::with_statistics(feeds({1, 8, 6, 6}, 4));
    if (bound == 1.0f) {  // a range that reaches beyond the Clip, as a saved file may hold
      const auto inner = options.statistics;
      options.statistics = [inner](const Model& m, const StatisticsRequests& w, const Options& o) {
        StatisticsSet set = inner(m, w, o);
        for (auto& [name, row] : set.values) row.max = 9;
        return set;
      };
    }
    const PipelineResult result = run_step(model, "quantize", {{"mode", "static"}}, options);
    CHECK(count_ops(model.graph, "Clip") == (bound == 1.0f ? 1 : 0));
  }
}

TEST_CASE("static: a bias that would overflow raises its weight scale", "[quantize]") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {1, 8});
  Tensor w = random_tensor({8, 4}, 1);
  for (int k = 0; k < 8; ++k) w.mutable_as<float>()[static_cast<size_t>(k * 4)] = 1e-12f;
  b.output(b.op("Gemm", {x, b.constant(w), b.constant(Tensor::from<float>({4}, {1e4f, 1, 1, 1}))}),
           "y");
  Model before = std::move(b).model();
  Model model = before;
  run_step(model, "quantize", {{"mode", "static"}}, test::with_statistics(feeds({1, 8}, 4)));
  const auto feed = feeds({1, 8}, 1)[0];
  const std::vector<double> y = run(model, feed)[0].to_doubles();
  CHECK(y[0] == Approx(1e4).epsilon(1e-4));
}

TEST_CASE("static: no data, half precision and quantized models", "[quantize]") {
  Model model = residual_net();
  CHECK_THROWS_WITH(run_step(model, "quantize", {{"mode", "static"}}), Catch::Contains("--data"));
  const PipelineOptions data = test::with_statistics(feeds({1, 3, 8, 8}, 2));
  run_step(model, "quantize", {{"mode", "static"}}, data);
  Model again = model;
  const PipelineResult result = run_step(again, "quantize", {{"mode", "static"}}, data);
  CHECK_THAT(reasons(result), Catch::Contains("already quantized"));
  CHECK(again.graph.node_count() == model.graph.node_count());
  CHECK_FALSE(result.passes.back().changed);
}

TEST_CASE("static: zeros stay zeros", "[quantize]") {
  Model model = residual_net();
  run_step(model, "prune", {{"sparsity", 0.5}});
  run_step(model, "quantize", {{"mode", "static"}}, test::with_statistics(feeds({1, 3, 8, 8}, 2)));
  for (ValueId id = 0; id < model.graph.value_slots(); ++id) {
    const Value& value = model.graph.value(id);
    if (!value.alive || !value.is_constant() || value.constant.dtype() != DType::int8) continue;
    if (value.constant.count() < 100) continue;
    const std::vector<int64_t> q = value.constant.to_ints();
    CHECK(std::count(q.begin(), q.end(), 0) >= static_cast<int64_t>(q.size() / 2));
  }
}

TEST_CASE("dynamic: one DynamicQuantizeLinear for all readers of a value", "[quantize]") {
  GraphBuilder b;
  const ValueId x = b.graph().add_input("x", {DType::float32, true, Shape{-2, 5, 32}});
  const ValueId q = b.op("MatMul", {x, b.constant(random_tensor({32, 32}, 1))});
  const ValueId k = b.op("MatMul", {x, b.constant(random_tensor({32, 32}, 2))});
  b.output(b.op("Add", {q, k}), "y");
  const Model before = std::move(b).model();
  Model model = before;
  const PipelineResult result = run_step(model, "quantize", {{"mode", "dynamic"}});
  INFO(reasons(result));
  CHECK(count_ops(model.graph, "DynamicQuantizeLinear") == 1);
  CHECK(count_ops(model.graph, "MatMulInteger") == 2);
  const auto feed = feeds({2, 5, 32}, 1)[0];
  const double db = test::sqnr(run(before, feed), run(model, feed));
  CHECK(db > 30);
  CHECK(db < 60);
}

TEST_CASE("dynamic: Gemm with a transposed weight and a bias, embeddings by row", "[quantize]") {
  GraphBuilder b;
  const ValueId ids = b.input("ids", DType::int64, {3});
  const ValueId x = b.op("Gather", {b.constant(random_tensor({50, 40}, 1)), ids});
  b.output(
      b.op("Gemm", {x, b.constant(random_tensor({24, 40}, 2)), b.constant(random_tensor({24}, 3))},
           {attr("transB", int64_t{1})}),
      "y");
  const Model before = std::move(b).model();
  Model model = before;
  run_step(model, "quantize", {{"mode", "dynamic"}});
  CHECK(count_ops(model.graph, "Gemm") == 0);
  const Node& gather = only_node(model.graph, "Gather");
  CHECK(model.graph.value(gather.inputs[0]).constant.dtype() == DType::int8);
  const std::vector<NamedTensor> feed = {{"ids", test::ints({0, 7, 49})}};
  CHECK(test::sqnr(run(before, feed), run(model, feed)) > 30);
}

// The packed layout, against the definition: element k of row n in block k / bs, low nibble first.
TEST_CASE("blocks are packed as MatMulNBits lays them out", "[quantize]") {
  const Tensor rows = random_tensor({3, 40}, 1);  // the second block is padded
  const BlockWeights packed = pack_blocks(rows, DType::int4, 32);
  REQUIRE(packed.packed.shape() == Shape({3, 2, 16}));
  REQUIRE(packed.scales.shape() == Shape({3, 2}));
  const std::vector<double> w = rows.to_doubles();
  const TensorData bytes = packed.packed.read();
  const TensorData scales = packed.scales.read();
  for (int64_t n = 0; n < 3; ++n) {
    for (int64_t k = 0; k < 64; ++k) {
      const uint8_t byte =
          bytes.as<uint8_t>()[static_cast<size_t>((n * 2 + k / 32) * 16 + k % 32 / 2)];
      const int q = (k % 2 == 0 ? byte & 15 : byte >> 4) - 8;
      const double scale = scales.as<float>()[static_cast<size_t>(n * 2 + k / 32)];
      if (k >= 40) {
        CHECK(q == 0);
        continue;
      }
      const double error = std::fabs(q * scale - w[static_cast<size_t>(n * 40 + k)]);
      // Half a step; the end of the range opposite to the extreme lacks one code.
      CHECK(error <= std::fabs(scale) * (q == 7 ? 1.0 : 0.5) + 1e-6);
    }
  }
  const BlockWeights wide = pack_blocks(rows, DType::uint4, 16);
  CHECK(wide.packed.shape() == Shape({3, 3, 8}));
  CHECK(wide.zero_points.shape() == Shape({3, 2}));
}

TEST_CASE("weight-only: blocks for MatMul and Gemm, embeddings included", "[quantize]") {
  for (const char* type : {"int4", "int8", "uint4"}) {
    GraphBuilder b;
    const ValueId ids = b.input("ids", DType::int64, {2, 3});
    const ValueId x = b.op("Gather", {b.constant(random_tensor({50, 64}, 1)), ids});
    const ValueId h = b.op("MatMul", {x, b.constant(random_tensor({64, 48}, 2))});
    const ValueId flat = b.op("Reshape", {h, b.constant(test::ints({6, 48}))});
    b.output(
        b.op("Gemm",
             {flat, b.constant(random_tensor({20, 48}, 3)), b.constant(random_tensor({20}, 4))},
             {attr("transB", int64_t{1})}),
        "y");
    const Model before = std::move(b).model();
    Model model = before;
    const PipelineResult result =
        run_step(model, "quantize", {{"mode", "weight-only"}, {"weights", type}});
    INFO(reasons(result));
    CHECK(count_ops(model.graph, "MatMulNBits") == 2);
    CHECK(model.opsets.at("com.microsoft") == 1);
    CHECK(test::model_bytes(model.graph) < test::model_bytes(before.graph) / 3);
    const std::vector<NamedTensor> feed = {
        {"ids", Tensor::from<int64_t>({2, 3}, {0, 7, 49, 3, 2, 1})}};
    const double db = test::sqnr(run(before, feed), run(model, feed));
    CHECK(db > (std::string(type) == "int8" ? 30 : 12));
    CHECK(db < 50);
  }
}

TEST_CASE("weight-only: tied embeddings are both quantized", "[quantize]") {
  GraphBuilder b;
  const ValueId ids = b.input("ids", DType::int64, {4});
  const ValueId table = b.constant(random_tensor({100, 64}, 1));
  const ValueId x = b.op("Gather", {table, ids});
  b.output(
      b.op("MatMul", {x, b.op("Transpose", {table}, {attr("perm", std::vector<int64_t>{1, 0})})}),
      "y");
  const Model before = std::move(b).model();
  Model model = before;
  run_step(model, "quantize", {{"mode", "weight-only"}});
  CHECK(count_ops(model.graph, "MatMulNBits") == 1);
  CHECK(count_ops(model.graph, "GatherBlockQuantized") == 1);
  CHECK(count_ops(model.graph, "Transpose") == 0);
  CHECK(test::model_bytes(model.graph) < test::model_bytes(before.graph) / 2);
}

TEST_CASE("weight-only: QDQ form, one DequantizeLinear a reader", "[quantize]") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {2, 64});
  const ValueId w = b.constant(random_tensor({64, 64}, 2));
  b.output(b.op("MatMul", {b.op("MatMul", {x, w}), w}), "y");
  const Model before = std::move(b).model(21);
  Model model = before;
  const PipelineResult result =
      run_step(model, "quantize", {{"mode", "weight-only"}, {"format", "qdq"}});
  INFO(reasons(result));
  CHECK(count_ops(model.graph, "DequantizeLinear") == 2);
  const auto feed = feeds({2, 64}, 1)[0];
  CHECK(test::sqnr(run(before, feed), run(model, feed)) > 12);
  CHECK(model.ir_version >= 10);
}

TEST_CASE("what is too small to gain, or no matrix, is left and named", "[quantize]") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {1, 4});
  b.output(b.op("MatMul", {x, b.constant(random_tensor({4, 4}, 2))}), "y");
  const Model before = std::move(b).model();
  for (const char* mode : {"dynamic", "weight-only"}) {
    Model model = before;
    const PipelineResult result = run_step(model, "quantize", {{"mode", mode}});
    CHECK_FALSE(result.changed);
    CHECK_THAT(reasons(result), Catch::Contains("too small to gain"));
    CHECK(same_graph(model.graph, before.graph));
  }
}

TEST_CASE("the mode follows the model and the data", "[quantize]") {
  const auto chosen = [](Model model, const PipelineOptions& options) {
    const PipelineResult result = run_step(model, "quantize", Json::object(), options);
    for (const PassRecord& pass : result.passes) {
      if (pass.name == "quantize_model") return pass.details["mode"].get<std::string>();
    }
    return std::string();
  };
  CHECK(chosen(residual_net(), test::with_statistics(feeds({1, 3, 8, 8}, 2))) == "static");
  CHECK(chosen(residual_net(), {}) == "weight-only");
}

TEST_CASE("products that read each other directly are all quantized", "[quantize]") {
  for (const char* mode : {"dynamic", "weight-only"}) {
    CAPTURE(mode);
    GraphBuilder b;
    ValueId at = b.input("x", DType::float32, {2, 96});
    for (uint32_t i = 0; i < 3; ++i) {
      at = b.op("MatMul", {at, b.constant(random_tensor({96, 96}, i + 1, 0.1f))});
    }
    b.output(at, "y");
    const Model before = std::move(b).model();
    Model model = before;
    run_step(model, "quantize", {{"mode", mode}, {"weights", "int8"}});
    CHECK(count_ops(model.graph, "MatMul") == 0);
    const std::vector<NamedTensor> feed = feeds({2, 96}, 1)[0];
    CHECK(test::sqnr(run(before, feed), run(model, feed)) > 25);
  }
}

TEST_CASE("options that do not go together are usage errors", "[quantize]") {
  for (const Json& options :
       std::vector<Json>{{{"mode", "dynamic"}, {"weights", "int4"}},
                         {{"mode", "weight-only"}, {"granularity", "block:20"}},
                         {{"mode", "dynamic"}, {"granularity", "block:32"}},
                         {{"mode", "weight-only"}, {"granularity", "chanel"}},
                         {{"algorithm", "gptq"}}}) {
    Model model = residual_net();
    try {
      run_step(model, "quantize", options);
      FAIL(options.dump());
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::usage);
    }
  }
}

}  // namespace
}  // namespace compress
