// Derivatives of normalizations, pools and quantization.
#include "compress/quant/qparams.h"
#include "compress/train/gradient.h"

namespace compress::train {
namespace {

void give_three(Gradient& g, std::span<const ValueId> gradients, size_t first_gain) {
  g.give(0, gradients[0]);
  for (size_t i = 0; i < 2; ++i) {
    const size_t slot = first_gain + i;
    if (g.wants(slot)) g.give(slot, g.like(gradients[i + 1], g.in(slot)));
  }
}

// --- Normalizations ------------------------------------------------------------------------------

void batch_norm(Gradient& g) {
  give_three(g,
             g.gradient_ops("BatchNormGradient", 3, {g.dy(), g.in(0), g.in(1), g.in(3), g.in(4)},
                            g.node().attributes),
             1);
}

std::string refuse_batch_norm(const Gradient& g) {
  if (g.rank(g.in(0)) < 2) return "an input of unknown rank";
  for (size_t i = 1; i < g.node().outputs.size(); ++i) {
    if (g.wants_value(g.out(i))) return "its statistics are used";
  }
  return "";
}

std::string refuse_second_output(const Gradient& g) {
  for (size_t i = 1; i < g.node().outputs.size(); ++i) {
    if (g.wants_value(g.out(i))) return "its statistics are used";
  }
  return "";
}

void layer_norm(Gradient& g) {
  give_three(
      g, g.gradient_ops("LayerNormGradient", 3, {g.dy(), g.in(0), g.in(1)}, g.node().attributes),
      1);
}

void rms_norm(Gradient& g) {
  std::vector<Attribute> attributes = g.node().attributes;
  attributes.push_back({"rms", int64_t{1}, ""});
  const auto gradients =
      g.gradient_ops("LayerNormGradient", 3, {g.dy(), g.in(0), g.in(1)}, std::move(attributes));
  g.give(0, gradients[0]);
  if (g.wants(1)) g.give(1, g.like(gradients[1], g.in(1)));
}

// LayerNormalization of the sum of input, skip and bias; output 3 is that sum.
void skip_layer_norm(Gradient& g) {
  ValueId sum = g.op("Add", {g.in(0), g.in(1)});
  if (g.in(4) != kNoValue) sum = g.op("Add", {sum, g.in(4)});
  const auto gradients = g.gradient_ops("LayerNormGradient", 3, {g.dy(), sum, g.in(2)},
                                        {{"epsilon", g.node().float_or("epsilon", 1e-12f), ""}});
  for (size_t i = 0; i < 2; ++i) {
    if (g.wants(i + 2)) g.give(i + 2, g.like(gradients[i + 1], g.in(i + 2)));
  }
  ValueId dx = gradients[0];
  if (const ValueId more = g.dy(3); more != kNoValue) dx = g.op("Add", {dx, more});
  for (const size_t i : {size_t{0}, size_t{1}, size_t{4}}) g.give_broadcast(i, dx);
}

std::string refuse_skip_layer_norm(const Gradient& g) {
  for (const size_t i : {size_t{1}, size_t{2}}) {
    if (g.wants_value(g.out(i))) return "its statistics are used";
  }
  return "";
}

void instance_norm(Gradient& g) {
  give_three(
      g, g.gradient_ops("InstanceNormGradient", 3, {g.dy(), g.in(0), g.in(1)}, g.node().attributes),
      1);
}

// InstanceNormalization of the groups, each as one channel, with a gain and a bias a channel behind
// it.
void group_norm(Gradient& g) {
  const ValueId x = g.in(0), dy = g.dy();
  const int64_t groups = g.node().int_or("num_groups", 1);
  const int64_t grouped[] = {0, groups, -1};
  const auto as_groups = [&](ValueId id) { return g.op("Reshape", {id, g.ints(grouped)}); };
  std::vector<int64_t> column(static_cast<size_t>(g.rank(x)) - 1, 1);  // [C, 1, ...]
  column[0] = -1;
  const int64_t each[] = {groups};
  const ValueId ones = g.op("Expand", {g.scalar(1), g.ints(each)});
  const std::vector<Attribute> epsilon = {{"epsilon", g.node().float_or("epsilon", 1e-5f), ""}};
  const ValueId scaled = g.op("Mul", {dy, g.op("Reshape", {g.in(1), g.ints(column)})});
  const auto gradients =
      g.gradient_ops("InstanceNormGradient", 3, {as_groups(scaled), as_groups(x), ones}, epsilon);
  g.give(0, g.like(gradients[0], x));
  if (g.wants(1)) {
    const ValueId zeros = g.op("Sub", {ones, ones});
    const ValueId normal = g.op("InstanceNormalization", {as_groups(x), ones, zeros}, epsilon);
    g.give(1, g.sum_except(g.op("Mul", {dy, g.like(normal, x)}), 1));
  }
  if (g.wants(2)) g.give(2, g.sum_except(dy, 1));
}

std::string refuse_group_norm(const Gradient& g) {
  if (g.rank(g.in(0)) < 2) return "an input of unknown rank";
  return g.opset() < 21 ? "before opset 21" : "";
}

// --- Pools ---------------------------------------------------------------------------------------

void max_pool(Gradient& g) {
  g.give(0, g.gradient_op("MaxPoolGradient", {g.dy(), g.in(0)}, g.node().attributes));
}

void average_pool(Gradient& g) {
  g.give(0,
         g.gradient_op("AveragePoolGradient", {g.dy(), g.shape_of(g.in(0))}, g.node().attributes));
}

void global_max_pool(Gradient& g) {
  g.give(0, g.gradient_op("MaxPoolGradient", {g.dy(), g.in(0)}, {{"global", int64_t{1}, ""}}));
}

void global_average_pool(Gradient& g) {
  g.give(0, g.gradient_op("AveragePoolGradient", {g.dy(), g.shape_of(g.in(0))},
                          {{"global", int64_t{1}, ""}}));
}

// --- Quantization, straight through --------------------------------------------------------------

const Node* quantizer_of(const Gradient& g) {
  const Node* node = g.producer(g.in(0));
  return node != nullptr && node->op_type == "QuantizeLinear" ? node : nullptr;
}

void dequantize(Gradient& g) {
  const Node quantize = *quantizer_of(g);
  const DType dtype = g.type(g.in(0)).dtype;
  const IntegerRange range = integer_range(dtype, false);
  std::vector<Attribute> attributes = {{"lo", static_cast<float>(range.min), ""},
                                       {"hi", static_cast<float>(range.max), ""},
                                       {"axis", g.node().int_or("axis", 1), ""},
                                       {"block_size", g.node().int_or("block_size", 0), ""}};
  ValueId zero = kNoValue;
  if (g.in(2) != kNoValue) zero = g.as_float(g.in(2));
  const auto gradients = g.gradient_ops("FakeQuantizeGradient", 2,
                                        {g.dy(), quantize.inputs[0], g.in(1), zero}, attributes);
  g.give_value(quantize.inputs[0], gradients[0]);
  g.give(1, gradients[1]);
}

std::string refuse_dequantize(const Gradient& g) {
  const Node* quantize = quantizer_of(g);
  if (quantize == nullptr) return g.wants(0) ? "integers that are computed" : "";
  if (quantize->inputs[1] != g.in(1)) return "another scale than its QuantizeLinear";
  return "";
}

// The DequantizeLinear behind it gives to its input.
void nothing(Gradient&) {}

constexpr std::string_view kMicrosoft = "com.microsoft";
constexpr GradientDef kRows[] = {
    {"", "BatchNormalization", batch_norm, refuse_batch_norm},
    {"", "LayerNormalization", layer_norm, refuse_second_output},
    {"", "RMSNormalization", rms_norm},
    {"", "SimplifiedLayerNormalization", rms_norm, refuse_second_output},
    {kMicrosoft, "SkipLayerNormalization", skip_layer_norm, refuse_skip_layer_norm},
    {"", "GroupNormalization", group_norm, refuse_group_norm},
    {"", "InstanceNormalization", instance_norm},
    {"", "MaxPool", max_pool, refuse_second_output},
    {"", "AveragePool", average_pool},
    {"", "GlobalMaxPool", global_max_pool},
    {"", "GlobalAveragePool", global_average_pool},
    {"", "QuantizeLinear", nothing},
    {"", "DequantizeLinear", dequantize, refuse_dequantize},
};

}  // namespace

const std::span<const GradientDef> kLayerGradients = kRows;

}  // namespace compress::train
