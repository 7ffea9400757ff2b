#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <cstdlib>
#include <new>

#include "compress/error.h"
#include "compress/graph/builder.h"
#include "compress/graph/label.h"
#include "compress/graph/limits.h"
#include "compress/runtime/fold.h"
#include "compress/runtime/memory.h"
#include "compress/runtime/prepare_graph.h"
#include "compress/runtime/session.h"

namespace {
std::atomic<int64_t> allocations{0};

void* counted(size_t bytes, size_t alignment) {
  ++allocations;
  void* memory =
      alignment <= alignof(std::max_align_t)
          ? std::malloc(bytes)
          : std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
}  // namespace

void* operator new(size_t bytes) { return counted(bytes, 1); }
void* operator new[](size_t bytes) { return counted(bytes, 1); }
void* operator new(size_t bytes, std::align_val_t a) { return counted(bytes, size_t(a)); }
void* operator new[](size_t bytes, std::align_val_t a) { return counted(bytes, size_t(a)); }
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }
void operator delete[](void* p, size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, size_t, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, size_t, std::align_val_t) noexcept { std::free(p); }

namespace compress {
namespace {

NamedTensor feed(const std::string& name, const Shape& shape, std::vector<float> values) {
  return {name, Tensor::from<float>(shape, std::span<const float>(values))};
}

std::vector<float> floats(const Tensor& tensor) {
  const TensorData data = tensor.read();
  const auto values = data.as<float>();
  return {values.begin(), values.end()};
}

std::string message_of(const std::function<void()>& body, ErrorCode code) {
  try {
    body();
  } catch (const Error& error) {
    CHECK(error.code() == code);
    return error.what();
  }
  return "";
}

// y = relu(x + 1) reshaped to [count / 2, 2] through Shape arithmetic.
Model traced_model() {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {-1, 4});
  const ValueId sum = b.op("Add", {x, b.constant(Tensor::scalar<float>(1))});
  const ValueId relu = b.op("Relu", {sum});
  const ValueId shape = b.op("Shape", {relu});
  const ValueId count = b.op("ReduceProd", {shape}, {attr("keepdims", int64_t{1})});
  const ValueId rows = b.op("Div", {count, b.constant(Tensor::from<int64_t>({1}, {2}))});
  const ValueId target = b.op("Concat", {rows, b.constant(Tensor::from<int64_t>({1}, {2}))},
                              {attr("axis", int64_t{0})});
  b.output(b.op("Reshape", {relu, target}), "y");
  return std::move(b).model(17);
}

TEST_CASE("shape arithmetic vanishes from the run") {
  Session session(traced_model());
  for (const int64_t batch : {1, 3}) {
    std::vector<float> values(static_cast<size_t>(batch) * 4, -2);
    values[1] = 5;
    const std::vector<Tensor> out =
        session.run(std::vector<NamedTensor>{feed("x", {batch, 4}, values)});
    REQUIRE(out[0].shape() == Shape{batch * 2, 2});
    values.assign(values.size(), 0);
    values[1] = 6;
    CHECK(floats(out[0]) == values);
    // Add and Relu run; Shape, ReduceProd, Div, Concat and the view do not.
    CHECK(session.kernels().size() == 2);
  }
}

TEST_CASE("a run after the first allocates nothing") {
  Session session(traced_model());
  const std::vector<NamedTensor> feeds = {feed("x", {2, 4}, std::vector<float>(8, 1))};
  session.run(feeds);
  session.run_discarding(feeds);
  const int64_t before = allocations;
  session.run_discarding(feeds);
  CHECK(allocations - before == 0);
  session.run(feeds);
  CHECK(allocations - before > 0);  // the counter counts: run() makes outputs
}

TEST_CASE("feeds that do not fit are refused with what the model takes") {
  Session session(traced_model());
  const auto run = [&](std::vector<NamedTensor> feeds) {
    return message_of([&] { session.run(feeds); }, ErrorCode::usage);
  };
  CHECK_THAT(run({}), Catch::Contains("'x' is missing") && Catch::Contains("float32[?,4]"));
  CHECK_THAT(run({feed("x", {1, 4}, {1, 2, 3, 4}), feed("z", {1}, {1})}),
             Catch::Contains("no input 'z'"));
  CHECK_THAT(run({feed("x", {1, 3}, {1, 2, 3})}), Catch::Contains("float32[1,3]"));
  CHECK_THAT(run({feed("x", {4}, {1, 2, 3, 4})}), Catch::Contains("float32[4]"));
  CHECK_THAT(run({{"x", Tensor::from<int64_t>({1, 4}, {1, 2, 3, 4})}}), Catch::Contains("int64"));
}

TEST_CASE("an operator without a row is named before anything runs") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {1});
  b.output(b.op("Reluu", {x}), "y");
  const Model model = std::move(b).model();
  const std::string message = message_of([&] { Session session(model); }, ErrorCode::unsupported);
  CHECK_THAT(message, Catch::Contains("Reluu"));
}

TEST_CASE("memory is limited before it is taken") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {-1});
  const ValueId y = b.op("Relu", {x});
  b.output(b.op("Add", {b.op("Exp", {y}), y}), "y");
  const Model model = std::move(b).model();
  SessionOptions options;
  options.max_memory = 1 << 20;
  Session session(model, options);
  CHECK_NOTHROW(session.run(std::vector<NamedTensor>{feed("x", {4}, {1, 2, 3, 4})}));
  const std::vector<NamedTensor> large = {feed("x", {1 << 20}, std::vector<float>(1 << 20, 1))};
  CHECK_THAT(message_of([&] { session.run(large); }, ErrorCode::unsupported),
             Catch::Contains("limit"));
}

// Doubles a constant so often that `x` meets 2^times elements.
Model doubling_model(int times, uint64_t file_bytes) {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {1});
  ValueId many = b.op("Add", {x, b.constant(Tensor::scalar(1.0f))});
  for (int i = 0; i < times; ++i) {
    many = b.op("Concat", {many, many}, {attr("axis", int64_t{0})});
  }
  b.output(b.op("ReduceMax", {many}, {attr("keepdims", int64_t{0})}), "y");
  Model model = std::move(b).model();
  model.file_bytes = file_bytes;
  return model;
}

TEST_CASE("a small file cannot ask for much memory, a large one may") {
  using runtime::default_memory_limit;
  constexpr uint64_t kMega = uint64_t{1} << 20;
  CHECK(default_memory_limit(1000, 4) < 300 * kMega);
  CHECK(default_memory_limit(100 * kMega, 4) > 1000 * kMega);
  CHECK(default_memory_limit(1000, 24 * kMega) > 1000 * kMega);
  CHECK(default_memory_limit(UINT64_MAX, UINT64_MAX) == default_memory_limit(0, 0));
  const std::vector<NamedTensor> one = {feed("x", {1}, {1})};
  Session small(doubling_model(20, 1000));
  CHECK(floats(small.run(one)[0]) == std::vector<float>{2});
  Session bomb(doubling_model(40, 1000));
  CHECK_THAT(message_of([&] { bomb.run(one); }, ErrorCode::unsupported),
             Catch::Contains("--max-memory"));
}

TEST_CASE("constants are folded in proportion to the file") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {1});
  ValueId many = b.constant(Tensor::from<float>({1}, {2}));
  for (int i = 0; i < 26; ++i) {
    many = b.op("Concat", {many, many}, {attr("axis", int64_t{0})});
  }
  b.output(b.op("Add", {x, b.op("ReduceMax", {many}, {attr("keepdims", int64_t{0})})}), "y");
  Model model = std::move(b).model();
  model.file_bytes = 1000;
  uint64_t left = runtime::foldable_bytes(model);
  const uint64_t before = left;
  runtime::fold_constants(model.graph, model, false, left);
  uint64_t held = 0;
  for (ValueId id = 0; id < model.graph.value_slots(); ++id) {
    if (model.graph.value(id).is_constant()) held += model.graph.value(id).constant.bytes();
  }
  CHECK(held > before / 4);
  CHECK(held <= before + 4);
}

TEST_CASE("values are observed under their names, views included") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {2, 2});
  const ValueId relu = b.op("Relu", {x});
  const ValueId flat = b.op("Flatten", {relu}, {attr("axis", int64_t{0})});
  b.output(b.op("Neg", {flat}), "y");
  Model model = std::move(b).model();
  SessionOptions options;
  options.observed = {model.graph.value(relu).name, model.graph.value(flat).name, "x", "y"};
  for (const bool lower : {false, true}) {
    options.lower = lower;
    Session session(model, options);
    std::map<std::string, Shape> seen;
    session.run(std::vector<NamedTensor>{feed("x", {2, 2}, {-1, 2, -3, 4})},
                [&](const std::string& name, const TensorView& view) {
                  CHECK(seen.emplace(name, view.shape).second);
                  if (name == "y") CHECK(view.as<float>()[3] == -4);
                });
    CHECK(seen.size() == 4);
    CHECK(seen[model.graph.value(flat).name] == Shape{1, 4});
  }
}

TEST_CASE("float64 runs of a float32 model") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {1});
  b.output(b.op("Add", {x, b.constant(Tensor::scalar<float>(1))}), "y");
  const Model model = std::move(b).model();
  SessionOptions options;
  options.as_double = true;
  Session session(model, options);
  const std::vector<NamedTensor> feeds = {{"x", Tensor::from<double>({1}, {1e-12})}};
  const std::vector<Tensor> out = session.run(feeds);
  REQUIRE(out[0].dtype() == DType::float64);
  CHECK(out[0].to_double() > 1.0);
}

// --- Control flow --------------------------------------------------------------------------------

std::shared_ptr<Graph> share(GraphBuilder& b) { return std::make_shared<Graph>(b.graph()); }

NodeId add_with_bodies(Graph& graph, Node node, const std::vector<std::string>& outputs) {
  for (const std::string& name : outputs) node.outputs.push_back(graph.add_value(name, {}));
  return graph.add_node_raw(std::move(node));
}

TEST_CASE("If runs the branch that its condition takes") {
  GraphBuilder b;
  Graph& graph = b.graph();
  const ValueId x = b.input("x", DType::float32, {2});
  const ValueId c = b.input("c", DType::boolean, {});
  Node node;
  node.op_type = "If";
  node.name = "choice";
  node.inputs = {c};
  for (const char* branch : {"then_branch", "else_branch"}) {
    GraphBuilder inner;
    const ValueId captured = inner.graph().add_capture("x", {DType::float32, true, {2}});
    inner.output(inner.op(branch[0] == 't' ? "Neg" : "Exp", {captured}), "out");
    node.bodies.push_back({branch, share(inner), {{x, captured}}});
  }
  const NodeId id = add_with_bodies(graph, node, {"r"});
  b.output(b.op("Relu", {graph.node(id).outputs[0]}), "y");
  Session session(std::move(b).model());
  for (const bool condition : {true, false, true}) {
    const std::vector<Tensor> out = session.run(
        std::vector<NamedTensor>{feed("x", {2}, {-2, 0}), {"c", Tensor::scalar<bool>(condition)}});
    CHECK(floats(out[0])[0] == Approx(condition ? 2.0 : std::exp(-2.0)));
  }
}

TEST_CASE("Loop carries, stacks and stops") {
  // carried += captured; stack it; go on while carried < 10.
  GraphBuilder b;
  Graph& graph = b.graph();
  const ValueId trips = b.input("m", DType::int64, {});
  const ValueId start = b.input("x", DType::float32, {});
  const ValueId step = b.input("s", DType::float32, {});
  GraphBuilder inner;
  inner.input("i", DType::int64, {});
  inner.input("go", DType::boolean, {});
  const ValueId carried = inner.input("v", DType::float32, {});
  const ValueId captured = inner.graph().add_capture("s", {DType::float32, true, {}});
  const ValueId next = inner.op("Add", {carried, captured});
  inner.output(inner.op("Less", {next, inner.constant(Tensor::scalar<float>(10))}), "more");
  inner.output(next, "next");
  const ValueId scanned = inner.op("Neg", {next});
  inner.graph().set_type(scanned, {DType::float32, true, {}});
  inner.output(scanned, "scan");
  Node node;
  node.op_type = "Loop";
  node.name = "loop";
  node.inputs = {trips, kNoValue, start};
  node.bodies.push_back({"body", share(inner), {{step, captured}}});
  const NodeId id = add_with_bodies(graph, node, {"last", "all"});
  b.output(graph.node(id).outputs[0], "last");
  b.output(graph.node(id).outputs[1], "all");
  Session session(std::move(b).model());
  const auto run = [&](int64_t m, float s) {
    return session.run(std::vector<NamedTensor>{
        {"m", Tensor::scalar<int64_t>(m)}, feed("x", {}, {0}), feed("s", {}, {s})});
  };
  std::vector<Tensor> out = run(100, 4);  // 4, 8, 12
  CHECK(floats(out[0]) == std::vector<float>{12});
  CHECK(floats(out[1]) == std::vector<float>{-4, -8, -12});
  out = run(2, 4);
  CHECK(floats(out[1]) == std::vector<float>{-4, -8});
  out = run(0, 4);
  CHECK(floats(out[0]) == std::vector<float>{0});
  CHECK(out[1].shape() == Shape{0});
}

// A loop that stacks `width` numbers in each of 2^62 iterations.
Model endless_loop(int64_t width) {
  GraphBuilder b;
  Graph& graph = b.graph();
  const ValueId trips = b.constant(Tensor::scalar<int64_t>(int64_t{1} << 62));
  const ValueId start = b.input("x", DType::float32, {width});
  GraphBuilder inner;
  inner.input("i", DType::int64, {});
  const ValueId going = inner.input("go", DType::boolean, {});
  const ValueId carried = inner.input("v", DType::float32, {width});
  inner.output(inner.op("Identity", {going}), "more");
  inner.output(inner.op("Neg", {carried}), "next");
  if (width > 1) inner.output(inner.op("Abs", {carried}), "scan");
  Node node;
  node.op_type = "Loop";
  node.inputs = {trips, kNoValue, start};
  node.bodies.push_back({"body", share(inner), {}});
  std::vector<std::string> outputs = {"last"};
  if (width > 1) outputs.push_back("all");
  const NodeId id = add_with_bodies(graph, node, outputs);
  for (size_t i = 0; i < outputs.size(); ++i) b.output(graph.node(id).outputs[i], outputs[i]);
  return std::move(b).model();
}

TEST_CASE("a loop that does not end is ended by the clock, or by what it stacks") {
  SessionOptions options;
  options.max_loop_seconds = 0.05;
  Session loop(endless_loop(1), options);
  const auto start = std::chrono::steady_clock::now();
  CHECK_THAT(message_of([&] { loop.run(std::vector<NamedTensor>{feed("x", {1}, {1})}); },
                        ErrorCode::unsupported),
             Catch::Contains("do not end") && Catch::Contains("'last' (Loop)"));
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  CHECK(taken.count() < 20);

  options.max_loop_seconds = 1000;
  options.max_memory = 1 << 20;
  Session stacking(endless_loop(64), options);
  const NamedTensor wide = feed("x", {64}, std::vector<float>(64, 1));
  CHECK_THAT(
      message_of([&] { stacking.run(std::vector<NamedTensor>{wide}); }, ErrorCode::unsupported),
      Catch::Contains("--max-memory"));
}

TEST_CASE("Scan slices, reverses and stacks along any axis") {
  // state += column; output state.
  GraphBuilder b;
  Graph& graph = b.graph();
  const ValueId init = b.input("init", DType::float32, {2});
  const ValueId x = b.input("x", DType::float32, {2, 3});
  GraphBuilder inner;
  const ValueId state = inner.input("state", DType::float32, {2});
  const ValueId column = inner.input("column", DType::float32, {2});
  const ValueId next = inner.op("Add", {state, column});
  inner.output(next, "next");
  inner.output(inner.op("Identity", {next}), "scan");
  Node node;
  node.op_type = "Scan";
  node.name = "scan";
  node.inputs = {init, x};
  node.attributes = {attr("num_scan_inputs", int64_t{1}),
                     attr("scan_input_axes", std::vector<int64_t>{1}),
                     attr("scan_input_directions", std::vector<int64_t>{1}),
                     attr("scan_output_axes", std::vector<int64_t>{-1})};
  node.bodies.push_back({"body", share(inner), {}});
  const NodeId id = add_with_bodies(graph, node, {"last", "all"});
  b.output(graph.node(id).outputs[0], "last");
  b.output(graph.node(id).outputs[1], "all");
  Session session(std::move(b).model());
  const std::vector<Tensor> out = session.run(std::vector<NamedTensor>{
      feed("init", {2}, {0, 100}), feed("x", {2, 3}, {1, 2, 3, 10, 20, 30})});
  CHECK(floats(out[0]) == std::vector<float>{6, 160});
  REQUIRE(out[1].shape() == Shape{2, 3});
  CHECK(floats(out[1]) == std::vector<float>{3, 5, 6, 130, 150, 160});
}

TEST_CASE("what follows a data-dependent shape runs late") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {-1});
  const ValueId places = b.op("NonZero", {x});
  const ValueId rows = b.op("Transpose", {places});
  const ValueId picked = b.op("GatherND", {x, rows});
  b.output(b.op("Neg", {picked}), "y");
  Session session(std::move(b).model());
  CHECK(floats(session.run(std::vector<NamedTensor>{feed("x", {4}, {0, 2, 0, 4})})[0]) ==
        std::vector<float>{-2, -4});
  CHECK(floats(session.run(std::vector<NamedTensor>{feed("x", {4}, {1, 2, 0, 4})})[0]) ==
        std::vector<float>{-1, -2, -4});
}

// --- Functions -----------------------------------------------------------------------------------

Function make_function(const std::string& name, GraphBuilder& body, std::vector<std::string> inputs,
                       std::vector<std::string> attributes = {}) {
  Function function;
  function.domain = "local";
  function.name = name;
  function.inputs = std::move(inputs);
  function.outputs = {"y"};
  function.attributes = std::move(attributes);
  function.opsets = {{"", 17}, {"local", 1}};
  function.graph = std::make_shared<Graph>(body.graph());
  return function;
}

TEST_CASE("model-local functions are inlined with their attributes") {
  GraphBuilder leaky;
  const ValueId in = leaky.input("x", DType::undefined, {});
  const ValueId out = leaky.op("LeakyRelu", {in}, {attr("alpha", ReferenceAttribute{"slope", ""})});
  leaky.output(out, "y");
  GraphBuilder twice;
  const ValueId first = twice.input("x", DType::undefined, {});
  const std::vector<Attribute> slope = {attr("slope", 0.5f)};
  twice.output(twice.op("Leaky", {twice.op("Leaky", {first}, slope, "local")}, slope, "local"),
               "y");

  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {2});
  b.output(b.op("Twice", {x}, {}, "local"), "result");
  Model model = std::move(b).model(17);
  model.opsets["local"] = 1;
  model.functions.push_back(make_function("Leaky", leaky, {"x"}, {"slope"}));
  model.functions.push_back(make_function("Twice", twice, {"x"}));
  Session session(model);
  CHECK(session.output_names() == std::vector<std::string>{"result"});
  CHECK(floats(session.run(std::vector<NamedTensor>{feed("x", {2}, {-4, 4})})[0]) ==
        std::vector<float>{-1, 4});
}

TEST_CASE("functions that multiply are told from a large model") {
  // f9 calls f8 ten times, which calls f7 ten times...
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {2});
  b.output(b.op("f9", {x}, {}, "local"), "result");
  Model model = std::move(b).model(17);
  model.opsets["local"] = 1;
  for (int i = 0; i < 10; ++i) {
    GraphBuilder body;
    ValueId at = body.input("x", DType::undefined, {});
    for (int k = 0; k < 10; ++k) {
      at = i == 0 ? body.op("Relu", {at}) : body.op("f" + std::to_string(i - 1), {at}, {}, "local");
    }
    body.output(at, "y");
    model.functions.push_back(make_function("f" + std::to_string(i), body, {"x"}));
  }
  CHECK(max_inlined_nodes(model) == 50'000 + 20 * 101);
  CHECK_THAT(message_of([&] { Session session(model); }, ErrorCode::unsupported),
             Catch::Contains("more than 52020 nodes"));
}

TEST_CASE("nodes without a name are told by what they make") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {2});
  const ValueId y = b.op("Relu", {x});
  b.output(b.op("Reluu", {y}), "z");
  Model model = std::move(b).model();
  for (const NodeId id : std::vector<NodeId>(model.graph.order())) model.graph.edit(id).name = "";
  const Node& last = model.graph.node(model.graph.order().back());
  CHECK(label(model.graph, last) == "Reluu -> z");
  CHECK(describe(model.graph, last) == "the Reluu that makes 'z'");
  CHECK_THAT(message_of([&] { Session session(model); }, ErrorCode::unsupported),
             Catch::Contains("node 'z'"));
  model.graph.edit(model.graph.order().back()).op_type = "Abs";
  Session session(model);
  session.run(std::vector<NamedTensor>{feed("x", {2}, {1, 2})});
  for (const KernelRecord& record : session.kernels()) CHECK(record.node != "");
}

TEST_CASE("a function that calls itself is refused") {
  GraphBuilder body;
  const ValueId in = body.input("x", DType::undefined, {});
  body.output(body.op("Again", {in}, {}, "local"), "y");
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {2});
  b.output(b.op("Again", {x}, {}, "local"), "result");
  Model model = std::move(b).model(17);
  model.opsets["local"] = 1;
  model.functions.push_back(make_function("Again", body, {"x"}));
  CHECK_THAT(message_of([&] { Session session(model); }, ErrorCode::invalid_model),
             Catch::Contains("calls itself"));
}

TEST_CASE("an initializer that is also an input may be fed") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {1});
  const ValueId w = b.constant(Tensor::from<float>({1}, {2}), "w");
  b.graph().list_as_input(w);
  b.output(b.op("Mul", {x, b.op("Neg", {w})}), "y");
  Session session(std::move(b).model());
  CHECK(session.inputs().size() == 1);
  const auto run = [&](std::vector<NamedTensor> feeds) { return floats(session.run(feeds)[0])[0]; };
  CHECK(run({feed("x", {1}, {3})}) == -6);
  CHECK(run({feed("x", {1}, {3}), feed("w", {1}, {5})}) == -15);
  CHECK(run({feed("x", {1}, {3})}) == -6);
}

TEST_CASE("the arena reuses what has died") {
  runtime::ArenaLayout layout;
  const uint64_t a = layout.allocate(100);
  const uint64_t b = layout.allocate(1000);
  const uint64_t c = layout.allocate(64);
  layout.release(a);
  CHECK(layout.allocate(128) == a);
  layout.release(b);
  layout.release(c);
  CHECK(layout.allocate(1088) == b);  // the gaps of b and c were joined
  CHECK(layout.peak() == 128 + 1024 + 64);
}

TEST_CASE("one node on constants") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {2});
  const ValueId y = b.op("Add", {x, x});
  b.output(y, "y");
  const Model model = std::move(b).model();
  const Node& node = model.graph.node(model.graph.value(y).producer);
  const Tensor in = Tensor::from<float>({2}, {1, 2});
  const std::vector<Tensor> out = evaluate(node, model, std::vector<Tensor>{in, in});
  CHECK(floats(out[0]) == std::vector<float>{2, 4});
  CHECK_THROWS_AS(evaluate(node, model, std::vector<Tensor>{in, in}, 4), Error);
}

TEST_CASE("random feeds are plausible and seeded") {
  GraphBuilder b;
  b.input("input_ids", DType::int64, {-1, 8});
  b.input("attention_mask", DType::int64, {-1, 8});
  b.input("position_ids", DType::int64, {-1, 8});
  b.input("picture", DType::float32, {-1, 3, -1, 32});
  b.input("last", DType::float32, {-1, -1, -1, 3});
  const Model model = std::move(b).model();
  const std::vector<NamedTensor> a = random_feed(model, {}, 7, 2);
  const std::vector<NamedTensor> again = random_feed(model, {}, 7, 2);
  CHECK(a[0].tensor.shape() == Shape{2, 8});
  CHECK(same_content(a[0].tensor, again[0].tensor));
  CHECK_FALSE(same_content(a[0].tensor, random_feed(model, {}, 8, 2)[0].tensor));
  for (const int64_t id : a[0].tensor.to_ints()) CHECK((id >= 0 && id < 100));
  CHECK(a[1].tensor.to_ints() == std::vector<int64_t>(16, 1));
  CHECK(a[2].tensor.to_ints()[15] == 7);
  CHECK(a[3].tensor.shape() == Shape{2, 3, 224, 32});
  CHECK(a[4].tensor.shape() == Shape{2, 224, 224, 3});
}

TEST_CASE("no noise is made for what has no shape, or is out of all proportion") {
  GraphBuilder open;
  open.graph().add_input("x", {DType::float32, false, {}});
  const Model shapeless = std::move(open).model();
  CHECK_THAT(message_of([&] { random_feed(shapeless, {}, 0); }, ErrorCode::unsupported),
             Catch::Contains("what shape its input 'x' has"));
  CHECK(random_feed(shapeless, {{"x", {2, 3}}}, 0)[0].tensor.shape() == Shape{2, 3});
  GraphBuilder huge;
  huge.input("x", DType::float32, {1, 3, 30000, 30000});
  Model model = std::move(huge).model();
  model.file_bytes = 1000;
  CHECK_THAT(message_of([&] { random_feed(model, {}, 0); }, ErrorCode::unsupported),
             Catch::Contains("[1,3,30000,30000]"));
}

}  // namespace
}  // namespace compress
