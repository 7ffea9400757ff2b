// The reader: real models, models built by hand from wire bytes, and truncations of them.
#include <ctime>

#include "compress/error.h"
#include "tests/formats/wire_models.h"

namespace compress {
namespace {

const fs::path kModels = shared_models();

Model read_bytes(const Scratch& scratch, const std::string& bytes) {
  return read_onnx(scratch.write("model.onnx", bytes));
}

}  // namespace

TEST_CASE("every shared model reads, and its graph keeps the invariants") {
  if (!fs::exists(kModels)) {
    WARN("skipped: no models in " << kModels);
    return;
  }
  int count = 0;
  for (const auto& entry : fs::directory_iterator(kModels)) {
    if (entry.path().extension() != ".onnx") continue;
    INFO(entry.path());
    const Model model = read_onnx(entry.path().string());
    check_graph(model.graph);
    CHECK(model.graph.node_count() > 0);
    CHECK(model.file_bytes == fs::file_size(entry.path()));
    ++count;
  }
  CHECK(count == 19);
}

TEST_CASE("a small model arrives whole") {
  const Scratch scratch;
  const Model model = read_bytes(scratch, model_wire(graph_wire(small_graph())));
  REQUIRE(model.graph.node_count() == 1);
  CHECK(model.opset() == 17);
  const Node& add = model.graph.node(0);
  CHECK(add.is("Add"));
  const Tensor* w = model.graph.constant_input(add, 1);
  REQUIRE(w != nullptr);
  CHECK(w->to_doubles() == std::vector<double>{1, 2});
  CHECK(model.graph.value(add.inputs[0]).is_input);
  CHECK(model.graph.value(add.outputs[0]).type.shape == Shape({2}));
  CHECK(model.graph.is_output(add.outputs[0]));
}

TEST_CASE("nodes may stand in any order where the checker is not asked") {
  const Scratch scratch;
  GraphParts parts = small_graph();
  parts.nodes = {node("Relu", {"t"}, {"y"}), node("Add", {"x", "w"}, {"t"})};
  const std::string path = scratch.write("m.onnx", model_wire(graph_wire(parts)));
  ReadOptions unchecked;
  unchecked.check = false;
  const Model model = read_onnx(path, unchecked);
  CHECK(model.graph.order() == std::vector<NodeId>{1, 0});
}

TEST_CASE("a body captures what it reads from outside, level by level") {
  const Scratch scratch;
  const Model model = read_bytes(scratch, nested_ifs(3));
  const Graph* graph = &model.graph;
  for (int level = 0; level < 3; ++level) {
    REQUIRE(graph->node_count() == 1);
    const Node& node = graph->node(0);
    REQUIRE(node.bodies.size() == 2);
    const Body& then_branch = node.bodies[0];
    CHECK(then_branch.attribute == "then_branch");
    // x and w, and c for the levels below that have an If themselves
    CHECK(then_branch.captures.size() == (level == 2 ? 2 : 3));
    for (const Body::Capture& capture : then_branch.captures) {
      CHECK(then_branch.graph->value(capture.inner).is_capture);
      CHECK(then_branch.graph->value(capture.inner).name == graph->value(capture.outer).name);
    }
    graph = then_branch.graph.get();
  }
  CHECK(graph->node(0).is("Add"));
}

TEST_CASE("bodies nest as deep as protobuf lets them, and no deeper") {
  const Scratch scratch;
  CHECK_NOTHROW(read_bytes(scratch, nested_ifs(28)));
  for (const int depth : {40, 1000, 4000}) {
    INFO(depth);
    CHECK_THROWS_AS(read_bytes(scratch, nested_ifs(depth)), Error);
  }
}

TEST_CASE("broken graphs are refused with the name at fault") {
  const Scratch scratch;
  const auto message = [&](const GraphParts& parts) -> std::string {
    try {
      read_bytes(scratch, model_wire(graph_wire(parts)));
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::invalid_model);
      return error.what();
    }
    return "accepted";
  };
  GraphParts parts = small_graph();
  parts.nodes = {node("Add", {"x", "nowhere"}, {"y"})};
  CHECK_THAT(message(parts), Catch::Contains("'nowhere' is produced nowhere"));
  parts = small_graph();
  parts.nodes.push_back(node("Relu", {"x"}, {"y"}));
  CHECK_THAT(message(parts), Catch::Contains("'y'"));
  parts = small_graph();
  parts.initializers.push_back(float_tensor("w", {3, 4}));
  CHECK_THAT(message(parts), Catch::Contains("two initializers are named 'w'"));
  parts = small_graph();
  parts.nodes = {node("Add", {"x", "b"}, {"a"}), node("Add", {"a", "w"}, {"b"}),
                 node("Relu", {"b"}, {"y"})};
  CHECK_THAT(message(parts), Catch::Contains("cycle"));
  parts = small_graph();
  parts.initializers = {float_tensor("w", {1, 2}).substr(0, 12)};
  CHECK_THAT(message(parts), Catch::Contains("cut off"));
}

TEST_CASE("a model cut off anywhere is refused, never a crash") {
  const Scratch scratch;
  const std::string whole = nested_ifs(2);
  CHECK_NOTHROW(read_bytes(scratch, whole));
  // The opset import, of six bytes, comes last: without it the rest cannot be a model.
  for (size_t size = 0; size < whole.size(); ++size) {
    INFO(size);
    CHECK_THROWS_AS(read_bytes(scratch, whole.substr(0, size)), Error);
  }
}

// Processor time, which busy cores do not add to.
double seconds_to_read(const Scratch& scratch, int nodes) {
  const std::string last = "v" + std::to_string(nodes);
  GraphParts parts{{}, {value_info("v0", {4})}, {value_info(last, {4})}, {}};
  for (int i = 0; i < nodes; ++i) {
    parts.nodes.push_back(node("Relu", {"v" + std::to_string(i)}, {"v" + std::to_string(i + 1)}));
  }
  const std::string wire = model_wire(graph_wire(parts));
  const std::clock_t begin = std::clock();
  const Model model = read_bytes(scratch, wire);
  const std::clock_t end = std::clock();
  CHECK(model.graph.node_count() == nodes);
  return static_cast<double>(end - begin) / CLOCKS_PER_SEC;
}

TEST_CASE("reading a chain of nodes takes time in proportion") {
  const Scratch scratch;
  const double short_chain = seconds_to_read(scratch, 10'000);
  const double long_chain = seconds_to_read(scratch, 100'000);
  // Ten times the nodes; quadratic work would take a hundred times as long.
  CHECK(long_chain < 40 * short_chain + 0.1);
}

}  // namespace compress
