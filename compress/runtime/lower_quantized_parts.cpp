// Reading Q and DQ around operators, and building the integer nodes that take their place.
#include <cmath>
#include <limits>
#include <utility>

#include "compress/runtime/lower.h"
#include "compress/runtime/lower_quantized.h"

namespace compress::runtime {

// --- Reading Q and DQ --------------------------------------------------------------------------

std::optional<QuantizedLowering::Params> QuantizedLowering::params_at(const Node& of, size_t scale,
                                                                      size_t zero_point) const {
  const std::optional<double> s = scalar_constant(graph_, of, scale);
  if (!s || !(*s > 0) || !std::isfinite(*s)) return std::nullopt;
  Params params{static_cast<float>(*s), 0, DType::uint8};
  if (zero_point < of.inputs.size() && of.inputs[zero_point] != kNoValue) {
    const Tensor* z = graph_.constant_input(of, zero_point);
    if (z == nullptr || z->count() != 1 || !is_byte(z->dtype())) return std::nullopt;
    params.zero_point = static_cast<int32_t>(z->to_int());
    params.dtype = z->dtype();
  }
  return params;
}

std::optional<QuantizedLowering::Quantized> QuantizedLowering::quantized(ValueId id) const {
  const NodeId dq = producer_of(graph_, id, "DequantizeLinear");
  if (dq == kNoNode || graph_.value(id).type.dtype != DType::float32) return std::nullopt;
  const Node& of = node(dq);
  const Value& from = graph_.value(of.inputs[0]);
  if (from.is_constant()) return std::nullopt;
  std::optional<Params> params = params_at(of, 1, 2);
  if (!params) return std::nullopt;
  const bool has_zero_point = of.inputs.size() > 2 && of.inputs[2] != kNoValue;
  if (!has_zero_point) params->dtype = from.type.dtype;
  if (!is_byte(params->dtype)) return std::nullopt;
  return Quantized{of.inputs[0], *params, dq};
}

std::optional<QuantizedLowering::Weights> QuantizedLowering::weights_at(const Node& of, size_t slot,
                                                                        size_t scale,
                                                                        size_t zero_point, int axis,
                                                                        bool axis_given) const {
  const Tensor* w = graph_.constant_input(of, slot);
  const Tensor* s = graph_.constant_input(of, scale);
  if (w == nullptr || s == nullptr || !is_byte(w->dtype()) || s->dtype() != DType::float32) {
    return std::nullopt;
  }
  const int rank = w->shape().rank();
  if (axis >= rank || rank < 2) return std::nullopt;
  const int64_t channels = w->shape()[axis];
  if (s->count() != 1 && (s->shape().rank() != 1 || s->count() != channels || !axis_given)) {
    return std::nullopt;
  }
  Weights weights;
  weights.value = of.inputs[slot];
  const TensorData scales = s->read();
  weights.scales.assign(scales.as<float>().begin(), scales.as<float>().end());
  for (const float value : weights.scales) {
    if (!(value > 0) || !std::isfinite(value)) return std::nullopt;
  }
  if (zero_point < of.inputs.size() && of.inputs[zero_point] != kNoValue) {
    const Tensor* z = graph_.constant_input(of, zero_point);
    if (z == nullptr || z->dtype() != w->dtype()) return std::nullopt;
    if (z->count() != 1 && z->count() != channels) return std::nullopt;
    for (const int64_t value : z->to_ints()) {
      if (value != 0) weights.zero_point = *z;
    }
  }
  return weights;
}

std::optional<QuantizedLowering::Weights> QuantizedLowering::dequantized_weights(ValueId id,
                                                                                 int axis) const {
  const NodeId dq = producer_of(graph_, id, "DequantizeLinear");
  if (dq == kNoNode || node(dq).int_or("block_size", 0) != 0) return std::nullopt;
  const Tensor* w = graph_.constant_input(node(dq), 0);
  if (w == nullptr) return std::nullopt;
  int64_t given = node(dq).int_or("axis", 1);
  if (given < 0) given += w->shape().rank();
  std::optional<Weights> weights = weights_at(node(dq), 0, 1, 2, axis, given == axis);
  if (weights) weights->node = dq;
  return weights;
}

QuantizedLowering::Exit QuantizedLowering::exit_of(ValueId out) const {
  Exit exit;
  exit.out = out;
  std::vector<NodeId> parts;
  std::optional<Bounds> bounds;
  ValueId last = out;
  const NodeId reader = only_reader(graph_, out);
  if (reader != kNoNode && node(reader).inputs[0] == out) {
    bounds = bounds_of(graph_, node(reader));
    if (bounds) {
      parts.push_back(reader);
      last = node(reader).outputs[0];
    }
  }
  const NodeId q = only_reader(graph_, last);
  if (q == kNoNode || !node(q).is("QuantizeLinear") || node(q).inputs[0] != last) return exit;
  const std::optional<Params> params = params_at(node(q), 1, 2);
  if (!params) return exit;
  const IntegerRange range = byte_range(params->dtype);
  exit.lo = range.min;
  exit.hi = range.max;
  if (bounds) {
    // Rounding is monotone, so bounds may be applied to the integers; they have to include 0.
    if (bounds->lo > 0 || bounds->hi < 0) return exit;
    exit.lo = quantize_value(bounds->lo, params->scale, params->zero_point, range);
    exit.hi = quantize_value(bounds->hi, params->scale, params->zero_point, range);
  }
  parts.push_back(q);
  exit.out = node(q).outputs[0];
  exit.parts = std::move(parts);
  exit.params = params;
  return exit;
}
// --- Building ----------------------------------------------------------------------------------

NodeId QuantizedLowering::finish(std::string_view op, NodeId main, std::vector<ValueId> inputs,
                                 std::vector<Attribute> attributes, const Exit& exit,
                                 const std::vector<NodeId>& dequantizers) {
  const DType dtype = exit.params ? exit.params->dtype : DType::float32;
  attributes.push_back(number(kYType, static_cast<int64_t>(dtype)));
  if (exit.params) {
    attributes.push_back(number(kYZeroPoint, exit.params->zero_point));
    attributes.push_back({kYScale, exit.params->scale, ""});
    attributes.push_back(number(kLo, exit.lo));
    attributes.push_back(number(kHi, exit.hi));
  }
  const NodeId fused =
      add_internal(graph_, op, std::move(inputs), std::move(attributes), exit.out, dtype);
  add_origin(graph_, fused, main);
  for (const NodeId part : exit.parts) add_origin(graph_, fused, part);
  for (const NodeId dq : dequantizers) {
    if (dq != kNoNode && graph_.uses(node(dq).outputs[0]).size() == 1) {
      add_origin(graph_, fused, dq);
    }
  }
  graph_.replace_uses(exit.out, node(fused).outputs[0]);
  for (auto part = exit.parts.rbegin(); part != exit.parts.rend(); ++part) graph_.erase(*part);
  graph_.erase(main);
  for (const NodeId dq : dequantizers) {
    if (dq != kNoNode && node(dq).alive && graph_.is_unused(node(dq).outputs[0])) {
      graph_.erase(dq);
    }
  }
  return fused;
}

Tensor QuantizedLowering::multiplier(const Params& x, const std::vector<float>& scales,
                                     const std::optional<Params>& y) {
  std::vector<float> values;
  for (const float scale : scales) {
    const double product = static_cast<double>(x.scale) * static_cast<double>(scale);
    values.push_back(static_cast<float>(y ? product / static_cast<double>(y->scale) : product));
  }
  return Tensor::from<float>({static_cast<int64_t>(values.size())}, std::span<const float>(values));
}

std::optional<QuantizedLowering::Bias> QuantizedLowering::bias_at(ValueId id, const Params& x,
                                                                  const Weights& w,
                                                                  int64_t channels, bool as_float) {
  Bias result;
  if (id == kNoValue) return result;
  std::vector<double> values;
  if (const NodeId dq = producer_of(graph_, id, "DequantizeLinear"); dq != kNoNode) {
    const Tensor* q = graph_.constant_input(node(dq), 0);
    const Tensor* s = graph_.constant_input(node(dq), 1);
    if (q == nullptr || s == nullptr || q->dtype() != DType::int32) return std::nullopt;
    if (s->count() != 1 && s->count() != q->count()) return std::nullopt;
    if (const Tensor* z = graph_.constant_input(node(dq), 2)) {
      for (const int64_t zero : z->to_ints()) {
        if (zero != 0) return std::nullopt;
      }
    }
    const std::vector<int64_t> integers = q->to_ints();
    const std::vector<double> scales = s->to_doubles();
    for (size_t i = 0; i < integers.size(); ++i) {
      values.push_back(static_cast<double>(integers[i]) * scales[scales.size() == 1 ? 0 : i]);
    }
    result.node = dq;
  } else if (graph_.value(id).is_constant() &&
             graph_.value(id).constant.dtype() == DType::float32) {
    values = graph_.value(id).constant.to_doubles();
  } else {
    return std::nullopt;
  }
  if (static_cast<int64_t>(values.size()) != channels) return std::nullopt;
  if (as_float) {
    const std::vector<float> floats(values.begin(), values.end());
    result.value = graph_.add_constant(
        "bias", Tensor::from<float>({channels}, std::span<const float>(floats)));
    return result;
  }
  std::vector<int32_t> integers;
  for (size_t i = 0; i < values.size(); ++i) {
    const double unit =
        static_cast<double>(x.scale) * static_cast<double>(w.scales[w.scales.size() == 1 ? 0 : i]);
    const double value = std::nearbyint(values[i] / unit);
    if (!(std::abs(value) < 2147483647.0)) return std::nullopt;
    integers.push_back(static_cast<int32_t>(value));
  }
  result.value = graph_.add_constant(
      "bias", Tensor::from<int32_t>({channels}, std::span<const int32_t>(integers)));
  return result;
}

std::vector<Attribute> QuantizedLowering::product_attributes(const Params& x, const Weights& w,
                                                             const Exit& exit) {
  std::vector<Attribute> attributes = {number(kXZeroPoint, x.zero_point),
                                       {kMultiplier, multiplier(x, w.scales, exit.params), ""}};
  if (w.zero_point) attributes.push_back({kWZeroPoint, *w.zero_point, ""});
  return attributes;
}

QuantizedLowering::Exit QuantizedLowering::whole_exit(ValueId out, const Params& y) {
  const IntegerRange range = byte_range(y.dtype);
  return {out, {}, y, range.min, range.max};
}

Tensor QuantizedLowering::all_values(const Params& params) {
  Tensor values = Tensor::allocate(DType::float32, {256});
  for (int i = 0; i < 256; ++i) {
    const int32_t q = params.dtype == DType::int8 && i > 127 ? i - 256 : i;
    values.mutable_as<float>()[static_cast<size_t>(i)] =
        dequantize_value(q, params.scale, params.zero_point);
  }
  return values;
}

Tensor QuantizedLowering::table_of(const Tensor& values, const Params& y) {
  Tensor table = Tensor::allocate(DType::uint8, {256});
  const TensorData data = values.read();
  for (size_t i = 0; i < 256; ++i) {
    table.mutable_as<uint8_t>()[i] = static_cast<uint8_t>(
        quantize_value(data.as<float>()[i], y.scale, y.zero_point, byte_range(y.dtype)));
  }
  return table;
}

ValueId QuantizedLowering::requantized(ValueId x, const Params& params, const Params& y) {
  if (params == y) return x;
  return node(add_internal(graph_, "Lookup", {x},
                           {{kTable, table_of(all_values(params), y), ""},
                            number(kYType, static_cast<int64_t>(y.dtype))},
                           x, y.dtype))
      .outputs[0];
}

}  // namespace compress::runtime
