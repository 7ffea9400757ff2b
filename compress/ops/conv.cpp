// Conv, ConvTranspose, ConvInteger, and com.microsoft's FusedConv.
#include <cmath>
#include <vector>

#include "compress/ops/activation.h"
#include "compress/ops/compute_families.h"
#include "compress/ops/conv_loops.h"
#include "compress/ops/integer_loops.h"
#include "compress/ops/typed.h"

namespace compress {
namespace {

int64_t read_groups(const NodeContext& c) {
  const int64_t groups = c.node().int_or("group", 1);
  if (groups < 1 || groups > (int64_t{1} << 30)) c.invalid(fmt::format("group is {}", groups));
  return groups;
}

std::vector<int64_t> read_kernel(const NodeContext& c, const Shape& w) {
  const std::vector<int64_t> of_weights(w.begin() + 2, w.end());
  const std::vector<int64_t> kernel = c.node().ints_or("kernel_shape", of_weights);
  if (kernel.size() != of_weights.size()) c.invalid("kernel_shape does not fit the weights");
  for (size_t i = 0; i < kernel.size(); ++i) {
    if (of_weights[i] >= 0 && of_weights[i] != kernel[i]) {
      c.invalid(fmt::format("kernel_shape does not fit weights of shape {}", w.to_string()));
    }
  }
  return kernel;
}

void check_ranks(const NodeContext& c, const Shape& x, const Shape& w) {
  if (x.rank() < 3 || w.rank() != x.rank()) {
    c.invalid(
        fmt::format("an input of shape {} and weights of shape {}", x.to_string(), w.to_string()));
  }
}

}  // namespace

ConvShape read_conv(const NodeContext& c, const Shape& x, const Shape& w) {
  check_ranks(c, x, w);
  ConvShape shape;
  shape.groups = read_groups(c);
  shape.batch = x[0];
  shape.group_in = w[1];
  shape.group_out = w[0] < 0 ? kUnknownDim : w[0] / shape.groups;
  if (w[0] >= 0 && w[0] % shape.groups != 0) {
    c.invalid(fmt::format("{} output channels in {} groups", w[0], shape.groups));
  }
  if (x[1] >= 0 && w[1] >= 0 && (x[1] % shape.groups != 0 || x[1] / shape.groups != w[1])) {
    c.invalid(fmt::format("{} input channels in {} groups, but weights of shape {}", x[1],
                          shape.groups, w.to_string()));
  }
  shape.window = read_window(c, x, read_kernel(c, w), false);
  return shape;
}

void check_conv_bias(const NodeContext& c, int slot, int64_t channels) {
  if (!c.has_input(slot) || !c.in(slot).is_concrete() || channels < 0) return;
  if (c.shape(slot).count() == channels) return;
  c.invalid(fmt::format("a bias of shape {} for {} output channels", c.shape(slot).to_string(),
                        channels));
}

namespace {

// Input, weights and output type of the convolutions; `w_slot` and the type differ.
void infer_conv_as(NodeContext& c, int w_slot, DType dtype) {
  require_inputs(c, w_slot + 1);
  if (!c.in(0).has_shape || !c.in(w_slot).has_shape) return c.set_output(0, dtype);
  const ConvShape shape = read_conv(c, c.shape(0), c.shape(w_slot));
  c.set_output(0, dtype, window_output(shape.window, shape.batch, c.shape(w_slot)[0]));
}

void infer_conv(NodeContext& c) {
  infer_conv_as(c, 1, c.dtype(0));
  if (c.in(1).has_shape && c.shape(1).rank() > 0) check_conv_bias(c, 2, c.shape(1)[0]);
}
void infer_conv_integer(NodeContext& c) { infer_conv_as(c, 1, DType::int32); }

Kernel prepare_conv(const NodeContext& c) {
  const ConvShape shape = read_conv(c, c.shape(0), c.shape(1));
  require_count(c, 2, c.shape(1)[0]);
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    return Kernel{"conv_direct_ref", [shape](const KernelArgs& args) {
                    conv_forward<T>(shape, args.inputs[0].as<const T>(),
                                    args.inputs[1].as<const T>(), data_or_null<T>(args, 2),
                                    args.outputs[0].as<T>());
                  }};
  });
}

// Conv, then (input 3) a sum, then an activation.
Kernel prepare_fused_conv(const NodeContext& c) {
  const Activation activation = find_activation(c, c.node().string_or("activation", ""),
                                                c.node().floats_or("activation_params", {}));
  require_shape(c, 3, c.output_types[0].shape);
  Kernel conv = prepare_conv(c);
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    return Kernel{"conv_direct_ref", [activation, run = conv.run](const KernelArgs& args) {
                    run(args);
                    const T* sum = data_or_null<T>(args, 3);
                    T* y = args.outputs[0].as<T>();
                    parallel_for(0, args.outputs[0].count(), 4096, [&](int64_t from, int64_t to) {
                      for (int64_t i = from; i < to; ++i) {
                        y[i] = activation.apply(sum ? y[i] + sum[i] : y[i]);
                      }
                    });
                  }};
  });
}

// --- ConvTranspose -------------------------------------------------------------------------------

// group_in and group_out as of the forward convolution: x has groups * group_in channels.
ConvShape read_transposed(const NodeContext& c, const Shape& x, const Shape& w) {
  check_ranks(c, x, w);
  ConvShape shape;
  shape.groups = read_groups(c);
  shape.batch = x[0];
  if (x[1] >= 0 && w[0] >= 0 && (x[1] != w[0] || x[1] % shape.groups != 0)) {
    c.invalid(fmt::format("{} input channels in {} groups, but weights of shape {}", x[1],
                          shape.groups, w.to_string()));
  }
  shape.group_in = w[0] < 0 ? kUnknownDim : w[0] / shape.groups;
  shape.group_out = w[1];
  shape.window = read_transposed_window(c, x, read_kernel(c, w));
  return shape;
}

void infer_conv_transpose(NodeContext& c) {
  require_inputs(c, 2);
  if (!c.in(0).has_shape || !c.in(1).has_shape) return c.set_output(0, c.dtype(0));
  const ConvShape s = read_transposed(c, c.shape(0), c.shape(1));
  int64_t channels = kUnknownDim;
  if (s.group_out >= 0 && __builtin_mul_overflow(s.group_out, s.groups, &channels)) {
    c.invalid("too many output channels");
  }
  check_conv_bias(c, 2, channels);
  c.set_output(0, c.dtype(0), window_output(s.window, s.batch, channels));
}

// Inputs i in [begin, end) of dimension d whose product with tap k lands inside the output.
Window::Range inputs_of_tap(const Window& s, size_t d, int64_t k) {
  const int64_t first = s.offset(d, k);
  const int64_t begin = first >= 0 ? 0 : (-first + s.stride[d] - 1) / s.stride[d];
  const int64_t last = s.out[d] - 1 - first;
  const int64_t end = last < 0 ? 0 : std::min(s.in[d], last / s.stride[d] + 1);
  return {begin, std::max(begin, end)};
}

// Adds one input plane, spread by one filter, to one output plane.
template <class T>
void spread_plane(const Window& s, const T* x, const T* w, T* y) {
  for (int64_t kd = 0; kd < s.kernel[0]; ++kd) {
    const Window::Range ds = inputs_of_tap(s, 0, kd);
    for (int64_t kh = 0; kh < s.kernel[1]; ++kh) {
      const Window::Range hs = inputs_of_tap(s, 1, kh);
      for (int64_t kw = 0; kw < s.kernel[2]; ++kw) {
        const Window::Range ws = inputs_of_tap(s, 2, kw);
        const T weight = w[(kd * s.kernel[1] + kh) * s.kernel[2] + kw];
        for (int64_t id = ds.begin; id < ds.end; ++id) {
          const int64_t od = id * s.stride[0] + s.offset(0, kd);
          for (int64_t ih = hs.begin; ih < hs.end; ++ih) {
            const int64_t oh = ih * s.stride[1] + s.offset(1, kh);
            const T* in = x + (id * s.in[1] + ih) * s.in[2];
            T* out = y + (od * s.out[1] + oh) * s.out[2] + s.offset(2, kw);
            for (int64_t i = ws.begin; i < ws.end; ++i) out[i * s.stride[2]] += weight * in[i];
          }
        }
      }
    }
  }
}

template <class T>
void conv_transpose(const ConvShape& shape, const T* x, const T* w, const T* bias, T* y) {
  const Window& s = shape.window;
  const int64_t in_plane = Window::product(s.in);
  const int64_t out_plane = Window::product(s.out);
  const int64_t filter = Window::product(s.kernel);
  const int64_t channels = shape.groups * shape.group_out;
  parallel_for(0, shape.batch * channels, 1, [&](int64_t from, int64_t to) {
    for (int64_t task = from; task < to; ++task) {
      const int64_t image = task / channels;
      const int64_t channel = task % channels;
      const int64_t group = channel / shape.group_out;
      T* out = y + task * out_plane;
      std::fill(out, out + out_plane, bias ? bias[channel] : T{0});
      for (int64_t i = 0; i < shape.group_in; ++i) {
        const int64_t ic = group * shape.group_in + i;
        spread_plane(s, x + (image * shape.groups * shape.group_in + ic) * in_plane,
                     w + (ic * shape.group_out + channel % shape.group_out) * filter, out);
      }
    }
  });
}

Kernel prepare_conv_transpose(const NodeContext& c) {
  const ConvShape shape = read_transposed(c, c.shape(0), c.shape(1));
  require_count(c, 2, shape.groups * shape.group_out);
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    return Kernel{"conv_transpose_ref", [shape](const KernelArgs& args) {
                    conv_transpose<T>(shape, args.inputs[0].as<const T>(),
                                      args.inputs[1].as<const T>(), data_or_null<T>(args, 2),
                                      args.outputs[0].as<T>());
                  }};
  });
}

// --- ConvInteger ---------------------------------------------------------------------------------

Kernel prepare_conv_integer(const NodeContext& c) {
  const ConvShape shape = read_conv(c, c.shape(0), c.shape(1));
  for (const int i : {0, 1}) by_byte(c, c.dtype(i), [](auto) {});
  require_count(c, 2, 1);
  if (c.has_input(2) && c.dtype(2) != c.dtype(0)) c.invalid("x_zero_point has another type");
  if (c.has_input(3) && c.dtype(3) != c.dtype(1)) c.invalid("w_zero_point has another type");
  const int64_t channels = c.shape(1)[0];
  if (c.has_input(3) && c.shape(3).count() != 1) require_count(c, 3, channels);
  const int64_t x_count = c.shape(0).count();
  const int64_t w_count = c.shape(1).count();
  Kernel kernel{"conv_integer_ref", nullptr};
  kernel.workspace_bytes =
      byte_size(DType::int32, static_cast<uint64_t>(x_count) + static_cast<uint64_t>(w_count));
  kernel.run = [=](const KernelArgs& args) {
    auto* x = reinterpret_cast<uint32_t*>(args.workspace);
    uint32_t* w = x + x_count;
    const TensorView none;
    const TensorView& x_zero = args.inputs.size() > 2 ? args.inputs[2] : none;
    const TensorView& w_zero = args.inputs.size() > 3 ? args.inputs[3] : none;
    widen(args.inputs[0], 0, x_count, zero_point_at(x_zero, 0), x);
    const int64_t filter = channels == 0 ? 0 : w_count / channels;
    for (int64_t m = 0; m < channels; ++m) {
      widen(args.inputs[1], m * filter, filter, zero_point_at(w_zero, m), w + m * filter);
    }
    conv_forward<uint32_t>(shape, x, w, nullptr, static_cast<uint32_t*>(args.outputs[0].data));
  };
  return kernel;
}

constexpr QuantFacts kConvFacts{.weight_input = 1, .bias_input = 2, .channel_axis = 0};
constexpr OpDef kRows[] = {
    {"", "Conv", 1, infer_conv, prepare_conv, kConvFacts},
    {"",
     "ConvTranspose",
     1,
     infer_conv_transpose,
     prepare_conv_transpose,
     {.weight_input = 1, .bias_input = 2, .channel_axis = 1}},
    {"", "ConvInteger", 10, infer_conv_integer, prepare_conv_integer},
    {"com.microsoft", "FusedConv", 1, infer_conv, prepare_fused_conv, kConvFacts},
};

}  // namespace

const std::span<const OpDef> kConvOps = kRows;

}  // namespace compress
