// Quantization of LSTM, GRU and RNN.
#include "support.h"

namespace compress {
namespace {

using test::count_ops;
using test::only_node;
using test::random_tensor;
using test::run;
using test::run_step;

constexpr int64_t kSteps = 6, kBatch = 2, kInputs = 24, kHidden = 32;

Model recurrent_net(const std::string& op, const std::string& direction, int opset = 17) {
  const int64_t d = direction == "bidirectional" ? 2 : 1;
  const int64_t gates = (op == "LSTM" ? 4 : op == "GRU" ? 3 : 1) * kHidden;
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {kSteps, kBatch, kInputs});
  const std::vector<ValueId> y =
      b.op_n(op, 2,
             {x, b.constant(random_tensor({d, gates, kInputs}, 1, 0.2f)),
              b.constant(random_tensor({d, gates, kHidden}, 2, 0.2f)),
              b.constant(random_tensor({d, 2 * gates}, 3, 0.2f))},
             {attr("hidden_size", kHidden), attr("direction", direction)});
  b.output(y[0], "y");
  b.output(y[1], "h");
  return std::move(b).model(opset);
}

// 8 bits of weights and of states: 40 dB and a margin of ten.
constexpr double kLeastSqnr = 30;

double sqnr_after(const Model& before, const Model& after) {
  const std::vector<NamedTensor> feed = {{"x", random_tensor({kSteps, kBatch, kInputs}, 9)}};
  return test::sqnr(run(before, feed), run(after, feed));
}

}  // namespace

TEST_CASE("dynamic: LSTM becomes DynamicQuantizeLSTM", "[quantize]") {
  for (const char* direction : {"forward", "reverse", "bidirectional"}) {
    for (const char* granularity : {"channel", "tensor"}) {
      CAPTURE(direction, granularity);
      const Model before = recurrent_net("LSTM", direction);
      Model model = before;
      const PipelineResult result =
          run_step(model, "quantize", {{"mode", "dynamic"}, {"granularity", granularity}});
      CHECK(result.changed);
      const Node& node = only_node(model.graph, "DynamicQuantizeLSTM");
      CHECK(node.domain == "com.microsoft");
      REQUIRE(node.inputs.size() == 12);
      const int64_t d = std::string(direction) == "bidirectional" ? 2 : 1;
      CHECK(model.graph.constant_input(node, 1)->shape() == Shape{d, kInputs, 4 * kHidden});
      CHECK(model.graph.constant_input(node, 2)->shape() == Shape{d, kHidden, 4 * kHidden});
      const bool by_channel = std::string(granularity) == "channel";
      CHECK(model.graph.constant_input(node, 8)->shape() ==
            (by_channel ? Shape{d, 4 * kHidden} : Shape{d}));
      CHECK(test::model_bytes(model.graph) < test::model_bytes(before.graph) * 0.4);
      const double db = sqnr_after(before, model);
      CHECK(db > kLeastSqnr);
      CHECK(db < 80);
    }
  }
}

TEST_CASE("GRU and RNN, and weight-only LSTM: 8-bit weights behind DequantizeLinear",
          "[quantize]") {
  for (const auto& [op, mode] : std::vector<std::pair<std::string, std::string>>{
           {"GRU", "dynamic"}, {"RNN", "dynamic"}, {"LSTM", "weight-only"}}) {
    for (const int opset : {11, 17}) {
      CAPTURE(op, mode, opset);
      const Model before = recurrent_net(op, "bidirectional", opset);
      Model model = before;
      run_step(model, "quantize", {{"mode", mode}});
      CHECK(count_ops(model.graph, op) == 1);
      CHECK(count_ops(model.graph, "DequantizeLinear") == 2);
      CHECK(test::model_bytes(model.graph) < test::model_bytes(before.graph) * 0.5);
      CHECK(sqnr_after(before, model) > kLeastSqnr);
    }
  }
}

TEST_CASE("recurrent nodes are left where they are excluded or share their weights", "[quantize]") {
  Model excluded = recurrent_net("LSTM", "forward");
  run_step(excluded, "quantize", {{"mode", "dynamic"}, {"exclude", Json::array({".*"})}});
  CHECK(count_ops(excluded.graph, "LSTM") == 1);

  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {kSteps, kBatch, kHidden});
  const ValueId w = b.constant(random_tensor({1, 4 * kHidden, kHidden}, 1));
  b.output(b.op("LSTM", {x, w, w}, {attr("hidden_size", kHidden)}), "y");
  Model shared = std::move(b).model();
  const PipelineResult result = run_step(shared, "quantize", {{"mode", "dynamic"}});
  CHECK(count_ops(shared.graph, "LSTM") == 1);
  std::string reasons;
  for (const PassRecord& pass : result.passes) {
    for (const Skipped& skip : pass.skipped) reasons += skip.reason;
  }
  CHECK_THAT(reasons, Catch::Contains("read elsewhere"));
}

}  // namespace compress
