// Pruning on calibration data: Wanda, SparseGPT, and channels by what reads them.
#include <Eigen/Dense>

#include "compress/core/parallel.h"
#include "compress/error.h"
#include "passes/prune/sparse_gpt.h"
#include "tests/passes/support.h"

namespace compress {
namespace {

using test::random_tensor;
using test::run_step;

// Samples of one input 'x'.
class Samples : public SampleSource {
 public:
  Samples(const Shape& shape, int64_t count, uint32_t seed, std::vector<float> scales = {}) {
    for (int64_t i = 0; i < count; ++i) {
      Tensor x = random_tensor(shape, seed + static_cast<uint32_t>(i));
      const std::span<float> values = x.mutable_as<float>();
      // Neighbours have much in common, so that some can stand for others.
      for (size_t k = 1; k < values.size(); ++k) values[k] = 0.7f * values[k - 1] + values[k];
      for (size_t k = 0; k < values.size() && !scales.empty(); ++k) {
        values[k] *= scales[k % scales.size()];
      }
      contents_.push_back(x);
    }
  }
  int64_t size() const override { return static_cast<int64_t>(contents_.size()); }
  Sample get(int64_t index) override {
    Sample sample;
    sample.inputs = {{"x", contents_[static_cast<size_t>(index)]}};
    return sample;
  }
  bool labelled() const override { return false; }
  std::string description() const override { return "noise with neighbours alike"; }
  PipelineOptions options() {
    PipelineOptions out;
    out.samples = [this] {
      CalibrationSamples samples{this, {}};
      for (int64_t i = 0; i < size(); ++i) samples.indices.push_back(i);
      return samples;
    };
    return out;
  }
  const Tensor& at(size_t i) const { return contents_[i]; }

 private:
  std::vector<Tensor> contents_;
};

const Tensor& constant(const Model& model, std::string_view name) {
  const ValueId id = model.graph.find_value(name);
  REQUIRE(id != kNoValue);
  return model.graph.value(id).constant;
}

Model linear(const Tensor& w, std::initializer_list<int64_t> input, bool transposed = true) {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, input);
  b.output(
      b.op("Gemm", {x, b.constant(w, "w")}, {attr("transB", static_cast<int64_t>(transposed))}),
      "y");
  return std::move(b).model();
}

Model two_convs(int64_t group) {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {1, 4, 6, 6});
  const ValueId h =
      b.op("Relu", {b.op("Conv", {x, b.constant(random_tensor({8, 4, 1, 1}, 1), "a")})});
  b.output(b.op("Conv", {h, b.constant(random_tensor({6, 8 / group, 3, 3}, 2), "b")},
                {attr("group", group), attr("pads", std::vector<int64_t>{1, 1, 1, 1})}),
           "y");
  return std::move(b).model();
}

std::vector<double> outputs_of(const Model& model, const Samples& samples) {
  std::vector<double> out;
  for (int64_t i = 0; i < samples.size(); ++i) {
    for (const double y :
         test::run(model, {{"x", samples.at(static_cast<size_t>(i))}})[0].to_doubles()) {
      out.push_back(y);
    }
  }
  return out;
}

// Energy of the difference over that of the reference.
double loss(const Model& reference, const Model& model, const Samples& samples) {
  const std::vector<double> r = outputs_of(reference, samples), c = outputs_of(model, samples);
  double error = 0, energy = 0;
  for (size_t i = 0; i < r.size(); ++i) {
    error += (r[i] - c[i]) * (r[i] - c[i]);
    energy += r[i] * r[i];
  }
  return error / energy;
}

TEST_CASE("wanda weighs a weight by what it multiplies, within each output", "[prune]") {
  // By size the last columns stay; by what they multiply, the first.
  const Tensor w = Tensor::from<float>({2, 4}, {1, 2, 3, 4, 10, 20, -30, 40});
  Samples samples({8, 4}, 4, 1, {1000, 100, 1, 1});
  for (const bool transposed : {true, false}) {
    INFO(transposed);
    Tensor weight = w;
    if (!transposed) weight = Tensor::from<float>({4, 2}, {1, 10, 2, 20, 3, -30, 4, 40});
    Model model = linear(weight, {8, 4}, transposed);
    run_step(model, "prune", {{"method", "wanda"}}, samples.options());
    const std::vector<double> expected = transposed ? std::vector<double>{1, 2, 0, 0, 10, 20, 0, 0}
                                                    : std::vector<double>{1, 10, 2, 20, 0, 0, 0, 0};
    CHECK(constant(model, "w").to_doubles() == expected);
  }
}

TEST_CASE("wanda is exact in every output of every group", "[prune]") {
  Samples samples({1, 4, 6, 6}, 3, 2);
  for (const int64_t group : {1, 2}) {
    for (const double sparsity : {0.25, 0.5, 0.7}) {
      Model model = two_convs(group);
      run_step(model, "prune", {{"method", "wanda"}, {"sparsity", sparsity}}, samples.options());
      for (const auto& [name, outputs] : {std::pair{"a", 8}, {"b", 6}}) {
        const std::vector<double> w = constant(model, name).to_doubles();
        const auto row = static_cast<int64_t>(w.size()) / outputs;
        for (int64_t o = 0; o < outputs; ++o) {
          CHECK(std::count(w.begin() + o * row, w.begin() + (o + 1) * row, 0.0) ==
                std::llround(sparsity * static_cast<double>(row)));
        }
      }
    }
  }
}

TEST_CASE("sparsegpt is exact, by element and by N:M, and what stays makes up", "[prune]") {
  Samples samples({1, 4, 6, 6}, 6, 3);
  for (const int64_t group : {1, 2}) {
    const Model before = two_convs(group);
    for (const char* granularity : {"element", "2:4"}) {
      INFO(group << " " << granularity);
      std::map<std::string, double> losses;
      for (const char* method : {"magnitude", "wanda", "sparsegpt"}) {
        Model model = before;
        const PipelineResult result = run_step(
            model, "prune", {{"method", method}, {"granularity", granularity}}, samples.options());
        CHECK(result.changed);
        losses[method] = loss(before, model, samples);
        for (const char* name : {"a", "b"}) {
          const Tensor& tensor = constant(model, name);
          const std::vector<double> w = tensor.to_doubles();
          CHECK(std::count(w.begin(), w.end(), 0.0) == tensor.count() / 2);
          if (std::string(granularity) == "element") continue;
          const int64_t taps = tensor.shape().count(2, 4), inputs = tensor.shape()[1];
          for (int64_t o = 0; o < tensor.shape()[0]; ++o) {
            for (int64_t i = 0; i < inputs * taps; i += 4) {
              int zeros = 0;
              for (int64_t k = 0; k < 4; ++k) {
                const int64_t tap = i / inputs, input = i % inputs + k;
                zeros += w[static_cast<size_t>((o * inputs + input) * taps + tap)] == 0;
              }
              CHECK(zeros == 2);
            }
          }
        }
      }
      CHECK(losses["sparsegpt"] < 0.9 * losses["magnitude"]);
      CHECK(losses["sparsegpt"] < losses["wanda"]);
    }
  }
}

TEST_CASE("sparsegpt's weights are the least-squares ones where order does not matter", "[prune]") {
  // One output of two inputs, x1 = 2 x0: the input that goes is made up for entirely.
  Samples samples({16, 2}, 1, 4);
  Tensor x = samples.at(0);
  const std::span<float> values = x.mutable_as<float>();
  for (size_t i = 0; i < values.size(); i += 2) values[i + 1] = 2 * values[i];
  Model model = linear(Tensor::from<float>({1, 2}, {0.1f, 1}), {16, 2});
  run_step(model, "prune", {{"method", "sparsegpt"}}, samples.options());
  const std::vector<double> w = constant(model, "w").to_doubles();
  CHECK(w[0] == 0);
  // 0.1 x0 is 0.05 x1; damping takes off about its share.
  CHECK(w[1] == Approx(1.05).margin(0.003));
}

TEST_CASE("sparsegpt sees all of an image, not one edge of it", "[prune]") {
  // 128 samples of 32 x 32: of each some 32 positions are seen, a whole row apart if nobody cares.
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {1, 3, 32, 32});
  b.output(b.op("Conv", {x, b.constant(random_tensor({8, 3, 3, 3}, 1), "w")},
                {attr("pads", std::vector<int64_t>{1, 1, 1, 1})}),
           "y");
  const Model before = std::move(b).model();
  Samples samples({1, 3, 32, 32}, 128, 9);
  std::map<std::string, double> losses;
  for (const char* method : {"wanda", "sparsegpt"}) {
    Model model = before;
    run_step(model, "prune", {{"method", method}, {"sparsity", 0.1}}, samples.options());
    losses[method] = loss(before, model, samples);
  }
  INFO(losses["wanda"] << " " << losses["sparsegpt"]);
  CHECK(losses["sparsegpt"] < losses["wanda"]);
}

TEST_CASE("sparsegpt over panels, tails and any number of threads gives the same bits", "[prune]") {
  const Tensor w = random_tensor({24, 300}, 6);
  Samples samples({40, 300}, 12, 7);
  for (const char* granularity : {"element", "3:7"}) {
    std::vector<Tensor> results;
    const int before = thread_count();
    for (const int threads : {1, 3}) {
      set_thread_count(threads);
      Model model = linear(w, {40, 300});
      run_step(model, "prune", {{"method", "sparsegpt"}, {"granularity", granularity}},
               samples.options());
      results.push_back(constant(model, "w"));
    }
    set_thread_count(before);
    CHECK(same_content(results[0], results[1]));
    const std::vector<double> after = results[0].to_doubles();
    const auto zeros = std::count(after.begin(), after.end(), 0.0);
    // 42 groups of seven keep three; of the last six, three.
    CHECK(zeros == (std::string(granularity) == "element" ? 3600 : 24 * (42 * 4 + 3)));
  }
}

TEST_CASE("over the whole model, layers lose by what their weights do to outputs", "[prune]") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {16, 16});
  // Half of the first layer's inputs hardly matter; all of the second's do alike.
  const ValueId h = b.op("MatMul", {x, b.constant(random_tensor({16, 16}, 1, 5), "a")});
  b.output(b.op("MatMul", {h, b.constant(random_tensor({16, 8}, 2, 0.1f), "b")}), "y");
  const Model before = std::move(b).model();
  Samples samples({16, 16}, 4, 1,
                  {1, 1, 1, 1, 1, 1, 1, 1, .01f, .01f, .01f, .01f, .01f, .01f, .01f, .01f});
  for (const char* method : {"wanda", "sparsegpt"}) {
    INFO(method);
    Model model = before;
    run_step(model, "prune", {{"method", method}, {"scope", "global"}, {"sparsity", 0.4}},
             samples.options());
    const auto zeros = [&](const char* name) {
      const std::vector<double> w = constant(model, name).to_doubles();
      return std::count(w.begin(), w.end(), 0.0);
    };
    CHECK(zeros("a") + zeros("b") == std::llround(0.4 * 384));
    CHECK(zeros("a") > 128);
    CHECK(zeros("b") < 26);
    // By size alone the second layer would be emptied.
    Model by_size = before;
    run_step(by_size, "prune", {{"scope", "global"}, {"sparsity", 0.4}});
    CHECK(loss(before, model, samples) < 0.1 * loss(before, by_size, samples));
  }
}

TEST_CASE("calibrated pruning says what it needs and what it leaves", "[prune]") {
  Model model = linear(random_tensor({8, 8}, 1), {4, 8});
  const auto refused = [&](const Json& options, const PipelineOptions& pipeline) -> std::string {
    Model copy = model;
    try {
      run_step(copy, "prune", options, pipeline);
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::usage);
      return error.what();
    }
    return "";
  };
  Samples samples({4, 8}, 2, 1);
  for (const char* method : {"wanda", "sparsegpt"}) {
    CHECK_THAT(refused({{"method", method}}, {}), Catch::Contains("--data"));
    CHECK_THAT(refused({{"method", method}, {"granularity", "channel"}}, {}),
               Catch::Contains("--data"));
    CHECK_THAT(refused({{"method", method}, {"scope", "global"}, {"granularity", "2:4"}},
                       samples.options()),
               Catch::Contains("--scope"));
  }
  CHECK_THAT(refused({{"method", "sparsegpt"}, {"granularity", "block:2x2"}}, samples.options()),
             Catch::Contains("wanda"));

  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {4, 8});
  b.output(b.op("MatMul", {x, b.constant(random_tensor({2, 8, 3}, 1), "deep")}), "y");
  Model deep = std::move(b).model();
  const PipelineResult result = run_step(deep, "prune", {{"method", "wanda"}}, samples.options());
  CHECK_FALSE(result.changed);
  bool says = false;
  for (const PassRecord& pass : result.passes) {
    for (const Skipped& skip : pass.skipped) says |= skip.reason == "not two dimensions";
  }
  CHECK(says);
}

TEST_CASE("channels that others stand for go first, and those make up for them", "[prune]") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {1, 4, 6, 6});
  const ValueId h =
      b.op("Relu", {b.op("Conv", {x, b.constant(random_tensor({16, 4, 1, 1}, 1), "a")})});
  b.output(b.op("Conv", {h, b.constant(random_tensor({6, 16, 3, 3}, 2), "b")}), "y");
  const Model before = std::move(b).model();
  Samples samples({1, 4, 6, 6}, 16, 5);
  std::map<std::string, double> losses;
  for (const char* method : {"magnitude", "wanda", "sparsegpt"}) {
    Model model = before;
    const Json options = {{"method", method}, {"granularity", "channel"}, {"sparsity", 0.25}};
    run_step(model, "prune", options, samples.options());
    CHECK(constant(model, "a").shape() == Shape{12, 4, 1, 1});
    CHECK(constant(model, "b").shape() == Shape{6, 12, 3, 3});
    losses[method] = loss(before, model, samples);
  }
  INFO(losses["magnitude"] << " " << losses["wanda"] << " " << losses["sparsegpt"]);
  CHECK(losses["sparsegpt"] < 0.5 * losses["magnitude"]);
  CHECK(losses["sparsegpt"] < 0.5 * losses["wanda"]);
}

}  // namespace
}  // namespace compress
