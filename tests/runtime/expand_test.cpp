// Operators without a kernel, run by the body that their specification gives: through bodies made
// here, and through ONNX's.
#include <catch2/catch.hpp>
#include <cmath>

#include "compress/error.h"
#include "compress/graph/builder.h"
#include "compress/runtime/session.h"
#include "formats/onnx.h"

namespace compress {
namespace {

NamedTensor feed(const std::string& name, const Shape& shape, std::vector<float> values) {
  return {name, Tensor::from<float>(shape, std::span<const float>(values))};
}

std::vector<float> floats(const Tensor& tensor) {
  const TensorData data = tensor.read();
  const auto values = data.as<float>();
  return {values.begin(), values.end()};
}

std::vector<float> run(const Model& model, std::vector<NamedTensor> feeds, bool lower = true) {
  SessionOptions options;
  options.lower = lower;
  Session session(model, options);
  return floats(session.run(feeds)[0]);
}

// What making a session says; "" where it succeeds.
std::string refusal(const Model& model, ErrorCode code) {
  try {
    Session session(model);
  } catch (const Error& error) {
    CHECK(error.code() == code);
    CHECK(std::string_view(error.what()).find('\n') == std::string_view::npos);
    return error.what();
  }
  return "";
}

Function unary_function(const std::string& op_type, const std::string& domain, int opset) {
  GraphBuilder body;
  const ValueId x = body.input("x", DType::undefined, {});
  body.output(body.op(op_type, {x}, {}, domain), "y");
  Function function;
  function.name = "made";
  function.inputs = {"x"};
  function.outputs = {"y"};
  function.opsets = {{"", opset}};
  function.graph = std::make_shared<Graph>(body.graph());
  return function;
}

// Outer -> Middle -> Neg; Old -> Softmax of opset 11; Endless -> Endless; Typed only where it sees
// float32 of rank 2. Everything else, Relu included, becomes Exp.
std::optional<Function> made_body(const Node& node, int, std::span<const TypeInfo> inputs) {
  if (node.op_type == "Outer") return unary_function("Middle", "made", 17);
  if (node.op_type == "Middle") return unary_function("Neg", "", 17);
  if (node.op_type == "Old") return unary_function("Softmax", "", 11);
  if (node.op_type == "Endless") return unary_function("Endless", "made", 17);
  if (node.op_type == "None") return std::nullopt;
  if (node.op_type == "Typed") {
    if (inputs[0].dtype != DType::float32 || inputs[0].shape.rank() != 2) {
      fail(ErrorCode::unsupported, "its input is not known");
    }
    return unary_function("Abs", "", 17);
  }
  return unary_function("Exp", "", 17);
}

Model unary_model(std::vector<std::string> op_types) {
  GraphBuilder b;
  ValueId x = b.input("x", DType::float32, {2, 2});
  for (const std::string& op_type : op_types) {
    x = b.op(op_type, {x}, {}, op_type == "Relu" ? "" : "made");
  }
  b.output(x, "result");
  Model model = std::move(b).model(17);
  model.opsets["made"] = 1;
  model.operator_function = made_body;
  return model;
}

TEST_CASE("bodies nest, and a body reads its operators at its own opset") {
  for (const bool lower : {false, true}) {
    CHECK(run(unary_model({"Outer"}), {feed("x", {2, 2}, {1, -2, 3, -4})}, lower) ==
          std::vector<float>{-1, 2, -3, 4});
    // Since opset 13 Softmax works on the last axis; before, on all from axis 1 on as one.
    GraphBuilder b;
    const ValueId x = b.input("x", DType::float32, {1, 2, 2});
    b.output(b.op("Relu", {b.op("Old", {x}, {}, "made")}), "result");
    Model model = std::move(b).model(17);
    model.opsets["made"] = 1;
    model.operator_function = made_body;
    CHECK(run(model, {feed("x", {1, 2, 2}, {0, 0, 0, 0})}, lower) ==
          std::vector<float>{0.25, 0.25, 0.25, 0.25});
  }
}

TEST_CASE("a kernel of our own is preferred to the body") {
  CHECK(run(unary_model({"Relu"}), {feed("x", {2, 2}, {1, -2, 3, -4})}) ==
        std::vector<float>{1, 0, 3, 0});
  CHECK(run(unary_model({"Unheard"}), {feed("x", {2, 2}, {0, 0, 0, 0})}) ==
        std::vector<float>{1, 1, 1, 1});
}

TEST_CASE("a body may depend on types that other bodies decide") {
  CHECK(run(unary_model({"Outer", "Relu", "Typed"}), {feed("x", {2, 2}, {1, -2, 3, -4})}) ==
        std::vector<float>{0, 2, 0, 4});
}

TEST_CASE("operators in bodies of control flow are expanded too") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {2, 2});
  const ValueId condition = b.input("c", DType::boolean, {});
  Node node;
  node.op_type = "If";
  node.name = "choice";
  node.inputs = {condition};
  for (const char* op_type : {"Outer", "Typed"}) {
    GraphBuilder inner;
    const ValueId captured = inner.graph().add_capture("x", {});
    inner.output(inner.op(op_type, {captured}, {}, "made"), "out");
    node.bodies.push_back({op_type[0] == 'O' ? "then_branch" : "else_branch",
                           std::make_shared<Graph>(inner.graph()),
                           {{x, captured}}});
  }
  node.outputs = {b.graph().add_value("r", {})};
  b.output(b.graph().node(b.graph().add_node_raw(node)).outputs[0], "r");
  Model model = std::move(b).model(17);
  model.opsets["made"] = 1;
  model.operator_function = made_body;
  for (const bool taken : {true, false}) {
    const std::vector<float> out =
        run(model, {feed("x", {2, 2}, {1, -2, 3, -4}), {"c", Tensor::scalar<bool>(taken)}});
    CHECK(out == (taken ? std::vector<float>{-1, 2, -3, 4} : std::vector<float>{1, 2, 3, 4}));
  }
}

TEST_CASE("what has no body, or one without end, is refused in one line") {
  CHECK_THAT(refusal(unary_model({"None"}), ErrorCode::unsupported),
             Catch::Contains("operator made.None"));
  CHECK_THAT(refusal(unary_model({"Endless"}), ErrorCode::unsupported),
             Catch::Contains("nest deeper"));
  Model model = unary_model({"Outer"});
  model.operator_function = nullptr;
  CHECK_THAT(refusal(model, ErrorCode::unsupported), Catch::Contains("operator made.Outer"));
}

TEST_CASE("Scan of opset 8 scans each element of the batch") {
  // state += step * row; output state. Rows come last first.
  GraphBuilder b;
  const ValueId start = b.input("start", DType::float32, {2, 1});
  const ValueId x = b.input("x", DType::float32, {2, 3, 1});
  const ValueId step = b.input("step", DType::float32, {1});
  GraphBuilder inner;
  const ValueId state = inner.input("state", DType::float32, {1});
  const ValueId row = inner.input("row", DType::float32, {1});
  const ValueId captured = inner.graph().add_capture("step", {DType::float32, true, {1}});
  const ValueId next = inner.op("Add", {state, inner.op("Mul", {row, captured})});
  inner.output(next, "next");
  inner.output(inner.op("Identity", {next}), "scan");
  Node node;
  node.op_type = "Scan";
  node.name = "scan";
  node.inputs = {kNoValue, start, x};
  node.attributes = {attr("num_scan_inputs", int64_t{1}),
                     attr("directions", std::vector<int64_t>{1})};
  node.bodies.push_back({"body", std::make_shared<Graph>(inner.graph()), {{step, captured}}});
  node.outputs = {b.graph().add_value("l", {}), b.graph().add_value("a", {})};
  const NodeId id = b.graph().add_node_raw(node);
  b.output(b.graph().node(id).outputs[0], "last");
  b.output(b.graph().node(id).outputs[1], "all");
  Session session(std::move(b).model(8));
  const std::vector<Tensor> out = session.run(std::vector<NamedTensor>{
      feed("start", {2, 1}, {0, 100}), feed("x", {2, 3, 1}, {1, 2, 3, 10, 20, 30}),
      feed("step", {1}, {2})});
  CHECK(out[0].shape() == Shape{2, 1});
  CHECK(floats(out[0]) == std::vector<float>{12, 220});
  REQUIRE(out[1].shape() == Shape{2, 3, 1});
  CHECK(floats(out[1]) == std::vector<float>{6, 10, 12, 160, 200, 220});
}

// --- ONNX's bodies -------------------------------------------------------------------------------

// y = SoftmaxCrossEntropyLoss(x [2, 3], labels {2, 0}); its body holds NegativeLogLikelihoodLoss,
// whose body depends on the type of what comes before it.
Model loss_model(std::vector<Attribute> attributes) {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {-1, 3});
  const ValueId labels = b.constant(Tensor::from<int64_t>({2}, {2, 0}));
  b.output(b.op("SoftmaxCrossEntropyLoss", {x, labels}, std::move(attributes)), "y");
  Model model = std::move(b).model(17);
  model.operator_function = onnx_operator_function;
  return model;
}

TEST_CASE("a loss of ONNX runs by its body, and defaults of its attributes hold") {
  const std::vector<float> x = {1, 2, 3, 0, 1, -1};
  const auto loss = [&](int row, int label) {
    double sum = 0;
    for (int i = 0; i < 3; ++i) sum += std::exp(x[static_cast<size_t>(3 * row + i)]);
    return std::log(sum) - x[static_cast<size_t>(3 * row + label)];
  };
  const Model model = loss_model({});
  const std::string before = serialize_onnx(model);
  CHECK(run(model, {feed("x", {2, 3}, x)})[0] == Approx((loss(0, 2) + loss(1, 0)) / 2));
  CHECK(serialize_onnx(model) == before);
  CHECK(run(loss_model({attr("reduction", std::string("sum"))}), {feed("x", {2, 3}, x)})[0] ==
        Approx(loss(0, 2) + loss(1, 0)));
}

TEST_CASE("hostile nodes of function operators give one line") {
  CHECK_THAT(refusal(loss_model({attr("reduction", int64_t{1})}), ErrorCode::invalid_model),
             Catch::Contains("SoftmaxCrossEntropyLoss") && Catch::Contains("reduction"));
  CHECK_THAT(refusal(loss_model({attr("unheard", 1.0f)}), ErrorCode::invalid_model),
             Catch::Contains("unheard"));
  const auto attention = [](size_t inputs, DType dtype, std::vector<Attribute> attributes) {
    GraphBuilder b;
    std::vector<ValueId> ids;
    for (size_t i = 0; i < inputs; ++i)
      ids.push_back(b.input("x" + std::to_string(i), dtype, {1, 2, 3, 4}));
    b.output(b.op("FlexAttention", ids, std::move(attributes), "ai.onnx.preview"), "y");
    Model model = std::move(b).model(26);
    model.opsets["ai.onnx.preview"] = 1;
    model.operator_function = onnx_operator_function;
    return model;
  };
  CHECK(refusal(attention(3, DType::float32, {}), ErrorCode::internal).empty());
  CHECK_THAT(refusal(attention(1, DType::float32, {}), ErrorCode::invalid_model),
             Catch::Contains("FlexAttention"));
  CHECK_THAT(refusal(attention(3, DType::int64, {attr("softmax_precision", int64_t{1} << 40)}),
                     ErrorCode::unsupported),
             Catch::Contains("gives it no body") && Catch::Contains("int64[1,2,3,4]"));
}

TEST_CASE("a body that needs a type nobody knows says so") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {2, 3});
  const ValueId unknown = b.graph().add_value("u", {});
  Node node;
  node.op_type = "If";
  node.inputs = {b.input("c", DType::boolean, {})};
  node.outputs = {unknown};
  for (const char* branch : {"then_branch", "else_branch"}) {
    GraphBuilder inner;
    const ValueId captured = inner.graph().add_capture("x", {});
    inner.output(inner.op("Neg", {captured}), "out");
    node.bodies.push_back({branch, std::make_shared<Graph>(inner.graph()), {{x, captured}}});
  }
  b.graph().add_node_raw(node);
  const ValueId labels = b.constant(Tensor::from<int64_t>({2}, {2, 0}));
  b.output(b.op("NegativeLogLikelihoodLoss", {unknown, labels}), "y");
  Model model = std::move(b).model(17);
  model.operator_function = onnx_operator_function;
  CHECK_THAT(refusal(model, ErrorCode::unsupported),
             Catch::Contains("NegativeLogLikelihoodLoss") && Catch::Contains("unknown"));
  model.graph.set_type(unknown, {DType::float32, true, {2, 3}});
  CHECK(refusal(model, ErrorCode::internal).empty());
}

}  // namespace
}  // namespace compress
