// Channels-last pools, float and int8. Their shapes are what ONNX's own rows infer.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "compress/core/parallel.h"
#include "compress/error.h"
#include "compress/kernels/elementwise_s8/elementwise_s8.h"
#include "compress/runtime/inline.h"
#include "compress/runtime/lower.h"
#include "compress/runtime/lower_internal.h"
#include "compress/runtime/lower_params.h"

namespace compress::runtime {
namespace {

constexpr int64_t kChannelBlock = 64;  // channels whose sums stay in registers or L1

// The ONNX operator that a row stands for.
std::string onnx_name(const Node& node) {
  return node.op_type.starts_with("Q") ? node.op_type.substr(1) : node.op_type;
}

bool is_global(const Node& node) { return onnx_name(node).starts_with("Global"); }

void infer_pool(NodeContext& context) {
  const Node& node = context.node();
  const DType dtype = context.dtype(0);
  if (!context.in(0).is_concrete()) return context.set_output(0, dtype);
  const Shape& x = context.shape(0);
  if (is_global(node)) {
    Shape out = x;
    for (int i = 1; i + 1 < x.rank(); ++i) out[i] = 1;
    return context.set_output(0, dtype, out);
  }
  const auto opset = static_cast<int>(node.int_or(kOpsetAttribute, 1));
  const OpDef* onnx = find_op("", onnx_name(node), opset);
  if (onnx == nullptr) context.unsupported("has no row");
  NodeContext first(node, opset);
  first.input_types = {{DType::float32, true, channels_first(x)}};
  first.constants = {nullptr};
  first.output_types.resize(node.outputs.size());
  onnx->infer(first);
  context.set_output(0, dtype, channels_last(first.output_types[0].shape));
}

}  // namespace

PoolWindow pool_window(const NodeContext& context) {
  const Node& node = context.node();
  const Shape& x = context.shape(0);
  const Shape& out = context.output_types[0].shape;
  PoolWindow pool;
  std::vector<int64_t> kernel = node.ints_or("kernel_shape", {});
  if (is_global(node)) {
    for (int i = 1; i + 1 < x.rank(); ++i) kernel.push_back(std::max<int64_t>(x[i], 1));
  }
  pool.window = window_of(context, x, kernel);
  pool.window.out_h = out.rank() == 4 ? out[1] : 1;
  pool.window.out_w = out[out.rank() - 2];
  pool.count_include_pad = node.int_or("count_include_pad", 0) != 0;
  pool.padded_h = pool.window.in_h + pool.window.pad_top + pool.window.pad_bottom;
  pool.padded_w = pool.window.in_w + pool.window.pad_left + pool.window.pad_right;
  return pool;
}

namespace {

// Calls visit(pixel of the input) for the taps of a window that lie in the image.
template <class Visit>
void for_each_tap(const Window& w, int64_t oh, int64_t ow, Visit&& visit) {
  for (int64_t ky = 0; ky < w.kernel_h; ++ky) {
    const int64_t y = oh * w.stride_h - w.pad_top + ky * w.dilation_h;
    if (y < 0 || y >= w.in_h) continue;
    for (int64_t kx = 0; kx < w.kernel_w; ++kx) {
      const int64_t x = ow * w.stride_w - w.pad_left + kx * w.dilation_w;
      if (x >= 0 && x < w.in_w) visit(y * w.in_w + x);
    }
  }
}

// Taps that lie in the padded image, for averages that count the padding.
int64_t padded_taps(const PoolWindow& pool, int64_t oh, int64_t ow) {
  const Window& w = pool.window;
  const auto inside = [](int64_t start, int64_t taps, int64_t dilation, int64_t size) {
    int64_t count = 0;
    for (int64_t k = 0; k < taps; ++k) count += start + k * dilation < size ? 1 : 0;
    return count;
  };
  return inside(oh * w.stride_h, w.kernel_h, w.dilation_h, pool.padded_h) *
         inside(ow * w.stride_w, w.kernel_w, w.dilation_w, pool.padded_w);
}

// Body(channels [begin, end) of one output pixel) over all pixels and blocks of channels.
template <class Body>
void for_each_pixel(const PoolWindow& pool, Body&& body) {
  const Window& w = pool.window;
  const int64_t blocks = (w.channels + kChannelBlock - 1) / kChannelBlock;
  const int64_t pixels = w.batch * w.out_h * w.out_w;
  parallel_for(0, pixels * blocks, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t pixel = i / blocks;
      const int64_t channel = i % blocks * kChannelBlock;
      body(pixel, channel, std::min(kChannelBlock, w.channels - channel));
    }
  });
}

void run_max(const PoolWindow& pool, const float* in, float* out) {
  const Window& w = pool.window;
  for_each_pixel(pool, [&](int64_t pixel, int64_t channel, int64_t n) {
    float* to = out + pixel * w.channels + channel;
    std::fill_n(to, n, -std::numeric_limits<float>::infinity());
    const int64_t image = pixel / (w.out_h * w.out_w) * w.in_h * w.in_w;
    for_each_tap(w, pixel / w.out_w % w.out_h, pixel % w.out_w, [&](int64_t tap) {
      const float* from = in + (image + tap) * w.channels + channel;
      for (int64_t c = 0; c < n; ++c) to[c] = from[c] > to[c] ? from[c] : to[c];
    });
  });
}

void run_average(const PoolWindow& pool, const float* in, float* out) {
  const Window& w = pool.window;
  for_each_pixel(pool, [&](int64_t pixel, int64_t channel, int64_t n) {
    std::array<double, kChannelBlock> sum{};
    const int64_t image = pixel / (w.out_h * w.out_w) * w.in_h * w.in_w;
    const int64_t oh = pixel / w.out_w % w.out_h;
    const int64_t ow = pixel % w.out_w;
    int64_t taps = 0;
    for_each_tap(w, oh, ow, [&](int64_t tap) {
      const float* from = in + (image + tap) * w.channels + channel;
      for (int64_t c = 0; c < n; ++c) sum[static_cast<size_t>(c)] += static_cast<double>(from[c]);
      ++taps;
    });
    if (pool.count_include_pad) taps = padded_taps(pool, oh, ow);
    float* to = out + pixel * w.channels + channel;
    for (int64_t c = 0; c < n; ++c) {
      to[c] = static_cast<float>(sum[static_cast<size_t>(c)] / static_cast<double>(taps));
    }
  });
}

Kernel prepare_max(const NodeContext& context) {
  return {"max_pool_f32/nhwc", [pool = pool_window(context)](const KernelArgs& args) {
            run_max(pool, static_cast<const float*>(args.inputs[0].data),
                    static_cast<float*>(args.outputs[0].data));
          }};
}

Kernel prepare_average(const NodeContext& context) {
  return {"average_pool_f32/nhwc", [pool = pool_window(context)](const KernelArgs& args) {
            run_average(pool, static_cast<const float*>(args.inputs[0].data),
                        static_cast<float*>(args.outputs[0].data));
          }};
}

kernels::PoolS8 pool_s8(const PoolWindow& pool) {
  const Window& w = pool.window;
  kernels::PoolS8 s8;
  s8.batch = w.batch;
  s8.in_h = w.in_h;
  s8.in_w = w.in_w;
  s8.channels = w.channels;
  s8.out_h = w.out_h;
  s8.out_w = w.out_w;
  copy_window(w, s8);
  return s8;
}

Kernel prepare_max_s8(const NodeContext& context) {
  const kernels::PoolS8 pool = pool_s8(pool_window(context));
  const bool is_signed = context.dtype(0) == DType::int8;
  return {fmt::format("max_pool_s8/{}", kernels::best_elementwise_s8().name),
          [pool, is_signed](const KernelArgs& args) {
            kernels::max_pool_s8(static_cast<const uint8_t*>(args.inputs[0].data), is_signed, pool,
                                 static_cast<uint8_t*>(args.outputs[0].data));
          }};
}

void infer_average_s8(NodeContext& context) {
  infer_pool(context);
  context.output_types[0].dtype = static_cast<DType>(context.node().int_or(kYType, 2));
}

Kernel prepare_average_s8(const NodeContext& context) {
  const Node& node = context.node();
  const PoolWindow pool = pool_window(context);
  const kernels::S8Params in{node.float_or(kXScale, 1),
                             static_cast<int32_t>(node.int_or(kXZeroPoint, 0)),
                             context.dtype(0) == DType::int8};
  const kernels::S8Params out{node.float_or(kYScale, 1),
                              static_cast<int32_t>(node.int_or(kYZeroPoint, 0)),
                              context.output_types[0].dtype == DType::int8};
  return {fmt::format("average_pool_s8/{}", kernels::best_elementwise_s8().name),
          [pool, s8 = pool_s8(pool), in, out](const KernelArgs& args) {
            kernels::average_pool_s8(static_cast<const uint8_t*>(args.inputs[0].data), in, s8,
                                     pool.count_include_pad, pool.padded_h, pool.padded_w, out,
                                     static_cast<uint8_t*>(args.outputs[0].data));
          }};
}

const std::array<OpDef, 7> kRows = {
    internal_row("MaxPool", infer_pool, prepare_max, false),
    internal_row("AveragePool", infer_pool, prepare_average, false),
    internal_row("GlobalMaxPool", infer_pool, prepare_max, false),
    internal_row("GlobalAveragePool", infer_pool, prepare_average, false),
    internal_row("QMaxPool", infer_pool, prepare_max_s8, false),
    internal_row("QAveragePool", infer_average_s8, prepare_average_s8, false),
    internal_row("QGlobalAveragePool", infer_average_s8, prepare_average_s8, false),
};

}  // namespace

const std::span<const OpDef> kPoolRows = kRows;

}  // namespace compress::runtime
