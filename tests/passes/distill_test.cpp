#include <numeric>

#include "compress/error.h"
#include "compress/ops/op.h"
#include "compress/train/parameters.h"
#include "passes/distill/blocks.h"
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
  // Nothing of training stays behind in the file.
  for (ValueId id = 0; id < model.graph.value_slots(); ++id) {
    if (model.graph.value(id).alive) CHECK_FALSE(model.graph.is_unused(id));
  }
}

// One constant operand of the DequantizeLinear that makes operand `slot` of the node.
const Tensor& dequantized(const Graph& graph, const Node& node, size_t slot, size_t operand) {
  const Node& pair = graph.node(graph.value(node.inputs[slot]).producer);
  REQUIRE(pair.op_type == "DequantizeLinear");
  return graph.value(pair.inputs[operand]).constant;
}

TEST_CASE("--qat quantizes, learns ranges, and ends in what integer kernels take") {
  World world;
  world.input = classifier(5);
  // Ranges of inner values are calibrated on inputs of a third of the size: far too narrow.
  std::vector<std::vector<NamedTensor>> feeds, small;
  for (int64_t i = 0; i < 32; ++i) {
    feeds.push_back(world.data.get(i).inputs);
    Tensor x = feeds.back()[0].tensor;
    for (float& value : x.mutable_as<float>()) value *= 0.3f;
    small.push_back({{"x", x}});
  }
  const auto right = test::with_statistics(feeds).statistics;
  const auto narrow = test::with_statistics(small).statistics;
  world.pipeline.statistics = [&](const Model& model, const StatisticsRequests& wanted,
                                  const Options& options) {
    StatisticsSet set = narrow(model, wanted, options);
    set.values["x"] = right(model, wanted, options).values["x"];
    return set;
  };
  Model rounded = world.input;
  run_step(rounded, "quantize", {{"mode", "static"}}, world.pipeline);
  for (const char* type : {"int8", "int4"}) {
    CAPTURE(type);
    Model model = world.input;
    const PipelineResult result = run_step(
        model, "distill",
        {{"qat", type}, {"teacher", "input"}, {"loss", "mse"}, {"lr", 1e-2}, {"epochs", 20}},
        world.pipeline);
    const Json& epochs = result.passes.back().details["epochs"];
    CHECK(epochs.back()["validation_loss"].get<double>() <
          0.9 * epochs.front()["validation_loss"].get<double>());
    const Graph& graph = model.graph;
    CHECK(test::count_ops(graph, "QuantizeLinear") ==
          test::count_ops(rounded.graph, "QuantizeLinear"));
    const Node& gemm = test::only_node(graph, "Gemm");
    const Tensor& weights = dequantized(graph, gemm, 1, 0);
    CHECK(weights.dtype() == (std::string(type) == "int4" ? DType::int4 : DType::int8));
    const auto x = static_cast<float>(dequantized(graph, gemm, 0, 1).to_double());
    const Node& rounded_gemm = test::only_node(rounded.graph, "Gemm");
    CHECK(x >
          1.05f * static_cast<float>(dequantized(rounded.graph, rounded_gemm, 0, 1).to_double()));
    const std::vector<double> w = dequantized(graph, gemm, 1, 1).to_doubles();
    const std::vector<double> b = dequantized(graph, gemm, 2, 1).to_doubles();
    REQUIRE(w.size() == b.size());
    for (size_t i = 0; i < w.size(); ++i) {
      CHECK(static_cast<float>(b[i]) == x * static_cast<float>(w[i]));
    }
  }
}

TEST_CASE("--qat starts from the weights themselves, not from what their integers mean") {
  World world;
  world.input = classifier(5);
  world.pipeline.statistics =
      test::with_statistics({{{"x", random_tensor({64, 8}, 9)}}}).statistics;
  Model model = world.input;
  run_step(model, "quantize", {{"mode", "static"}, {"weights", "int4"}}, world.pipeline);
  const std::vector<Unfolded> parts = unfold_quantized(model, {&world.input, true});
  int64_t found = 0;
  for (const Unfolded& part : parts) {
    const Tensor& made = model.graph.value(model.graph.find_value(part.weights)).constant;
    for (ValueId id = 0; id < world.input.graph.value_slots(); ++id) {
      const Value& value = world.input.graph.value(id);
      found += value.alive && value.is_constant() && same_content(value.constant, made);
    }
  }
  CHECK(parts.size() == 3);
  CHECK(found == 3);
}

// x [n, 8] -> Gemm, Relu, a residual Gemm, Gemm, Softmax; weights of different sizes by seed.
Model residual(uint32_t seed) {
  GraphBuilder b;
  const int64_t batch = b.graph().symbol("batch");
  ValueId x = b.graph().add_input("x", {DType::float32, true, Shape{batch, 8}});
  const auto gemm = [&](ValueId from, int64_t in, int64_t out) {
    const ValueId w = b.constant(random_tensor({in, out}, seed++, 0.4f), "w");
    return b.op("Gemm", {from, w, b.constant(random_tensor({out}, seed++, 0.1f), "b")});
  };
  const ValueId y = b.op("Relu", {gemm(x, 8, 16)});
  const ValueId inner = b.op("Relu", {gemm(y, 16, 16)});
  const ValueId sum = b.op("Add", {y, gemm(inner, 16, 16)});
  b.output(b.op("Softmax", {gemm(sum, 16, 4)}, {attr("axis", int64_t{-1})}), "p");
  return std::move(b).model(21);
}

TEST_CASE("blocks end where one value alone goes on, and in front of the last Softmax") {
  Model model = residual(1);
  infer_types(model);
  const std::vector<Block> blocks = find_blocks(model, model);
  REQUIRE(blocks.size() == 3);
  const auto op_of = [&](const std::string& value) {
    return model.graph.node(model.graph.value(model.graph.find_value(value)).producer).op_type;
  };
  CHECK(blocks[0].input.empty());
  CHECK(op_of(blocks[0].output) == "Relu");
  CHECK(op_of(blocks[1].output) == "Add");
  CHECK(op_of(blocks[2].output) == "Gemm");
  CHECK(blocks[1].input == blocks[0].output);
  CHECK(blocks[2].target == blocks[2].output);
  const Model middle = cut_block(model, blocks[1]);
  CHECK(middle.graph.inputs().size() == 1);
  CHECK(test::count_ops(middle.graph, "Gemm") == 2);

  World world;
  std::vector<std::vector<NamedTensor>> feeds;
  for (int64_t i = 0; i < 32; ++i) feeds.push_back(world.data.get(i).inputs);
  Model student = model;
  run_step(student, "quantize", {{"mode", "static"}}, test::with_statistics(feeds));
  unfold_quantized(student);
  infer_types(student);
  const std::vector<Block> quantized = find_blocks(student, model);
  REQUIRE(quantized.size() == 3);
  CHECK(quantized[0].target == blocks[0].target);
  CHECK(quantized[0].output == blocks[0].target + "_DequantizeLinear_Output");
}

TEST_CASE("--blockwise brings a compressed copy back without labels, and holds its zeros") {
  World world;
  const Model model = world.input = residual(1);
  const std::vector<NamedTensor> feed = {{"x", random_tensor({256, 8}, 77)}};
  const auto logits = [&](const Model& of) {
    Model cut = of;
    infer_types(cut);
    const Node& last = test::only_node(cut.graph, "Softmax");
    return test::run(cut_at(cut, cut.graph.value(last.inputs[0]).name), feed);
  };
  Model pruned = model;
  run_step(pruned, "prune", {{"sparsity", 0.4}});
  Model learnt = pruned;
  const PipelineResult result =
      run_step(learnt, "distill",
               {{"teacher", "input"}, {"blockwise", true}, {"keep-sparsity", true}, {"epochs", 10}},
               world.pipeline);
  CHECK(result.changed);
  const Json& details = result.passes[0].details;
  CHECK(details["blocks"] == 3);
  CHECK(details["best"].get<double>() < 0.7 * details["start"].get<double>());
  CHECK(test::sqnr(logits(model), logits(learnt)) >
        test::sqnr(logits(model), logits(pruned)) + 1.5);
  for (const train::Parameter& p : train::find_parameters(pruned.graph)) {
    const std::vector<double> before = p.initial.to_doubles();
    const std::vector<double> after =
        learnt.graph.value(learnt.graph.find_value(p.name)).constant.to_doubles();
    for (size_t i = 0; p.decays && i < before.size(); ++i) {
      if (before[i] == 0) CHECK(after[i] == 0);
    }
  }
}

TEST_CASE("--blockwise trains through integers, and leaves the model where nothing is better") {
  World world;
  const Model model = world.input = residual(1);
  std::vector<std::vector<NamedTensor>> feeds;
  for (int64_t i = 0; i < 32; ++i) feeds.push_back(world.data.get(i).inputs);
  Model student = model;
  run_step(student, "quantize", {{"mode", "static"}, {"weights", "int4"}},
           test::without_sums(test::with_statistics(feeds)));
  const std::vector<NamedTensor> feed = {{"x", random_tensor({256, 8}, 77)}};
  const double before = test::sqnr(test::run(model, feed), test::run(student, feed));
  Model learnt = student;
  const Json options = {{"teacher", "input"}, {"blockwise", true}, {"epochs", 10}};
  CHECK(run_step(learnt, "distill", options, world.pipeline).changed);
  CHECK(test::sqnr(test::run(model, feed), test::run(learnt, feed)) > before + 1);

  Model wild = student;
  Json far = options;
  far["lr"] = 1000;
  far["validation"] = 0.5;
  const PipelineResult result = run_step(wild, "distill", far, world.pipeline);
  CHECK_FALSE(result.changed);
  CHECK(test::relative_error(test::run(wild, feed), test::run(student, feed)) == 0);
  far["loss"] = "mse";
  CHECK_THROWS_AS(run_step(wild, "distill", far, world.pipeline), Error);
}

TEST_CASE("training without samples is refused") {
  Model model = classifier(1);
  CHECK_THROWS_AS(run_step(model, "distill"), Error);
}

}  // namespace compress
