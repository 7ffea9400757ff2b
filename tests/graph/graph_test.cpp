#include <algorithm>
#include <catch2/catch.hpp>
#include <chrono>

#include "compress/error.h"
#include "compress/graph/builder.h"

using namespace compress;

namespace {

Graph chain(int length) {
  GraphBuilder b;
  ValueId x = b.input("x", DType::float32, {4});
  for (int i = 0; i < length; ++i) x = b.op("Relu", {x});
  b.output(x, "y");
  return std::move(b.graph());
}

}  // namespace

TEST_CASE("uses follow every edit") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {2});
  const ValueId w = b.constant(Tensor::from<float>({2}, {1, 2}), "w");
  const ValueId sum = b.op("Add", {x, w});
  const ValueId square = b.op("Mul", {sum, sum});
  b.output(square, "y");
  Graph& g = b.graph();
  check_graph(g);
  CHECK(g.uses(sum).size() == 2);

  const NodeId relu = g.insert_before(g.value(square).producer, {"Relu", {sum}, {"relu"}});
  const ValueId activated = g.node(relu).outputs[0];
  g.set_input(g.value(square).producer, 1, activated);
  check_graph(g);
  CHECK(g.uses(sum).size() == 2);
  CHECK(g.uses(activated).size() == 1);
  const auto order = g.order();
  CHECK(std::find(order.begin(), order.end(), relu) <
        std::find(order.begin(), order.end(), g.value(square).producer));

  g.replace_uses(activated, sum);
  g.erase(relu);
  check_graph(g);
  CHECK_FALSE(g.node(relu).alive);
  CHECK_THROWS_AS(g.erase(g.value(sum).producer), Error);

  g.set_constant(sum, Tensor::from<float>({2}, {3, 4}));
  CHECK(g.value(sum).producer == kNoNode);
  check_graph(g);
}

TEST_CASE("a graph output keeps its name when its value is replaced") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {2});
  const ValueId relu = b.op("Relu", {x});
  const ValueId same = b.op("Identity", {relu});
  b.output(same, "y");
  Graph& g = b.graph();
  g.replace_uses(same, relu);
  g.erase(g.value(same).producer);
  check_graph(g);
  REQUIRE(g.outputs().size() == 1);
  CHECK(g.outputs()[0] == relu);
  CHECK(g.value(relu).name == "y");

  GraphBuilder c;  // an output cannot take the name of an input
  const ValueId input = c.input("x", DType::float32, {2});
  const ValueId copy = c.op("Identity", {input});
  c.output(copy, "y");
  c.graph().replace_uses(copy, input);
  CHECK(c.graph().outputs()[0] == copy);
}

TEST_CASE("a copy has the same ids and is independent, bodies included") {
  auto body = std::make_shared<Graph>();
  const ValueId inner = body->add_capture("x", {});
  const NodeId relu = body->add({"Relu", {inner}, {"r"}});
  body->add_output(body->node(relu).outputs[0]);

  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {2});
  const ValueId condition = b.input("c", DType::boolean, {});
  Node node;
  node.op_type = "If";
  node.inputs = {condition};
  node.outputs = {b.graph().add_value("y", {})};
  node.bodies = {{"then_branch", body, {{x, inner}}}};
  b.graph().add_node_raw(node);
  b.graph().add_output(node.outputs[0]);
  check_graph(b.graph());
  CHECK(b.graph().uses(x).size() == 1);

  Graph copy = b.graph();
  CHECK(same_graph(copy, b.graph()));
  CHECK(copy.node(0).bodies[0].graph != b.graph().node(0).bodies[0].graph);
  const ValueId z = copy.add_input("z", {DType::float32, true, {2}});
  copy.replace_uses(x, z);
  check_graph(copy);
  CHECK(copy.uses(x).empty());
  CHECK(b.graph().uses(x).size() == 1);
  CHECK(copy.node(0).bodies[0].captures[0].outer == z);
  CHECK_FALSE(same_graph(copy, b.graph()));
}

TEST_CASE("compaction keeps what is used, under new ids, bodies included") {
  const auto build = [](bool with_waste) {
    auto body = std::make_shared<Graph>();
    const auto waste = [&](Graph& graph) {
      if (!with_waste) return;
      graph.add_constant("waste", Tensor::from<float>({1}, {7}));
      const ValueId relu = graph.node(graph.add({"Relu", {0}, {"dead"}})).outputs[0];
      graph.erase(graph.value(relu).producer);
    };
    const ValueId unread = body->add_capture("unread", {});
    waste(*body);
    const ValueId inner = body->add_capture("x", {});
    const NodeId tanh = body->add({"Tanh", {inner}, {"r"}});
    body->add_output(body->node(tanh).outputs[0]);

    GraphBuilder b;
    const ValueId condition = b.input("c", DType::boolean, {});
    waste(b.graph());
    const ValueId x = b.input("x", DType::float32, {2});
    const ValueId sum = b.op("Add", {x, b.constant(Tensor::from<float>({2}, {1, 2}), "w")});
    Node node;
    node.op_type = "If";
    node.inputs = {condition};
    node.outputs = {b.graph().add_value("y", {})};
    node.bodies = {{"then_branch", body, {{x, unread}, {sum, inner}}}};
    b.graph().add_node_raw(node);
    waste(b.graph());
    b.graph().add_output(node.outputs[0]);
    return std::move(b.graph());
  };
  Graph graph = build(true);
  const Graph lean = build(false);
  const ValueId x = graph.find_value("x");
  const std::vector<ValueId> moved = graph.compact();
  check_graph(graph);
  CHECK(same_graph(graph, lean));
  CHECK(graph.value_slots() == lean.value_slots());
  CHECK(graph.node_slots() == lean.node_slots());
  CHECK(graph.find_value("waste") == kNoValue);
  CHECK(moved[static_cast<size_t>(x)] == graph.find_value("x"));
  const Body& body = graph.node(graph.order().back()).bodies[0];
  check_graph(*body.graph);
  CHECK(body.graph->value(body.captures[1].inner).name == "x");
  CHECK(body.graph->value_slots() == 3);
  graph.add({"Relu", {graph.find_value("x")}, {"waste"}});  // names and ids are free again
  check_graph(graph);
}

TEST_CASE("cycles and doubled names are refused") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {2});
  const ValueId first = b.op("Relu", {x});
  const ValueId second = b.op("Relu", {first});
  b.graph().set_input(b.graph().value(first).producer, 0, second);
  CHECK_THROWS_AS(b.graph().order(), Error);
  CHECK_THROWS_AS(b.graph().add_input("x", {}), Error);
}

TEST_CASE("same_graph sees attributes, constants and wiring, not names or order") {
  const auto build = [](float w, int64_t axis, bool swapped) {
    GraphBuilder b;
    const ValueId x = b.input("x", DType::float32, {2, 2});
    const ValueId c = b.constant(Tensor::from<float>({2}, {w, 2}), swapped ? "other" : "c");
    ValueId left = kNoValue;
    ValueId right = kNoValue;
    if (swapped) right = b.op("Softmax", {x}, {attr("axis", axis)});
    left = b.op("Mul", {x, c});
    if (!swapped) right = b.op("Softmax", {x}, {attr("axis", axis)});
    b.output(b.op("Add", {left, right}), "y");
    return std::move(b.graph());
  };
  CHECK(same_graph(build(1, 1, false), build(1, 1, true)));
  CHECK_FALSE(same_graph(build(1, 1, false), build(2, 1, false)));
  CHECK_FALSE(same_graph(build(1, 1, false), build(1, 0, false)));
}

TEST_CASE("long chains and wide fan-out stay linear") {
  using Clock = std::chrono::steady_clock;
  const auto seconds = [](auto&& work) {
    const auto start = Clock::now();
    work();
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  // A quadratic edit would take minutes at this size; the bound leaves a loaded machine room.
  CHECK(seconds([] {
          Graph g = chain(100'000);
          check_graph(g);
          for (NodeId id = 0; id < g.node_slots(); id += 2) {
            g.replace_uses(g.node(id).outputs[0], g.node(id).inputs[0]);
            if (g.is_unused(g.node(id).outputs[0])) g.erase(id);
          }
          CHECK(g.order().size() < 50'002);
        }) < 20);
  CHECK(seconds([] {
          GraphBuilder b;
          const ValueId x = b.input("x", DType::float32, {4});
          const ValueId w = b.constant(Tensor::from<float>({1}, {1}), "w");
          for (int i = 0; i < 10'000; ++i) b.output(b.op("Mul", {x, w}), "y" + std::to_string(i));
          Graph& g = b.graph();
          for (NodeId id = 0; id < g.node_slots(); ++id) g.set_input(id, 1, x);
          CHECK(g.uses(w).empty());
          check_graph(g);
        }) < 20);
}
