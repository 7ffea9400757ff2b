#include "passes/quantize/integer_bias.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace compress {

IntegerBias integer_bias(const std::vector<double>& values, const std::vector<float>& weight_scales,
                         float input_scale) {
  constexpr double kMost = std::numeric_limits<int32_t>::max();
  IntegerBias out;
  for (const float scale : weight_scales) out.scales.push_back(input_scale * scale);
  for (size_t i = 0; i < values.size(); ++i) {
    const double q = std::nearbyint(values[i] / out.scales[out.scales.size() == 1 ? 0 : i]);
    out.values.push_back(static_cast<int32_t>(std::clamp(q, -kMost, kMost)));
  }
  return out;
}

void add_integer_bias(Graph& graph, NodeId node, const std::string& name,
                      const std::vector<double>& values, const Shape& shape,
                      const std::vector<float>& weight_scales, float input_scale) {
  const IntegerBias bias = integer_bias(values, weight_scales, input_scale);
  const auto count = static_cast<int64_t>(bias.scales.size());
  // DequantizeLinear takes a scale for each channel only with an axis.
  const bool by_channel = count > 1;
  NodeSpec spec{
      "DequantizeLinear",
      {graph.add_constant(name + "_quantized", Tensor::from<int32_t>(shape, bias.values)),
       graph.add_constant(name + "_quantized_scale",
                          Tensor::from<float>(by_channel ? Shape{count} : Shape(), bias.scales))},
      {name + "_DequantizeLinear_Output"},
      {},
      name + "_DequantizeLinear"};
  if (by_channel) spec.attributes.push_back({"axis", int64_t{shape.rank() - 1}, ""});
  const NodeId dequantize = graph.insert_before(node, std::move(spec));
  graph.set_input(node, 2, graph.node(dequantize).outputs[0]);
}

}  // namespace compress
