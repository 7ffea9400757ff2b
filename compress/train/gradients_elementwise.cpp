// Derivatives of element-wise operators.
#include "compress/ops/gradient_families.h"
#include "compress/train/gradient.h"

namespace compress::train {
namespace {

// --- One operand ---------------------------------------------------------------------------------

// dx = dy slope; the slope is a table of the operators (ops/gradient_elements.cpp).
void slope(Gradient& g, std::string of, std::vector<Attribute> attributes) {
  const ValueId v = element_slope(of) == SlopeOf::output ? g.out(0) : g.in(0);
  attributes.push_back({"of", std::move(of), ""});
  g.give(0, g.gradient_op("ElementGradient", {g.dy(), v}, std::move(attributes)));
}

void same_name(Gradient& g) { slope(g, g.node().op_type, g.node().attributes); }

void gelu(Gradient& g) {
  const bool tanh = g.node().string_or("approximate", "none") == "tanh";
  slope(g, tanh ? "Gelu/tanh" : "Gelu", {});
}

void fast_gelu(Gradient& g) { slope(g, "Gelu/tanh", {}); }

// Bounds are attributes up to opset 10, then constants.
std::pair<float, float> bounds_of(const Gradient& g) {
  const auto bound = [&](size_t slot, const char* name, float fallback) {
    const Tensor* tensor = g.constant(g.in(slot));
    return tensor != nullptr ? static_cast<float>(tensor->to_double())
                             : g.node().float_or(name, fallback);
  };
  constexpr float kMost = std::numeric_limits<float>::infinity();
  return {bound(1, "min", -kMost), bound(2, "max", kMost)};
}

void clip(Gradient& g) {
  const auto [lo, hi] = bounds_of(g);
  slope(g, "Clip", {{"lo", lo, ""}, {"hi", hi, ""}});
}

std::string refuse_clip(const Gradient& g) {
  for (const size_t slot : {size_t{1}, size_t{2}}) {
    if (g.in(slot) != kNoValue && g.constant(g.in(slot)) == nullptr) return "its bounds vary";
  }
  return "";
}

void negate(Gradient& g) { g.give(0, g.op("Neg", {g.dy()})); }
void pass_on(Gradient& g) { g.give(0, g.dy()); }

// Rounding to an integer is flat.
void nothing(Gradient&) {}

std::string refuse_random_dropout(const Gradient& g) {
  const Tensor* training = g.constant(g.in(2));
  const bool random = g.in(2) != kNoValue && (training == nullptr || training->to_int() != 0);
  return random ? "it draws at random" : "";
}

void cast(Gradient& g) {
  const auto from = static_cast<int64_t>(g.type(g.in(0)).dtype);
  g.give(0, g.op("Cast", {g.dy()}, {{"to", from, ""}}));
}

std::string refuse_cast(const Gradient& g) {
  const DType to = g.type(g.out(0)).dtype;
  return to == DType::float32 || to == DType::float64 ? "" : "to no float type";
}

// --- Several operands, broadcast -----------------------------------------------------------------

void add(Gradient& g) {
  for (size_t i = 0; i < g.node().inputs.size(); ++i) g.give_broadcast(i, g.dy());
}

void mean(Gradient& g) {
  const ValueId share =
      g.op("Mul", {g.dy(), g.scalar(1.0f / static_cast<float>(g.node().inputs.size()))});
  for (size_t i = 0; i < g.node().inputs.size(); ++i) g.give_broadcast(i, share);
}

void subtract(Gradient& g) {
  g.give_broadcast(0, g.dy());
  if (g.wants(1)) g.give_broadcast(1, g.op("Neg", {g.dy()}));
}

void multiply(Gradient& g) {
  if (g.wants(0)) g.give_broadcast(0, g.op("Mul", {g.dy(), g.in(1)}));
  if (g.wants(1)) g.give_broadcast(1, g.op("Mul", {g.dy(), g.in(0)}));
}

void divide(Gradient& g) {
  const ValueId over = g.op("Div", {g.dy(), g.in(1)});
  if (g.wants(0)) g.give_broadcast(0, over);
  if (g.wants(1)) g.give_broadcast(1, g.op("Neg", {g.op("Mul", {over, g.out(0)})}));
}

void power(Gradient& g) {
  if (g.wants(0)) {
    const ValueId less = g.op("Pow", {g.in(0), g.op("Sub", {g.in(1), g.scalar(1)})});
    g.give_broadcast(0, g.op("Mul", {g.dy(), g.op("Mul", {g.in(1), less})}));
  }
  if (g.wants(1)) {
    const ValueId slope = g.op("Mul", {g.out(0), g.op("Log", {g.in(0)})});
    g.give_broadcast(1, g.op("Mul", {g.dy(), slope}));
  }
}

// The operands that are the extreme one take the gradient.
void extreme(Gradient& g) {
  for (size_t i = 0; i < g.node().inputs.size(); ++i) {
    if (!g.wants(i)) continue;
    const ValueId chosen = g.op("Equal", {g.in(i), g.out(0)});
    g.give_broadcast(i, g.op("Where", {chosen, g.dy(), g.scalar(0)}));
  }
}

void where(Gradient& g) {
  if (g.wants(1)) g.give_broadcast(1, g.op("Where", {g.in(0), g.dy(), g.scalar(0)}));
  if (g.wants(2)) g.give_broadcast(2, g.op("Where", {g.in(0), g.scalar(0), g.dy()}));
}

void prelu(Gradient& g) {
  const ValueId below = g.op("Less", {g.in(0), g.scalar(0)});
  if (g.wants(0)) {
    const ValueId scaled = g.op("Mul", {g.dy(), g.in(1)});
    g.give(0, g.op("Where", {below, scaled, g.dy()}));
  }
  if (g.wants(1)) {
    const ValueId part = g.op("Mul", {g.dy(), g.in(0)});
    g.give_broadcast(1, g.op("Where", {below, part, g.scalar(0)}));
  }
}

void bias_gelu(Gradient& g) {
  const ValueId sum = g.op("Add", {g.in(0), g.in(1)});
  const ValueId dx =
      g.gradient_op("ElementGradient", {g.dy(), sum}, {{"of", std::string("Gelu"), ""}});
  g.give_broadcast(0, dx);
  g.give_broadcast(1, dx);
}

void mask(Gradient& g) { g.give(0, g.gradient_op("Mask", {g.dy(), g.in(1)}, g.node().attributes)); }

constexpr std::string_view kMicrosoft = "com.microsoft";
constexpr GradientDef kRows[] = {
    {"", "Relu", same_name},
    {"", "LeakyRelu", same_name},
    {"", "Elu", same_name},
    {"", "Selu", same_name},
    {"", "Celu", same_name},
    {"", "Sigmoid", same_name},
    {"", "Tanh", same_name},
    {"", "HardSigmoid", same_name},
    {"", "HardSwish", same_name},
    {"", "Softplus", same_name},
    {"", "Softsign", same_name},
    {"", "Mish", same_name},
    {"", "Gelu", gelu},
    {kMicrosoft, "Gelu", gelu},
    {kMicrosoft, "FastGelu", fast_gelu,
     [](const Gradient& g) { return std::string(g.in(1) != kNoValue ? "it has a bias" : ""); }},
    {kMicrosoft, "BiasGelu", bias_gelu},
    {kMicrosoft, "QuickGelu", same_name},
    {"", "Erf", same_name},
    {"", "Exp", same_name},
    {"", "Log", same_name},
    {"", "Sqrt", same_name},
    {"", "Reciprocal", same_name},
    {"", "Abs", same_name},
    {"", "Sin", same_name},
    {"", "Cos", same_name},
    {"", "Clip", clip, refuse_clip},
    {"", "Neg", negate},
    {"", "Identity", pass_on},
    {"", "Dropout", pass_on, refuse_random_dropout},
    {"", "Cast", cast, refuse_cast},
    {"", "CastLike", cast, refuse_cast},
    {"", "Floor", nothing},
    {"", "Ceil", nothing},
    {"", "Round", nothing},
    {"", "Sign", nothing},
    {"", "Add", add},
    {"", "Sum", add},
    {"", "Mean", mean},
    {"", "Sub", subtract},
    {"", "Mul", multiply},
    {"", "Div", divide},
    {"", "Pow", power},
    {"", "Min", extreme},
    {"", "Max", extreme},
    {"", "Where", where},
    {"", "PRelu", prelu},
    {kGradientDomain, "Mask", mask},
};

}  // namespace

const std::span<const GradientDef> kElementwiseGradients = kRows;

}  // namespace compress::train
