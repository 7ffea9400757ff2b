#include "compress/core/int4.h"
#include "compress/error.h"
#include "tests/passes/support.h"

namespace compress {
namespace {

using test::random_tensor;
using test::run_step;

int64_t zeros_of(const Tensor& tensor, double zero = 0) {
  int64_t zeros = 0;
  for (const double x : convert(tensor, DType::float64).to_doubles()) zeros += x == zero;
  return zeros;
}

// What is kept is unchanged and no smaller than what went.
void check_pruned(const Tensor& before, const Tensor& after) {
  const std::vector<double> x = before.to_doubles();
  const std::vector<double> y = after.to_doubles();
  double largest_gone = 0;
  double smallest_kept = HUGE_VAL;
  for (size_t i = 0; i < x.size(); ++i) {
    if (y[i] == 0) {
      largest_gone = std::max(largest_gone, std::fabs(x[i]));
    } else {
      CHECK(x[i] == y[i]);
      smallest_kept = std::min(smallest_kept, std::fabs(x[i]));
    }
  }
  CHECK(largest_gone <= smallest_kept);
}

const Tensor& constant(const Model& model, std::string_view name) {
  const ValueId id = model.graph.find_value(name);
  REQUIRE(id != kNoValue);
  return model.graph.value(id).constant;
}

TEST_CASE("each layer reaches the sparsity to one weight", "[prune]") {
  const Tensor w = random_tensor({7, 3, 3, 3}, 1);
  for (const double sparsity : {0.0, 0.1, 0.5, 0.9, 1.0}) {
    GraphBuilder b;
    const ValueId x = b.input("x", DType::float32, {1, 3, 8, 8});
    b.output(b.op("Conv", {x, b.constant(w, "w"), b.constant(random_tensor({7}, 2), "bias")}), "y");
    Model model = std::move(b).model();
    const PipelineResult result = run_step(model, "prune", {{"sparsity", sparsity}});
    CHECK(result.changed == (sparsity > 0));
    CHECK(zeros_of(constant(model, "w")) == std::llround(sparsity * 189));
    check_pruned(w, constant(model, "w"));
    CHECK(same_content(constant(model, "bias"), random_tensor({7}, 2)));
  }
}

TEST_CASE("equal magnitudes go by index", "[prune]") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {1, 2});
  const Tensor w = Tensor::from<float>({2, 3}, {1, -1, 1, 1, -1, 1});
  b.output(b.op("MatMul", {x, b.constant(w, "w")}), "y");
  Model model = std::move(b).model();
  run_step(model, "prune", {{"sparsity", 0.5}});
  CHECK(constant(model, "w").to_doubles() == std::vector<double>{0, 0, 0, 1, -1, 1});
}

TEST_CASE("global scope ranks all weights together", "[prune]") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {1, 8});
  const ValueId h = b.op("MatMul", {x, b.constant(random_tensor({8, 8}, 1, 0.01f), "small")});
  b.output(b.op("MatMul", {h, b.constant(random_tensor({8, 8}, 2, 1.0f), "large")}), "y");
  Model model = std::move(b).model();
  run_step(model, "prune", {{"sparsity", 0.5}, {"scope", "global"}});
  CHECK(zeros_of(constant(model, "small")) + zeros_of(constant(model, "large")) == 64);
  CHECK(zeros_of(constant(model, "small")) > 55);
}

TEST_CASE("weights behind Reshape, Transpose and Constant nodes, in half and double", "[prune]") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {1, 16});
  const ValueId reshaped = b.op(
      "Reshape", {b.constant(random_tensor({4, 4, 8}, 1), "w"), b.constant(test::ints({16, 8}))});
  const ValueId h = b.op("MatMul", {x, reshaped});
  const ValueId node = b.op("Constant", {}, {attr("value", random_tensor({6, 8}, 2))});
  const std::string made = b.graph().value(node).name;
  b.output(b.op("MatMul", {h, b.op("Transpose", {node})}), "y");
  const Tensor half = convert(random_tensor({16, 8}, 3), DType::float16);
  b.output(b.op("MatMul", {b.op("Cast", {x}, {attr("to", int64_t{10})}), b.constant(half, "half")}),
           "z");
  const Tensor wide = convert(random_tensor({16, 8}, 4), DType::float64);
  b.output(b.op("MatMul", {b.op("Cast", {x}, {attr("to", int64_t{11})}), b.constant(wide, "wide")}),
           "v");
  Model model = std::move(b).model();
  run_step(model, "prune", {{"sparsity", 0.25}});
  CHECK(zeros_of(constant(model, "w")) == 32);
  CHECK(zeros_of(constant(model, made)) == 12);
  CHECK(zeros_of(constant(model, "half")) == 32);
  check_pruned(half, constant(model, "half"));
  CHECK(zeros_of(constant(model, "wide")) == 32);
  check_pruned(wide, constant(model, "wide"));
}

TEST_CASE("tables, biases and what other nodes read stay", "[prune]") {
  GraphBuilder b;
  const ValueId ids = b.input("ids", DType::int64, {3});
  const ValueId x = b.op("Gather", {b.constant(random_tensor({9, 8}, 1), "table"), ids});
  const ValueId shared = b.constant(random_tensor({8, 8}, 2), "shared");
  const ValueId h = b.op("MatMul", {x, shared});
  b.output(b.op("Add", {b.op("MatMul", {h, b.constant(random_tensor({8, 8}, 3), "w")}),
                        b.op("Slice",
                             {shared, b.constant(test::ints({0})), b.constant(test::ints({1}))})}),
           "y");
  Model model = std::move(b).model();
  Model with_tables = model;
  const PipelineResult result = run_step(model, "prune");
  CHECK(zeros_of(constant(model, "table")) == 0);
  CHECK(zeros_of(constant(model, "shared")) == 0);
  CHECK(zeros_of(constant(model, "w")) == 32);
  REQUIRE(result.passes.front().skipped.size() == 1);
  CHECK_THAT(result.passes.front().skipped[0].reason, Catch::Contains("Slice"));
  run_step(with_tables, "prune", {{"op-types", {"Gather"}}});
  CHECK(zeros_of(constant(with_tables, "table")) == 36);
  CHECK(zeros_of(constant(with_tables, "w")) == 0);
}

TEST_CASE("quantized weights go to their zero point", "[prune]") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {1, 4});
  std::vector<uint8_t> q;
  for (int i = 0; i < 16; ++i) q.push_back(static_cast<uint8_t>(100 + 3 * i));
  const Tensor w = Tensor::from<uint8_t>({4, 4}, q);
  const ValueId dq = b.op("DequantizeLinear", {b.constant(w, "w"), b.constant(Tensor::scalar(0.1f)),
                                               b.constant(Tensor::scalar<uint8_t>(120))});
  b.output(b.op("MatMul", {x, dq}), "y");
  Model model = std::move(b).model();
  run_step(model, "prune", {{"sparsity", 0.5}});
  CHECK(zeros_of(constant(model, "w"), 120) == 8);
  CHECK(constant(model, "w").to_ints()[15] == 145);  // the largest of 100..145 around 120
}

// One layer, the axis of its weights that sums run over, and the length of a group's piece of it.
struct Layout {
  std::string op;
  Shape weight;
  std::vector<Attribute> attributes;
  int axis;
  int64_t segment;
};

const std::vector<Layout> kLayouts = {
    {"MatMul", {12, 5}, {}, 0, 12},
    {"MatMul", {2, 9, 4}, {}, 1, 9},  // a tail of one
    {"MatMul", {10}, {}, 0, 10},
    {"Gemm", {10, 6}, {}, 0, 10},
    {"Gemm", {6, 11}, {attr("transB", int64_t{1})}, 1, 11},  // a tail of three
    {"Conv", {5, 8, 3, 3}, {}, 1, 8},
    {"Conv", {4, 6, 1, 1}, {attr("group", int64_t{2})}, 1, 6},
    {"ConvTranspose", {12, 3, 2, 2}, {attr("group", int64_t{2})}, 0, 6},
};

Model model_of(const Layout& layout, const Tensor& w) {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {-1, -1});
  b.output(b.op(layout.op, {x, b.constant(w, "w")}, layout.attributes), "y");
  return std::move(b).model();
}

// The elements of each run of up to `width` neighbours along the axis that share all else.
std::vector<std::vector<size_t>> runs_of(const Layout& layout, int64_t width) {
  const Shape& shape = layout.weight;
  const int64_t inner = shape.count(layout.axis + 1, shape.rank());
  std::map<std::vector<int64_t>, std::vector<size_t>> runs;
  for (int64_t i = 0; i < shape.count(); ++i) {
    const int64_t at = i / inner % shape[layout.axis];
    const int64_t segment = at / layout.segment;
    const int64_t run = at % layout.segment / width;
    runs[{i / inner / shape[layout.axis], i % inner, segment, run}].push_back(
        static_cast<size_t>(i));
  }
  std::vector<std::vector<size_t>> out;
  for (auto& [key, run] : runs) out.push_back(std::move(run));
  return out;
}

TEST_CASE("N of each M neighbours along the inputs stay, the largest ones", "[prune]") {
  for (const Layout& layout : kLayouts) {
    for (const auto& [n, m] : {std::pair<int64_t, int64_t>{2, 4}, {1, 3}, {4, 8}}) {
      INFO(layout.op << layout.weight.to_string() << " " << n << ":" << m);
      const Tensor w = random_tensor(layout.weight, 5);
      Model model = model_of(layout, w);
      run_step(model, "prune", {{"granularity", fmt::format("{}:{}", n, m)}});
      const std::vector<double> before = w.to_doubles();
      const std::vector<double> after = constant(model, "w").to_doubles();
      for (const std::vector<size_t>& run : runs_of(layout, m)) {
        std::vector<double> sizes;
        for (const size_t i : run) sizes.push_back(std::fabs(before[i]));
        std::sort(sizes.rbegin(), sizes.rend());
        const size_t kept = std::min(run.size(), static_cast<size_t>(n));
        for (const size_t i : run) {
          CHECK(after[i] == (std::fabs(before[i]) >= sizes[kept - 1] ? before[i] : 0));
        }
      }
    }
  }
}

TEST_CASE("of equal neighbours the first go, and zeros that were there count", "[prune]") {
  const Layout layout = {"MatMul", {8, 1}, {}, 0, 8};
  Model model = model_of(layout, Tensor::from<float>({8, 1}, {1, -1, 1, -1, 0, 3, 0, 0}));
  run_step(model, "prune", {{"granularity", "2:4"}});
  CHECK(constant(model, "w").to_doubles() == std::vector<double>{0, 0, 1, -1, 0, 3, 0, 0});
}

TEST_CASE("N:M sees through Transpose and leaves what it cannot place", "[prune]") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {1, 8});
  const ValueId turned = b.op("Transpose", {b.constant(random_tensor({5, 8}, 1), "turned")});
  const ValueId y = b.op("MatMul", {x, turned});
  const ValueId flat =
      b.op("Reshape", {b.constant(random_tensor({40}, 2), "flat"), b.constant(test::ints({5, 8}))});
  const ValueId z = b.op("MatMul", {y, flat});
  b.output(b.op("MatMul", {z, b.constant(random_tensor({2, 8}, 3), "narrow")}), "y");
  Model model = std::move(b).model();
  const PipelineResult result = run_step(model, "prune", {{"granularity", "2:4"}});
  const std::vector<double> w = constant(model, "turned").to_doubles();
  for (size_t group = 0; group < 10; ++group) {
    CHECK(std::count(w.begin() + 4 * group, w.begin() + 4 * group + 4, 0.0) == 2);
  }
  CHECK(zeros_of(constant(model, "flat")) == 0);
  const std::vector<Skipped>& skipped = result.passes.front().skipped;
  REQUIRE(skipped.size() == 2);
  CHECK_THAT(skipped[0].reason, Catch::Contains("Reshape"));
  CHECK_THAT(skipped[1].reason, Catch::Contains("2 inputs an output"));
}

TEST_CASE("whole blocks go by their mean square, as many as asked", "[prune]") {
  for (const Layout& layout : kLayouts) {
    for (const double sparsity : {0.3, 0.5}) {
      INFO(layout.op << layout.weight.to_string() << " " << sparsity);
      const Tensor w = random_tensor(layout.weight, 6);
      Model model = model_of(layout, w);
      run_step(model, "prune", {{"granularity", "block:1x4"}, {"sparsity", sparsity}});
      const std::vector<double> before = w.to_doubles();
      const std::vector<double> after = constant(model, "w").to_doubles();
      int64_t gone = 0;
      double largest_gone = 0, smallest_kept = HUGE_VAL;
      const std::vector<std::vector<size_t>> runs = runs_of(layout, 4);
      for (const std::vector<size_t>& run : runs) {
        double sum = 0;
        for (const size_t i : run) sum += before[i] * before[i];
        sum /= static_cast<double>(run.size());
        const bool goes = after[run[0]] == 0;
        for (const size_t i : run) CHECK(after[i] == (goes ? 0 : before[i]));
        gone += goes;
        if (goes) largest_gone = std::max(largest_gone, sum);
        if (!goes) smallest_kept = std::min(smallest_kept, sum);
      }
      CHECK(gone == std::llround(sparsity * static_cast<double>(runs.size())));
      CHECK(largest_gone <= smallest_kept);
    }
  }
}

TEST_CASE("blocks span outputs, and are ranked over the whole model where asked", "[prune]") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {1, 8});
  const ValueId h = b.op("Gemm", {x, b.constant(random_tensor({8, 8}, 1, 0.01f), "small")},
                         {attr("transB", int64_t{1})});
  b.output(b.op("Gemm", {h, b.constant(random_tensor({6, 8}, 2), "large")},
                {attr("transB", int64_t{1})}),
           "y");
  Model model = std::move(b).model();
  run_step(model, "prune", {{"granularity", "block:4x2"}, {"scope", "global"}, {"sparsity", 0.5}});
  CHECK(zeros_of(constant(model, "small")) == 64);  // 8 of the 16 blocks, one of them 2 x 2
  CHECK(zeros_of(constant(model, "large")) == 0);
  Model alone = std::move(model);
  run_step(alone, "prune", {{"granularity", "block:4x2"}, {"sparsity", 0.5}});
  const std::vector<double> w = constant(alone, "large").to_doubles();
  for (size_t column = 0; column < 8; column += 2) {
    const bool first = w[column] == 0, last = w[32 + column] == 0;
    for (size_t row = 0; row < 6; ++row) {
      CHECK((w[row * 8 + column] == 0) == (row < 4 ? first : last));
      CHECK((w[row * 8 + column + 1] == 0) == (row < 4 ? first : last));
    }
  }
}

TEST_CASE("granularities that say nothing, or two things, are refused", "[prune]") {
  const Layout layout = {"MatMul", {8, 2}, {}, 0, 8};
  const auto refused = [&](const Json& options) -> std::string {
    Model model = model_of(layout, random_tensor({8, 2}, 1));
    try {
      run_step(model, "prune", options);
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::usage);
      return error.what();
    }
    return "";
  };
  for (const char* text : {"4:2", "0:4", "2:2", "2:1000", "2:", ":4", "2:4:8", "-1:4", "n:m"}) {
    INFO(text);
    CHECK_THAT(refused({{"granularity", text}}), Catch::Contains(text));
  }
  for (const char* text : {"block", "block:", "block:4", "block:0x4", "block:4x4x4", "blok:4x4"}) {
    INFO(text);
    CHECK_THAT(refused({{"granularity", text}}), Catch::Contains(text));
  }
  CHECK_THAT(refused({{"granularity", "2:4"}, {"sparsity", 0.75}}),
             Catch::Contains("0.5") && Catch::Contains("0.75"));
  CHECK(refused({{"granularity", "2:4"}, {"sparsity", 0.5}}).empty());
  CHECK_THAT(refused({{"granularity", "2:4"}, {"scope", "global"}}), Catch::Contains("global"));
}

TEST_CASE("include and exclude choose by node name", "[prune]") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {1, 8});
  const ValueId h = b.op("MatMul", {x, b.constant(random_tensor({8, 8}, 1), "first")});
  b.output(b.op("MatMul", {h, b.constant(random_tensor({8, 8}, 2), "second")}), "y");
  Model model = std::move(b).model();
  const std::string name = model.graph.node(0).name;
  run_step(model, "prune", {{"exclude", {"^" + name + "$"}}});
  CHECK(zeros_of(constant(model, "first")) == 0);
  CHECK(zeros_of(constant(model, "second")) == 32);
  CHECK_THROWS_AS(run_step(model, "prune", {{"include", {"("}}}), Error);
}

}  // namespace
}  // namespace compress
