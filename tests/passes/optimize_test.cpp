#include "compress/error.h"
#include "tests/passes/support.h"

namespace compress {
namespace {

using test::ints;
using test::random_tensor;
using test::relative_error;
using test::run;
using test::run_step;

// Optimizes a copy; both must compute the same. Returns the copy.
Model optimized(const Model& before, const std::vector<NamedTensor>& feed,
                double tolerance = 1e-5) {
  Model after = before;
  run_step(after, "optimize");
  check_graph(after.graph);
  CHECK(relative_error(run(after, feed), run(before, feed)) <= tolerance);
  return after;
}

Tensor positive(int64_t n, uint32_t seed) {
  Tensor out = random_tensor({n}, seed);
  Tensor made = Tensor::allocate(DType::float32, {n});
  const TensorData data = out.read();
  for (int64_t i = 0; i < n; ++i) {
    made.mutable_as<float>()[static_cast<size_t>(i)] =
        0.5f + std::fabs(data.as<float>()[static_cast<size_t>(i)]);
  }
  return made;
}

ValueId batch_norm(GraphBuilder& b, ValueId x, int64_t channels) {
  return b.op(
      "BatchNormalization",
      {x, b.constant(random_tensor({channels}, 21)), b.constant(random_tensor({channels}, 22)),
       b.constant(random_tensor({channels}, 23)), b.constant(positive(channels, 24))});
}

TEST_CASE("BatchNormalization moves into the Conv before it", "[optimize]") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {1, 3, 8, 8});
  const ValueId conv = b.op("Conv", {x, b.constant(random_tensor({4, 3, 3, 3}, 1))});
  b.output(batch_norm(b, conv, 4), "y");
  const Model after = optimized(std::move(b).model(), {{"x", random_tensor({1, 3, 8, 8}, 2)}});
  CHECK(test::count_ops(after.graph, "BatchNormalization") == 0);
  CHECK(after.graph.node_count() == 1);
  CHECK(after.graph.value(after.graph.outputs()[0]).name == "y");
}

TEST_CASE("a weight that two Convs read is copied, not overwritten", "[optimize]") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {1, 3, 8, 8});
  const ValueId w = b.constant(random_tensor({4, 3, 3, 3}, 1));
  b.output(batch_norm(b, b.op("Conv", {x, w}), 4), "y");
  b.output(b.op("Conv", {x, w}), "z");
  const Model after = optimized(std::move(b).model(), {{"x", random_tensor({1, 3, 8, 8}, 2)}});
  CHECK(test::count_ops(after.graph, "BatchNormalization") == 0);
}

TEST_CASE("BatchNormalization moves into ConvTranspose with groups and into Gemm", "[optimize]") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {1, 4, 5, 5});
  const ValueId up = b.op("ConvTranspose", {x, b.constant(random_tensor({4, 3, 2, 2}, 1))},
                          {attr("group", int64_t{2})});
  b.output(batch_norm(b, up, 6), "y");
  const ValueId flat = b.input("f", DType::float32, {2, 7});
  const ValueId gemm = b.op(
      "Gemm", {flat, b.constant(random_tensor({5, 7}, 3)), b.constant(random_tensor({1, 5}, 4))},
      {attr("transB", int64_t{1})});
  b.output(batch_norm(b, gemm, 5), "z");
  const Model after = optimized(std::move(b).model(), {{"x", random_tensor({1, 4, 5, 5}, 5)},
                                                       {"f", random_tensor({2, 7}, 6)}});
  CHECK(after.graph.node_count() == 2);
}

TEST_CASE("BatchNormalization moves into the Conv after it only without padding", "[optimize]") {
  for (const int64_t pad : {0, 1}) {
    GraphBuilder b;
    const ValueId x = b.input("x", DType::float32, {1, 3, 8, 8});
    b.output(b.op("Conv", {batch_norm(b, x, 3), b.constant(random_tensor({4, 3, 3, 3}, 1))},
                  {attr("pads", std::vector<int64_t>{pad, pad, pad, pad})}),
             "y");
    const Model after = optimized(std::move(b).model(), {{"x", random_tensor({1, 3, 8, 8}, 2)}});
    CHECK(test::count_ops(after.graph, "BatchNormalization") == pad);
  }
}

TEST_CASE("a constant added to each channel joins the Conv's bias", "[optimize]") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {1, 3, 8, 8});
  const ValueId conv = b.op("Conv", {x, b.constant(random_tensor({4, 3, 3, 3}, 1))});
  b.output(b.op("Add", {conv, b.constant(random_tensor({4, 1, 1}, 2))}), "y");
  const Model after = optimized(std::move(b).model(), {{"x", random_tensor({1, 3, 8, 8}, 2)}});
  CHECK(after.graph.node_count() == 1);
}

TEST_CASE("MatMul and the constant added to its columns become a Gemm", "[optimize]") {
  GraphBuilder b;
  const ValueId x = b.graph().add_input("x", {DType::float32, true, Shape{-2, 6}});
  const ValueId deep = b.input("d", DType::float32, {2, 3, 6});
  const ValueId w = b.constant(random_tensor({6, 5}, 1));
  const ValueId bias = b.constant(random_tensor({1, 5}, 2));
  b.output(b.op("Add", {b.op("MatMul", {x, w}), bias}), "y");
  b.output(b.op("Add", {b.op("MatMul", {deep, w}), bias}), "z");  // no matrix: stays
  const Model after = optimized(
      std::move(b).model(), {{"x", random_tensor({4, 6}, 3)}, {"d", random_tensor({2, 3, 6}, 4)}});
  CHECK(test::count_ops(after.graph, "Gemm") == 1);
  CHECK(test::count_ops(after.graph, "MatMul") == 1);
}

// The chain that tracing leaves for "same" padding: only the rank is needed, the batch is symbolic.
TEST_CASE("traced padding folds and joins the Conv", "[optimize]") {
  GraphBuilder b;
  const ValueId x = b.graph().add_input("x", {DType::float32, true, Shape{-2, 3, 8, 8}});
  const ValueId rank = b.op("Shape", {b.op("Shape", {x})});             // [4]
  const ValueId twice = b.op("Mul", {rank, b.constant(ints({2}))});     // [8]
  const ValueId missing = b.op("Sub", {twice, b.constant(ints({4}))});  // [4]
  const ValueId zeros =
      b.op("ConstantOfShape", {missing}, {attr("value", Tensor::from<int64_t>({1}, {0}))});
  const ValueId pads =
      b.op("Concat", {b.constant(ints({1, 1, 1, 1})), zeros}, {attr("axis", int64_t{0})});
  const ValueId pairs = b.op("Reshape", {pads, b.constant(ints({-1, 2}))});
  const ValueId turned =
      b.op("Slice", {pairs, b.constant(ints({-1})), b.constant(ints({-9223372036854775807})),
                     b.constant(ints({0})), b.constant(ints({-1}))});
  const ValueId flat = b.op("Reshape", {b.op("Transpose", {turned}), b.constant(ints({-1}))});
  const ValueId padded = b.op(
      "Pad", {x, b.op("Cast", {flat}, {attr("to", int64_t{7})}), b.constant(Tensor::scalar(0.0f))});
  b.output(b.op("Conv", {padded, b.constant(random_tensor({4, 3, 3, 3}, 1))},
                {attr("strides", std::vector<int64_t>{2, 2})}),
           "y");
  const Model after = optimized(std::move(b).model(), {{"x", random_tensor({2, 3, 8, 8}, 2)}});
  CHECK(after.graph.node_count() == 1);
  CHECK(test::only_node(after.graph, "Conv").ints_or("pads", {}) ==
        std::vector<int64_t>{1, 1, 1, 1});
}

TEST_CASE("a known dimension folds although the batch is unknown", "[optimize]") {
  GraphBuilder b;
  const ValueId x = b.graph().add_input("x", {DType::float32, true, Shape{-2, 6, 4}});
  const ValueId channels =
      b.op("Gather", {b.op("Shape", {x}), b.constant(Tensor::scalar<int64_t>(1))});
  const ValueId half = b.op("Div", {channels, b.constant(Tensor::scalar<int64_t>(2))});
  const ValueId shape =
      b.op("Concat",
           {b.constant(ints({-1, 2})), b.op("Unsqueeze", {half, b.constant(ints({0}))}),
            b.constant(ints({4}))},
           {attr("axis", int64_t{0})});
  b.output(b.op("Reshape", {x, shape}), "y");
  const Model after = optimized(std::move(b).model(), {{"x", random_tensor({5, 6, 4}, 2)}}, 0);
  CHECK(after.graph.node_count() == 1);
}

TEST_CASE("initializers that are also inputs become constants", "[optimize]") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {1, 3, 8, 8});
  const ValueId w = b.constant(random_tensor({4, 3, 3, 3}, 1), "w");
  b.graph().list_as_input(w);
  b.output(batch_norm(b, b.op("Conv", {x, w}), 4), "y");
  Model before = std::move(b).model(8);
  before.ir_version = 3;
  const Model after = optimized(before, {{"x", random_tensor({1, 3, 8, 8}, 2)}});
  CHECK(after.graph.inputs().size() == 1);
  CHECK(after.ir_version == 4);
  CHECK(after.graph.node_count() == 1);
}

TEST_CASE("a Reshape with one unknown dimension infers it", "[optimize]") {
  GraphBuilder b;
  const ValueId x = b.graph().add_input("x", {DType::float32, true, Shape{-2, 6, 4}});
  const ValueId batch =
      b.op("Gather", {b.op("Shape", {x}), b.constant(Tensor::scalar<int64_t>(0))});
  const ValueId shape =
      b.op("Concat", {b.op("Unsqueeze", {batch, b.constant(ints({0}))}), b.constant(ints({24}))},
           {attr("axis", int64_t{0})});
  b.output(b.op("Reshape", {x, shape}), "y");
  const Model after = optimized(std::move(b).model(), {{"x", random_tensor({5, 6, 4}, 2)}}, 0);
  CHECK(after.graph.node_count() == 1);
}

TEST_CASE("folding never inflates a model", "[optimize]") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {64, 64});
  const ValueId big =
      b.op("Expand", {b.constant(Tensor::scalar(2.0f)), b.constant(ints({64, 64}))});
  // The table is read twice: folding the Transpose would store it a second time.
  const ValueId table = b.constant(random_tensor({64, 64}, 3));
  const ValueId product = b.op("MatMul", {x, b.op("Transpose", {table})});
  const ValueId row = b.op("Gather", {table, b.constant(ints({3}))});
  b.output(b.op("Add", {b.op("Mul", {product, big}), row}), "y");
  Model before = std::move(b).model();
  const Model after = optimized(before, {{"x", random_tensor({64, 64}, 2)}}, 0);
  CHECK(test::model_bytes(after.graph) <= test::model_bytes(before.graph));
  CHECK(test::count_ops(after.graph, "Expand") == 1);
  CHECK(test::count_ops(after.graph, "Transpose") == 1);
}

TEST_CASE("nodes that return their input go, where names of inputs and outputs allow",
          "[optimize]") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {2, 3, 4});
  ValueId v = b.op("Identity", {x});
  v = b.op("Dropout", {v});
  v = b.op("Cast", {v}, {attr("to", int64_t{1})});
  v = b.op("Transpose", {v}, {attr("perm", std::vector<int64_t>{0, 1, 2})});
  v = b.op("Reshape", {v, b.constant(ints({2, 3, 4}))});
  v = b.op("Pad", {v, b.constant(ints({0, 0, 0, 0, 0, 0}))});
  v = b.op("Slice", {v, b.constant(ints({0})), b.constant(ints({99})), b.constant(ints({1}))});
  v = b.op("Concat", {v}, {attr("axis", int64_t{0})});
  v = b.op("Cast", {b.op("Cast", {v}, {attr("to", int64_t{11})})}, {attr("to", int64_t{1})});
  b.output(b.op("Relu", {v}), "y");
  b.output(b.op("Identity", {x}), "same");
  const Model after = optimized(std::move(b).model(), {{"x", random_tensor({2, 3, 4}, 2)}}, 0);
  GraphBuilder want;
  const ValueId wx = want.input("x", DType::float32, {2, 3, 4});
  want.output(want.op("Relu", {wx}), "y");
  want.output(want.op("Identity", {wx}), "same");
  CHECK(same_graph(after.graph, want.graph()));
}

TEST_CASE("a Relu beside a Clip from zero goes", "[optimize]") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {8});
  const ValueId low = b.constant(Tensor::scalar(0.0f));
  const ValueId high = b.constant(Tensor::scalar(0.5f));
  b.output(b.op("Relu", {b.op("Clip", {b.op("Relu", {x}), low, high})}), "y");
  b.output(b.op("Clip", {b.op("Relu", {x}), b.constant(Tensor::scalar(-1.0f)), high}), "z");
  const Model after = optimized(std::move(b).model(), {{"x", random_tensor({8}, 2)}}, 0);
  CHECK(test::count_ops(after.graph, "Relu") == 1);
}

TEST_CASE("a cast that loses digits stays", "[optimize]") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {8});
  b.output(b.op("Cast", {b.op("Cast", {x}, {attr("to", int64_t{10})})}, {attr("to", int64_t{1})}),
           "y");
  const Model after = optimized(std::move(b).model(), {{"x", random_tensor({8}, 2)}}, 0);
  CHECK(test::count_ops(after.graph, "Cast") == 2);
}

TEST_CASE("equal constants become one, unused ones go", "[optimize]") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {4});
  const ValueId one = b.op("Add", {x, b.constant(random_tensor({4}, 1))});
  b.output(b.op("Mul", {one, b.constant(random_tensor({4}, 1))}), "y");
  b.constant(random_tensor({100}, 5), "unused");
  const Model after = optimized(std::move(b).model(), {{"x", random_tensor({4}, 2)}}, 0);
  CHECK(after.graph.find_value("unused") == kNoValue);
  CHECK(test::only_node(after.graph, "Add").inputs[1] ==
        test::only_node(after.graph, "Mul").inputs[1]);
}

TEST_CASE("bodies are optimized too", "[optimize]") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {4});
  const ValueId condition = b.input("c", DType::boolean, {});
  Node node;
  node.op_type = "If";
  node.name = "conditional_node_with_two_bodies";
  node.inputs = {condition};
  for (const char* branch : {"then_branch", "else_branch"}) {
    auto body = std::make_shared<Graph>();
    const ValueId in = body->add_capture("x", {DType::float32, true, {4}});
    ValueId v = in;
    for (int i = 0; i < 3; ++i) {
      v = body->node(body->add({"Identity", {v}, {"t"}})).outputs[0];
    }
    v = body->node(body->add({"Neg", {v}, {"out"}})).outputs[0];
    body->add_output(v);
    node.bodies.push_back({branch, body, {{x, in}}});
  }
  node.outputs = {b.graph().add_value("y", {DType::float32, true, {4}})};
  const NodeId id = b.graph().add_node_raw(node);
  b.graph().add_output(b.graph().node(id).outputs[0]);
  const Model after =
      optimized(std::move(b).model(),
                {{"x", random_tensor({4}, 2)}, {"c", Tensor::from<bool>({}, {true})}}, 0);
  for (const Body& body : test::only_node(after.graph, "If").bodies) {
    CHECK(body.graph->node_count() == 1);
  }
}

TEST_CASE("functions become nodes before an opset is lifted", "[optimize]") {
  GraphBuilder body;
  body.output(body.op("Relu", {body.input("a", DType::undefined, {})}), "r");
  Function function;
  function.domain = "local";
  function.name = "Rectify";
  function.inputs = {"a"};
  function.outputs = {"r"};
  function.opsets = {{"", 17}};
  function.graph = std::make_shared<Graph>(body.graph());
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {4});
  b.output(b.op("Neg", {b.op("Rectify", {x}, {}, "local")}), "y");
  const auto with = [&](int opset) {
    Model model;
    model.graph = b.graph();
    model.opsets = {{"", 17}, {"local", 1}};
    model.functions = {function};
    model.functions[0].opsets[""] = opset;
    return model;
  };
  PipelineOptions pipeline;
  pipeline.lift_opset = [](Model& model, int opset) {
    CHECK(model.functions.empty());
    model.opsets[""] = opset;
  };
  Model model = with(17);
  const PipelineResult result = run_step(model, "optimize", {{"opset", 21}}, pipeline);
  CHECK(model.opset() == 21);
  CHECK(test::count_ops(model.graph, "Relu") == 1);
  CHECK(test::count_ops(model.graph, "Rectify") == 0);
  const std::vector<NamedTensor> feed = {{"x", random_tensor({4}, 3)}};
  CHECK(relative_error(run(model, feed), run(with(17), feed)) == 0);
  Model other = with(16);
  try {
    run_step(other, "optimize", {{"opset", 21}}, pipeline);
    FAIL("functions of another opset were lifted");
  } catch (const Error& error) {
    CHECK_THAT(error.what(), Catch::Contains("'Rectify' is written for opset 16 of ai.onnx"));
  }
}

}  // namespace
}  // namespace compress
