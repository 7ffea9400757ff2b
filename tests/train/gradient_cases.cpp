#include "gradient_cases.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <random>

#include "compress/ops/gradient_families.h"

namespace compress::test {
namespace {

using Ints = std::vector<int64_t>;

uint32_t last_seed = 0;
uint32_t next_seed() { return ++last_seed; }

// Values at least 0.05 apart from each other and from 0, so that no kink lies within a step.
Operand spread(const Shape& shape, double lo = -2, double hi = 2) {
  std::mt19937 generator(next_seed());
  const int64_t count = shape.count();
  std::vector<double> values(static_cast<size_t>(count));
  const double step = (hi - lo) / static_cast<double>(count);
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = lo + (static_cast<double>(i) + 0.5) * step + 0.003;
  }
  for (size_t i = values.size(); i > 1; --i) {
    std::swap(values[i - 1], values[generator() % i]);
  }
  return {Operand::parameter, Tensor::from<double>(shape, std::span<const double>(values))};
}

Operand ints(std::initializer_list<int64_t> values) {
  return {Operand::constant, Tensor::from<int64_t>({static_cast<int64_t>(values.size())}, values)};
}
Operand fixed(Tensor tensor) { return {Operand::constant, std::move(tensor)}; }
Operand frozen(Operand operand) { return {Operand::constant, std::move(operand.tensor)}; }
const Operand kOmitted{Operand::omitted, Tensor()};

Attribute list(const char* name, Ints values) { return attr(name, std::move(values)); }
Attribute number(const char* name, int64_t value) { return attr(name, value); }
Attribute real(const char* name, float value) { return attr(name, value); }
Attribute text(const char* name, const char* value) { return attr(name, std::string(value)); }

void add_elementwise(std::vector<GradientCase>& cases) {
  for (const char* op :
       {"Relu",      "LeakyRelu", "Elu",      "Selu",  "Celu", "Sigmoid", "Tanh", "HardSigmoid",
        "HardSwish", "Softplus",  "Softsign", "Mish",  "Erf",  "Exp",     "Abs",  "Sin",
        "Cos",       "Neg",       "Identity", "Floor", "Ceil", "Round",   "Sign"}) {
    cases.push_back({op, {spread({3, 7}, -4.2, 4.1)}});
  }
  for (const char* op : {"Log", "Sqrt", "Reciprocal"})
    cases.push_back({op, {spread({11}, 0.3, 3)}});
  cases.push_back({"Gelu", {spread({9})}, {}, "", 20});
  cases.push_back({"Gelu", {spread({9})}, {text("approximate", "tanh")}, "", 20});
  cases.push_back({"Gelu", {spread({9})}, {}, "com.microsoft", 1});
  cases.push_back({"FastGelu", {spread({9})}, {}, "com.microsoft", 1});
  cases.push_back({"QuickGelu", {spread({9})}, {}, "com.microsoft", 1});
  cases.push_back({"BiasGelu", {spread({2, 5}), spread({5})}, {}, "com.microsoft", 1});
  cases.push_back(
      {"Clip", {spread({13}), fixed(Tensor::scalar(-1.0)), fixed(Tensor::scalar(0.75))}});
  cases.push_back({"Clip", {spread({13})}, {real("min", -0.5f)}, "", 6});
  cases.push_back({"Dropout", {spread({6})}});
  cases.push_back({"Cast", {spread({6})}, {number("to", static_cast<int64_t>(DType::float64))}});
  cases.push_back({"CastLike", {spread({6}), frozen(spread({1}))}});
  cases.push_back({"Add", {spread({2, 3, 4}), spread({3, 1})}});
  cases.push_back({"Add", {spread({}), spread({2, 2})}});
  cases.push_back({"Sum", {spread({2, 3}), spread({3}), spread({2, 1})}});
  cases.push_back({"Mean", {spread({2, 3}), spread({3})}});
  cases.push_back({"Sub", {spread({4}), spread({2, 3, 4})}});
  cases.push_back({"Mul", {spread({2, 1, 4}), spread({3, 1})}});
  cases.push_back({"Div", {spread({2, 3}), spread({3}, 0.5, 2)}});
  cases.push_back({"Pow", {spread({2, 3}, 0.5, 2), spread({3}, 0.5, 3)}});
  cases.push_back({"Min", {spread({2, 5}), spread({5}, -1.9, 2.1), spread({2, 1}, -1.65, 1.9)}});
  cases.push_back({"Max", {spread({2, 5}), spread({5}, -1.9, 2.1)}});
  cases.push_back(
      {"Where",
       {fixed(Tensor::from<bool>({3}, {true, false, true})), spread({2, 3}), spread({2, 1})}});
  cases.push_back({"PRelu", {spread({2, 3, 4}), spread({3, 1})}});
  cases.push_back({"Mask",
                   {spread({4, 5}), fixed(Tensor::scalar<int64_t>(7))},
                   {real("ratio", 0.4f), number("seed", 3), number("id", 1)},
                   std::string(kGradientDomain),
                   1});
}

void add_products(std::vector<GradientCase>& cases) {
  cases.push_back({"MatMul", {spread({3, 4}), spread({4, 5})}});
  cases.push_back({"MatMul", {spread({2, 3, 4}), spread({4, 5})}});
  cases.push_back({"MatMul", {spread({2, 1, 3, 4}), spread({3, 4, 2})}});
  for (const int64_t ta : {0, 1}) {
    for (const int64_t tb : {0, 1}) {
      cases.push_back(
          {"Gemm",
           {spread(ta ? Shape{4, 3} : Shape{3, 4}), spread(tb ? Shape{5, 4} : Shape{4, 5}),
            spread({5})},
           {number("transA", ta), number("transB", tb), real("alpha", 1.5f), real("beta", 0.5f)}});
    }
  }
  const auto einsum = [&](const char* equation, std::vector<Operand> operands) {
    cases.push_back({"Einsum", std::move(operands), {text("equation", equation)}});
  };
  einsum("bij, bjk -> bik", {spread({2, 3, 4}), spread({2, 4, 2})});
  einsum("ij,jk", {spread({3, 4}), spread({4, 2})});
  einsum("bhd,bkd,k->hb", {spread({2, 3, 2}), spread({2, 4, 2}), spread({4})});
  cases.push_back({"Conv",
                   {spread({2, 3, 5, 6}), spread({4, 3, 3, 3}), spread({4})},
                   {list("pads", {1, 1, 1, 1})}});
  cases.push_back({"Conv",
                   {spread({2, 4, 7, 6}), spread({6, 2, 3, 2}), spread({6})},
                   {list("pads", {1, 0, 2, 1}), list("strides", {2, 1}), list("dilations", {1, 2}),
                    number("group", 2)}});
  cases.push_back({"Conv",
                   {spread({2, 3, 6, 6}), spread({3, 1, 3, 3})},
                   {number("group", 3), list("strides", {2, 2}), text("auto_pad", "SAME_UPPER")}});
  cases.push_back(
      {"Conv", {spread({2, 3, 9}), spread({2, 3, 3}), spread({2})}, {list("strides", {2})}});
  cases.push_back({"ConvTranspose",
                   {spread({2, 4, 3, 4}), spread({4, 3, 3, 2}), spread({6})},
                   {list("strides", {2, 2}), list("pads", {1, 0, 0, 1}), number("group", 2),
                    list("output_padding", {1, 0})}});
}

void add_reductions(std::vector<GradientCase>& cases) {
  for (const char* op : {"ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1",
                         "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp"}) {
    const bool sum = std::string(op) == "ReduceSum";
    cases.push_back({op, {spread({2, 3, 4}), ints({-1, 0})}, {number("keepdims", 0)}});
    cases.push_back({op, {spread({2, 3, 4}), ints({1})}});
    cases.push_back({op, {spread({2, 3})}, {number("keepdims", 0)}});
    if (!sum) cases.push_back({op, {spread({2, 3, 4})}, {list("axes", {1})}, "", 11});
  }
  for (const char* op : {"Softmax", "LogSoftmax"}) {
    cases.push_back({op, {spread({2, 3, 4})}, {number("axis", 1)}});
    cases.push_back({op, {spread({2, 3, 4})}, {number("axis", 1)}, "", 11});
  }
}

void add_movement(std::vector<GradientCase>& cases) {
  cases.push_back({"Reshape", {spread({2, 6}), ints({3, -1})}});
  cases.push_back({"Flatten", {spread({2, 3, 2})}});
  cases.push_back({"Squeeze", {spread({2, 1, 3}), ints({1})}});
  cases.push_back({"Unsqueeze", {spread({2, 3}), ints({0, 3})}});
  cases.push_back({"Transpose", {spread({2, 3, 4})}, {list("perm", {2, 0, 1})}});
  cases.push_back({"Transpose", {spread({2, 3})}});
  cases.push_back({"Expand", {spread({3, 1}), ints({2, 3, 4})}});
  cases.push_back(
      {"Concat", {spread({2, 3}), spread({2, 1}), spread({2, 2})}, {number("axis", -1)}});
  cases.push_back({"Split", {spread({2, 6}), ints({1, 3, 2})}, {number("axis", 1)}, "", 13, 3});
  cases.push_back(
      {"Slice", {spread({4, 6}), ints({3, 1}), ints({0, 6}), ints({0, 1}), ints({-1, 2})}});
  cases.push_back({"Pad", {spread({2, 4}), ints({0, 1, 1, 2})}});
  cases.push_back({"Pad", {spread({2, 4}), ints({0, -1, 0, 2})}});
  cases.push_back({"Pad", {spread({3, 4}), ints({1, 1, 0, 2})}, {text("mode", "reflect")}});
  cases.push_back({"Tile", {spread({2, 3}), ints({2, 2})}});
  cases.push_back({"DepthToSpace", {spread({1, 8, 2, 3})}, {number("blocksize", 2)}});
  cases.push_back({"SpaceToDepth", {spread({1, 2, 4, 6})}, {number("blocksize", 2)}});
  cases.push_back({"ReverseSequence",
                   {spread({4, 2, 3}), fixed(Tensor::from<int64_t>({2}, {3, 4}))},
                   {number("time_axis", 0), number("batch_axis", 1)}});
  cases.push_back({"Trilu", {spread({4, 4})}, {number("upper", 0)}});
  const Operand scales = fixed(Tensor::from<float>({4}, {1, 1, 2, 1.5}));
  cases.push_back({"Resize", {spread({1, 2, 3, 4}), kOmitted, scales}});
  cases.push_back({"Resize", {spread({1, 2, 4, 4}), kOmitted, kOmitted, ints({1, 2, 3, 2})}});
  cases.push_back({"Resize", {spread({1, 2, 3, 4}), kOmitted, scales}, {text("mode", "linear")}});
  cases.push_back({"Resize",
                   {spread({2, 1, 5, 4}), kOmitted, kOmitted, ints({2, 1, 3, 7})},
                   {text("mode", "linear"), number("antialias", 1)}});
  cases.push_back(
      {"Resize",
       {spread({1, 1, 4, 5}), kOmitted, kOmitted, ints({1, 1, 7, 3})},
       {text("mode", "cubic"), text("coordinate_transformation_mode", "align_corners")}});
  cases.push_back({"Upsample", {spread({1, 2, 3, 4}), scales}, {text("mode", "linear")}, "", 9});
  cases.push_back({"Upsample", {spread({1, 2, 3, 4}), scales}, {}, "", 9});
  cases.push_back(
      {"Gather", {spread({5, 3}), fixed(Tensor::from<int64_t>({2, 2}, {4, 0, -1, 2}))}});
  cases.push_back({"Gather",
                   {spread({2, 5, 3}), fixed(Tensor::from<int64_t>({3}, {1, 1, 4}))},
                   {number("axis", 1)}});
  cases.push_back({"GatherElements",
                   {spread({2, 4}), fixed(Tensor::from<int64_t>({2, 3}, {3, 0, 0, 1, 2, 1}))},
                   {number("axis", 1)}});
  const Operand rows = fixed(Tensor::from<int64_t>({3, 1}, {4, 0, 2}));
  const Operand twice = fixed(Tensor::from<int64_t>({3, 1}, {4, 0, 4}));
  cases.push_back({"GatherND", {spread({5, 2}), twice}});
  cases.push_back({"ScatterND", {spread({5, 2}), rows, spread({3, 2})}});
  cases.push_back(
      {"ScatterElements",
       {spread({2, 4}), fixed(Tensor::from<int64_t>({2, 2}, {3, 0, 1, 2})), spread({2, 2})},
       {number("axis", 1)}});
  cases.push_back({"CumSum", {spread({2, 4}), fixed(Tensor::scalar<int64_t>(1))}});
  cases.push_back({"CumSum",
                   {spread({2, 4}), fixed(Tensor::scalar<int64_t>(0))},
                   {number("exclusive", 1), number("reverse", 1)}});
}

// 5 steps of 2 sequences, 3 inputs, 4 hidden.
void add_recurrent(std::vector<GradientCase>& cases) {
  const auto add = [&](const char* op, int64_t gates, int64_t directions, bool whole,
                       std::vector<Attribute> attributes) {
    const bool batch_major = std::any_of(attributes.begin(), attributes.end(),
                                         [](const Attribute& a) { return a.name == "layout"; });
    const Shape state = batch_major ? Shape{2, directions, 4} : Shape{directions, 2, 4};
    GradientCase c{
        op,
        {spread(batch_major ? Shape{2, 5, 3} : Shape{5, 2, 3}, -1, 1),
         spread({directions, gates * 4, 3}, -1, 1), spread({directions, gates * 4, 4}, -1, 1)}};
    const bool lstm = gates == 4;
    if (whole) {
      c.inputs.push_back(spread({directions, gates * 8}, -1, 1));
      c.inputs.push_back(fixed(Tensor::from<int32_t>({2}, {5, 3})));
      c.inputs.push_back(spread(state, -1, 1));
      if (lstm) c.inputs.push_back(spread(state, -1, 1));
    }
    c.attributes = std::move(attributes);
    c.attributes.push_back(number("hidden_size", 4));
    c.outputs = lstm ? 3 : 2;
    cases.push_back(std::move(c));
  };
  const Attribute both = text("direction", "bidirectional");
  const Attribute reverse = text("direction", "reverse");
  add("RNN", 1, 1, false, {});
  add("RNN", 1, 2, true, {both});
  add("GRU", 3, 1, false, {});
  add("GRU", 3, 2, true, {both});
  add("GRU", 3, 1, false, {number("linear_before_reset", 1)});
  add("GRU", 3, 2, true, {both, number("linear_before_reset", 1)});
  add("LSTM", 4, 1, false, {});
  add("LSTM", 4, 2, true, {both});
  add("LSTM", 4, 1, true, {reverse, number("layout", 1)});
}

// No rows of their own: their bodies have.
void add_bodies(std::vector<GradientCase>& cases) {
  cases.push_back({"ReduceLogSum", {spread({2, 3}, 0.5, 3), ints({1})}});
  cases.push_back({"Shrink", {spread({9})}, {real("lambd", 0.6f), real("bias", 0.2f)}});
  cases.push_back({"Swish", {spread({9})}, {real("alpha", 0.7f)}, "", 24});
  cases.push_back({"ThresholdedRelu", {spread({9})}, {real("alpha", 0.5f)}});
}

void add_layers(std::vector<GradientCase>& cases) {
  const Operand mean = frozen(spread({3}, -0.5, 0.5)), variance = frozen(spread({3}, 0.5, 2));
  cases.push_back(
      {"BatchNormalization", {spread({2, 3, 2, 3}), spread({3}), spread({3}), mean, variance}});
  cases.push_back({"BatchNormalization",
                   {spread({4, 3, 2}), spread({3}), spread({3}), mean, variance},
                   {number("training_mode", 1), real("epsilon", 0.01f)},
                   "",
                   15,
                   3});
  cases.push_back({"LayerNormalization", {spread({2, 3, 5}), spread({5}), spread({5})}});
  cases.push_back({"LayerNormalization", {spread({3, 2, 4}), spread({2, 4})}, {number("axis", 1)}});
  cases.push_back({"RMSNormalization", {spread({3, 5}), spread({5})}, {}, "", 23});
  cases.push_back({"SimplifiedLayerNormalization", {spread({3, 5}), spread({5})}});
  cases.push_back({"SkipLayerNormalization",
                   {spread({2, 3, 4}), spread({2, 3, 4}), spread({4}), spread({4}), spread({4})},
                   {},
                   "com.microsoft",
                   1});
  cases.push_back({"GroupNormalization",
                   {spread({2, 4, 3, 2}), spread({4}), spread({4})},
                   {number("num_groups", 2)},
                   "",
                   21});
  cases.push_back({"InstanceNormalization", {spread({2, 3, 4, 2}), spread({3}), spread({3})}});
  cases.push_back(
      {"MaxPool",
       {spread({2, 2, 6, 5})},
       {list("kernel_shape", {3, 2}), list("strides", {2, 1}), list("pads", {1, 0, 1, 1})}});
  cases.push_back({"AveragePool",
                   {spread({2, 2, 6, 5})},
                   {list("kernel_shape", {3, 2}), list("strides", {2, 2}),
                    list("pads", {1, 0, 1, 1}), number("ceil_mode", 1)}});
  cases.push_back(
      {"AveragePool",
       {spread({1, 2, 7})},
       {list("kernel_shape", {3}), list("pads", {1, 1}), number("count_include_pad", 1)}});
  cases.push_back({"GlobalAveragePool", {spread({2, 3, 4, 2})}});
  cases.push_back({"GlobalMaxPool", {spread({2, 3, 4, 2})}});
}

}  // namespace

std::vector<GradientCase> gradient_cases() {
  last_seed = 0;  // the same each time: sections run on their own
  std::vector<GradientCase> cases;
  add_elementwise(cases);
  add_products(cases);
  add_reductions(cases);
  add_movement(cases);
  add_layers(cases);
  add_recurrent(cases);
  add_bodies(cases);
  return cases;
}

}  // namespace compress::test
