#include "passes/recover/recover_static.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <set>
#include <string>

#include "compress/core/nearest.h"
#include "compress/core/parallel.h"
#include "compress/error.h"
#include "compress/graph/label.h"
#include "passes/edit.h"
#include "passes/quantize/integer_bias.h"
#include "passes/quantize/mean_error.h"
#include "passes/quantize/pack.h"
#include "passes/quantize/target.h"
#include "passes/recover/activations.h"
#include "passes/recover/adaround.h"
#include "passes/recover/input_gram.h"

namespace compress {
namespace {

// Where a layer's result is compared with the float model's: behind its activation and, where it is
// quantized, clipped to what the integers can hold.
struct Outlet {
  ValueId value = kNoValue;  // of the quantized model
  std::string name;          // of the same value in the float model
  float low = -std::numeric_limits<float>::infinity();
  float high = std::numeric_limits<float>::infinity();
};

struct ChannelMeans {
  std::vector<double> sums;
  std::vector<int64_t> inside;  // elements strictly between low and high
  int64_t count = 0;            // elements a channel

  double mean(size_t c) const { return sums[c] / static_cast<double>(count); }
  double share_inside(size_t c) const {
    return static_cast<double>(inside[c]) / static_cast<double>(count);
  }

  // Channels are axis 1 of what has more than two axes, else the last.
  void add(const TensorView& x, float low, float high) {
    const Shape& shape = x.shape;
    const int axis = shape.rank() > 2 ? 1 : shape.rank() - 1;
    const int64_t channels = shape[axis], inner = shape.count(axis + 1, shape.rank());
    const int64_t outer = shape.count(0, axis);
    sums.resize(static_cast<size_t>(channels));
    inside.resize(static_cast<size_t>(channels));
    const auto* data = x.as<const float>();
    const int64_t grain = std::max<int64_t>(1, 4096 / std::max<int64_t>(1, outer * inner));
    parallel_for(0, channels, grain, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) {
        for (int64_t o = 0; o < outer; ++o) {
          add_run(static_cast<size_t>(c), data + (o * channels + c) * inner, inner, low, high);
        }
      }
    });
    count += outer * inner;
  }

  // Eight float sums at a time, which vectorizes, over runs short enough not to lose bits.
  void add_run(size_t channel, const float* x, int64_t n, float low, float high) {
    constexpr int64_t kRun = 1024;
    for (int64_t begin = 0; begin < n; begin += kRun) {
      const int64_t end = std::min(begin + kRun, n);
      float parts[8] = {};
      int32_t between[8] = {};
      int64_t i = begin;
      for (; i + 8 <= end; i += 8) {
        for (int64_t k = 0; k < 8; ++k) {
          parts[k] += std::min(std::max(x[i + k], low), high);
          between[k] += x[i + k] > low && x[i + k] < high;
        }
      }
      for (int64_t k = 0; i < end; ++i, ++k) {
        parts[k] += std::min(std::max(x[i], low), high);
        between[k] += x[i] > low && x[i] < high;
      }
      for (size_t k = 0; k < 8; ++k) {
        sums[channel] += double{parts[k]};
        inside[channel] += between[k];
      }
    }
  }
};

class StaticRecovery {
 public:
  StaticRecovery(Model& model, const Model& reference, const RecoverOptions& options,
                 const CalibrationSamples& samples)
      : model_(model),
        graph_(model.graph),
        reference_(reference),
        options_(options),
        samples_(samples),
        activations_(model, samples) {}

  void run(const std::vector<NodeId>& layers, PassResult& result) {
    for (const NodeId id : layers) {
      if (graph_.node(id).alive) outlets_[id] = find_outlet(id);
    }
    if (options_.bias) measure_reference();
    const std::vector<NodeId> order = graph_.order();
    int64_t rounded = 0, corrected = 0;
    for (const NodeId id : order) {
      if (outlets_.count(id) == 0) continue;
      in_context([&] { return fmt::format("while recovering {}", graph_.node(id).name); },
                 [&] {
                   if (options_.rounding != Rounding::nearest) rounded += round_anew(id, result);
                   if (options_.bias) corrected += correct_bias(id);
                 });
    }
    if (options_.rounding == Rounding::gptq) result.details["gptq_layers"] = rounded;
    if (options_.rounding == Rounding::adaround) result.details["adaround_layers"] = rounded;
    if (options_.bias) result.details["bias_corrected_layers"] = corrected;
  }

 private:
  Outlet find_outlet(NodeId id) const {
    Outlet out;
    out.value = graph_.node(id).outputs[0];
    const NodeId reader = single_reader(graph_, out.value);
    if (reader != kNoNode && (graph_.node(reader).is("Relu") || graph_.node(reader).is("Clip"))) {
      out.value = graph_.node(reader).outputs[0];
    }
    out.name = graph_.value(out.value).name;
    for (const Use& use : graph_.uses(out.value)) {
      const Node& node = graph_.node(use.node);
      const Tensor* scale = graph_.constant_input(node, 1);
      const Tensor* zero = graph_.constant_input(node, 2);
      if (!node.is("QuantizeLinear") || scale == nullptr || zero == nullptr) continue;
      const IntegerRange range = integer_range(zero->dtype(), false);
      const auto at = [&](int32_t q) {
        return dequantize_value(q, static_cast<float>(scale->to_double()),
                                static_cast<int32_t>(zero->to_double()));
      };
      out.low = at(range.min);
      out.high = at(range.max);
      const auto readers = graph_.uses(node.outputs[0]);
      if (!readers.empty()) out.value = graph_.node(readers[0].node).outputs[0];
      break;
    }
    // The name of a graph output has moved behind the pair.
    if (reference_.graph.find_value(out.name) == kNoValue) out.name = graph_.value(out.value).name;
    return out;
  }

  // --- Bias -------------------------------------------------------------------------------------

  void measure_reference() {
    std::set<std::string> names;
    std::multimap<std::string, NodeId> wanted;
    for (const auto& [id, outlet] : outlets_) {
      if (reference_.graph.find_value(outlet.name) == kNoValue) continue;
      names.insert(outlet.name);
      wanted.emplace(outlet.name, id);
    }
    observe(reference_, names, samples_, [&](const std::string& name, const TensorView& content) {
      if (content.dtype != DType::float32) return;
      const auto [begin, end] = wanted.equal_range(name);
      for (auto row = begin; row != end; ++row) {
        const Outlet& outlet = outlets_.at(row->second);
        reference_means_[row->second].add(content, outlet.low, outlet.high);
      }
    });
  }

  bool correct_bias(NodeId id) {
    const auto expected = reference_means_.find(id);
    if (expected == reference_means_.end() || expected->second.count == 0) return false;
    // From here on the layer alone is computed.
    activations_.advance_to(graph_.node(id).inputs[0]);
    // A shift of the bias moves the mean by the share of values that no bound holds; twice, since
    // that share changes with it.
    for (int round = 0; round < 2; ++round) {
      const Outlet& outlet = outlets_.at(id);
      ChannelMeans means;
      activations_.visit(
          outlet.value,
          [&](const TensorView& content) { means.add(content, outlet.low, outlet.high); }, false);
      if (means.sums.size() != expected->second.sums.size()) return false;
      constexpr double kLeastInside = 0.1;  // of saturated channels little is known
      std::vector<double> shift(means.sums.size());
      for (size_t c = 0; c < shift.size(); ++c) {
        shift[c] = (expected->second.mean(c) - means.mean(c)) /
                   std::max(kLeastInside, means.share_inside(c));
      }
      if (!add_to_bias(id, shift)) return false;
    }
    return true;
  }

  bool add_to_bias(NodeId id, const std::vector<double>& shift) {
    const Node& node = graph_.node(id);
    if (node.is("MatMul")) {
      const auto bias = added_bias(graph_, id, static_cast<int64_t>(shift.size()));
      if (bias) shift_added_bias(graph_, *bias, shift);
      return bias.has_value();
    }
    if (!node.is("Conv") && !node.is("Gemm")) return false;
    const ValueId own = operand(node, 2);
    if (own == kNoValue ? !options_.integer_bias : graph_.value(own).is_constant()) {
      return add_to_float_bias(id, shift);
    }
    if (own == kNoValue && !add_zero_bias(id)) return false;
    const NodeId dequantize = constant_dequantize(graph_, graph_.node(id), 2);
    if (dequantize == kNoNode) return false;
    const Node& pair = graph_.node(dequantize);
    const ValueId constant = pair.inputs[0];
    const std::vector<double> scales = graph_.constant_input(pair, 1)->to_doubles();
    const Tensor before = graph_.value(constant).constant;
    if (before.dtype() != DType::int32 || before.count() != static_cast<int64_t>(shift.size())) {
      return false;
    }
    Tensor biases = Tensor::allocate(DType::int32, before.shape());
    const auto values = biases.mutable_as<int32_t>();
    const TensorData data = before.read();
    const auto* old = data.view().as<const int32_t>();
    for (size_t c = 0; c < values.size(); ++c) {
      constexpr double kMost = std::numeric_limits<int32_t>::max();
      const double moved = old[c] + shift[c] / scales[scales.size() == 1 ? 0 : c];
      values[c] = static_cast<int32_t>(std::clamp(std::nearbyint(moved), -kMost, kMost));
    }
    graph_.set_constant(constant, std::move(biases));
    return true;
  }

  bool add_to_float_bias(NodeId id, const std::vector<double>& shift) {
    const Node node = graph_.node(id);
    std::vector<double> values(shift.size(), 0);
    std::string name = node.name + "_bias";
    Shape shape = {static_cast<int64_t>(shift.size())};
    if (const ValueId own = operand(node, 2); own != kNoValue) {
      const Tensor& before = graph_.value(own).constant;
      if (before.dtype() != DType::float32 || node.float_or("beta", 1) != 1 ||
          before.count() != static_cast<int64_t>(shift.size())) {
        return false;
      }
      values = before.to_doubles();
      shape = before.shape();
      name = graph_.value(own).name + "_corrected";
    }
    std::vector<float> moved(values.size());
    for (size_t c = 0; c < moved.size(); ++c) moved[c] = static_cast<float>(values[c] + shift[c]);
    graph_.set_input(
        id, 2,
        graph_.add_constant(name, Tensor::from<float>(shape, std::span<const float>(moved))));
    return true;
  }

  bool add_zero_bias(NodeId id) {
    const Node node = graph_.node(id);
    const NodeId weights = constant_dequantize(graph_, node, 1);
    const NodeId input = graph_.value(node.inputs[0]).producer;
    if (weights == kNoNode || input == kNoNode || !graph_.node(input).is("DequantizeLinear")) {
      return false;
    }
    const Tensor* input_scale = graph_.constant_input(graph_.node(input), 1);
    const Tensor* weight_scale = graph_.constant_input(graph_.node(weights), 1);
    if (input_scale == nullptr || input_scale->count() != 1) return false;
    std::vector<float> scales;
    for (const double scale : weight_scale->to_doubles()) {
      scales.push_back(static_cast<float>(scale));
    }
    const std::vector<double> zeros(static_cast<size_t>(channels_of(id)), 0);
    add_integer_bias(graph_, id, node.name + "_bias", zeros, {static_cast<int64_t>(zeros.size())},
                     scales, static_cast<float>(input_scale->to_double()));
    return true;
  }

  int64_t channels_of(NodeId id) const {
    const Node& node = graph_.node(id);
    const Shape& shape = reference_weight(id).shape();
    return node.is("Conv") || node.int_or("transB", 0) != 0 ? shape[0] : shape[1];
  }

  // --- Weights ----------------------------------------------------------------------------------

  const Tensor& reference_weight(NodeId id) const {
    return reference_.graph.value(reference_.graph.node(id).inputs[1]).constant;
  }

  // A layer's weights as rows of outputs, k inputs each; rows of a group share their inputs.
  struct Rows {
    Shape shape;
    bool rows_first;  // else [k, rows]
    int64_t rows, k, group_rows;

    size_t at(int64_t r, int64_t c) const {
      return static_cast<size_t>(rows_first ? r * k + c : c * rows + r);
    }
  };
  struct Rounded {
    std::vector<int32_t> integers;  // in the tensor's order
    std::vector<double> scales;     // one, or one a row
    std::vector<double> zeros;

    ScaleZeroPoint scale(int64_t row) const {
      const auto at = static_cast<size_t>(scales.size() == 1 ? 0 : row);
      return {static_cast<float>(scales[at]), static_cast<int32_t>(zeros[at])};
    }
  };

  bool round_anew(NodeId id, PassResult& result) {
    const Node node = graph_.node(id);
    const NodeId dequantize = constant_dequantize(graph_, node, 1);
    if (dequantize == kNoNode) return false;
    const Node pair = graph_.node(dequantize);
    const Tensor weight = reference_weight(id);
    const DType dtype = graph_.value(pair.inputs[0]).constant.dtype();
    if (!weight || weight.shape() != graph_.value(pair.inputs[0]).constant.shape() ||
        info(dtype).bits > 8 || (!node.is("Conv") && weight.shape().rank() != 2)) {
      return false;
    }
    const bool rows_first = node.is("Conv") || node.int_or("transB", 0) != 0;
    const int64_t rows = weight.shape()[rows_first ? 0 : 1];
    const Rows layout{weight.shape(), rows_first, rows, weight.count() / rows,
                      rows / (node.is("Conv") ? node.int_or("group", 1) : 1)};
    if (options_.rounding == Rounding::adaround && !is_adaround_size(layout.group_rows, layout.k)) {
      result.skipped.push_back({label(graph_, node), kTooLargeForAdaRound});
      return false;
    }
    InputGram gram(model_, id, weight.shape(), static_cast<int64_t>(samples_.indices.size()));
    activations_.visit(node.inputs[0], [&](const TensorView& content) { gram.add(content); });

    const TensorData data = weight.read();
    const auto* from = data.view().as<const float>();
    Rounded to{std::vector<int32_t>(static_cast<size_t>(weight.count())),
               graph_.constant_input(pair, 1)->to_doubles(),
               graph_.constant_input(pair, 2)->to_doubles()};
    const bool narrow = info(dtype).bits < 8 && static_cast<int64_t>(to.scales.size()) == rows;
    // What a bias can make up for, the mean of the errors, need not be kept small.
    std::vector<double> shift(static_cast<size_t>(rows), 0);
    const bool has_bias = add_to_bias(id, shift);
    const bool symmetric =
        std::all_of(to.zeros.begin(), to.zeros.end(), [](double z) { return z == 0; });
    const IntegerRange range =
        integer_range(dtype, symmetric && info(dtype).is_signed, options_.reduce_range);
    // Groups have inputs and rows of their own.
    parallel_for(0, gram.groups(), 1, [&](int64_t from_group, int64_t to_group) {
      for (int64_t group = from_group; group < to_group; ++group) {
        const Eigen::MatrixXd hessian = has_bias ? gram.centered_sum(group) : gram.sum(group);
        const int64_t first = group * layout.group_rows;
        RowMatrixXf part(layout.group_rows, layout.k);
        std::vector<ScaleZeroPoint> scales;
        for (int64_t r = 0; r < layout.group_rows; ++r) {
          for (int64_t c = 0; c < layout.k; ++c) part(r, c) = from[layout.at(first + r, c)];
          scales.push_back(to.scale(first + r));
        }
        const RowMatrixXi q =
            round_rows(part, hessian, dtype, range, options_.rounding, narrow, scales);
        const Eigen::VectorXd mean = gram.mean(group);
        for (int64_t r = 0; r < layout.group_rows; ++r) {
          const ScaleZeroPoint step = scales[static_cast<size_t>(r)];
          if (narrow) to.scales[static_cast<size_t>(first + r)] = double{step.scale};
          double error = 0;
          for (int64_t c = 0; c < layout.k; ++c) {
            to.integers[layout.at(first + r, c)] = q(r, c);
            const double value = (q(r, c) - step.zero_point) * double{step.scale};
            error += (value - double{part(r, c)}) * mean[c];
          }
          shift[static_cast<size_t>(first + r)] = -error * node.float_or("alpha", 1);
        }
      }
    });
    graph_.set_constant(pair.inputs[0], pack_integers(dtype, layout.shape, [&](int64_t i) {
                          return to.integers[static_cast<size_t>(i)];
                        }));
    if (narrow) set_scales(id, pair, to.scales);
    if (has_bias) add_to_bias(id, shift);
    return true;
  }

  // New scales of the weights; the bias counts in them.
  void set_scales(NodeId id, const Node& weights, const std::vector<double>& found) {
    const std::vector<float> scales(found.begin(), found.end());
    const auto channels = static_cast<int64_t>(scales.size());
    graph_.set_constant(weights.inputs[1], Tensor::from<float>({channels}, scales));
    const NodeId dequantize = constant_dequantize(graph_, graph_.node(id), 2);
    const NodeId input = graph_.value(graph_.node(id).inputs[0]).producer;
    const ValueId bias = operand(reference_.graph.node(id), 2);
    if (dequantize == kNoNode || input == kNoNode || bias == kNoValue) return;
    const Tensor* input_scale = graph_.constant_input(graph_.node(input), 1);
    if (input_scale == nullptr || input_scale->count() != 1) return;
    const std::vector<double> values = reference_.graph.value(bias).constant.to_doubles();
    const Node pair = graph_.node(dequantize);
    const Shape shape = graph_.value(pair.inputs[0]).constant.shape();
    const IntegerBias integer =
        integer_bias(values, scales, static_cast<float>(input_scale->to_double()));
    graph_.set_constant(pair.inputs[0], Tensor::from<int32_t>(shape, integer.values));
    graph_.set_constant(pair.inputs[1], Tensor::from<float>({channels}, integer.scales));
  }

  Model& model_;
  Graph& graph_;
  const Model& reference_;
  RecoverOptions options_;
  const CalibrationSamples& samples_;
  Activations activations_;
  std::map<NodeId, Outlet> outlets_;
  std::map<NodeId, ChannelMeans> reference_means_;
};

}  // namespace

RecoverOptions recover_options(const Options& options) {
  RecoverOptions out;
  const std::string algorithm = options.text("algorithm");
  if (algorithm == "gptq") out.rounding = Rounding::gptq;
  out.reduce_range = options.flag("reduce-range");
  out.integer_bias = target_of(options).integer_bias;
  constexpr std::string_view kNames[] = {"adaround", "bias", "equalize", "smooth"};
  for (const std::string& name : options.list("recover")) {
    if (name == "bias") {
      out.bias = true;
    } else if (name == "equalize") {
      out.equalize = true;
    } else if (name == "smooth") {
      out.smooth = true;
    } else if (name == "adaround") {
      if (algorithm != "rtn") {
        fail(ErrorCode::usage,
             "--recover adaround and --algorithm {} both choose how weights are rounded; leave "
             "one of them out",
             algorithm);
      }
      out.rounding = Rounding::adaround;
    } else {
      fail(ErrorCode::usage, "--recover cannot be '{}'{}", name, suggestion(name, kNames));
    }
  }
  return out;
}

void recover_static(Model& model, const Model& reference, const std::vector<NodeId>& layers,
                    const RecoverOptions& options, const CalibrationSamples& samples,
                    PassResult& result) {
  StaticRecovery(model, reference, options, samples).run(layers, result);
}

}  // namespace compress
