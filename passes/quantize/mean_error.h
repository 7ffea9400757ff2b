// What rounding of weights does to the mean of a layer's output, channel by channel.
#pragma once

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

}  // namespace compress
