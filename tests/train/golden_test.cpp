// Ten steps of three networks against PyTorch (make_goldens.py).
#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>

#include "compress/graph/builder.h"
#include "compress/runtime/session.h"
#include "compress/train/trainer.h"
#include "compress/train/training_graph.h"
#include "goldens.h"

namespace compress {
namespace {

Tensor pattern(const Shape& shape, double seed, double scale) {
  Tensor tensor = Tensor::allocate(DType::float32, shape);
  double i = 0;
  for (float& value : tensor.mutable_as<float>()) {
    value = static_cast<float>(scale * std::sin(0.37 * i * i + 0.73 * i + seed));
    ++i;
  }
  return tensor;
}

// All samples of one batch, by the formulas of the script.
class Samples : public SampleSource {
 public:
  Samples(const Shape& shape, int64_t classes) : all_(pattern(shape, 0, 1)), classes_(classes) {}
  int64_t size() const override { return all_.shape()[0]; }
  Sample get(int64_t index) override {
    Shape shape = all_.shape();
    shape[0] = 1;
    const TensorData data = all_.read();
    const auto count = static_cast<size_t>(shape.count());
    Sample sample;
    sample.inputs.push_back(
        {"x", Tensor::from<float>(
                  shape, data.as<float>().subspan(static_cast<size_t>(index) * count, count))});
    sample.label = Tensor::from<int64_t>({1}, {(3 * index + index / 4) % classes_});
    return sample;
  }
  bool labelled() const override { return true; }
  std::string description() const override { return "pattern"; }

 private:
  Tensor all_;
  int64_t classes_;
};

// Parameters are made in the order of the script.
class Net {
 public:
  explicit Net(const Shape& shape) {
    Shape declared = shape;
    declared[0] = b.graph().symbol("batch");
    x = b.graph().add_input("x", {DType::float32, true, declared});
  }
  ValueId weights(const Shape& shape, double scale) {
    const auto seed = static_cast<double>(names.size() + 1);
    const ValueId id = b.constant(pattern(shape, seed, scale), "p");
    names.push_back(b.graph().value(id).name);
    return id;
  }
  ValueId op(const char* type, std::vector<ValueId> inputs, std::vector<Attribute> attrs = {}) {
    return b.op(type, std::move(inputs), std::move(attrs));
  }
  ValueId add(ValueId a, ValueId c) { return op("Add", {a, c}); }
  ValueId ints(std::vector<int64_t> values) {
    return b.constant(Tensor::from<int64_t>({static_cast<int64_t>(values.size())},
                                            std::span<const int64_t>(values)));
  }
  Model finish(ValueId y) {
    b.output(y, "y");
    return std::move(b).model(20);
  }

  GraphBuilder b;
  ValueId x;
  std::vector<std::string> names;
};

using Ints = std::vector<int64_t>;

Model cnn(Net& n) {
  const auto layer = [&](ValueId x, const Shape& shape, double scale) {
    const ValueId w = n.weights(shape, scale), bias = n.weights({shape[0]}, 0.1);
    const ValueId y = n.op("Conv", {x, w, bias}, {attr("pads", Ints{1, 1, 1, 1})});
    return n.op("MaxPool", {n.op("Relu", {y})},
                {attr("kernel_shape", Ints{2, 2}), attr("strides", Ints{2, 2})});
  };
  ValueId y = layer(layer(n.x, {8, 1, 3, 3}, 0.3), {16, 8, 3, 3}, 0.15);
  y = n.op("Flatten", {y});
  const ValueId w1 = n.weights({144, 32}, 0.1), b1 = n.weights({32}, 0.1);
  y = n.op("Relu", {n.op("Gemm", {y, w1, b1})});
  const ValueId w2 = n.weights({32, 10}, 0.2), b2 = n.weights({10}, 0.1);
  return n.finish(n.op("Gemm", {y, w2, b2}));
}

Model mlp(Net& n) {
  const ValueId w1 = n.weights({10, 20}, 0.3), b1 = n.weights({20}, 0.1);
  const ValueId y = n.op("Relu", {n.add(n.op("MatMul", {n.x, w1}), b1)});
  const ValueId w2 = n.weights({20, 4}, 0.3), b2 = n.weights({4}, 0.1);
  return n.finish(n.add(n.op("MatMul", {y, w2}), b2));
}

Model transformer(Net& n) {
  const auto norm = [&](ValueId x) {
    const ValueId gain = n.weights({8}, 1), bias = n.weights({8}, 0.1);
    return n.op("LayerNormalization", {x, gain, bias});
  };
  const auto heads = [&](ValueId x) {
    const ValueId y = n.op("Reshape", {x, n.ints({0, 6, 2, 4})});
    return n.op("Transpose", {y}, {attr("perm", Ints{0, 2, 1, 3})});
  };
  const ValueId first = norm(n.x);
  ValueId qkv[3];
  for (ValueId& part : qkv) part = heads(n.op("MatMul", {first, n.weights({8, 8}, 0.4)}));
  const ValueId keys = n.op("Transpose", {qkv[1]}, {attr("perm", Ints{0, 1, 3, 2})});
  const ValueId scores =
      n.op("Div", {n.op("MatMul", {qkv[0], keys}), n.b.constant(Tensor::scalar(2.0f))});
  ValueId a = n.op("MatMul", {n.op("Softmax", {scores}, {attr("axis", int64_t{-1})}), qkv[2]});
  a = n.op("Reshape",
           {n.op("Transpose", {a}, {attr("perm", Ints{0, 2, 1, 3})}), n.ints({0, 6, 8})});
  const ValueId wo = n.weights({8, 8}, 0.4), bo = n.weights({8}, 0.1);
  ValueId y = n.add(n.x, n.add(n.op("MatMul", {a, wo}), bo));
  const ValueId second = norm(y);
  const ValueId w1 = n.weights({8, 16}, 0.3), b1 = n.weights({16}, 0.1);
  const ValueId hidden = n.op("Gelu", {n.add(n.op("MatMul", {second, w1}), b1)});
  const ValueId w2 = n.weights({16, 8}, 0.3), b2 = n.weights({8}, 0.1);
  y = n.add(y, n.add(n.op("MatMul", {hidden, w2}), b2));
  y = n.op("ReduceMean", {y, n.ints({1})}, {attr("keepdims", int64_t{0})});
  return n.finish(n.op("MatMul", {y, n.weights({8, 5}, 0.4)}));
}

struct Case {
  const char* name;
  Shape shape;
  int64_t classes;
  Model (*build)(Net&);
  train::OptimizerOptions optimizer;
  double rate;
};

std::vector<Case> cases() {
  train::OptimizerOptions sgd, adamw;
  sgd.kind = train::OptimizerKind::sgd;
  sgd.nesterov = true;
  adamw.kind = train::OptimizerKind::adamw;
  adamw.weight_decay = 0.01;
  return {{"cnn", {8, 1, 12, 12}, 10, cnn, {}, 1e-3},
          {"mlp", {16, 10}, 4, mlp, sgd, 0.1},
          {"transformer", {4, 6, 8}, 5, transformer, adamw, 1e-2}};
}

const test::Golden& golden_of(const std::string& name) {
  for (const test::Golden& golden : test::goldens()) {
    if (golden.name == name) return golden;
  }
  FAIL("no golden " << name);
  throw 0;
}

}  // namespace

TEST_CASE("ten steps give PyTorch's losses, and the first its gradients") {
  for (const Case& c : cases()) {
    CAPTURE(c.name);
    const test::Golden& golden = golden_of(c.name);
    Net net(c.shape);
    const Model model = c.build(net);
    Samples data(c.shape, c.classes);
    std::vector<int64_t> indices;
    for (int64_t i = 0; i < data.size(); ++i) indices.push_back(i);

    train::TrainOptions options;
    options.epochs = 10;
    options.batch = data.size();
    options.optimizer = c.optimizer;
    options.schedule = {train::ScheduleKind::constant, c.rate};
    options.loss.terms = train::parse_loss("cross-entropy");
    options.validation = 0;
    options.decay_all = true;  // as PyTorch's optimizers do
    const train::TrainResult result = train::train(model, nullptr, data, indices, options);
    REQUIRE(result.epochs.size() == golden.losses.size());
    for (size_t i = 0; i < golden.losses.size(); ++i) {
      CAPTURE(i);
      CHECK(std::abs(result.epochs[i].loss - golden.losses[i]) <= 1e-4 * golden.losses[i]);
    }

    const train::TrainingGraph graph = train::make_training_graph(model, nullptr, true, options);
    const Sample batch = join(data, indices);
    std::vector<NamedTensor> feeds = batch.inputs;
    feeds.push_back({graph.inputs.label, *batch.label});
    for (const auto& p : graph.parameters) {
      feeds.push_back({graph.model.graph.value(p.value).name, p.initial});
    }
    Session session(graph.model);
    const std::vector<Tensor> outputs = session.run(feeds);
    REQUIRE(graph.parameters.size() == golden.gradients.size());
    for (size_t i = 0; i < graph.parameters.size(); ++i) {
      const auto place = std::find(net.names.begin(), net.names.end(), graph.parameters[i].name);
      const auto& wanted = golden.gradients[static_cast<size_t>(place - net.names.begin())];
      const std::vector<double> found = outputs[i + 1].to_doubles();
      double square = 0;
      for (const double g : found) square += g * g;
      CAPTURE(graph.parameters[i].name);
      // The keys' bias-free gradients may vanish: what counts is the largest of the case.
      CHECK(std::abs(std::sqrt(square) - wanted.norm) <= 1e-4 * std::max(wanted.norm, 1e-3));
      for (size_t k = 0; k < wanted.first.size(); ++k) {
        CHECK(std::abs(found[k] - wanted.first[k]) <= 1e-4 * std::max(wanted.norm, 1e-3));
      }
    }
  }
}

}  // namespace compress
