// Bodies of Loop: invariant states, and the weights that bodies read.
#include "support.h"

namespace compress {
namespace {

using test::count_ops;
using test::only_node;
using test::random_tensor;
using test::run;
using test::run_step;

constexpr int64_t kWidth = 64;

enum class Weights { captured, handed_on, handed_on_and_read };

// y = x * W ahead of the loop; h <- tanh(h * W + y), `steps` times. The loop takes W as a capture,
// or as a state that each step hands on.
Model loop_net(Weights weights, int64_t steps, bool read_outside = true) {
  GraphBuilder b;
  const TypeInfo vector{DType::float32, true, {2, kWidth}};
  const TypeInfo matrix{DType::float32, true, {kWidth, kWidth}};
  const ValueId x = b.input("x", DType::float32, {2, kWidth});
  const ValueId w = b.constant(random_tensor({kWidth, kWidth}, 1, 0.1f), "w");
  const ValueId y = read_outside ? b.op("MatMul", {x, w}) : b.op("Neg", {x});
  auto body = std::make_shared<Graph>();
  body->add_input("i", {DType::int64, true, Shape()});
  const ValueId go = body->add_input("go", {DType::boolean, true, Shape()});
  const ValueId h = body->add_input("h", vector);
  const bool state = weights != Weights::captured;
  const ValueId inner_w =
      state ? body->add_input("w_state", matrix) : body->add_capture("w", matrix);
  const ValueId inner_y = body->add_capture("y", vector);
  const auto add = [&](const char* op, std::vector<ValueId> inputs) {
    return body->node(body->add({op, std::move(inputs), {std::string(op) + "_out"}})).outputs[0];
  };
  const ValueId next = add("Tanh", {add("Add", {add("MatMul", {h, inner_w}), inner_y})});
  body->add_output(add("Identity", {go}));
  body->add_output(next);
  if (state) body->add_output(inner_w);
  Node loop;
  loop.op_type = "Loop";
  loop.name = "loop";
  loop.inputs = {b.constant(Tensor::scalar(steps), "steps"), kNoValue, x};
  if (state) loop.inputs.push_back(w);
  Body held{"body", body, {{y, inner_y}}};
  if (!state) held.captures.push_back({w, inner_w});
  loop.bodies = {held};
  loop.outputs = {b.graph().add_value("last", vector)};
  if (state) loop.outputs.push_back(b.graph().add_value("w_last", matrix));
  const NodeId id = b.graph().add_node_raw(loop);
  b.output(b.op("Neg", {b.graph().node(id).outputs[0]}), "out");
  if (weights == Weights::handed_on_and_read)
    b.output(b.op("ReduceSum", {b.graph().node(id).outputs[1]}), "sum");
  return std::move(b).model();
}

std::vector<NamedTensor> feed() { return {{"x", random_tensor({2, kWidth}, 9)}}; }

const Graph& body_of(const Model& model) {
  return *only_node(model.graph, "Loop").bodies.at(0).graph;
}

std::string reasons(const PipelineResult& result) {
  std::string out;
  for (const PassRecord& pass : result.passes) {
    for (const Skipped& skip : pass.skipped) out += skip.node + ": " + skip.reason + "\n";
  }
  return out;
}

}  // namespace

TEST_CASE("what a Loop only hands on becomes a capture", "[optimize]") {
  for (const int64_t steps : {0, 1, 3}) {
    const Model before = loop_net(Weights::handed_on_and_read, steps);
    Model model = before;
    run_step(model, "optimize");
    const Node& loop = only_node(model.graph, "Loop");
    CHECK(loop.inputs.size() == 3);
    CHECK(loop.outputs.size() == 1);
    CHECK(body_of(model).inputs().size() == 3);
    CHECK(body_of(model).outputs().size() == 2);
    CHECK(test::relative_error(run(model, feed()), run(before, feed())) == 0);
  }
}

TEST_CASE("a state that steps change stays one", "[optimize]") {
  Model model = loop_net(Weights::captured, 3);
  run_step(model, "optimize");
  CHECK(only_node(model.graph, "Loop").inputs.size() == 3);
  CHECK(body_of(model).inputs().size() == 3);
}

TEST_CASE("products in bodies are quantized, weights they share stand in the file once",
          "[quantize]") {
  struct Case {
    Json options;
    const char* op;
    double size;
    double least_sqnr;  // 8 bits: 40 dB less ten; 4 bits: 20 dB less what three steps add
  };
  const std::vector<Case> cases = {
      {{{"mode", "dynamic"}}, "MatMulInteger", 0.45, 30},
      {{{"mode", "weight-only"}}, "MatMulNBits", 0.35, 14},
      {{{"mode", "weight-only"},
        {"weights", "int8"},
        {"format", "qdq"},
        {"granularity", "channel"}},
       "DequantizeLinear",
       0.45,
       30},
  };
  for (const Weights weights : {Weights::captured, Weights::handed_on}) {
    for (const bool read_outside : {true, false}) {
      for (const Case& row : cases) {
        CAPTURE(row.options.dump(), weights == Weights::captured, read_outside);
        const Model before = loop_net(weights, 3, read_outside);
        Model model = before;
        run_step(model, "optimize");
        const PipelineResult result = run_step(model, "quantize", row.options);
        INFO(reasons(result));
        CHECK(count_ops(body_of(model), row.op) == 1);
        CHECK(count_ops(model.graph, row.op) == (read_outside ? 1 : 0));
        CHECK(test::model_bytes(model.graph) < row.size * test::model_bytes(before.graph));
        const double db = test::sqnr(run(before, feed()), run(model, feed()));
        CHECK(db > row.least_sqnr);
        CHECK(db < 90);
      }
    }
  }
}

TEST_CASE("a weight that something else in a body reads stays as it is", "[quantize]") {
  Model model = loop_net(Weights::captured, 2);
  Node loop = only_node(model.graph, "Loop");
  Graph& body = *loop.bodies[0].graph;
  const ValueId w = loop.bodies[0].captures.back().inner;
  body.add_output(body.node(body.add({"ReduceSum", {w}, {"total"}})).outputs[0]);
  REQUIRE(body.value(w).name == "w");
  const Model before = model;
  // The further output of the body is a scan output that the node does not name.
  const PipelineResult result = run_step(model, "quantize", {{"mode", "dynamic"}});
  CHECK(count_ops(model.graph, "MatMul") == 1);
  CHECK(count_ops(body_of(model), "MatMul") == 1);
  CHECK_THAT(reasons(result), Catch::Contains("also read by node 'total' (ReduceSum)"));
  CHECK(test::relative_error(run(model, feed()), run(before, feed())) == 0);
}

TEST_CASE("static: weights that a body reads as well are left, and the file does not grow",
          "[quantize]") {
  const Model before = loop_net(Weights::captured, 2);
  Model model = before;
  const PipelineResult result =
      run_step(model, "quantize", {{"mode", "static"}}, test::with_statistics({feed()}));
  CHECK_THAT(reasons(result), Catch::Contains("also read by Loop"));
  CHECK(count_ops(model.graph, "QuantizeLinear") == 0);
  CHECK(test::model_bytes(model.graph) <= test::model_bytes(before.graph));
}

TEST_CASE("the mode of a model whose weights stand in bodies is dynamic", "[quantize]") {
  Model model = loop_net(Weights::captured, 2, false);
  const PipelineResult result =
      run_step(model, "quantize", Json::object(), test::with_statistics({feed()}));
  CHECK(count_ops(body_of(model), "MatMulInteger") == 1);
}

}  // namespace compress
