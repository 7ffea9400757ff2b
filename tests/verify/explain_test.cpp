#include "compress/verify/explain.h"

#include <catch2/catch.hpp>

#include <functional>
#include <vector>

#include "compress/graph/builder.h"
#include "compress/verify/multiply_adds.h"
#include "compress/verify/ort_rules.h"

using namespace compress;
using Catch::Matchers::Contains;

namespace {

ValueId scale_of(GraphBuilder& b, float scale) { return b.constant(Tensor::scalar(scale), "s"); }

template <class T>
ValueId quantize(GraphBuilder& b, ValueId x, T zero, float scale = 0.05f) {
  return b.op("QuantizeLinear", {x, scale_of(b, scale), b.constant(Tensor::scalar<T>(zero), "z")});
}
template <class T>
ValueId dequantize(GraphBuilder& b, ValueId x, T zero, float scale = 0.05f) {
  return b.op("DequantizeLinear",
              {x, scale_of(b, scale), b.constant(Tensor::scalar<T>(zero), "z")});
}
template <class T>
ValueId pair(GraphBuilder& b, ValueId x, T zero) {
  return dequantize<T>(b, quantize<T>(b, x, zero), zero);
}

ValueId weights(GraphBuilder& b, std::initializer_list<int64_t> dims) {
  return dequantize<int8_t>(b, b.constant(Tensor::zeros(DType::int8, Shape(dims)), "w"), 0);
}
ValueId image(GraphBuilder& b) { return b.input("x", DType::float32, {1, 4, 8, 8}); }
ValueId matrix(GraphBuilder& b) { return b.input("x", DType::float32, {2, 32}); }

const OrtNode& of(const std::vector<OrtNode>& rows, const std::string& op) {
  for (const OrtNode& row : rows) {
    if (row.op == op) return row;
  }
  FAIL("no node " << op);
  return rows.front();
}

using Build = std::function<ValueId(GraphBuilder&)>;
std::vector<OrtNode> rows_of(const Build& build, int opset = 21) {
  GraphBuilder b;
  b.output(build(b), "y");
  return ort_rules(std::move(b).model(opset), {});
}

// What the first node of type `op` does.
OrtNode decided(const std::string& op, const Build& build) {
  return OrtNode(of(rows_of(build), op));
}

}  // namespace

TEST_CASE("a convolution between Q and DQ is an integer kernel, and its parts are fused") {
  const auto rows = rows_of([](GraphBuilder& b) {
    const ValueId conv = b.op("Conv", {pair<uint8_t>(b, image(b), 0), weights(b, {8, 4, 3, 3})});
    return pair<uint8_t>(b, b.op("Relu", {conv}), 0);
  });
  CHECK(of(rows, "Conv").runs == OrtRuns::integer);
  CHECK(of(rows, "Conv").kernel == "QLinearConv");
  CHECK(of(rows, "Conv").macs == 8 * 6 * 6 * 4 * 9);
  CHECK(of(rows, "Relu").runs == OrtRuns::fused);
  int fused = 0, overhead = 0;
  for (const OrtNode& row : rows) {
    fused += row.runs == OrtRuns::fused;
    overhead += row.runs == OrtRuns::overhead;
  }
  // The Q in front and the DQ behind have no integer neighbour; two DQ, Relu and Q are parts.
  CHECK(fused == 4);
  CHECK(overhead == 2);
}

TEST_CASE("what keeps a convolution in float is named") {
  struct Row {
    const char* says;
    OrtRuns runs;
    Build build;
  };
  const auto conv = [](GraphBuilder& b, ValueId x) {
    return b.op("Conv", {x, weights(b, {8, 4, 3, 3})});
  };
  const std::vector<Row> rows = {
      {"leaves the graph", OrtRuns::dequantized,
       [&](GraphBuilder& b) { return conv(b, pair<uint8_t>(b, image(b), 0)); }},
      {"only the weights", OrtRuns::dequantized,
       [&](GraphBuilder& b) { return pair<uint8_t>(b, conv(b, image(b)), 0); }},
      {"not covered by the range", OrtRuns::dequantized,
       [&](GraphBuilder& b) {
         return pair<uint8_t>(b, b.op("Relu", {conv(b, pair<uint8_t>(b, image(b), 0))}), 128);
       }},
      {"Tanh reads its output", OrtRuns::dequantized,
       [&](GraphBuilder& b) {
         return pair<uint8_t>(b, b.op("Tanh", {conv(b, pair<uint8_t>(b, image(b), 0))}), 0);
       }},
      {"more than once", OrtRuns::dequantized,
       [&](GraphBuilder& b) {
         const ValueId y = conv(b, pair<uint8_t>(b, image(b), 0));
         return b.op("Add", {pair<uint8_t>(b, y, 0), y});
       }},
      {"uint16 activations", OrtRuns::dequantized,
       [&](GraphBuilder& b) {
         return pair<uint16_t>(b, conv(b, pair<uint16_t>(b, image(b), 0)), 0);
       }},
      {"weights are not quantized", OrtRuns::floating,
       [&](GraphBuilder& b) {
         const ValueId w = b.constant(Tensor::zeros(DType::float32, {8, 4, 3, 3}), "w");
         return pair<uint8_t>(b, b.op("Conv", {pair<uint8_t>(b, image(b), 0), w}), 0);
       }},
      {"not quantized", OrtRuns::floating,
       [&](GraphBuilder& b) {
         return b.op("Conv",
                     {image(b), b.constant(Tensor::zeros(DType::float32, {8, 4, 3, 3}), "w")});
       }},
  };
  for (const Row& row : rows) {
    INFO(row.says);
    const OrtNode node = decided("Conv", row.build);
    CHECK(node.runs == row.runs);
    CHECK_THAT(node.reason, Contains(row.says));
  }
}

TEST_CASE(
    "products: two dequantized operands, packed weights, or weights dequantized on each run") {
  struct Row {
    const char* kernel;
    OrtRuns runs;
    const char* says;
    Build build;
  };
  const auto blocks = [](GraphBuilder& b, int64_t axis) {
    const Shape scales = axis == 0 ? Shape({2, 16}) : Shape({32, 1});
    return b.op("DequantizeLinear",
                {b.constant(Tensor::zeros(DType::int4, {32, 16}), "w"),
                 b.constant(Tensor::zeros(DType::float32, scales), "s")},
                {attr("axis", axis), attr("block_size", int64_t{16})});
  };
  const std::vector<Row> rows = {
      {"MatMulIntegerToFloat", OrtRuns::integer, "",
       [](GraphBuilder& b) {
         return b.op("MatMul", {pair<uint8_t>(b, matrix(b), 3), weights(b, {32, 16})});
       }},
      {"QLinearMatMul", OrtRuns::integer, "",
       [](GraphBuilder& b) {
         return pair<uint8_t>(
             b, b.op("MatMul", {pair<uint8_t>(b, matrix(b), 3), weights(b, {32, 16})}), 7);
       }},
      {"MatMulNBits", OrtRuns::packed, "",
       [&](GraphBuilder& b) {
         return b.op("MatMul", {matrix(b), blocks(b, 0)});
       }},
      {"MatMul", OrtRuns::dequantized, "axis 1",
       [&](GraphBuilder& b) {
         return b.op("MatMul", {matrix(b), blocks(b, 1)});
       }},
      {"MatMul", OrtRuns::dequantized, "feeds several",
       [&](GraphBuilder& b) {
         const ValueId x = matrix(b), w = blocks(b, 0);
         return b.op("Sub", {b.op("MatMul", {x, w}), b.op("MatMul", {x, w})});
       }},
      {"MatMul", OrtRuns::dequantized, "stands between",
       [](GraphBuilder& b) {
         return b.op("MatMul", {matrix(b), b.op("Transpose", {weights(b, {16, 32})})});
       }},
      {"MatMul", OrtRuns::dequantized, "int4 weights with quantized activations",
       [&](GraphBuilder& b) {
         return b.op("MatMul", {pair<uint8_t>(b, matrix(b), 3), blocks(b, 0)});
       }},
  };
  for (const Row& row : rows) {
    INFO(row.kernel << " " << row.says);
    const OrtNode node = decided("MatMul", row.build);
    CHECK(node.runs == row.runs);
    CHECK(node.kernel == row.kernel);
    CHECK_THAT(node.reason, Contains(row.says));
    CHECK(node.macs == 2 * 32 * 16);
    if (row.runs == OrtRuns::dequantized) CHECK(node.weight_bytes > 0);
  }
  const OrtNode gemm = decided("Gemm", [](GraphBuilder& b) {
    return b.op("Gemm", {pair<uint8_t>(b, matrix(b), 3), weights(b, {32, 16})},
                {attr("beta", 0.5f)});
  });
  CHECK(gemm.runs == OrtRuns::dequantized);
  CHECK_THAT(gemm.reason, Contains("beta"));
}

TEST_CASE("other operators: on integers, in float between Q and DQ, and embeddings") {
  const auto both = [](const char* op) {
    return [op](GraphBuilder& b) {
      const ValueId x = matrix(b);
      return pair<uint8_t>(b, b.op(op, {pair<uint8_t>(b, x, 0), pair<uint8_t>(b, x, 0)}), 0);
    };
  };
  CHECK(decided("Add", both("Add")).kernel == "QLinearAdd");
  CHECK(decided("Sub", both("Sub")).runs == OrtRuns::floating);
  CHECK_THAT(decided("Sub", both("Sub")).reason, Contains("no integer kernel"));
  const OrtNode half = decided("Add", [](GraphBuilder& b) {
    const ValueId x = matrix(b);
    return pair<uint8_t>(b, b.op("Add", {pair<uint8_t>(b, x, 0), x}), 0);
  });
  CHECK_THAT(half.reason, Contains("not all of its inputs"));
  const OrtNode gather = decided("Gather", [](GraphBuilder& b) {
    return b.op("Gather", {weights(b, {100, 8}), b.input("ids", DType::int64, {1, 4})});
  });
  CHECK(gather.runs == OrtRuns::dequantized);
  CHECK(gather.weight_bytes == 800);
  CHECK_THAT(gather.reason, Contains("whole table"));
  // Values pass a Reshape as they are, and Q/DQ move past it.
  CHECK(decided("MatMul", [](GraphBuilder& b) {
          const ValueId flat = b.op("Flatten", {pair<uint8_t>(b, matrix(b), 3)});
          return b.op("MatMul", {flat, weights(b, {32, 16})});
        }).runs == OrtRuns::integer);
}

TEST_CASE("weights that are quantized in the file's own nodes count as constants") {
  const auto rows = rows_of([](GraphBuilder& b) {
    const ValueId w = b.constant(Tensor::zeros(DType::float32, {32, 16}), "w");
    return b.op("MatMul", {pair<uint8_t>(b, matrix(b), 3), pair<int8_t>(b, w, 0)});
  });
  CHECK(of(rows, "MatMul").runs == OrtRuns::integer);
  int folded = 0;
  for (const OrtNode& row : rows) folded += row.runs == OrtRuns::folded;
  CHECK(folded == 1);
}

TEST_CASE("every row of the rule table has a kernel here or is known to it") {
  for (const OrtRule& rule : ort_rule_table()) {
    INFO(rule.op);
    CHECK(!rule.op.empty());
    const bool names_kernel = rule.kind == OrtKind::no_integer || rule.kind == OrtKind::moves;
    CHECK((names_kernel || !rule.kernel.empty()));
  }
}

TEST_CASE("what ONNX Runtime did replaces what the rules say") {
  GraphBuilder b;
  const ValueId x = matrix(b);
  const ValueId first =
      b.op("MatMul", {x, b.constant(Tensor::zeros(DType::float32, {32, 32}), "w1")});
  b.output(b.op("MatMul", {pair<uint8_t>(b, first, 3), weights(b, {32, 16})}), "y");
  Model model = std::move(b).model(21);
  name_nodes(model);
  std::vector<std::string> names;
  for (const NodeId id : model.graph.order()) {
    if (model.graph.node(id).op_type == "MatMul") names.push_back(model.graph.node(id).name);
  }
  REQUIRE(names.size() == 2);

  GraphBuilder o;
  const ValueId in = o.input("x", DType::float32, {2, 32});
  const ValueId w = o.constant(Tensor::zeros(DType::float32, {32, 32}), "w");
  const ValueId one = o.op("MatMul", {in, w});
  const ValueId two = o.op("MatMul", {one, w});
  o.output(two, "y");
  o.graph().edit(o.graph().value(one).producer).name = names[0];
  o.graph().edit(o.graph().value(two).producer).name = names[1];
  const Model optimized = std::move(o).model(21);

  ExplainInput input;
  input.optimized = &optimized;
  input.source = "onnxruntime 0";
  const Explanation asked = explain(model, input);
  const Explanation ruled = explain(model, {});
  CHECK(ruled.integer_macs == 2 * 32 * 16);
  CHECK(ruled.contradictions == 0);
  CHECK(asked.integer_macs == 0);
  CHECK(asked.contradictions == 1);
  CHECK(asked.macs == ruled.macs);
}

TEST_CASE("an explanation says in words what keeps a model slow") {
  GraphBuilder b;
  const ValueId x = matrix(b);
  const ValueId kept =
      b.op("MatMul", {x, b.constant(Tensor::zeros(DType::float32, {32, 32}), "w1")});
  b.output(b.op("MatMul", {pair<uint8_t>(b, kept, 3), weights(b, {32, 32})}), "y");
  Model model = std::move(b).model(21);
  name_nodes(model);
  Session session(model);
  const auto feed = random_feed(model, {}, 0);
  ExplainInput input;
  input.kernels = profile_kernels(session, feed);
  input.vnni = false;
  const Explanation result = explain(model, input);
  REQUIRE(result.why.size() >= 3);
  CHECK_THAT(result.why[0],
             Contains("50 % with integer kernels, 50 % in float: 1 MatMul (it is not"));
  std::string all;
  for (const std::string& line : result.why) all += line + "\n";
  CHECK_THAT(all, Contains("no VNNI") && Contains("small"));
  int with_kernel = 0;
  double ms = 0;
  for (const ExplainedNode& row : result.nodes) {
    with_kernel += row.ort.op == "MatMul" && !row.kernel.empty();
    ms += row.ms;
  }
  CHECK(with_kernel == 2);
  CHECK(ms > 0);

  GraphBuilder f;
  f.output(f.op("Relu", {f.input("x", DType::float32, {1})}), "y");
  const Explanation plain = explain(std::move(f).model(21), {});
  REQUIRE(plain.why.size() == 1);
  CHECK_THAT(plain.why[0], Contains("nothing in this model is quantized"));
}
