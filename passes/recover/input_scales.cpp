#include "passes/recover/input_scales.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <string>

#include "compress/core/parallel.h"
#include "passes/edit.h"
#include "passes/recover/activations.h"
#include "passes/recover/recover_static.h"

namespace compress {
namespace {

using Factors = std::vector<double>;

// --- What makes an input ------------------------------------------------------------------------

bool is_norm(const Node& node) {
  return node.is("LayerNormalization") || node.op_type == "SimplifiedLayerNormalization" ||
         node.op_type == "RMSNormalization";
}

// A float32 constant with one number for each channel, channels last.
bool is_by_channel(const Graph& graph, ValueId id, size_t channels) {
  if (id == kNoValue || !graph.value(id).is_constant()) return false;
  const Tensor& tensor = graph.value(id).constant;
  const Shape& shape = tensor.shape();
  return tensor.dtype() == DType::float32 && shape.rank() > 0 &&
         tensor.count() == static_cast<int64_t>(channels) &&
         shape[shape.rank() - 1] == static_cast<int64_t>(channels);
}

// Operand `slot` becomes a constant whose last axis is divided by the factors.
void divide_constant(Graph& graph, NodeId id, size_t slot, const Factors& factors) {
  const ValueId old = graph.node(id).inputs[slot];
  const Tensor before = graph.value(old).constant;
  Tensor after = Tensor::allocate(DType::float32, before.shape());
  const TensorData data = before.read();
  const auto* from = data.view().as<const float>();
  auto to = after.mutable_as<float>();
  for (size_t i = 0; i < to.size(); ++i) {
    to[i] = static_cast<float>(double{from[i]} / factors[i % factors.size()]);
  }
  graph.set_input(id, slot,
                  graph.add_constant(graph.value(old).name + "_scaled", std::move(after)));
}

// Rows of a Gemm's [n, k] weights are its outputs.
void divide_rows(Graph& graph, NodeId id, const Factors& factors) {
  const ValueId old = graph.node(id).inputs[1];
  const Tensor before = graph.value(old).constant;
  Tensor after = Tensor::allocate(DType::float32, before.shape());
  const TensorData data = before.read();
  const auto* from = data.view().as<const float>();
  auto to = after.mutable_as<float>();
  const auto k = static_cast<size_t>(before.shape()[1]);
  for (size_t i = 0; i < to.size(); ++i) {
    to[i] = static_cast<float>(double{from[i]} / factors[i / k]);
  }
  graph.set_input(id, 1, graph.add_constant(graph.value(old).name + "_scaled", std::move(after)));
}

// Divides channels of `value` in what makes it. With `apply` false only tells whether that can be
// done. REQUIRES that whoever reads `value` expects it.
bool divide(Graph& graph, ValueId value, const Factors& factors, bool apply) {
  const NodeId id = graph.value(value).producer;
  if (id == kNoNode || graph.is_output(value)) return false;
  const Node node = graph.node(id);
  const size_t channels = factors.size();
  const auto through = [&](ValueId operand) {
    return single_reader(graph, operand) == id && divide(graph, operand, factors, apply);
  };
  if (is_norm(node)) {
    const bool biased = operand(node, 2) != kNoValue && node.is("LayerNormalization");
    if (!is_by_channel(graph, operand(node, 1), channels) || node.outputs[0] != value) return false;
    if (biased && !is_by_channel(graph, node.inputs[2], channels)) return false;
    if (apply) divide_constant(graph, id, 1, factors);
    if (apply && biased) divide_constant(graph, id, 2, factors);
    return true;
  }
  if (node.is("MatMul") || node.is("Gemm")) {
    const Tensor* weight = graph.constant_input(node, 1);
    if (weight == nullptr || weight->dtype() != DType::float32 || weight->shape().rank() != 2) {
      return false;
    }
    const bool rows_first = node.is("Gemm") && node.int_or("transB", 0) != 0;
    const bool biased = node.is("Gemm") && operand(node, 2) != kNoValue;
    if (weight->shape()[rows_first ? 0 : 1] != static_cast<int64_t>(channels)) return false;
    if (biased && !is_by_channel(graph, node.inputs[2], channels)) return false;
    if (!apply) return true;
    rows_first ? divide_rows(graph, id, factors) : divide_constant(graph, id, 1, factors);
    if (biased) divide_constant(graph, id, 2, factors);
    return true;
  }
  if (node.is("Mul")) {  // one of the factors takes it all
    for (const size_t slot : {size_t{0}, size_t{1}}) {
      if (!is_by_channel(graph, node.inputs[slot], channels)) continue;
      if (apply) divide_constant(graph, id, slot, factors);
      return true;
    }
    return through(node.inputs[0]) || through(node.inputs[1]);
  }
  if (node.is("Add")) {  // both take it, or none
    for (const bool now : {false, true}) {
      if (now && !apply) break;
      for (const size_t slot : {size_t{0}, size_t{1}}) {
        const ValueId in = graph.node(id).inputs[slot];
        if (is_by_channel(graph, in, channels)) {
          if (now) divide_constant(graph, id, slot, factors);
        } else if (single_reader(graph, in) != id || !divide(graph, in, factors, now)) {
          return false;
        }
      }
    }
    return true;
  }
  return node.is("Relu") && through(node.inputs[0]);
}

// Weights [n, k] with columns multiplied.
Tensor scaled_rows(const Tensor& rows, const Factors& factors) {
  Tensor out = Tensor::allocate(DType::float32, rows.shape());
  const TensorData data = rows.read();
  const auto* from = data.view().as<const float>();
  auto to = out.mutable_as<float>();
  for (size_t i = 0; i < to.size(); ++i) {
    to[i] = static_cast<float>(double{from[i]} * factors[i % factors.size()]);
  }
  return out;
}

// Squares of what rounding loses in each column, in the units of the weights before their scaling.
double weighted_loss(const Tensor& rows, const Tensor& rounded, const Factors& factors,
                     const std::vector<double>& square_sum) {
  const int64_t n = rows.shape()[0], k = rows.shape()[1], stride = rounded.shape()[1];
  const TensorData a = rows.read(), b = rounded.read();
  const auto* x = a.view().as<const float>();
  const auto* y = b.view().as<const float>();
  double sum = 0;
  for (int64_t c = 0; c < k; ++c) {
    const auto at = static_cast<size_t>(c);
    double lost = 0;
    for (int64_t r = 0; r < n; ++r) {
      const double d = double{x[r * k + c]} * factors[at] - double{y[r * stride + c]};
      lost += d * d;
    }
    sum += lost * square_sum[at] / (factors[at] * factors[at]);
  }
  return sum;
}

void rescale(InputMoments& moments, const Factors& factors) {
  for (size_t c = 0; c < factors.size(); ++c) {
    moments.abs_sum[c] /= factors[c];
    moments.square_sum[c] /= factors[c] * factors[c];
    moments.low[c] = static_cast<float>(double{moments.low[c]} / factors[c]);
    moments.high[c] = static_cast<float>(double{moments.high[c]} / factors[c]);
  }
}

// Geometric mean of the extremes 1, and nothing further than `most` from it.
bool normalize(Factors& factors) {
  const auto [least, most] = std::minmax_element(factors.begin(), factors.end());
  const double middle = std::sqrt(*least * *most);
  if (!(middle > 0) || !std::isfinite(middle)) return false;
  for (double& factor : factors) factor = std::clamp(factor / middle, 1e-4, 1e4);
  return true;
}

}  // namespace

void InputMoments::add(const TensorView& input, int64_t k) {
  const auto width = static_cast<size_t>(k);
  abs_sum.resize(width);
  square_sum.resize(width);
  low.resize(width, std::numeric_limits<float>::infinity());
  high.resize(width, -std::numeric_limits<float>::infinity());
  const int64_t count = input.count() / k;
  const auto* x = input.as<const float>();
  for (int64_t r = 0; r < count; ++r) {
    for (size_t c = 0; c < width; ++c) {
      const float v = x[static_cast<size_t>(r) * width + c];
      abs_sum[c] += std::fabs(double{v});
      square_sum[c] += double{v} * double{v};
      low[c] = std::min(low[c], v);
      high[c] = std::max(high[c], v);
    }
  }
  rows += count;
}

std::map<ValueId, InputMoments> measure_inputs(const Model& model,
                                               const std::vector<Linear>& linears,
                                               const CalibrationSamples& samples) {
  std::map<std::string, const Linear*> by_name;
  std::set<std::string> names;
  for (const Linear& linear : linears) {
    by_name.emplace(model.graph.value(linear.input).name, &linear);
    names.insert(model.graph.value(linear.input).name);
  }
  std::map<ValueId, InputMoments> out;
  observe(model, names, samples, [&](const std::string& name, const TensorView& content) {
    const auto row = by_name.find(name);
    if (row == by_name.end() || content.dtype != DType::float32) return;
    out[row->second->input].add(content, row->second->k);
  });
  return out;
}

std::vector<std::vector<Linear>> scalable_groups(const Graph& graph,
                                                 const std::vector<Linear>& linears) {
  std::map<ValueId, std::vector<Linear>> by_input;
  std::vector<ValueId> order;
  for (const Linear& linear : linears) {
    std::vector<Linear>& group = by_input[linear.input];
    if (group.empty()) order.push_back(linear.input);
    group.push_back(linear);
  }
  std::vector<std::vector<Linear>> out;
  for (const ValueId input : order) {
    const std::vector<Linear>& group = by_input[input];
    const bool fits = std::all_of(group.begin(), group.end(), [&](const Linear& linear) {
      return graph.uses(linear.weight).size() == 1 && linear.k == group[0].k;
    });
    if (!fits || graph.uses(input).size() != group.size() || graph.is_output(input)) continue;
    Graph& probe = const_cast<Graph&>(graph);  // nothing is applied
    const Factors ones(static_cast<size_t>(group[0].k), 1.0);
    if (divide(probe, input, ones, false)) out.push_back(group);
  }
  return out;
}

void scale_group(Graph& graph, const std::vector<Linear>& group, const Factors& factors) {
  divide(graph, group[0].input, factors, true);
  for (const Linear& linear : group) {
    const Tensor before = graph.value(linear.weight).constant;
    if (linear.transposed) {
      graph.set_constant(linear.weight, scaled_rows(before, factors));
      continue;
    }
    Tensor after = Tensor::allocate(DType::float32, before.shape());
    const TensorData data = before.read();
    const auto* from = data.view().as<const float>();
    auto to = after.mutable_as<float>();
    const auto n = static_cast<size_t>(linear.n);
    for (size_t i = 0; i < to.size(); ++i) {
      to[i] = static_cast<float>(double{from[i]} * factors[i / n]);
    }
    graph.set_constant(linear.weight, std::move(after));
  }
}

int64_t scale_for_awq(Graph& graph, const std::vector<Linear>& linears,
                      std::map<ValueId, InputMoments>& moments,
                      const std::function<BlockFormat(const Linear&)>& format) {
  int64_t changed = 0;
  for (const std::vector<Linear>& group : scalable_groups(graph, linears)) {
    const auto row = moments.find(group[0].input);
    if (row == moments.end() || row->second.rows == 0) continue;
    InputMoments& seen = row->second;
    constexpr int kSteps = 20;
    std::vector<double> losses(kSteps, std::numeric_limits<double>::infinity());
    std::vector<Factors> candidates(kSteps);
    for (int step = 0; step < kSteps; ++step) {
      Factors& factors = candidates[static_cast<size_t>(step)];
      for (const double sum : seen.abs_sum) {
        const double mean = std::max(sum / static_cast<double>(seen.rows), 1e-8);
        factors.push_back(std::pow(mean, static_cast<double>(step) / kSteps));
      }
      if (!normalize(factors)) factors.clear();
    }
    std::vector<Tensor> weights;
    for (const Linear& linear : group) weights.push_back(weight_rows(graph, linear));
    parallel_for(0, kSteps, 1, [&](int64_t begin, int64_t end) {
      for (auto step = static_cast<size_t>(begin); step < static_cast<size_t>(end); ++step) {
        const Factors& factors = candidates[step];
        if (factors.empty()) continue;
        double loss = 0;
        for (const Tensor& rows : weights) {
          const RoundedBlocks rounded =
              nearest_blocks(scaled_rows(rows, factors), format(group[0]));
          loss += weighted_loss(rows, dequantize(rounded.quantized, rounded.params), factors,
                                seen.square_sum);
        }
        losses[step] = loss;
      }
    });
    const auto best = std::min_element(losses.begin(), losses.end()) - losses.begin();
    if (best == 0) continue;
    const Factors& factors = candidates[static_cast<size_t>(best)];
    scale_group(graph, group, factors);
    rescale(seen, factors);
    ++changed;
  }
  return changed;
}

int64_t scale_for_smooth(Graph& graph, const std::vector<Linear>& linears,
                         const std::map<ValueId, InputMoments>& moments) {
  int64_t changed = 0;
  for (const std::vector<Linear>& group : scalable_groups(graph, linears)) {
    const auto row = moments.find(group[0].input);
    if (row == moments.end() || row->second.rows == 0) continue;
    const InputMoments& seen = row->second;
    const size_t k = seen.low.size();
    // Over all readers: the largest weight of each column, and its squares summed.
    Factors largest(k, 1e-8), squares(k, 0);
    std::vector<Tensor> weights;
    for (const Linear& linear : group) {
      weights.push_back(weight_rows(graph, linear));
      const TensorData data = weights.back().read();
      const auto* w = data.view().as<const float>();
      for (size_t i = 0; i < static_cast<size_t>(weights.back().count()); ++i) {
        largest[i % k] = std::max(largest[i % k], std::fabs(double{w[i]}));
        squares[i % k] += double{w[i]} * double{w[i]};
      }
    }
    const auto expected = [&](const Factors& factors) {
      double low = 0, high = 0, gain = 0;
      for (size_t c = 0; c < k; ++c) {
        low = std::min(low, double{seen.low[c]} / factors[c]);
        high = std::max(high, double{seen.high[c]} / factors[c]);
        gain += squares[c] * factors[c] * factors[c];
      }
      const double step = (high - low) / 255;
      double loss = step * step / 12 * gain * static_cast<double>(seen.rows);
      for (const Tensor& rows : weights) {
        const Tensor scaled = scaled_rows(rows, factors);
        const QuantParams params = weight_params(scaled, DType::int8, true, 0);
        loss += weighted_loss(rows, dequantize(quantize(scaled, params), params), factors,
                              seen.square_sum);
      }
      return loss;
    };
    Factors best(k, 1.0);
    double least = expected(best);
    bool better = false;
    for (int step = 6; step <= 18; ++step) {
      const double alpha = step / 20.0;
      Factors factors(k);
      for (size_t c = 0; c < k; ++c) {
        const double reach =
            std::max({std::fabs(double{seen.low[c]}), std::fabs(double{seen.high[c]}), 1e-8});
        factors[c] = std::pow(reach, alpha) / std::pow(largest[c], 1 - alpha);
      }
      if (!normalize(factors)) continue;
      const double loss = expected(factors);
      if (loss < least) least = loss, best = factors, better = true;
    }
    if (!better) continue;
    scale_group(graph, group, best);
    ++changed;
  }
  return changed;
}

PassResult smooth_inputs(Model& model, PassContext& context) {
  PassResult result;
  const ModeChoice choice = choose_mode(model, context.options, context.has_data);
  if (choice.mode != QuantMode::static_ || !recover_options(context.options).smooth ||
      context.samples == nullptr) {
    return result;
  }
  std::vector<Linear> linears;
  const Selection selection(context.options);
  for (const NodeId id : model.graph.order()) {
    const Node& node = model.graph.node(id);
    Linear linear;
    if ((node.is("MatMul") || node.is("Gemm")) && selection.wants_op(node.op_type, true) &&
        selection.refusal(node).empty() && read_linear(model, id, linear).empty() &&
        linear.transpose == kNoNode) {
      linears.push_back(linear);
    }
  }
  const auto moments = measure_inputs(model, linears, (*context.samples)());
  const int64_t changed = scale_for_smooth(model.graph, linears, moments);
  result.changed = changed > 0;
  result.details["smoothed_inputs"] = changed;
  return result;
}

}  // namespace compress
