#include "passes/recover/input_gram.h"

#include <algorithm>
#include <numeric>

#include "compress/core/parallel.h"
#include "compress/ops/conv_loops.h"
#include "compress/ops/fold.h"

namespace compress {
namespace {

// Positions that make a sum of rank k with some to spare.
int64_t positions_wanted(int64_t k) { return std::max<int64_t>(4096, 16 * k); }

// From one of `total` positions to the next, so that at least `wanted` are seen. It shares no
// factor with them: a step of whole rows would see the left edge of images alone, and its padding.
int64_t spread_step(int64_t total, int64_t wanted) {
  int64_t step = std::max<int64_t>(1, total / wanted);
  while (std::gcd(step, total) > 1) --step;
  return step;
}

constexpr Eigen::Index kPanel = 256;  // positions that are multiplied in float before they add up

}  // namespace

InputGram::InputGram(const Model& model, NodeId node, const Shape& weight_shape, int64_t samples)
    : model_(model), node_(node), weight_shape_(weight_shape) {
  const Node& n = model.graph.node(node);
  is_conv_ = n.is("Conv");
  int64_t groups = 1;
  if (is_conv_) {
    groups = n.int_or("group", 1);
    k_ = weight_shape.count(1, weight_shape.rank());
  } else {
    const bool transposed = n.is("Gemm") && n.int_or("transB", 0) != 0;
    k_ = weight_shape[transposed ? 1 : 0];
  }
  positions_per_sample_ =
      std::max<int64_t>(1, positions_wanted(k_) / std::max<int64_t>(1, samples));
  const auto count = static_cast<size_t>(groups);
  sums_.assign(count, Eigen::MatrixXd::Zero(k_, k_));
  totals_.assign(count, Eigen::VectorXd::Zero(k_));
  counts_.assign(count, 0);
}

void InputGram::add(const TensorView& input) {
  if (is_conv_) return add_convolution(input);
  add_rows(input);
}

void InputGram::add_panel(const Eigen::MatrixXf& columns, int64_t group) {
  Eigen::MatrixXf product = columns * columns.transpose();
  const auto at = static_cast<size_t>(group);
  sums_[at] += product.cast<double>();
  totals_[at] += columns.cast<double>().rowwise().sum();
  counts_[at] += columns.cols();
}

Eigen::VectorXd InputGram::mean(int64_t group) const {
  const auto at = static_cast<size_t>(group);
  return totals_[at] / static_cast<double>(std::max<int64_t>(1, counts_[at]));
}

Eigen::MatrixXd InputGram::centered_sum(int64_t group) const {
  return sum(group) - totals_[static_cast<size_t>(group)] * mean(group).transpose();
}

void InputGram::add_rows(const TensorView& input) {
  const int64_t rows = input.shape.count() / k_;
  const auto* x = input.as<const float>();
  const int64_t step = spread_step(rows, positions_per_sample_);
  for (int64_t begin = 0; begin < rows; begin += kPanel * step) {
    const int64_t count = std::min<int64_t>(kPanel, (rows - begin + step - 1) / step);
    Eigen::MatrixXf columns(k_, count);
    for (int64_t i = 0; i < count; ++i) {
      columns.col(i) = Eigen::Map<const Eigen::VectorXf>(x + (begin + i * step) * k_, k_);
    }
    add_panel(columns, 0);
  }
}

void InputGram::add_convolution(const TensorView& input) {
  const Node& node = model_.graph.node(node_);
  const NodeContext context = context_of(model_.graph, node, model_.opset());
  const ConvShape shape = read_conv(context, input.shape, weight_shape_);
  const Window& w = shape.window;
  const int64_t plane = Window::product(w.in), taps = Window::product(w.kernel);
  const int64_t pixels = Window::product(w.out);
  const int64_t total = pixels * shape.batch;
  const int64_t step = spread_step(total, positions_per_sample_);
  const auto* x = input.as<const float>();

  // One position: the taps under the window, zeros in the padding.
  const auto gather = [&](int64_t position, int64_t group, float* out) {
    const int64_t image = position / pixels, pixel = position % pixels;
    const int64_t od = pixel / (w.out[1] * w.out[2]);
    const int64_t oh = pixel / w.out[2] % w.out[1], ow = pixel % w.out[2];
    const float* first = x + (image * shape.groups + group) * shape.group_in * plane;
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int64_t id = od * w.stride[0] + w.offset(0, tap / (w.kernel[1] * w.kernel[2]));
      const int64_t ih = oh * w.stride[1] + w.offset(1, tap / w.kernel[2] % w.kernel[1]);
      const int64_t iw = ow * w.stride[2] + w.offset(2, tap % w.kernel[2]);
      const bool inside =
          id >= 0 && id < w.in[0] && ih >= 0 && ih < w.in[1] && iw >= 0 && iw < w.in[2];
      const float* at = first + (id * w.in[1] + ih) * w.in[2] + iw;
      for (int64_t c = 0; c < shape.group_in; ++c) {
        out[c * taps + tap] = inside ? at[c * plane] : 0.0f;
      }
    }
  };
  // Groups are independent; a panel's positions add up in order.
  parallel_for(0, shape.groups, 1, [&](int64_t from, int64_t to) {
    for (int64_t group = from; group < to; ++group) {
      for (int64_t begin = 0; begin < total; begin += kPanel * step) {
        const int64_t count = std::min<int64_t>(kPanel, (total - begin + step - 1) / step);
        Eigen::MatrixXf columns(k_, count);
        for (int64_t i = 0; i < count; ++i) {
          gather(begin + i * step, group, columns.col(i).data());
        }
        add_panel(columns, group);
      }
    }
  });
}

}  // namespace compress
