#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <random>
#include <set>

#include "compress/error.h"
#include "compress/runtime/inline.h"
#include "compress/runtime/session.h"
#include "compress/train/autograd.h"
#include "compress/train/gradient.h"
#include "formats/onnx.h"
#include "gradient_cases.h"

namespace compress {
namespace {

using test::GradientCase;
using test::Operand;

// The sum over all outputs of each times fixed random weights: a loss that sees every element.
struct Built {
  Model model;
  std::vector<ValueId> parameters;
  std::vector<NamedTensor> feeds;
};

Built build(const GradientCase& c) {
  GraphBuilder b;
  Built built;
  std::vector<ValueId> inputs;
  for (const Operand& operand : c.inputs) {
    if (operand.kind == Operand::omitted) {
      inputs.push_back(kNoValue);
    } else if (operand.kind == Operand::constant) {
      inputs.push_back(b.constant(operand.tensor));
    } else {
      const std::string name = "p" + std::to_string(built.parameters.size());
      inputs.push_back(b.graph().add_input(name, {DType::float64, true, operand.tensor.shape()}));
      built.parameters.push_back(inputs.back());
      built.feeds.push_back({name, operand.tensor});
    }
  }
  const std::vector<ValueId> outputs = b.op_n(c.op, c.outputs, inputs, c.attributes, c.domain);
  const bool statistics = c.op == "BatchNormalization";
  ValueId loss = kNoValue;
  for (size_t i = 0; i < (statistics ? 1 : outputs.size()); ++i) {
    b.graph().add_output(outputs[i]);
  }
  Model model = std::move(b).model(c.domain.empty() ? c.opset : 18);
  infer_types(model);
  std::mt19937 generator(5);
  std::uniform_real_distribution<double> uniform(-1, 1);
  // Weights need the shapes, so they are added once these are known.
  const auto append = [&](const char* op, std::vector<ValueId> of, std::vector<Attribute> attrs) {
    NodeSpec spec{op, std::move(of), {"loss"}, std::move(attrs)};
    spec.attributes.push_back(attr("compress_opset", int64_t{18}));
    return model.graph.node(model.graph.add(std::move(spec))).outputs[0];
  };
  for (const ValueId output :
       std::vector<ValueId>(model.graph.outputs().begin(), model.graph.outputs().end())) {
    const TypeInfo& type = model.graph.value(output).type;
    REQUIRE(type.is_concrete());
    Tensor weights = Tensor::allocate(DType::float64, type.shape);
    for (double& w : weights.mutable_as<double>()) w = uniform(generator);
    const ValueId part =
        append("ReduceSum", {append("Mul", {output, model.graph.add_constant("w", weights)}, {})},
               {attr("keepdims", int64_t{0})});
    loss = loss == kNoValue ? part : append("Add", {loss, part}, {});
  }
  model.graph.set_output(0, loss);
  built.model = std::move(model);
  return built;
}

double run_loss(Session& session, const std::vector<NamedTensor>& feeds) {
  return session.run(feeds)[0].to_double();
}

Tensor moved(const Tensor& tensor, int64_t at, double by) {
  std::vector<double> values = tensor.to_doubles();
  values[static_cast<size_t>(at)] += by;
  return Tensor::from<double>(tensor.shape(), std::span<const double>(values));
}

void check_case(const GradientCase& c) {
  Built built = build(c);
  SessionOptions plain;
  plain.as_double = true;
  Session forward(built.model, plain);

  Model model = built.model;
  model.operator_function = onnx_operator_function;
  runtime::expand_operators(model, train::operators_by_body());
  infer_types(model);
  const ValueId loss = model.graph.outputs()[0];
  const std::vector<ValueId> gradients = train::append_backward(model, loss, built.parameters);
  for (const ValueId id : gradients) {
    if (id != kNoValue) model.graph.add_output(id);
  }
  Session backward(model, plain);
  const std::vector<Tensor> results = backward.run(built.feeds);
  const size_t outputs = built.model.graph.outputs().size();
  size_t next = outputs;
  for (size_t p = 0; p < built.parameters.size(); ++p) {
    const Tensor& at = built.feeds[p].tensor;
    std::vector<double> found(static_cast<size_t>(at.count()), 0.0);
    if (gradients[p] != kNoValue) {
      REQUIRE(results[next].shape() == at.shape());
      found = results[next++].to_doubles();
    }
    for (int64_t i = 0; i < at.count(); ++i) {
      constexpr double kStep = 1e-5;
      std::vector<NamedTensor> feeds = built.feeds;
      feeds[p].tensor = moved(at, i, kStep);
      const double above = run_loss(forward, feeds);
      feeds[p].tensor = moved(at, i, -kStep);
      const double wanted = (above - run_loss(forward, feeds)) / (2 * kStep);
      CAPTURE(c.op, p, i, wanted, found[static_cast<size_t>(i)]);
      const double scale = std::max(std::abs(wanted), 1e-2);
      REQUIRE(std::abs(found[static_cast<size_t>(i)] - wanted) <= 1e-4 * scale);
    }
  }
}

// Straight-through rows have no finite difference: they are tested by their formula below.
const std::set<std::string_view> kStraightThrough = {"QuantizeLinear", "DequantizeLinear"};

}  // namespace

TEST_CASE("gradients agree with central differences") {
  for (const GradientCase& c : test::gradient_cases()) {
    DYNAMIC_SECTION(c.domain << (c.domain.empty() ? "" : ".") << c.op << " opset " << c.opset
                             << " inputs " << c.inputs.size() << " attributes "
                             << c.attributes.size()) {
      check_case(c);
    }
  }
}

TEST_CASE("every gradient row has a case") {
  std::set<std::pair<std::string, std::string>> tested;
  for (const GradientCase& c : test::gradient_cases()) tested.emplace(c.domain, c.op);
  for (const auto& family : train::gradient_families()) {
    for (const train::GradientDef& row : family) {
      if (kStraightThrough.contains(row.name)) continue;
      CAPTURE(row.name);
      CHECK(tested.count({std::string(row.domain), std::string(row.name)}) == 1);
    }
  }
  for (const std::string_view name : train::operators_by_body()) {
    CAPTURE(name);
    CHECK(tested.count({"", std::string(name)}) == 1);
  }
}

TEST_CASE("a value with several readers gets the sum of their gradients") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float64, {3});
  const ValueId y = b.op("Mul", {b.op("Add", {x, x}), x});  // 2 x^2
  b.output(b.op("ReduceSum", {b.op("Add", {y, x})}, {attr("keepdims", int64_t{0})}), "loss");
  Model model = std::move(b).model(18);
  const ValueId parameters[] = {x};
  const ValueId gradient = train::append_backward(model, model.graph.outputs()[0], parameters)[0];
  model.graph.add_output(gradient);
  Session session(model);
  const NamedTensor feed{"x", Tensor::from<double>({3}, {1.0, -2.0, 0.5})};
  CHECK(session.run({&feed, 1})[1].to_doubles() == std::vector<double>{5, -7, 3});
}

TEST_CASE("a parameter that the loss does not read has no gradient") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {3});
  const ValueId z = b.input("z", DType::float32, {3});
  b.output(b.op("ReduceSum", {x}), "loss");
  b.output(b.op("Relu", {z}), "other");
  Model model = std::move(b).model(18);
  const ValueId parameters[] = {x, z};
  const auto gradients = train::append_backward(model, model.graph.outputs()[0], parameters);
  CHECK(gradients[0] != kNoValue);
  CHECK(gradients[1] == kNoValue);
}

TEST_CASE("all nodes without a derivative are named, and the graph is left alone") {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {3, 3});
  const ValueId y = b.op("Det", {b.op("Hardmax", {x})});
  b.output(y, "loss");
  Model model = std::move(b).model(18);
  for (const NodeId id : model.graph.order()) {
    model.graph.edit(id).name = "my" + model.graph.node(id).op_type;
  }
  const std::string before = print_graph(model.graph);
  const ValueId parameters[] = {x};
  try {
    train::append_backward(model, model.graph.outputs()[0], parameters);
    FAIL("accepted");
  } catch (const Error& error) {
    CHECK(error.message().find("'myHardmax' (Hardmax)") != std::string::npos);
    CHECK(error.message().find("'myDet' (Det)") != std::string::npos);
  }
  CHECK(model.graph.node_count() == 2);
}

TEST_CASE("quantization passes gradients straight through, and to its scale as LSQ says") {
  // q = x / s = -3, -1.2, 0.4, 1.7, 9 with int4-like bounds [-128, 127] and s = 0.5.
  const std::vector<double> xs = {-100, -0.6, 0.2, 0.85, 80};
  const double s = 0.5;
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float64, {5});
  const ValueId scale = b.input("s", DType::float64, {});
  const ValueId zero = b.constant(Tensor::scalar<int8_t>(0));
  const ValueId y =
      b.op("DequantizeLinear", {b.op("QuantizeLinear", {x, scale, zero}), scale, zero});
  b.output(b.op("ReduceSum", {y}, {attr("keepdims", int64_t{0})}), "loss");
  Model model = std::move(b).model(19);
  const ValueId parameters[] = {x, scale};
  const auto gradients = train::append_backward(model, model.graph.outputs()[0], parameters);
  for (const ValueId id : gradients) model.graph.add_output(id);
  // The forward pass in float64 is beside the point; the gradient nodes alone are run.
  model.graph.set_output(0, gradients[0]);
  Session session(model);
  const NamedTensor feeds[] = {{"x", Tensor::from<double>({5}, std::span<const double>(xs))},
                               {"s", Tensor::scalar(s)}};
  const std::vector<Tensor> results = session.run(feeds);
  CHECK(results[0].to_doubles() == std::vector<double>{0, 1, 1, 1, 0});
  double wanted = -128 + 127;
  for (const size_t i : {size_t{1}, size_t{2}, size_t{3}}) {
    wanted += std::nearbyint(xs[i] / s) - xs[i] / s;
  }
  CHECK(results[2].to_double() == Approx(wanted));
}

}  // namespace compress
