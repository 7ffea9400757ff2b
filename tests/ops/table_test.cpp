#include <catch2/catch.hpp>

#include <set>
#include <tuple>

#include "compress/error.h"
#include "compress/ops/op.h"
#include "run.h"

namespace compress {

TEST_CASE("rows are complete and unique") {
  std::set<std::tuple<std::string_view, std::string_view, int>> seen;
  size_t rows = 0;
  for (const auto& family : op_families()) {
    for (const OpDef& op : family) {
      CAPTURE(op.name);
      CHECK(op.infer != nullptr);
      CHECK(op.prepare != nullptr);
      CHECK(op.since_version >= 1);
      CHECK(seen.emplace(op.domain, op.name, op.since_version).second);
      CHECK(find_op(op.domain, op.name, op.since_version) == &op);
      ++rows;
    }
  }
  CHECK(rows > 60);
}

TEST_CASE("a lookup takes the newest row that the opset allows") {
  CHECK(find_op("", "Add", 6) == nullptr);
  REQUIRE(find_op("", "Add", 7) != nullptr);
  CHECK(find_op("ai.onnx", "Add", 21) == find_op("", "Add", 7));
  CHECK(find_op("", "Adds", 21) == nullptr);
  CHECK(find_op("other", "Add", 21) == nullptr);
}

TEST_CASE("an unknown operator is named with its node and the nearest row") {
  GraphBuilder builder;
  const ValueId x = builder.input("x", DType::float32, {2});
  const ValueId y = builder.op("Sigmoyd", {x});
  builder.graph().edit(builder.graph().value(y).producer).name = "layer";
  builder.output(y, "y");
  const Model model = std::move(builder).model();
  const Node& node = model.graph.node(model.graph.order()[0]);
  try {
    op_of(node, model);
    FAIL("accepted");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::unsupported);
    CHECK(error.message().find("'layer'") != std::string::npos);
    CHECK(error.message().find("Sigmoid)") != std::string::npos);
  }
}

TEST_CASE("types are inferred over a graph, symbols included") {
  GraphBuilder builder;
  const int64_t batch = builder.graph().symbol("batch");
  const ValueId x = builder.input("x", DType::float32, {batch, 4});
  const ValueId y = builder.op("Relu", {x});
  const ValueId z = builder.op("Add", {y, builder.constant(Tensor::zeros(DType::float32, {1, 4}))});
  builder.output(z, "z");
  Model model = std::move(builder).model();
  infer_types(model);
  const ValueId out = model.graph.outputs()[0];
  CHECK(model.graph.value(out).type.shape == Shape{batch, 4});
  infer_types(model, {{"x", Shape{3, 4}}});
  CHECK(model.graph.value(out).type.shape == Shape{3, 4});
}

TEST_CASE("a traced reshape keeps its rank and what is known of its dimensions") {
  GraphBuilder builder;
  const int64_t batch = builder.graph().symbol("batch");
  const ValueId x = builder.input("x", DType::float32, {batch, 4, 6});
  const auto ints = [&](std::initializer_list<int64_t> values) {
    return builder.constant(Tensor::from<int64_t>({static_cast<int64_t>(values.size())}, values));
  };
  const ValueId shape = builder.op("Shape", {x});
  const ValueId first = builder.op("Gather", {shape, builder.constant(Tensor::scalar<int64_t>(0))});
  const ValueId list =
      builder.op("Concat", {builder.op("Unsqueeze", {first, ints({0})}), ints({2, -1})},
                 {attr("axis", int64_t{0})});
  builder.output(builder.op("Reshape", {x, list}), "y");
  Model model = std::move(builder).model();
  infer_types(model);
  CHECK(model.graph.value(model.graph.outputs()[0]).type.shape == Shape{batch, 2, 12});
  infer_types(model, {{"x", Shape{5, 4, 6}}});
  CHECK(model.graph.value(model.graph.outputs()[0]).type.shape == Shape{5, 2, 12});
}

}  // namespace compress
