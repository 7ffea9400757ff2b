#include <catch2/catch.hpp>

#include <cmath>
#include <vector>

#include "compress/error.h"
#include "compress/graph/builder.h"
#include "compress/runtime/session.h"
#include "compress/verify/evaluate.h"
#include "compress/verify/layers.h"

using namespace compress;
using Catch::Matchers::Contains;

namespace {

// y = x * scale + shift: three scores.
Model linear(float scale, const std::string& output = "y") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {-1, 3});
  const ValueId product = b.op("Mul", {x, b.constant(Tensor::scalar(scale), "scale")});
  b.graph().rename(product, "product");
  b.output(b.op("Add", {product, b.constant(Tensor::scalar(0.5f), "shift")}), output);
  return std::move(b).model();
}

class Samples : public SampleSource {
 public:
  explicit Samples(std::vector<std::vector<float>> rows) : rows_(std::move(rows)) {}
  int64_t size() const override { return static_cast<int64_t>(rows_.size()); }
  Sample get(int64_t index) override {
    Sample sample;
    const auto& row = rows_[static_cast<size_t>(index)];
    sample.inputs.push_back({"x", Tensor::from<float>({1, 3}, std::span<const float>(row))});
    if (labelled()) {
      sample.label = Tensor::from<int64_t>({1}, {labels[static_cast<size_t>(index)]});
    }
    return sample;
  }
  bool labelled() const override { return !labels.empty(); }
  std::vector<double> pair_scores() const override { return scores; }
  std::string description() const override { return "rows"; }

  std::vector<int64_t> labels;
  std::vector<double> scores;

 private:
  std::vector<std::vector<float>> rows_;
};

Samples four() { return Samples({{1, 2, 3}, {3, 2, 1}, {0, 5, 1}, {1, 0, 0}}); }

}  // namespace

TEST_CASE("a model agrees with itself exactly") {
  const Model model = linear(2);
  Session a(model), b(model);
  Samples data = four();
  data.labels = {2, 0, 0, 0};
  const Evaluation result = evaluate(a, b, data, {0, 1, 2, 3}, {});
  CHECK(result.samples == 4);
  CHECK(result.labelled);
  CHECK(result.accuracy.at("top1").reference == 0.75);
  CHECK(result.accuracy.at("top1").candidate == 0.75);
  CHECK(result.accuracy.find("perplexity") == result.accuracy.end());
  CHECK(std::isinf(result.similarity.at("sqnr").candidate));
  CHECK(result.similarity.at("agreement").candidate == 1);
  CHECK(result.similarity.at("kl").candidate == 0);
}

TEST_CASE("a sign flip is seen, in any batch") {
  Session a(linear(1)), b(linear(-1));
  Samples data = four();
  data.labels = {2, 0, 1, 0};
  for (const int64_t batch : {1, 3}) {
    EvaluateOptions options;
    options.batch = batch;
    const Evaluation result = evaluate(a, b, data, {0, 1, 2, 3}, options);
    CHECK(result.accuracy.at("top1").reference == 1);
    CHECK(result.accuracy.at("top1").candidate == 0);
    CHECK(result.similarity.at("agreement").candidate == 0);
    CHECK(result.outputs[0].max_abs_error == 10);
    CHECK(result.similarity.at("kl").candidate > 0.1);
  }
}

TEST_CASE("pairs are scored only where both samples are evaluated") {
  Session a(linear(1)), b(linear(1));
  Samples data({{1, 2, 3}, {1, 2, 3}, {1, 0, 0}, {0, 1, 0}, {1, 1, 0}, {1, 0, 0}});
  data.scores = {5, 0, 2};
  const Evaluation all = evaluate(a, b, data, {0, 1, 2, 3, 4, 5}, {});
  CHECK(all.accuracy.at("spearman").reference == Approx(1));
  const Evaluation some = evaluate(a, b, data, {0, 1, 2, 4, 5}, {});
  CHECK(some.accuracy.at("spearman").reference == Approx(1));
  data.scores = {0, 5, 2};
  CHECK(evaluate(a, b, data, {0, 1, 2, 3, 4, 5}, {}).accuracy.at("spearman").reference ==
        Approx(-1));
}

TEST_CASE("what does not fit is refused with what to do") {
  Session a(linear(1)), b(linear(1));
  Samples data = four();
  data.labels = {2, 0, 1, 3};
  CHECK_THROWS_WITH(evaluate(a, b, data, {3}, {}), Contains("label 3"));
  EvaluateOptions options;
  options.metric_output = "z";
  CHECK_THROWS_WITH(evaluate(a, b, data, {0}, options), Contains("'z'"));
  options.metric_output = "y";
  options.metric_axis = 0;
  CHECK_THROWS_WITH(evaluate(a, b, data, {0}, options), Contains("--metric-output"));
}

TEST_CASE("labels that only came with the data are left out where they do not fit") {
  Session a(linear(1)), b(linear(1));
  Samples data = four();
  data.labels = {2, 0, 1, 0};
  EvaluateOptions options;
  options.metric_axis = 0;  // three rows of one score
  options.needs_labels = false;
  const Evaluation result = evaluate(a, b, data, {0, 1}, options);
  CHECK_FALSE(result.labelled);
  CHECK(result.accuracy.empty());
  CHECK(result.similarity.at("agreement").candidate == 1);
  REQUIRE(result.notes.size() == 1);
  CHECK_THAT(result.notes[0], Contains("compared without labels: 1 labels do not fit"));
}

TEST_CASE("outputs with other names are matched by position and said so") {
  Session a(linear(1)), b(linear(1, "renamed"));
  Samples data = four();
  const Evaluation result = evaluate(a, b, data, {0}, {});
  REQUIRE(result.notes.size() == 1);
  CHECK_THAT(result.notes[0], Contains("renamed"));
  CHECK(result.outputs.size() == 1);
}

TEST_CASE("layers are compared by name") {
  const Model a = linear(1), b = linear(1.125f);
  Samples data = four();
  const LayerComparison result = compare_layers(a, b, data, {0, 1});
  REQUIRE(result.layers.size() == 2);
  CHECK(result.layers[0].op == "Mul");
  CHECK(result.layers[0].value == "product");
  CHECK(result.layers[0].sqnr_db == Approx(20 * std::log10(8.0)).margin(0.01));
  CHECK_FALSE(result.truncated);
  LayerOptions options;
  options.max_bytes = 12;  // one value of three floats
  const LayerComparison less = compare_layers(a, b, data, {0, 1}, options);
  CHECK(less.truncated);
  CHECK(less.layers.size() == 1);
}

TEST_CASE("layers behind Q and DQ are compared as their readers see them") {
  GraphBuilder plain, quantized;
  plain.output(plain.op("Relu", {plain.input("x", DType::float32, {1, 3})}), "t");
  ValueId t = quantized.op("Relu", {quantized.input("x", DType::float32, {1, 3})});
  quantized.graph().rename(t, "t");
  const ValueId scale = quantized.constant(Tensor::scalar(1.0f), "s");
  const ValueId zero = quantized.constant(Tensor::scalar<uint8_t>(0), "z");
  const ValueId q = quantized.op("QuantizeLinear", {t, scale, zero});
  quantized.output(quantized.op("DequantizeLinear", {q, scale, zero}), "y");
  const Model a = std::move(plain).model(), b = std::move(quantized).model();
  Samples data({{1.25f, 2, 3}});
  const LayerComparison result = compare_layers(a, b, data, {0});
  REQUIRE(result.layers.size() == 1);
  // 1.25 becomes 1.
  CHECK(result.layers[0].sqnr_db == Approx(10 * std::log10((1.5625 + 4 + 9) / 0.0625)));
}

TEST_CASE("weights are compared through their stored form") {
  const std::vector<float> w = {1, -2, 3, 4, 5, -6};
  GraphBuilder plain, q, nbits;
  const ValueId x = plain.input("x", DType::float32, {1, 2});
  plain.output(plain.op("MatMul", {x, plain.constant(Tensor::from<float>({2, 3}, w), "w")}), "y");
  const Model reference = std::move(plain).model();
  const auto same = compare_weights(reference, reference);
  REQUIRE(same.size() == 1);
  CHECK((std::isinf(same[0].sqnr_db) && same[0].reference_bins.counts.empty()));
  CHECK((same[0].op == "MatMul" && same[0].reference_bytes == 24 && same[0].candidate_bytes == 24));

  const ValueId xq = q.input("x", DType::float32, {1, 2});
  const ValueId stored =
      q.constant(Tensor::from<int8_t>({2, 3}, {1, -2, 3, 4, 5, -5}), "w_quantized");
  const ValueId scale = q.constant(Tensor::from<float>({3}, {1, 1, 1}), "w_scale");
  const ValueId dq = q.op("DequantizeLinear", {stored, scale}, {attr("axis", int64_t{1})});
  q.output(q.op("MatMul", {xq, dq}), "y");
  const auto int8 = compare_weights(reference, std::move(q).model());
  REQUIRE(int8.size() == 1);
  CHECK(int8[0].dtype == "int8");
  CHECK(int8[0].sqnr_db == Approx(10 * std::log10(91.0)));
  CHECK(int8[0].candidate_bytes == 6 + 3 * 4);  // integers and scales
  CHECK((int8[0].reference_bins.low == -6 && int8[0].candidate_bins.high == 5));
  CHECK(int8[0].candidate_zeros == 0);

  // [N = 3, one block of 16, 8 bytes]: rows are columns of w, low nibble first, plus 8.
  std::vector<uint8_t> packed(24, 0x88);
  const int columns[3][2] = {{1, 4}, {-2, 5}, {3, -6}};
  for (size_t n = 0; n < 3; ++n) {
    packed[n * 8] = static_cast<uint8_t>((columns[n][0] + 8) | ((columns[n][1] + 8) << 4));
  }
  const ValueId xn = nbits.input("x", DType::float32, {1, 2});
  nbits.output(
      nbits.op("MatMulNBits",
               {xn,
                nbits.constant(Tensor::from<uint8_t>({3, 1, 8}, std::span<const uint8_t>(packed)),
                               "w_Q4"),
                nbits.constant(Tensor::from<float>({3}, {1, 1, 1}), "w_scales")},
               {attr("K", int64_t{2}), attr("N", int64_t{3}), attr("bits", int64_t{4}),
                attr("block_size", int64_t{16})},
               "com.microsoft"),
      "y");
  const auto int4 = compare_weights(reference, std::move(nbits).model());
  REQUIRE(int4.size() == 1);
  CHECK(std::isinf(int4[0].sqnr_db));
}
