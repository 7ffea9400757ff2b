#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "compress/core/parallel.h"
#include "compress/error.h"
#include "compress/graph/builder.h"
#include "compress/ops/op.h"
#include "compress/runtime/session.h"
#include "compress/train/trainer.h"
#include "compress/train/training_graph.h"

namespace compress {
namespace {

using train::TrainOptions;
using train::TrainResult;

Tensor random_floats(const Shape& shape, uint32_t seed, float scale = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  Tensor tensor = Tensor::allocate(DType::float32, shape);
  for (float& value : tensor.mutable_as<float>()) value = scale * normal(generator);
  return tensor;
}

// Images [1, 2, 6, 6] whose label is the quadrant that is brightest.
class Quadrants : public SampleSource {
 public:
  explicit Quadrants(int64_t size) : size_(size) {}
  int64_t size() const override { return size_; }
  Sample get(int64_t index) override {
    Sample sample;
    Tensor image = random_floats({1, 2, 6, 6}, static_cast<uint32_t>(index) + 1, 0.7f);
    const int64_t label = (index * 7 + index / 5) % 4;
    for (int64_t i = 0; i < image.count(); ++i) {
      const int64_t row = i / 6 % 6 / 3, column = i % 6 / 3;
      if (row * 2 + column == label) image.mutable_as<float>()[static_cast<size_t>(i)] += 1;
    }
    sample.inputs.push_back({"x", image});
    sample.label = Tensor::from<int64_t>({1}, {label});
    return sample;
  }
  bool labelled() const override { return true; }
  std::string description() const override { return "quadrants"; }

 private:
  int64_t size_;
};

struct NetOptions {
  bool batch_norm = false;
  bool dropout = false;
};

// Conv, [BatchNormalization], Relu, MaxPool, Gemm, Relu, [Dropout], Gemm.
Model small_net(NetOptions options = {}, uint32_t seed = 1) {
  GraphBuilder b;
  const int64_t batch = b.graph().symbol("batch");
  const ValueId x = b.graph().add_input("x", {DType::float32, true, Shape{batch, 2, 6, 6}});
  const auto weights = [&](const Shape& shape, float scale) {
    return b.constant(random_floats(shape, seed++, scale), "w");
  };
  ValueId y = b.op("Conv", {x, weights({8, 2, 3, 3}, 0.2f), weights({8}, 0.1f)},
                   {attr("pads", std::vector<int64_t>{1, 1, 1, 1})});
  if (options.batch_norm) {
    const auto fixed = [&](float value) {
      Tensor tensor = Tensor::zeros(DType::float32, {8});
      std::fill_n(tensor.mutable_as<float>().data(), 8, value);
      return b.constant(tensor, "bn");
    };
    y = b.op("BatchNormalization", {y, fixed(1), fixed(0), fixed(0), fixed(1)});
  }
  y = b.op("Relu", {y});
  y = b.op("MaxPool", {y},
           {attr("kernel_shape", std::vector<int64_t>{2, 2}),
            attr("strides", std::vector<int64_t>{2, 2})});
  y = b.op("Flatten", {y});
  y = b.op("Gemm", {y, weights({72, 16}, 0.1f), weights({16}, 0.1f)});
  y = b.op("Relu", {y});
  if (options.dropout) y = b.op("Dropout", {y, b.constant(Tensor::scalar(0.25f))});
  y = b.op("Gemm", {y, weights({16, 4}, 0.3f), weights({4}, 0.1f)});
  b.output(b.op("Softmax", {y}, {attr("axis", int64_t{-1})}), "probabilities");
  return std::move(b).model(17);
}

std::vector<int64_t> all_of(const SampleSource& source) {
  std::vector<int64_t> indices(static_cast<size_t>(source.size()));
  std::iota(indices.begin(), indices.end(), 0);
  return indices;
}

TrainOptions options_for(const char* loss, int64_t epochs = 2) {
  TrainOptions options;
  options.epochs = epochs;
  options.batch = 16;
  options.schedule.rate = 5e-3;
  options.loss.terms = train::parse_loss(loss);
  options.seed = 3;
  return options;
}

std::vector<float> flat(const TrainResult& result) {
  std::vector<float> out;
  for (const NamedTensor& value : result.values) {
    const TensorData data = value.tensor.read();
    out.insert(out.end(), data.as<float>().begin(), data.as<float>().end());
  }
  return out;
}

}  // namespace

TEST_CASE("training learns, and keeps the best epoch on what is held back") {
  Quadrants data(400);
  const Model model = small_net();
  const TrainResult result =
      train::train(model, nullptr, data, all_of(data), options_for("cross-entropy", 6));
  REQUIRE(result.epochs.size() == 7);
  CHECK(result.epochs[0].accuracy < 0.6);
  CHECK(result.epochs.back().accuracy > 0.9);
  CHECK(result.held_back == 40);
  const auto& best = result.epochs[static_cast<size_t>(result.best_epoch)];
  for (const auto& epoch : result.epochs) CHECK(best.validation_loss <= epoch.validation_loss);

  Model trained = model;
  train::apply_result(trained, result);
  Session before(model), after(trained);
  const Sample sample = data.get(1000);
  CHECK_FALSE(same_content(before.run(sample.inputs)[0], after.run(sample.inputs)[0]));
}

TEST_CASE("a trained model does not depend on the number of threads") {
  Quadrants data(90);
  const Model model = small_net({true, true});
  TrainOptions options = options_for("cross-entropy");
  options.dropout = true;
  const int before = thread_count();
  set_thread_count(1);
  const std::vector<float> one = flat(train::train(model, nullptr, data, all_of(data), options));
  for (const int threads : {2, 3}) {
    set_thread_count(threads);
    CHECK(flat(train::train(model, nullptr, data, all_of(data), options)) == one);
  }
  set_thread_count(before);
}

TEST_CASE("a resumed run ends where the uninterrupted one does, to the bit") {
  Quadrants data(90);
  const Model model = small_net({true, true});
  for (const char* optimizer : {"adam", "sgd"}) {
    TrainOptions options = options_for("cross-entropy", 3);
    options.dropout = true;
    options.augment.flip = true;
    if (std::string(optimizer) == "sgd") {
      options.optimizer.kind = train::OptimizerKind::sgd;
      options.optimizer.nesterov = true;
    }
    std::vector<std::vector<NamedTensor>> saved;
    train::TrainHooks hooks;
    hooks.save_seconds = 0;
    hooks.save = [&](const std::vector<NamedTensor>& state) { saved.push_back(state); };
    const std::vector<float> whole =
        flat(train::train(model, nullptr, data, all_of(data), options, hooks));
    REQUIRE(saved.size() > 10);
    for (const size_t at : {size_t{1}, size_t{7}, saved.size() - 1}) {
      CAPTURE(optimizer, at);
      CHECK(flat(train::train(model, nullptr, data, all_of(data), options, {}, saved[at])) ==
            whole);
    }
  }
}

// One of 40 features is 1, the label is that of its number.
class Features : public SampleSource {
 public:
  int64_t size() const override { return 80; }
  Sample get(int64_t index) override {
    Sample sample;
    Tensor x = Tensor::zeros(DType::float32, {1, 40});
    x.mutable_as<float>()[static_cast<size_t>(index % 40)] = 1;
    sample.inputs.push_back({"x", x});
    sample.label = Tensor::from<int64_t>({1}, {index % 4});
    return sample;
  }
  bool labelled() const override { return true; }
  std::string description() const override { return "features"; }
};

TEST_CASE("weights that are zero, but were not cut, go on learning after a resume") {
  Features data;
  GraphBuilder b;
  const int64_t batch = b.graph().symbol("batch");
  const ValueId x = b.graph().add_input("x", {DType::float32, true, Shape{batch, 40}});
  b.output(b.op("MatMul", {x, b.constant(Tensor::zeros(DType::float32, {40, 4}), "w")}), "y");
  const Model model = std::move(b).model(17);
  TrainOptions options = options_for("cross-entropy", 2);
  options.batch = 4;
  options.validation = 0;
  options.sparsity = train::parse_sparsity("constant:final=0.5");
  std::vector<std::vector<NamedTensor>> saved;
  train::TrainHooks hooks;
  hooks.save_seconds = 0;
  hooks.save = [&](const std::vector<NamedTensor>& state) { saved.push_back(state); };
  const std::vector<float> whole =
      flat(train::train(model, nullptr, data, all_of(data), options, hooks));
  CHECK(std::count(whole.begin(), whole.end(), 0.0f) == 80);
  CHECK(flat(train::train(model, nullptr, data, all_of(data), options, {}, saved[0])) == whole);
}

TEST_CASE(
    "a teacher's outputs from a file train as the teacher does; those of another are refused") {
  Quadrants data(90);
  const Model student = small_net({}, 5), teacher = small_net({}, 9);
  const TrainOptions options = options_for("kl:T=2");
  std::vector<NamedTensor> outputs;
  train::TrainHooks hooks;
  hooks.save_teacher = [&](const std::vector<NamedTensor>& made) { outputs = made; };
  const std::vector<float> first =
      flat(train::train(student, &teacher, data, all_of(data), options, hooks));
  REQUIRE(outputs.size() == 2);
  CHECK(outputs[1].tensor.shape() == Shape({90, 4}));
  train::TrainHooks known;
  known.teacher_outputs = outputs;
  CHECK(flat(train::train(student, &teacher, data, all_of(data), options, known)) == first);
  const Model other = small_net({}, 10);
  CHECK_THROWS_AS(train::train(student, &other, data, all_of(data), options, known), Error);
  Quadrants more(91);
  CHECK_THROWS_AS(train::train(student, &teacher, more, all_of(more), options, known), Error);
}

TEST_CASE("activations that are computed again give the same bits in less memory") {
  Quadrants data(64);
  GraphBuilder b;
  const int64_t batch = b.graph().symbol("batch");
  ValueId y = b.graph().add_input("x", {DType::float32, true, Shape{batch, 2, 6, 6}});
  for (uint32_t layer = 0; layer < 16; ++layer) {
    const int64_t in = layer == 0 ? 2 : 8;
    y = b.op("Conv", {y, b.constant(random_floats({8, in, 3, 3}, layer + 1, 0.2f), "w")},
             {attr("pads", std::vector<int64_t>{1, 1, 1, 1})});
    y = b.op("Sigmoid", {y});
  }
  y = b.op("Flatten", {y});
  b.output(b.op("Gemm", {y, b.constant(random_floats({288, 4}, 77, 0.1f), "w")}), "y");
  const Model model = std::move(b).model(17);
  TrainOptions options = options_for("cross-entropy", 1);
  const std::vector<float> kept = flat(train::train(model, nullptr, data, all_of(data), options));
  const auto memory = [&] {
    const train::TrainingGraph graph = train::make_training_graph(model, nullptr, true, options);
    Session session(graph.model);
    std::vector<NamedTensor> feeds = {{"x", random_floats({16, 2, 6, 6}, 3)}};
    feeds.push_back({graph.inputs.label, Tensor::zeros(DType::int64, {16})});
    for (const auto& p : graph.parameters) {
      feeds.push_back({graph.model.graph.value(p.value).name, p.initial});
    }
    session.run(feeds);
    return session.arena_bytes();
  };
  const uint64_t before = memory();
  options.recompute = true;
  CHECK(memory() < before * 7 / 10);
  CHECK(flat(train::train(model, nullptr, data, all_of(data), options)) == kept);
}

TEST_CASE("a checkpoint of another model is refused") {
  Quadrants data(40);
  std::vector<NamedTensor> saved;
  train::TrainHooks hooks;
  hooks.save = [&](const std::vector<NamedTensor>& state) { saved = state; };
  const TrainOptions options = options_for("cross-entropy", 1);
  train::train(small_net(), nullptr, data, all_of(data), options, hooks);
  REQUIRE_FALSE(saved.empty());
  CHECK_THROWS_AS(train::train(small_net({true}), nullptr, data, all_of(data), options, {}, saved),
                  Error);
}

TEST_CASE("a checkpoint of a run with other options is refused") {
  Quadrants data(64);
  std::vector<NamedTensor> saved;
  train::TrainHooks hooks;
  hooks.save = [&](const std::vector<NamedTensor>& state) { saved = state; };
  train::train(small_net(), nullptr, data, all_of(data), options_for("cross-entropy", 1), hooks);
  const auto message = [&](const TrainOptions& options) {
    try {
      train::train(small_net(), nullptr, data, all_of(data), options, {}, saved);
    } catch (const Error& error) {
      return error.message();
    }
    return std::string("accepted");
  };
  TrainOptions options = options_for("cross-entropy", 2);
  CHECK(message(options) == "accepted");
  options.batch = 8;
  CHECK(message(options).find("another --batch") != std::string::npos);
  options = options_for("cross-entropy", 2);
  options.loss.label_smoothing = 0.1;
  CHECK(message(options).find("another --loss") != std::string::npos);
  options = options_for("cross-entropy", 2);
  options.validation = 0.25;
  CHECK(message(options).find("another number of samples") != std::string::npos);
}

TEST_CASE("zeros stay zeros where sparsity is kept") {
  Quadrants data(80);
  Model model = small_net();
  const ValueId id = train::find_parameters(model.graph)[0].constant;
  std::vector<float> sparse(144);
  for (size_t i = 0; i < sparse.size(); i += 3) sparse[i] = 0.25f;
  model.graph.set_constant(id, Tensor::from<float>({8, 2, 3, 3}, std::span<const float>(sparse)));
  TrainOptions options = options_for("cross-entropy");
  options.keep_sparsity = true;
  options.optimizer.weight_decay = 0.01;
  const TrainResult result = train::train(model, nullptr, data, all_of(data), options);
  REQUIRE(result.best_epoch > 0);
  const TensorData data_of = result.values[0].tensor.read();
  int64_t moved = 0;
  for (size_t i = 0; i < sparse.size(); ++i) {
    const float now = data_of.as<float>()[i];
    if (sparse[i] == 0) CHECK(now == 0);
    moved += now != sparse[i];
  }
  CHECK(moved == 48);
}

TEST_CASE("a student learns a teacher's outputs without labels") {
  Quadrants data(300);
  Model teacher = small_net({}, 50);
  train::apply_result(
      teacher, train::train(teacher, nullptr, data, all_of(data), options_for("cross-entropy", 5)));
  infer_types(teacher);
  for (const char* loss : {"kl:T=4,alpha=1", "mse", "cosine"}) {
    CAPTURE(loss);
    const TrainResult result =
        train::train(small_net(), &teacher, data, all_of(data), options_for(loss, 4));
    CHECK(result.epochs.back().validation_loss < 0.6 * result.epochs[0].validation_loss);
  }
}

TEST_CASE("labels that the model has no class for are named, as are outputs of another kind") {
  class Wrong : public Quadrants {
   public:
    explicit Wrong(Tensor label) : Quadrants(20), label_(std::move(label)) {}
    Sample get(int64_t index) override {
      Sample sample = Quadrants::get(index);
      if (index == 7) sample.label = label_;
      return sample;
    }

   private:
    Tensor label_;
  };
  TrainOptions options = options_for("cross-entropy");
  options.batch = 1;
  const auto message = [&](Tensor label) {
    Wrong data(std::move(label));
    try {
      train::train(small_net(), nullptr, data, all_of(data), options);
    } catch (const Error& error) {
      return error.message();
    }
    return std::string("accepted");
  };
  CHECK(message(Tensor::from<int64_t>({1}, {4})).find("sample 7 has the label 4") == 0);
  CHECK(message(Tensor::from<int64_t>({1}, {-1})).find("sample 7 has the label -1") == 0);
  CHECK(message(Tensor::from<int64_t>({1, 2}, {1, 2})).find("labels of shape [1,2]") == 0);
}

TEST_CASE("an LSTM learns") {
  // Whether the first of six values is above the last.
  class Sequences : public SampleSource {
   public:
    int64_t size() const override { return 96; }
    Sample get(int64_t index) override {
      Sample sample;
      const Tensor x = random_floats({1, 6, 1}, static_cast<uint32_t>(index) + 50);
      const TensorData data = x.read();
      sample.inputs.push_back({"x", x});
      sample.label = Tensor::from<int64_t>({1}, {data.as<float>()[0] > data.as<float>()[5]});
      return sample;
    }
    bool labelled() const override { return true; }
    std::string description() const override { return "sequences"; }
  };
  GraphBuilder b;
  const int64_t batch = b.graph().symbol("batch");
  const ValueId x = b.graph().add_input("x", {DType::float32, true, Shape{batch, 6, 1}});
  const auto weights = [&](const Shape& shape, uint32_t seed) {
    return b.constant(random_floats(shape, seed, 0.3f), "w");
  };
  const ValueId steps = b.op("Transpose", {x}, {attr("perm", std::vector<int64_t>{1, 0, 2})});
  const std::vector<ValueId> lstm = b.op_n(
      "LSTM", 2, {steps, weights({1, 32, 1}, 1), weights({1, 32, 8}, 2), weights({1, 64}, 3)},
      {attr("hidden_size", int64_t{8})});
  const ValueId last =
      b.op("Squeeze", {lstm[1], b.constant(Tensor::from<int64_t>({1}, {0}), "axes")});
  b.output(b.op("Gemm", {last, weights({8, 2}, 4), weights({2}, 5)}), "y");
  Model model = std::move(b).model(17);
  infer_types(model);
  Sequences data;
  TrainOptions options = options_for("cross-entropy");
  options.epochs = 15;
  options.batch = 16;
  options.schedule.rate = 0.02;
  const TrainResult result = train::train(model, nullptr, data, all_of(data), options);
  CHECK(result.parameters == 32 + 256 + 64 + 16 + 2);
  CHECK(result.epochs.back().accuracy >= 0.8);
  CHECK(result.epochs.back().validation_loss < 0.7 * result.epochs[0].validation_loss);
}

TEST_CASE("divergence stops training and keeps the last good parameters") {
  Quadrants data(100);
  TrainOptions options = options_for("cross-entropy", 4);
  options.optimizer.kind = train::OptimizerKind::sgd;
  options.schedule.rate = 1e12;
  const Model model = small_net();
  const TrainResult result = train::train(model, nullptr, data, all_of(data), options);
  CHECK(result.diverged);
  CHECK(result.stopped.find("diverged in epoch 1") != std::string::npos);
  CHECK(result.best_epoch == 0);
  const TensorData kept = result.values[0].tensor.read();
  const TensorData start = train::find_parameters(model.graph)[0].initial.read();
  CHECK(std::equal(kept.as<float>().begin(), kept.as<float>().end(), start.as<float>().begin()));
}

TEST_CASE("accumulated batches make the update of one large batch") {
  Quadrants data(64);
  TrainOptions options = options_for("cross-entropy", 1);
  options.validation = 0;
  options.batch = 32;
  const std::vector<float> large =
      flat(train::train(small_net(), nullptr, data, all_of(data), options));
  options.batch = 16;
  options.accumulate = 2;
  const std::vector<float> small =
      flat(train::train(small_net(), nullptr, data, all_of(data), options));
  REQUIRE(large.size() == small.size());
  for (size_t i = 0; i < large.size(); ++i) REQUIRE(std::abs(large[i] - small[i]) < 1e-3f);
}

// The lowered kernels sum in other orders: 2,304 terms of float32 differ by about
// sqrt(2304) * 6e-8 = 3e-6 of the largest; a factor of ten is left for cancellation.
TEST_CASE("library kernels give the gradients of the reference kernels") {
  Quadrants data(20);
  TrainOptions options = options_for("cross-entropy");
  options.batch = 20;
  const train::TrainingGraph graph =
      train::make_training_graph(small_net({true}), nullptr, true, options);
  std::vector<NamedTensor> feeds = join(data, all_of(data)).inputs;
  feeds.push_back({graph.inputs.label, *join(data, all_of(data)).label});
  for (const auto& p : graph.parameters) {
    feeds.push_back({graph.model.graph.value(p.value).name, p.initial});
  }
  for (const auto& s : graph.states) {
    feeds.push_back({graph.model.graph.value(s.input).name, s.initial});
  }
  SessionOptions plain;
  plain.lower = false;
  Session reference(graph.model, plain), fast(graph.model);
  const std::vector<Tensor> wanted = reference.run(feeds);
  const std::vector<Tensor> found = fast.run(feeds);
  for (size_t i = 0; i < wanted.size(); ++i) {
    const std::vector<double> a = wanted[i].to_doubles(), b = found[i].to_doubles();
    double most = 1e-2;
    for (const double value : a) most = std::max(most, std::abs(value));
    for (size_t k = 0; k < a.size(); ++k) {
      CAPTURE(i, k, a[k], b[k]);
      REQUIRE(std::abs(a[k] - b[k]) <= 3e-5 * most);
    }
  }
}

TEST_CASE("gradients of convolutions behind residual sums and pools are library kernels") {
  GraphBuilder b;
  const int64_t batch = b.graph().symbol("batch");
  ValueId y = b.graph().add_input("x", {DType::float32, true, Shape{batch, 2, 6, 6}});
  const auto conv = [&](ValueId from, int64_t in, uint32_t seed) {
    const std::vector<int64_t> pads = {1, 1, 1, 1};
    return b.op("Conv", {from, b.constant(random_floats({8, in, 3, 3}, seed, 0.2f), "w")},
                {attr("pads", pads)});
  };
  y = b.op("Relu", {conv(y, 2, 1)});
  y = b.op("Relu", {b.op("Add", {conv(y, 8, 2), y})});
  y = b.op("Flatten", {b.op("GlobalAveragePool", {y})});
  b.output(b.op("Gemm", {y, b.constant(random_floats({8, 4}, 7, 0.3f), "w")}), "y");
  const Model model = std::move(b).model(17);
  const train::TrainingGraph graph =
      train::make_training_graph(model, nullptr, true, options_for("cross-entropy"));
  std::vector<NamedTensor> feeds = {{"x", random_floats({16, 2, 6, 6}, 3)}};
  feeds.push_back({graph.inputs.label, Tensor::zeros(DType::int64, {16})});
  for (const auto& p : graph.parameters) {
    feeds.push_back({graph.model.graph.value(p.value).name, p.initial});
  }
  Session session(graph.model);
  session.run(feeds);
  int gradients = 0;
  for (const KernelRecord& record : session.kernels()) {
    if (record.op.find("Conv") == std::string::npos) continue;
    CAPTURE(record.op, record.kernel);
    CHECK(record.kernel.find("_ref") == std::string::npos);
    gradients += record.op != "Conv";
  }
  CHECK(gradients == 3);  // weights twice, data once
}

TEST_CASE("a schedule cuts the smallest weights to the sparsity it names") {
  const train::SparsitySchedule s =
      train::parse_sparsity("polynomial:initial=0.2,final=0.8,begin=0.1,end=0.9,every=10");
  CHECK(train::sparsity_at(s, 9, 100) < 0);
  CHECK(train::sparsity_at(s, 10, 100) == Approx(0.2));
  CHECK(train::sparsity_at(s, 11, 100) < 0);
  CHECK(train::sparsity_at(s, 50, 100) == Approx(0.8 - 0.6 / 8));
  CHECK(train::sparsity_at(s, 90, 100) == 0.8);
  CHECK(train::sparsity_at(s, 91, 100) < 0);
  CHECK_THROWS_AS(train::parse_sparsity("polynomial:begin=0.5"), Error);
  CHECK_THROWS_AS(train::parse_sparsity("linear:final=0.5"), Error);

  std::vector<float> weights = {0.5f, -0.1f, 0.1f, -2, 0.1f, 3};
  std::vector<uint8_t> mask;
  train::cut_smallest(weights, 0.34, mask);
  CHECK(weights == std::vector<float>{0.5f, 0, 0, -2, 0.1f, 3});
  CHECK(mask == std::vector<uint8_t>{1, 0, 0, 1, 1, 1});

  Quadrants data(80);
  TrainOptions options = options_for("cross-entropy", 3);
  options.sparsity = train::parse_sparsity("polynomial:final=0.75,every=2");
  const TrainResult result = train::train(small_net(), nullptr, data, all_of(data), options);
  const std::vector<double> conv = result.values[0].tensor.to_doubles();
  CHECK(std::count(conv.begin(), conv.end(), 0.0) == 108);
}

TEST_CASE("a loss that cannot be read is named") {
  CHECK_THROWS_AS(train::parse_loss("crossentropy"), Error);
  CHECK_THROWS_AS(train::parse_loss("kl:T=0"), Error);
  CHECK_THROWS_AS(train::parse_loss("kl:alpha=2"), Error);
  CHECK_THROWS_AS(train::parse_loss("hint"), Error);
  CHECK_THROWS_AS(train::parse_loss("mse:T=2"), Error);
  const auto terms = train::parse_loss("kl:T=2,alpha=0.3+hint:a=b,weight=10");
  REQUIRE(terms.size() == 2);
  CHECK(terms[0].temperature == 2);
  CHECK(terms[0].alpha == 0.3);
  CHECK(terms[1].student == "a");
  CHECK(terms[1].weight == 10);
}

TEST_CASE("schedules rise, fall and end where they should") {
  train::ScheduleOptions s{train::ScheduleKind::cosine, 1.0, 10, 110};
  CHECK(train::rate_at(s, 0) == Approx(0.1));
  CHECK(train::rate_at(s, 9) == Approx(1.0));
  CHECK(train::rate_at(s, 60) == Approx(0.5));
  CHECK(train::rate_at(s, 110) == Approx(0.0).margin(1e-12));
  s = {train::ScheduleKind::step, 1.0, 0, 100, 30, 0.1};
  CHECK(train::rate_at(s, 29) == 1.0);
  CHECK(train::rate_at(s, 30) == Approx(0.1));
  CHECK(train::rate_at(s, 90) == Approx(1e-3));
  s = {train::ScheduleKind::linear, 2.0, 0, 100};
  CHECK(train::rate_at(s, 50) == Approx(1.0));
}

// Two steps by hand.
TEST_CASE("optimizers update as their papers say") {
  const float g1[] = {0.5f}, g2[] = {-0.25f};
  const auto two = [&](const train::OptimizerOptions& o) {
    std::vector<float> w = {1.0f};
    train::Moments moments = train::make_moments(o, 1);
    train::update(o, 0.1, 1, true, g1, {}, w, moments);
    train::update(o, 0.1, 2, true, g2, {}, w, moments);
    return static_cast<double>(w[0]);
  };
  train::OptimizerOptions o;
  o.kind = train::OptimizerKind::sgd;
  o.momentum = 0;
  CHECK(two(o) == Approx(1 - 0.05 + 0.025));
  o.momentum = 0.9;
  CHECK(two(o) == Approx(1 - 0.1 * 0.5 - 0.1 * (0.9 * 0.5 - 0.25)));
  o.nesterov = true;
  CHECK(two(o) == Approx(1 - 0.1 * (0.5 + 0.45) - 0.1 * (-0.25 + 0.9 * 0.2)));
  o = {};
  const auto adam = [](double w, double decay) {
    const double m1 = 0.1 * 0.5, v1 = 0.001 * 0.25;
    w = w * (1 - 0.1 * decay) - 0.1 * (m1 / 0.1) / (std::sqrt(v1 / 0.001) + 1e-8);
    const double m2 = 0.9 * m1 + 0.1 * -0.25, v2 = 0.999 * v1 + 0.001 * 0.0625;
    const double hat = std::sqrt(v2 / (1 - 0.999 * 0.999)) + 1e-8;
    return w * (1 - 0.1 * decay) - 0.1 * (m2 / (1 - 0.81)) / hat;
  };
  CHECK(two(o) == Approx(adam(1, 0)));
  o.kind = train::OptimizerKind::adamw;
  o.weight_decay = 0.1;
  CHECK(two(o) == Approx(adam(1, 0.1)));
}

}  // namespace compress
