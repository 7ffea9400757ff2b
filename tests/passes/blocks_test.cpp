// Weights in blocks, and input channels that change size.
#include <Eigen/Core>

#include "compress/core/int4.h"
#include "compress/core/parallel.h"
#include "compress/error.h"
#include "passes/quantize/pack.h"
#include "passes/recover/input_scales.h"
#include "passes/recover/round_blocks.h"
#include "tests/passes/support.h"

namespace compress {
namespace {

using test::random_tensor;
using test::run;
using test::run_step;

Eigen::MatrixXd matrix(const Tensor& tensor) {
  using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const TensorData data = tensor.read();
  return Eigen::Map<const Rows>(data.view().as<const float>(), tensor.shape()[0], tensor.shape()[1])
      .cast<double>();
}

Eigen::MatrixXd values_of(const RoundedBlocks& rounded, int64_t k) {
  return matrix(dequantize(rounded.quantized, rounded.params)).leftCols(k);
}

// X X' of 3 k inputs that depend on each other.
Eigen::MatrixXd gram(int64_t k) {
  const Eigen::MatrixXd x = matrix(random_tensor({k, k}, 5)) * matrix(random_tensor({k, 3 * k}, 6));
  return x * x.transpose();
}

const std::vector<BlockFormat> kFormats = {
    {DType::int4, 4, 32}, {DType::uint4, 4, 16}, {DType::int4, 3, 32},  {DType::uint4, 3, 64},
    {DType::int2, 2, 16}, {DType::uint2, 2, 32}, {DType::int8, 8, 128}, {DType::int4, 4, 70, true},
};

}  // namespace

TEST_CASE("blocks: every way to round stays in its bits and beats the plain one by its measure") {
  const int64_t n = 12, k = 70;  // no whole number of blocks
  const Tensor rows = random_tensor({n, k}, 7);
  const Eigen::MatrixXd w = matrix(rows), h = gram(k);
  for (const BlockFormat& format : kFormats) {
    CAPTURE(info(format.dtype).name, format.bits, format.block);
    const RoundedBlocks plain = nearest_blocks(rows, format);
    const RoundedBlocks clipped = clipped_blocks(rows, h.diagonal(), format);
    const RoundedBlocks hqq = hqq_blocks(rows, format);
    const RoundedBlocks gptq = gptq_blocks(rows, h, format);
    const IntegerRange range = format.range();
    CHECK(range.max - range.min + 1 == (1 << format.bits) - (format.bits == 8));
    for (const RoundedBlocks* rounded : {&plain, &clipped, &hqq, &gptq}) {
      for (const int64_t q : rounded->quantized.to_ints()) {
        CHECK(q >= range.min);
        CHECK(q <= range.max);
      }
      if (!format.positive) continue;
      for (const float scale : rounded->params.scales) CHECK(scale > 0);
    }
    const auto weighted = [&](const RoundedBlocks& rounded) {
      const Eigen::MatrixXd lost = w - values_of(rounded, k);
      return (lost.cwiseAbs2() * h.diagonal()).sum();
    };
    const auto sparse = [&](const RoundedBlocks& rounded) {
      return (w - values_of(rounded, k)).array().abs().pow(0.7).sum();
    };
    const auto output = [&](const RoundedBlocks& rounded) {
      const Eigen::MatrixXd lost = w - values_of(rounded, k);
      return (lost * h * lost.transpose()).trace();
    };
    CHECK(weighted(clipped) <= weighted(plain));
    CHECK(sparse(hqq) <= sparse(plain));
    CHECK(output(gptq) < output(plain) / 1.5);
    if (format.bits < 8) CHECK(weighted(clipped) < 0.97 * weighted(plain));
  }
}

TEST_CASE("blocks: packing in one pass gives what the rules give step by step") {
  Tensor rows = random_tensor({5, 96}, 3);
  auto w = rows.mutable_as<float>();
  for (size_t i = 0; i < 32; ++i) w[i] = 0;                    // no range
  for (size_t i = 32; i < 64; ++i) w[i] = 1e-44f;              // no scale in float32
  for (size_t i = 64; i < 96; ++i) w[i] = 0.5f * (i % 5) - 1;  // ties
  w[96] = 3e38f;
  for (const DType dtype : {DType::int4, DType::uint4, DType::int8, DType::uint8, DType::int2}) {
    for (const int64_t block : {16, 32}) {
      CAPTURE(info(dtype).name, block);
      const QuantParams params = weight_params(rows, dtype, info(dtype).is_signed, 1, block);
      const BlockWeights expected = pack_blocks(quantize(rows, params), params);
      const BlockWeights packed = pack_blocks(rows, dtype, block);
      CHECK(same_content(packed.packed, expected.packed));
      CHECK(same_content(packed.scales, expected.scales));
      Tensor columns = Tensor::allocate(DType::float32, {96, 5});
      for (size_t i = 0; i < 5 * 96; ++i) columns.mutable_as<float>()[i % 96 * 5 + i / 96] = w[i];
      CHECK(same_content(pack_column_blocks(columns, dtype, block).packed, expected.packed));
      if (!info(dtype).is_signed) CHECK(same_content(packed.zero_points, expected.zero_points));
      if (dtype == DType::int4 && block == 32) {
        CHECK(same_content(pack_table(rows, dtype, block).packed, quantize(rows, params)));
      }
    }
  }
  w[7] = std::nanf("");
  CHECK_THROWS_AS(pack_blocks(rows, DType::int4, 32), Error);
}

TEST_CASE("blocks: columns in tiles give what rows give") {
  const int64_t n = 301, k = 75;  // no whole tiles, groups or blocks
  const Tensor rows = random_tensor({n, k}, 12);
  Tensor columns = Tensor::allocate(DType::float32, {k, n});
  const TensorData data = rows.read();
  for (int64_t i = 0; i < n * k; ++i) {
    columns.mutable_as<float>()[static_cast<size_t>(i % k * n + i / k)] =
        data.view().as<const float>()[i];
  }
  for (const DType dtype : {DType::int4, DType::uint4, DType::int8, DType::uint8, DType::int2}) {
    CAPTURE(info(dtype).name);
    const BlockWeights expected = pack_blocks(rows, dtype, 16);
    const BlockWeights packed = pack_column_blocks(columns, dtype, 16);
    CHECK(same_content(packed.packed, expected.packed));
    CHECK(same_content(packed.scales, expected.scales));
    CHECK(same_content(packed.zero_points, expected.zero_points));
    const BlockWeights shapes = block_shapes(n, k, dtype, 16);
    CHECK(shapes.packed.shape() == packed.packed.shape());
    CHECK(shapes.scales.shape() == packed.scales.shape());
    CHECK(shapes.zero_points.shape() == packed.zero_points.shape());
  }
  columns.mutable_as<float>()[40] = std::nanf("");
  columns.mutable_as<float>()[5000] = HUGE_VALF;
  CHECK_THROWS_WITH(pack_column_blocks(columns, DType::int4, 16),
                    Catch::Contains("2 of 22575 weights are not finite"));
}

TEST_CASE("weight-only: large weights are rounded when they are read, to the same integers") {
  for (const char* weights : {"int4", "uint4"}) {
    GraphBuilder b;
    const Tensor weight = random_tensor({2048, 1030}, 21);  // 8.4 MB
    b.output(b.op("MatMul", {b.input("x", DType::float32, {1, 2048}), b.constant(weight)}), "y");
    Model model = std::move(b).model();
    run_step(model, "quantize", {{"mode", "weight-only"}, {"weights", weights}});
    const Node& node = test::only_node(model.graph, "MatMulNBits");
    const BlockWeights expected =
        pack_column_blocks(weight, std::string(weights) == "int4" ? DType::int4 : DType::uint4, 32);
    CHECK(model.graph.constant_input(node, 1)->is_deferred());
    CHECK(same_content(*model.graph.constant_input(node, 1), expected.packed));
    CHECK(same_content(*model.graph.constant_input(node, 2), expected.scales));
    if (expected.zero_points) {
      CHECK(same_content(*model.graph.constant_input(node, 3), expected.zero_points));
    }
  }
}

TEST_CASE("where only sizes are asked for, integers are computed when they are read, the same") {
  const std::vector<Json> forms = {
      {{"mode", "dynamic"}},
      {{"mode", "dynamic"}, {"weights", "uint8"}, {"granularity", "tensor"}},
      {{"mode", "weight-only"}, {"weights", "int8"}},
      {{"mode", "weight-only"}, {"weights", "int4"}},
      {{"mode", "weight-only"}, {"weights", "uint4"}}};
  for (const Json& form : forms) {
    CAPTURE(form.dump());
    GraphBuilder b;
    const ValueId ids = b.input("ids", DType::int64, {3});
    const ValueId x = b.op("Gather", {b.constant(random_tensor({50, 64}, 31), "table"), ids});
    const ValueId y = b.op("MatMul", {x, b.constant(random_tensor({64, 90}, 32), "w")});
    const Tensor rows = random_tensor({40, 90}, 33);
    b.output(b.op("Gemm", {y, b.constant(rows, "v")}, {attr("transB", int64_t{1})}), "z");
    Model now = std::move(b).model();
    Model later = now;
    Recipe recipe;
    recipe.steps = {{"quantize", form}};
    run_pipeline(now, recipe, {});
    PipelineOptions options;
    options.sizes_only = true;
    run_pipeline(later, recipe, options);
    int deferred = 0;
    for (ValueId id = 0; id < later.graph.value_slots(); ++id) {
      deferred += later.graph.value(id).alive && later.graph.value(id).constant.is_deferred();
    }
    CHECK(deferred >= 6);  // three tensors, of integers and scales at least
    CHECK(same_graph(now.graph, later.graph));
  }
}

TEST_CASE("blocks: the same bytes for any number of threads") {
  const Tensor rows = random_tensor({9, 96}, 8);
  const Eigen::MatrixXd h = gram(96);
  const BlockFormat format{DType::int4, 4, 32};
  const int threads = thread_count();
  set_thread_count(1);
  const RoundedBlocks one = gptq_blocks(rows, h, format);
  set_thread_count(3);
  const RoundedBlocks three = gptq_blocks(rows, h, format);
  set_thread_count(threads);
  CHECK(same_content(one.quantized, three.quantized));
  CHECK(one.params.scales == three.params.scales);
}

TEST_CASE("blocks: a column that never moves does not decide a scale") {
  Tensor rows = random_tensor({1, 32}, 9);
  rows.mutable_as<float>()[3] = 40;
  Eigen::VectorXd moves = Eigen::VectorXd::Ones(32);
  moves(3) = 0;
  const BlockFormat format{DType::int4, 4, 32};
  const float coarse = nearest_blocks(rows, format).params.scales[0];
  CHECK(std::fabs(coarse) == 5);
  CHECK(std::fabs(clipped_blocks(rows, moves, format).params.scales[0]) < 0.5f * 5);
}

namespace {

// norm * gain -> two products; a product behind the product of two others. Input channels of very
// different size.
Model gated_net() {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {6, 32});
  Tensor gain = random_tensor({32}, 1);
  auto g = gain.mutable_as<float>();
  for (size_t i = 0; i < 32; i += 7) g[i] *= 30;
  const ValueId normed = b.op("Mul", {x, b.constant(gain)});
  Tensor up = random_tensor({32, 64}, 2, 0.2f), gate = random_tensor({32, 64}, 3, 0.2f);
  for (size_t i = 0; i < 32 * 64; ++i) {
    if (i / 64 % 7 == 0) up.mutable_as<float>()[i] *= 0.2f, gate.mutable_as<float>()[i] *= 0.2f;
  }
  const ValueId a = b.op("MatMul", {normed, b.constant(up)});
  const ValueId c = b.op("Sigmoid", {b.op("MatMul", {normed, b.constant(gate)})});
  const ValueId product = b.op("Mul", {c, a});
  b.output(b.op("MatMul", {product, b.constant(random_tensor({64, 24}, 4, 0.2f))}), "y");
  return std::move(b).model();
}

class Rows : public SampleSource {
 public:
  int64_t size() const override { return 48; }
  Sample get(int64_t index) override {
    return {{{"x", random_tensor({6, 32}, static_cast<uint32_t>(100 + index))}}, {}};
  }
  bool labelled() const override { return false; }
  std::string description() const override { return "noise"; }
};

PipelineOptions pipeline_of(Rows& rows) {
  std::vector<std::vector<NamedTensor>> feeds;
  CalibrationSamples samples{&rows, {}};
  for (int64_t i = 0; i < 40; ++i) {
    samples.indices.push_back(i);
    feeds.push_back(rows.get(i).inputs);
  }
  PipelineOptions pipeline = test::with_statistics(feeds);
  pipeline.samples = [samples] { return samples; };
  return pipeline;
}

double error_of(const Model& model, const Model& reference) {
  Rows rows;
  double sum = 0;
  for (int64_t i = 40; i < 48; ++i) {
    const std::vector<NamedTensor> feed = rows.get(i).inputs;
    const std::vector<double> a = run(model, feed)[0].to_doubles();
    const std::vector<double> e = run(reference, feed)[0].to_doubles();
    for (size_t k = 0; k < a.size(); ++k) sum += (a[k] - e[k]) * (a[k] - e[k]);
  }
  return sum;
}

}  // namespace

TEST_CASE("input channels change size where the producer can take it, and results stay") {
  Model model = gated_net();
  const Model before = model;
  std::vector<Linear> linears;
  for (const NodeId id : model.graph.order()) {
    Linear linear;
    if (model.graph.node(id).is("MatMul") && read_linear(model, id, linear).empty()) {
      linears.push_back(linear);
    }
  }
  REQUIRE(linears.size() == 3);
  const auto groups = scalable_groups(model.graph, linears);
  REQUIRE(groups.size() == 2);
  CHECK(groups[0].size() == 2);  // behind the gain
  CHECK(groups[1].size() == 1);  // behind the gate, which the other factor takes
  for (const auto& group : groups) {
    std::vector<double> factors(static_cast<size_t>(group[0].k));
    for (size_t i = 0; i < factors.size(); ++i) factors[i] = 0.25 * static_cast<double>(1 + i % 9);
    scale_group(model.graph, group, factors);
  }
  check_graph(model.graph);
  const std::vector<NamedTensor> feed = Rows().get(0).inputs;
  CHECK(test::relative_error(run(model, feed), run(before, feed)) < 1e-5);
  CHECK_FALSE(same_content(model.graph.value(linears[2].weight).constant,
                           before.graph.value(linears[2].weight).constant));
}

TEST_CASE("awq, hqq and gptq lose less than rounding to nearest") {
  const Model before = gated_net();
  Rows rows;
  const auto error = [&](const char* weights, const char* algorithm, const char* granularity) {
    Model model = before;
    run_step(model, "quantize",
             {{"mode", "weight-only"},
              {"weights", weights},
              {"algorithm", algorithm},
              {"granularity", granularity},
              {"op-types", "MatMul"}},
             pipeline_of(rows));
    CHECK(test::count_ops(model.graph, "MatMulNBits") == 3);
    return error_of(model, before);
  };
  for (const char* weights : {"int4", "uint4", "int3", "uint3", "int2", "uint2"}) {
    CAPTURE(weights);
    const double plain = error(weights, "rtn", "block:32");
    CHECK(error(weights, "awq", "block:32") < 0.8 * plain);
    CHECK(error(weights, "gptq", "block:32") < 0.6 * plain);
    CHECK(error(weights, "hqq", "block:32") < plain);
    CHECK(error(weights, "rtn", "block:16") < plain);
  }
}

TEST_CASE("awq: what one product gives up another takes") {
  const Model before = gated_net();
  Rows rows;
  Model model = before;
  const PipelineResult result = run_step(
      model, "quantize", {{"mode", "weight-only"}, {"weights", "int8"}, {"algorithm", "awq"}},
      pipeline_of(rows));
  for (const PassRecord& pass : result.passes) {
    if (pass.name == "quantize_model") CHECK(pass.details["scaled_inputs"].get<int>() == 2);
  }
  const std::vector<NamedTensor> feed = rows.get(45).inputs;
  CHECK(test::sqnr(run(before, feed), run(model, feed)) > 30);
}

TEST_CASE("weights of fewer bits per channel and in QDQ form, by any algorithm") {
  Model before = gated_net();
  before.opsets[""] = 21;
  Rows rows;
  const std::vector<NamedTensor> feed = rows.get(45).inputs;
  const auto outputs = [&](const char* algorithm, const char* granularity, const char* format) {
    Model model = before;
    run_step(model, "quantize",
             {{"mode", "weight-only"},
              {"weights", "int4"},
              {"algorithm", algorithm},
              {"format", format},
              {"granularity", granularity}},
             pipeline_of(rows));
    const bool qdq = std::string(format) == "qdq";
    CHECK(test::count_ops(model.graph, qdq ? "DequantizeLinear" : "MatMulNBits") == 3);
    if (qdq) CHECK(model.ir_version >= 10);
    return run(model, feed);
  };
  for (const char* algorithm : {"rtn", "gptq", "awq", "hqq"}) {
    CAPTURE(algorithm);
    // The same weights; MatMulNBits rounds its inputs to 8 bits (accuracy_level 4).
    CHECK(test::sqnr(outputs(algorithm, "block:16", "nbits"),
                     outputs(algorithm, "block:16", "qdq")) > 20);
  }
  const std::vector<Tensor> expected = run(before, feed);
  const double plain = test::sqnr(expected, outputs("rtn", "channel", "qdq"));
  for (const char* algorithm : {"gptq", "awq", "hqq"}) {
    CAPTURE(algorithm);
    CHECK(test::sqnr(expected, outputs(algorithm, "channel", "qdq")) > plain + 2);
  }
}

TEST_CASE("smooth: outliers of the inputs move into the weights") {
  const Model before = gated_net();
  Rows rows;
  const auto quantized = [&](const char* recover) {
    Model model = before;
    const PipelineResult result =
        run_step(model, "quantize", {{"mode", "static"}, {"recover", recover}}, pipeline_of(rows));
    for (const PassRecord& pass : result.passes) {
      if (pass.name == "smooth_inputs" && std::string(recover) == "smooth") {
        CHECK(pass.details["smoothed_inputs"].get<int>() >= 1);
      }
    }
    return error_of(model, before);
  };
  CHECK(quantized("smooth") < 0.8 * quantized("bias"));
}

TEST_CASE("names of what is added hold while the graph grows under them", "[quantize]") {
  for (int layers = 1; layers <= 12; ++layers) {
    GraphBuilder b;
    ValueId x = b.input("x", DType::float32, {4, 64});
    for (int i = 0; i < layers; ++i) {
      x = b.op("MatMul", {x, b.constant(random_tensor({64, 64}, static_cast<uint32_t>(i)),
                                        fmt::format("a_weight_whose_name_is_long_{}", i))});
    }
    b.output(x, "y");
    Model model = std::move(b).model(21);
    run_step(model, "quantize",
             {{"mode", "weight-only"},
              {"weights", "int8"},
              {"format", "qdq"},
              {"granularity", "channel"}});
    INFO(layers << " layers");
    for (int i = 0; i < layers; ++i) {
      const std::string name = fmt::format("a_weight_whose_name_is_long_{}", i);
      CHECK(model.graph.find_value(name + "_DQ_scales") != kNoValue);
      CHECK(model.graph.find_value(name + "_dequantized") != kNoValue);
    }
  }
}

}  // namespace compress
