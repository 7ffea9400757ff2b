// Biases of integer kernels: int32, zero point 0, in units of the input's scale times the weights'.
#pragma once

#include <string>
#include <vector>

#include "compress/graph/graph.h"

namespace compress {

struct IntegerBias {
  std::vector<int32_t> values;
  std::vector<float> scales;
};

// `weight_scales`: one, or one a channel.
IntegerBias integer_bias(const std::vector<double>& values, const std::vector<float>& weight_scales,
                         float input_scale);

// The node's operand 2 becomes DequantizeLinear of these integers.
void add_integer_bias(Graph& graph, NodeId node, const std::string& name,
                      const std::vector<double>& values, const Shape& shape,
                      const std::vector<float>& weight_scales, float input_scale);

}  // namespace compress
