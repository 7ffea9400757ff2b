// What rounding of weights does to the mean of a layer's output, channel by channel.
#pragma once

#include <optional>
#include <vector>

#include "compress/graph/model.h"
#include "compress/quant/statistics.h"

namespace compress {

// Which statistics of its data input mean_error() wants of a Conv, Gemm or MatMul.
StatisticsRequest mean_error_wants(const Node& node);

// The mean of `rounded` times input minus `weight` times input for each output channel: the errors
// of the weights times the means of what they multiply (Nagel et al. 2019, arXiv 1906.04721,
// section 4.2, with means that were measured). Taps that read padding now and then count less: by
// the share of outputs for which they do not, as if the mean were the same at every position.
// Empty where the statistics have no sums, or not of this many channels.
std::vector<double> mean_error(const Model& model, NodeId node, const Tensor& weight,
                               const Tensor& rounded, const Statistics& input);

// Where the bias of a MatMul stands: the Add of a float32 constant, one value a column, that alone
// reads what it gives. `slot` is the constant's.
struct AddedBias {
  NodeId node = kNoNode;
  size_t slot = 0;
};
std::optional<AddedBias> added_bias(const Graph& graph, NodeId product, int64_t columns);

// Moves that constant by `shift`, for this Add alone.
void shift_added_bias(Graph& graph, const AddedBias& bias, const std::vector<double>& shift);

}  // namespace compress
