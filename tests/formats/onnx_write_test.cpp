// The writer: round trips, determinism, external data, naming, checks before the rename.
#include <algorithm>
#include <atomic>

#include "compress/error.h"
#include "compress/graph/builder.h"
#include "tests/formats/wire_models.h"

namespace compress {
namespace {

std::string file_text(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// y = x W + b with a weight of 64 KiB.
Model small_model(float scale = 1) {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {-1, 128});
  Tensor w = Tensor::allocate(DType::float32, {128, 128});
  const auto values = w.mutable_as<float>();
  for (size_t i = 0; i < values.size(); ++i) values[i] = scale * static_cast<float>(i % 17);
  const ValueId bias = b.constant(Tensor::zeros(DType::float32, {128}), "b");
  const ValueId y = b.op("Add", {b.op("MatMul", {x, b.constant(w, "w")}), bias});
  b.graph().set_type(y, {DType::float32, true, Shape({-1, 128})});
  b.output(y, "y");
  return std::move(b).model();
}

void check_round_trip(const Model& model, const Model& again) {
  check_graph(again.graph);
  CHECK(same_graph(model.graph, again.graph));
  CHECK(model.opsets == again.opsets);
  CHECK(model.metadata == again.metadata);
  CHECK(model.unknown_fields == again.unknown_fields);
  CHECK(model.graph.unknown_fields == again.graph.unknown_fields);
  const auto names = [](const Graph& graph, std::span<const ValueId> ids) {
    std::vector<std::string> out;
    for (const ValueId id : ids) out.push_back(graph.value(id).name);
    return out;
  };
  CHECK(names(model.graph, model.graph.inputs()) == names(again.graph, again.graph.inputs()));
  CHECK(names(model.graph, model.graph.outputs()) == names(again.graph, again.graph.outputs()));
}

}  // namespace

TEST_CASE("every shared model survives writing and reading, inline and external") {
  if (!fs::exists(shared_models())) {
    WARN("skipped: no models in " << shared_models());
    return;
  }
  const Scratch scratch;
  for (const auto& entry : fs::directory_iterator(shared_models())) {
    if (entry.path().extension() != ".onnx") continue;
    INFO(entry.path());
    const Model model = read_onnx(entry.path().string());
    for (const bool external : {false, true}) {
      const std::string name = entry.path().stem().string() + (external ? "_external" : "");
      WriteOptions options;
      options.external_data = external;
      const uint64_t bytes = write_onnx(model, scratch.path(name + ".onnx"), options);
      const Model again = read_onnx(scratch.path(name + ".onnx"));
      CHECK(again.file_bytes == bytes);
      check_round_trip(model, again);
    }
  }
}

TEST_CASE("the bytes depend on the model alone") {
  const Scratch scratch;
  const Model model = small_model();
  write_onnx(model, scratch.path("a.onnx"));
  write_onnx(model, scratch.path("b.onnx"));
  CHECK(file_text(scratch.path("a.onnx")) == file_text(scratch.path("b.onnx")));
  CHECK(file_text(scratch.path("a.onnx")) == serialize_onnx(model));
  // And what was read is written as it stands in the file.
  const Model again = read_onnx(scratch.path("a.onnx"));
  CHECK(serialize_onnx(again) == file_text(scratch.path("a.onnx")));
}

TEST_CASE("large tensors go beside the model on request, aligned for mapping") {
  const Scratch scratch;
  const Model model = small_model();
  WriteOptions options;
  options.external_data = true;
  const uint64_t bytes = write_onnx(model, scratch.path("m.onnx"), options);
  CHECK(fs::file_size(scratch.folder / "m.onnx.data") == 128 * 128 * 4);
  CHECK(bytes == fs::file_size(scratch.folder / "m.onnx") + 128 * 128 * 4);
  const Model again = read_onnx(scratch.path("m.onnx"));
  CHECK(same_graph(model.graph, again.graph));
  const Tensor& w = again.graph.value(again.graph.find_value("w")).constant;
  CHECK(reinterpret_cast<uintptr_t>(w.identity()) % 4096 == 0);
  CHECK_THROWS_AS(write_onnx(model, scratch.path("m.onnx"), options), Error);
  options.overwrite = true;
  CHECK_NOTHROW(write_onnx(model, scratch.path("m.onnx"), options));
  // The first mapping still shows the file that it was read from.
  CHECK(same_graph(model.graph, again.graph));
}

TEST_CASE("provenance is a metadata property, and replaces the one before") {
  const Scratch scratch;
  Model model = small_model();
  model.metadata = {{"author", "somebody"}};
  WriteOptions options;
  options.provenance = [] { return "{\"seed\": 1}"; };
  write_onnx(model, scratch.path("a.onnx"), options);
  Model again = read_onnx(scratch.path("a.onnx"));
  const std::vector<std::pair<std::string, std::string>> expected = {{"author", "somebody"},
                                                                     {"compress", "{\"seed\": 1}"}};
  CHECK(again.metadata == expected);
  CHECK(again.producer_name == "compress");
  options.provenance = [] { return "{\"seed\": 2}"; };
  write_onnx(again, scratch.path("b.onnx"), options);
  again = read_onnx(scratch.path("b.onnx"));
  CHECK(again.metadata.size() == 2);
  CHECK(again.metadata.back().second == "{\"seed\": 2}");
}

TEST_CASE("a scale that is zero, negative or not finite never reaches the target") {
  const Scratch scratch;
  const auto model_with = [](float scale) {
    GraphBuilder b;
    const ValueId x = b.input("x", DType::float32, {4});
    const ValueId s = b.constant(Tensor::scalar(scale), "s");
    const ValueId z = b.constant(Tensor::scalar(uint8_t{3}), "z");
    const ValueId q = b.op("QuantizeLinear", {x, s, z});
    const ValueId y = b.op("DequantizeLinear", {q, s, z});
    b.graph().set_type(y, {DType::float32, true, Shape({4})});
    b.output(y, "y");
    return std::move(b).model();
  };
  CHECK_NOTHROW(write_onnx(model_with(0.5F), scratch.path("good.onnx")));
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  for (const float scale : {0.0F, -0.5F, nan, inf}) {
    INFO(scale);
    CHECK_THROWS_WITH(write_onnx(model_with(scale), scratch.path("bad.onnx")),
                      Catch::Contains("scale 's'"));
    CHECK(!fs::exists(scratch.folder / "bad.onnx"));
  }
  CHECK(std::distance(fs::directory_iterator(scratch.folder), fs::directory_iterator()) == 1);
}

TEST_CASE("a model that the checker refuses never reaches the target") {
  const Scratch scratch;
  scratch.write("m.onnx", "old");
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {4});
  const ValueId y = b.op("Relu", {x, x});
  b.graph().set_type(y, {DType::float32, true, Shape({4})});
  b.output(y, "y");
  const Model model = std::move(b).model();
  WriteOptions options;
  options.overwrite = true;
  CHECK_THROWS_WITH(write_onnx(model, scratch.path("m.onnx"), options),
                    Catch::Contains("ONNX's checker") && !Catch::Contains("\n"));
  CHECK(file_text(scratch.path("m.onnx")) == "old");
}

TEST_CASE("tombstones are left out, and new values get names") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {4});
  const ValueId dead = b.op("Neg", {x});
  const ValueId y = b.op("Relu", {x});
  b.graph().set_type(y, {DType::float32, true, Shape({4})});
  b.output(y, "y");
  b.graph().erase(b.graph().value(dead).producer);
  // A node made by hand, with a value that has no name.
  Graph& graph = b.graph();
  const ValueId unnamed = graph.add_value("", {});
  Node node;
  node.op_type = "Abs";
  node.inputs = {x};
  node.outputs = {unnamed};
  graph.add_node_raw(node);
  graph.set_input(graph.value(y).producer, 0, unnamed);
  const Scratch scratch;
  write_onnx(std::move(b).model(), scratch.path("m.onnx"));
  const Model again = read_onnx(scratch.path("m.onnx"));
  CHECK(again.graph.node_slots() == 2);
  CHECK(again.graph.node(0).is("Abs"));
  CHECK(!again.graph.value(again.graph.node(0).outputs[0]).name.empty());
}

TEST_CASE("bodies follow when what they capture is renamed or replaced") {
  const Scratch scratch;
  Model model = read_onnx(scratch.write("in.onnx", nested_ifs(3)));
  Graph& graph = model.graph;
  const ValueId old_weight = graph.find_value("w");
  // The innermost body's own output is named v3; a new outer value takes that name.
  const ValueId weight = graph.add_constant("v3", Tensor::from<float>(Shape({2}), {5, 6}));
  graph.replace_uses(old_weight, weight);
  graph.erase_value(old_weight);
  graph.rename(graph.find_value("x"), "data");
  write_onnx(model, scratch.path("out.onnx"));
  const Model again = read_onnx(scratch.path("out.onnx"));
  check_graph(again.graph);
  const Graph* inner = &again.graph;
  for (int level = 0; level < 3; ++level) inner = inner->node(0).bodies[0].graph.get();
  const Node& add = inner->node(0);
  REQUIRE(add.is("Add"));
  CHECK(inner->value(add.inputs[0]).name == "data");
  CHECK(inner->value(add.inputs[1]).name == "v3");
  CHECK(inner->value(add.inputs[1]).is_capture);
  CHECK(inner->value(add.outputs[0]).name == "v3_1");
}

TEST_CASE("deferred tensors of a group are computed once where they stand together") {
  const Scratch scratch;
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {4});
  int computed = 0;
  auto group = std::make_shared<DeferredGroup>([&] {
    ++computed;
    return std::vector<Tensor>(2, Tensor::zeros(DType::float32, {4}));
  });
  const ValueId p = b.constant(Tensor::deferred(DType::float32, {4}, group, 0), "p");
  const ValueId q = b.constant(Tensor::deferred(DType::float32, {4}, group, 1), "q");
  const ValueId y = b.op("Add", {b.op("Add", {x, p}), q});
  b.graph().set_type(y, {DType::float32, true, Shape({4})});
  b.output(y, "y");
  const Model model = std::move(b).model();
  write_onnx(model, scratch.path("m.onnx"));
  CHECK(computed == 1);
  const Model again = read_onnx(scratch.path("m.onnx"));
  CHECK(again.graph.value(again.graph.find_value("q")).constant.to_doubles() ==
        std::vector<double>(4, 0.0));
}

TEST_CASE(
    "groups of deferred tensors are computed once each, and provenance is asked for behind them") {
  for (const bool external : {false, true}) {
    CAPTURE(external);
    const Scratch scratch;
    GraphBuilder b;
    ValueId y = b.input("x", DType::float32, {512});
    std::atomic<int> computed = 0;
    for (int g = 0; g < 5; ++g) {
      auto group = std::make_shared<DeferredGroup>([&computed, g] {
        ++computed;
        const std::vector<float> values(512, static_cast<float>(g));
        return std::vector<Tensor>(2, Tensor::from<float>({512}, values));
      });
      for (size_t i = 0; i < 2; ++i) {
        const Tensor part = Tensor::deferred(DType::float32, {512}, group, i);
        y = b.op("Add", {y, b.constant(part, fmt::format("c{}_{}", g, i))});
      }
    }
    b.graph().set_type(y, {DType::float32, true, Shape({512})});
    b.output(y, "y");
    WriteOptions options;
    options.external_data = external;
    options.provenance = [&] { return fmt::format("{} computed", computed.load()); };
    write_onnx(std::move(b).model(), scratch.path("m.onnx"), options);
    CHECK(computed == 5);
    const Model again = read_onnx(scratch.path("m.onnx"));
    CHECK(again.metadata.back().second == "5 computed");
    for (int g = 0; g < 5; ++g) {
      const Value& value = again.graph.value(again.graph.find_value(fmt::format("c{}_1", g)));
      CHECK(value.constant.to_doubles() == std::vector<double>(512, g));
    }
  }
}

TEST_CASE("narrow types raise the IR version to the one that knows them") {
  const Scratch scratch;
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {2, 4});
  Tensor packed = Tensor::zeros(DType::int4, {4, 3});
  packed.mutable_data()[0] = std::byte{0x7F};
  const ValueId w =
      b.op("DequantizeLinear", {b.constant(packed, "w"), b.constant(Tensor::scalar(0.5F), "s")});
  const ValueId y = b.op("MatMul", {x, w});
  b.graph().set_type(y, {DType::float32, true, Shape({2, 3})});
  b.output(y, "y");
  Model model = std::move(b).model(21);
  model.ir_version = 4;
  write_onnx(model, scratch.path("m.onnx"));
  const Model again = read_onnx(scratch.path("m.onnx"));
  CHECK(again.ir_version == 10);
  CHECK(again.graph.value(again.graph.find_value("w")).constant.to_ints()[1] == 7);
}

TEST_CASE("norms that only ONNX Runtime has in ONNX's domain are read, written and lifted") {
  for (const char* op : {"LayerNormalization", "SimplifiedLayerNormalization"}) {
    INFO(op);
    const Scratch scratch;
    GraphBuilder b;
    const ValueId x = b.input("x", DType::float32, {2, 4});
    const ValueId y = b.op(op, {x, b.constant(Tensor::from<float>({4}, {1, 2, 3, 4}))});
    b.graph().set_type(y, {DType::float32, true, {2, 4}});
    b.output(y, "y");
    const Model model = std::move(b).model(13);
    write_onnx(model, scratch.path("m.onnx"), {});
    Model read = read_onnx(scratch.path("m.onnx"));
    CHECK(same_graph(read.graph, model.graph));
    convert_opset(read, 21);
    CHECK(read.opset() == 21);
    CHECK(read.opsets.size() == 1);
    const Node& node = read.graph.node(read.graph.order().front());
    CHECK(node.domain.empty());
    CHECK(node.op_type == op);
    write_onnx(read, scratch.path("lifted.onnx"), {});
    CHECK(read_onnx(scratch.path("lifted.onnx")).opset() == 21);
  }
  GraphBuilder b;
  const ValueId y = b.op("ComplicatedLayerNormalization", {b.input("x", DType::float32, {2, 4})});
  b.graph().set_type(y, {DType::float32, true, {2, 4}});
  b.output(y, "y");
  const Scratch scratch;
  CHECK_THROWS_AS(write_onnx(std::move(b).model(13), scratch.path("m.onnx"), {}), Error);
}

TEST_CASE("opsets are lifted without touching the weights") {
  const Scratch scratch;
  Model model = small_model();
  const void* weight = model.graph.value(model.graph.find_value("w")).constant.identity();
  convert_opset(model, 21);
  CHECK(model.opset() == 21);
  CHECK(model.graph.value(model.graph.find_value("w")).constant.identity() == weight);
  CHECK_NOTHROW(write_onnx(model, scratch.path("m.onnx")));
  CHECK_THROWS_AS(convert_opset(model, 13), Error);
  CHECK_THROWS_AS(convert_opset(model, newest_opset() + 1), Error);
}

}  // namespace compress
