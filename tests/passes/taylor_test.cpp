// Pruning by weight times gradient. The oracle: the gradient of a linear classifier, by hand.
#include <cmath>

#include "compress/core/parallel.h"
#include "compress/error.h"
#include "tests/passes/support.h"

namespace compress {
namespace {

using test::random_tensor;
using test::run_step;

constexpr int64_t kClasses = 3, kInputs = 5, kSamples = 12;

// Inputs in a row, the last of which is always 0; labels or none.
class Samples : public SampleSource {
 public:
  explicit Samples(bool labels) : labels_(labels) {}
  int64_t size() const override { return kSamples; }
  Sample get(int64_t index) override {
    Sample sample;
    Tensor x = random_tensor({1, kInputs}, static_cast<uint32_t>(index));
    x.mutable_as<float>()[kInputs - 1] = 0;
    sample.inputs = {{"x", x}};
    if (labels_) sample.label = Tensor::from<int64_t>({1}, {label(index)});
    return sample;
  }
  static int64_t label(int64_t index) { return index % kClasses; }
  bool labelled() const override { return labels_; }
  std::string description() const override { return "noise"; }
  PipelineOptions options() {
    PipelineOptions out;
    out.samples = [this] {
      CalibrationSamples samples{this, {}};
      for (int64_t i = 0; i < kSamples; ++i) samples.indices.push_back(i);
      return samples;
    };
    return out;
  }

 private:
  bool labels_;
};

Tensor weights() {
  Tensor w = random_tensor({kClasses, kInputs}, 77);
  for (int64_t c = 0; c < kClasses; ++c) {
    w.mutable_as<float>()[static_cast<size_t>(c * kInputs + kInputs - 1)] = 100;
  }
  return w;
}

Model classifier(bool softmax) {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {1, kInputs});
  ValueId y = b.op("Gemm", {x, b.constant(weights(), "w")}, {attr("transB", int64_t{1})});
  if (softmax) y = b.op("Softmax", {y}, {attr("axis", int64_t{-1})});
  b.output(y, "y");
  return std::move(b).model();
}

// Two layers; unit 1 of the hidden ones is never awake.
Model hidden() {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {1, kInputs});
  Tensor bias = Tensor::zeros(DType::float32, {4});
  bias.mutable_as<float>()[1] = -1000;
  const ValueId h = b.op(
      "Relu",
      {b.op("Gemm", {x, b.constant(random_tensor({4, kInputs}, 5), "a"), b.constant(bias, "bias")},
            {attr("transB", int64_t{1})})});
  Tensor second = random_tensor({kClasses, 4}, 6);
  for (int64_t c = 0; c < kClasses; ++c) {
    second.mutable_as<float>()[static_cast<size_t>(c * 4 + 1)] = 50;
  }
  b.output(
      b.op("Softmax", {b.op("Gemm", {h, b.constant(second, "b")}, {attr("transB", int64_t{1})})}),
      "y");
  return std::move(b).model();
}

const Tensor& constant(const Model& model, std::string_view name) {
  return model.graph.value(model.graph.find_value(name)).constant;
}

TEST_CASE("taylor: the weights whose loss the labels would feel least go", "[prune]") {
  // With cross-entropy dL/dw is (p - label) x.
  const std::vector<double> w = weights().to_doubles();
  std::vector<double> importance(w.size(), 0);
  Samples samples(true);
  for (int64_t i = 0; i < kSamples; ++i) {
    const std::vector<double> x = samples.get(i).inputs[0].tensor.to_doubles();
    std::vector<double> p(kClasses);
    double sum = 0;
    for (int64_t c = 0; c < kClasses; ++c) {
      double logit = 0;
      for (int64_t k = 0; k < kInputs; ++k) {
        logit += w[static_cast<size_t>(c * kInputs + k)] * x[static_cast<size_t>(k)];
      }
      sum += p[static_cast<size_t>(c)] = std::exp(logit);
    }
    for (int64_t c = 0; c < kClasses; ++c) {
      const double gap = p[static_cast<size_t>(c)] / sum - (c == Samples::label(i) ? 1 : 0);
      for (int64_t k = 0; k < kInputs; ++k) {
        const auto at = static_cast<size_t>(c * kInputs + k);
        importance[at] += std::pow(w[at] * gap * x[static_cast<size_t>(k)], 2);
      }
    }
  }
  for (const bool softmax : {false, true}) {
    for (const double sparsity : {0.2, 0.4, 0.8}) {
      Model model = classifier(softmax);
      run_step(model, "prune", {{"method", "taylor"}, {"sparsity", sparsity}}, samples.options());
      const std::vector<double> after = constant(model, "w").to_doubles();
      double gone = 0, kept = HUGE_VAL;
      int64_t zeros = 0;
      for (size_t i = 0; i < after.size(); ++i) {
        if (after[i] == 0) {
          gone = std::max(gone, importance[i]);
          ++zeros;
        } else {
          CHECK(after[i] == w[i]);
          kept = std::min(kept, importance[i]);
        }
      }
      CHECK(zeros == std::llround(sparsity * 15));
      CHECK(gone <= kept * (1 + 1e-5));
    }
  }
}

TEST_CASE("taylor: without labels what changes no output goes first", "[prune]") {
  for (const bool softmax : {false, true}) {
    INFO(softmax);
    Samples samples(false);
    Model model = classifier(softmax);
    run_step(model, "prune", {{"method", "taylor"}, {"sparsity", 0.2}}, samples.options());
    const std::vector<double> after = constant(model, "w").to_doubles();
    for (size_t i = 0; i < after.size(); ++i) {
      CHECK((after[i] == 0) == (i % kInputs == kInputs - 1));
    }
  }
}

TEST_CASE("taylor: channels by all that reads them, in any number of threads", "[prune]") {
  for (const bool labels : {true, false}) {
    std::vector<Tensor> results;
    for (const int threads : {1, 3}) {
      set_thread_count(threads);
      Samples samples(labels);
      Model model = hidden();
      run_step(model, "prune",
               {{"method", "taylor"}, {"granularity", "channel"}, {"sparsity", 0.25}},
               samples.options());
      CHECK(constant(model, "a").shape() == Shape{3, kInputs});
      CHECK(constant(model, "bias").to_doubles() == std::vector<double>{0, 0, 0});
      Model by_element = hidden();
      run_step(by_element, "prune", {{"method", "taylor"}, {"scope", "global"}}, samples.options());
      results.push_back(constant(by_element, "b"));
      CHECK(results.back().to_doubles()[1] == 0);  // 50, and never read
    }
    CHECK(same_content(results[0], results[1]));
  }
  set_thread_count(2);
}

TEST_CASE("taylor: what it needs, and what it leaves", "[prune]") {
  Model model = classifier(true);
  CHECK_THROWS_AS(run_step(model, "prune", {{"method", "taylor"}}), Error);
  Samples samples(true);
  // A second product that no output depends on has no gradient.
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {1, kInputs});
  b.output(b.op("Gemm", {x, b.constant(weights(), "w")}, {attr("transB", int64_t{1})}), "y");
  b.output(b.op("MatMul", {x, b.constant(random_tensor({kInputs, 4}, 3), "other")}), "z");
  Model two = std::move(b).model();
  const PipelineResult result = run_step(two, "prune", {{"method", "taylor"}}, samples.options());
  CHECK(result.changed);
  CHECK(same_content(constant(two, "other"), random_tensor({kInputs, 4}, 3)));
  const std::vector<Skipped>* skipped = nullptr;
  for (const PassRecord& pass : result.passes) {
    if (pass.name == "prune_taylor") skipped = &pass.skipped;
  }
  REQUIRE(skipped != nullptr);
  REQUIRE(skipped->size() == 1);
  CHECK((*skipped)[0].reason.find("no gradient") != std::string::npos);
}

}  // namespace
}  // namespace compress
