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
  REQUIRE(result.passes.back().skipped.size() == 1);
  CHECK_THAT(result.passes.back().skipped[0].reason, Catch::Contains("Slice"));
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
