// Products whose input channels change size: the weights grow, and what makes the input shrinks by
// the same, so the results stay. AWQ (weight-only) and SmoothQuant (static) choose the sizes.
#pragma once

#include <functional>
#include <map>
#include <vector>

#include "passes/pass.h"
#include "passes/quantize/linear.h"
#include "passes/recover/round_blocks.h"

namespace compress {

// Of each column of what products read, over all rows of all samples.
struct InputMoments {
  std::vector<double> abs_sum, square_sum;
  std::vector<float> low, high;
  int64_t rows = 0;

  void add(const TensorView& input, int64_t k);
};

// By input value.
std::map<ValueId, InputMoments> measure_inputs(const Model& model,
                                               const std::vector<Linear>& linears,
                                               const CalibrationSamples& samples);

// Products that are the only readers of one input, whose producer can take factors.
std::vector<std::vector<Linear>> scalable_groups(const Graph& graph,
                                                 const std::vector<Linear>& linears);

// Multiplies the weights of each input channel by its factor and divides what makes the input.
void scale_group(Graph& graph, const std::vector<Linear>& group,
                 const std::vector<double>& factors);

// Channels that move much get finer steps: factors (mean |x|)^a, normalized; a from 0 to 0.95 is
// what loses least by rounding to nearest, each column counting by its mean square (Lin et al.
// 2023, arXiv 2306.00978). Returns the number of groups that changed; `moments` change with them.
int64_t scale_for_awq(Graph& graph, const std::vector<Linear>& linears,
                      std::map<ValueId, InputMoments>& moments,
                      const std::function<BlockFormat(const Linear&)>& format);

// Ranges of channels even out: factors max|x|^a / max|w|^(1 - a) (Xiao et al. 2022, arXiv
// 2211.10438), a from 0.3 to 0.9 or none at all, by what 8 bits for the inputs (one range) and for
// the weights (one scale an output) are expected to lose. Returns the number of groups that
// changed.
int64_t scale_for_smooth(Graph& graph, const std::vector<Linear>& linears,
                         const std::map<ValueId, InputMoments>& moments);

// The pass of quantize --recover smooth (static mode).
PassResult smooth_inputs(Model& model, PassContext& context);

}  // namespace compress
