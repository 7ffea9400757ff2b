#include "passes/quantize/mean_error.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <string>

#include "compress/core/parallel.h"
#include "compress/ops/conv_loops.h"
#include "compress/ops/fold.h"
#include "passes/edit.h"

namespace compress {
namespace {

// The share of outputs for which each tap of a convolution reads inside the input.
std::vector<double> tap_shares(const ConvShape& shape) {
  const Window& w = shape.window;
  std::vector<double> shares(static_cast<size_t>(Window::product(w.kernel)), 1.0);
  for (size_t d = 0; d < 3; ++d) {
    if (w.in[d] <= 0 || w.out[d] <= 0) continue;  // not known
    int64_t inner = 1;
    for (size_t after = d + 1; after < 3; ++after) inner *= w.kernel[after];
    for (size_t tap = 0; tap < shares.size(); ++tap) {
      const auto k = static_cast<int64_t>(tap) / inner % w.kernel[d];
      const Window::Range range = w.outputs_of_tap(d, k);
      shares[tap] *= static_cast<double>(std::max<int64_t>(0, range.end - range.begin)) /
                     static_cast<double>(w.out[d]);
    }
  }
  return shares;
}

}  // namespace

StatisticsRequest mean_error_wants(const Node& node) {
  StatisticsRequest wanted;
  wanted.channel_sum = true;
  wanted.channel_axis = node.is("Conv") ? 1 : -1;
  return wanted;
}

std::vector<double> mean_error(const Model& model, NodeId id, const Tensor& weight,
                               const Tensor& rounded, const Statistics& input) {
  const Node& node = model.graph.node(id);
  const Shape& shape = weight.shape();
  const bool is_conv = node.is("Conv");
  if (!is_conv && shape.rank() != 2) return {};
  const bool rows_first = is_conv || node.int_or("transB", 0) != 0;
  const int64_t outputs = shape[rows_first ? 0 : 1];
  const int64_t inputs = is_conv ? shape[1] : shape[rows_first ? 1 : 0];
  const int64_t groups = is_conv ? node.int_or("group", 1) : 1;
  if (input.channel_count == 0 || outputs % groups != 0 ||
      static_cast<int64_t>(input.channel_sum.size()) != inputs * groups) {
    return {};
  }
  std::vector<double> shares(is_conv ? static_cast<size_t>(shape.count(2, shape.rank())) : 1, 1.0);
  const TypeInfo& type = model.graph.value(node.inputs[0]).type;
  if (is_conv && type.has_shape) {
    shares = tap_shares(read_conv(context_of(model.graph, node, model.opset()), type.shape, shape));
  }
  const auto taps = static_cast<int64_t>(shares.size());
  const TensorData before = weight.read(), after = rounded.read();
  const auto *w = before.view().as<const float>(), *q = after.view().as<const float>();
  const double alpha = node.is("Gemm") ? node.float_or("alpha", 1) : 1;

  std::vector<double> error(static_cast<size_t>(outputs));
  parallel_for(0, outputs, 1, [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      const int64_t first_input = o / (outputs / groups) * inputs;
      double sum = 0;
      for (int64_t i = 0; i < inputs; ++i) {
        double of_channel = 0;
        for (int64_t tap = 0; tap < taps; ++tap) {
          const int64_t at = rows_first ? (o * inputs + i) * taps + tap : i * outputs + o;
          of_channel += (double{q[at]} - double{w[at]}) * shares[static_cast<size_t>(tap)];
        }
        sum += of_channel * input.channel_sum[static_cast<size_t>(first_input + i)];
      }
      error[static_cast<size_t>(o)] = alpha * sum / static_cast<double>(input.channel_count);
    }
  });
  const bool finite =
      std::all_of(error.begin(), error.end(), [](double e) { return std::isfinite(e); });
  return finite ? error : std::vector<double>{};
}

std::optional<AddedBias> added_bias(const Graph& graph, NodeId product, int64_t columns) {
  if (!graph.node(product).is("MatMul")) return {};
  const NodeId reader = single_reader(graph, graph.node(product).outputs[0]);
  if (reader == kNoNode || !graph.node(reader).is("Add")) return {};
  const Node& add = graph.node(reader);
  for (size_t slot = 0; slot < 2; ++slot) {
    const Tensor* bias = graph.constant_input(add, slot);
    if (bias == nullptr || bias->dtype() != DType::float32) continue;
    if (bias->count() == columns && bias->shape().rank() == 1) return AddedBias{reader, slot};
  }
  return {};
}

void shift_added_bias(Graph& graph, const AddedBias& bias, const std::vector<double>& shift) {
  const Value& value = graph.value(graph.node(bias.node).inputs[bias.slot]);
  const std::vector<double> before = value.constant.to_doubles();
  std::vector<float> moved(before.size());
  for (size_t c = 0; c < moved.size(); ++c) moved[c] = static_cast<float>(before[c] + shift[c]);
  const ValueId id = graph.node(bias.node).inputs[bias.slot];
  Tensor sum = Tensor::from<float>(value.constant.shape(), std::span<const float>(moved));
  if (graph.uses(id).size() == 1) return graph.set_constant(id, std::move(sum));
  const std::string name = value.name + "_corrected";
  graph.set_input(bias.node, bias.slot, graph.add_constant(name, std::move(sum)));
}

}  // namespace compress
