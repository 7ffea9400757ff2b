#include <numeric>

#include "compress/error.h"
#include "passes/distill/distill.h"
#include "passes/distill/unfold.h"
#include "support.h"

namespace compress {
namespace {

using test::random_tensor;
using test::run_step;

// x ~ N(0, 1) [1, 8]; the label is the largest of the first four.
class Largest : public SampleSource {
 public:
  int64_t size() const override { return 320; }
  Sample get(int64_t index) override {
    Sample sample;
    const Tensor x = random_tensor({1, 8}, static_cast<uint32_t>(index) + 1);
    const std::vector<double> values = x.to_doubles();
    const auto most = std::max_element(values.begin(), values.begin() + 4) - values.begin();
    sample.inputs.push_back({"x", x});
    sample.label = Tensor::from<int64_t>({1}, {most});
    return sample;
  }
  bool labelled() const override { return true; }
  std::string description() const override { return "largest"; }
};

// Two layers; with `scale`, the weights of the first are int8 behind DequantizeLinear.
Model classifier(uint32_t seed, bool quantized = false) {
  GraphBuilder b;
  const int64_t batch = b.graph().symbol("batch");
  const ValueId x = b.graph().add_input("x", {DType::float32, true, Shape{batch, 8}});
  ValueId w = kNoValue;
  if (quantized) {
    Tensor q = Tensor::allocate(DType::int8, {8, 16});
    for (size_t i = 0; i < 128; ++i) q.mutable_as<int8_t>()[i] = static_cast<int8_t>(i * 37 % 255);
    w = b.op("DequantizeLinear", {b.constant(q), b.constant(Tensor::scalar(0.01f))});
  } else {
    w = b.constant(random_tensor({8, 16}, seed, 0.4f));
  }
  ValueId y = b.op("Relu", {b.op("MatMul", {x, w})});
  y = b.op("Gemm", {y, b.constant(random_tensor({16, 4}, seed + 1, 0.4f)),
                    b.constant(random_tensor({4}, seed + 2, 0.1f))});
  b.output(y, "y");
  return std::move(b).model(21);
}

struct World {
  Largest data;
  Model input;
  Model teacher;
  TrainingAccess access;
  PipelineOptions pipeline;

  World() {
    access.samples = [this] {
      std::vector<int64_t> indices(320);
      std::iota(indices.begin(), indices.end(), 0);
      return CalibrationSamples{&data, indices};
    };
    access.read_model = [this](const std::string& path) {
      CHECK(path == "teacher.onnx");
      return teacher;
    };
    access.input = &input;
    pipeline.training = &access;
  }
};

}  // namespace

TEST_CASE("distill learns from labels where there is no teacher") {
  World world;
  Model model = classifier(1);
  const PipelineResult result =
      run_step(model, "distill", {{"epochs", 8}, {"lr", 0.01}, {"batch", 16}}, world.pipeline);
  const Json& details = result.passes[0].details;
  CHECK(result.changed);
  CHECK(details["held_back"] == 32);
  CHECK(details["epochs"].front()["accuracy"].get<double>() < 0.6);
  CHECK(details["epochs"].back()["accuracy"].get<double>() > 0.7);
}

TEST_CASE("distill takes a teacher from a file, or the model of before") {
  World world;
  world.teacher = world.input = classifier(7);
  for (const char* teacher : {"teacher.onnx", "input"}) {
    Model model = classifier(1);
    const PipelineResult result = run_step(
        model, "distill", {{"teacher", teacher}, {"loss", "mse"}, {"epochs", 4}}, world.pipeline);
    const Json& epochs = result.passes[0].details["epochs"];
    CHECK(epochs.back()["validation_loss"].get<double>() <
          0.7 * epochs.front()["validation_loss"].get<double>());
    CHECK(result.passes[0].details["lr"].get<double>() > 0);
  }
}

TEST_CASE("prune, then distill with the zeros held, in one recipe") {
  World world;
  Model model = world.input = classifier(3);
  Recipe recipe;
  recipe.steps.push_back({"prune", {{"sparsity", 0.5}}});
  recipe.steps.push_back(
      {"distill", {{"teacher", "input"}, {"keep-sparsity", true}, {"epochs", 2}, {"lr", 0.01}}});
  run_pipeline(model, recipe, world.pipeline);
  int64_t zeros = 0, weights = 0;
  for (ValueId id = 0; id < model.graph.value_slots(); ++id) {
    const Value& value = model.graph.value(id);
    if (!value.alive || !value.is_constant() || value.constant.shape().rank() != 2) continue;
    for (const double w : value.constant.to_doubles()) {
      zeros += w == 0;
      ++weights;
    }
  }
  CHECK(weights == 192);
  CHECK(zeros == 96);
}

TEST_CASE("train starts from weights of its own") {
  World world;
  for (const char* init : {"glorot", "he"}) {
    Model model = classifier(1);
    const Json options = {{"init", init}, {"epochs", 1}, {"validation", 0}};
    const PipelineResult result = run_step(model, "train", options, world.pipeline);
    CHECK(result.changed);
    Model again = classifier(99);  // other weights in the file, the same start
    run_step(again, "train", options, world.pipeline);
    CHECK(print_graph(model.graph) == print_graph(again.graph));
  }
}

TEST_CASE("integer weights unfold to what they mean, and fold back to what they were") {
  Model model = classifier(1, true);
  const Model before = model;
  const std::vector<Unfolded> parts = unfold_quantized(model);
  REQUIRE(parts.size() == 1);
  CHECK(test::count_ops(model.graph, "QuantizeLinear") == 1);
  const std::vector<NamedTensor> feed = {{"x", random_tensor({3, 8}, 5)}};
  CHECK(test::relative_error(test::run(model, feed), test::run(before, feed)) == 0);
  fold_quantized(model, parts);
  CHECK(test::count_ops(model.graph, "QuantizeLinear") == 0);
  CHECK(test::relative_error(test::run(model, feed), test::run(before, feed)) == 0);
}

TEST_CASE("a quantized student is trained through its integers, and stays quantized") {
  World world;
  world.input = classifier(5);
  Model model = classifier(1, true);
  const PipelineResult result = run_step(
      model, "distill", {{"teacher", "input"}, {"loss", "mse"}, {"epochs", 5}}, world.pipeline);
  CHECK(result.changed);
  const Node& node = test::only_node(model.graph, "DequantizeLinear");
  CHECK(model.graph.value(node.inputs[0]).constant.dtype() == DType::int8);
}

TEST_CASE("training without samples is refused") {
  Model model = classifier(1);
  CHECK_THROWS_AS(run_step(model, "distill"), Error);
}

}  // namespace compress
