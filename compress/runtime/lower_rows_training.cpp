// Rows of training: convolutions with weights that change, and gradients of channels-last images.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

#include "compress/core/parallel.h"
#include "compress/kernels/aligned.h"
#include "compress/kernels/dnnl/dnnl_conv_gradient.h"
#include "compress/kernels/float_rows/conv_patches_f32.h"
#include "compress/kernels/gemm_f32/gemm_f32.h"
#include "compress/ops/gradient_families.h"
#include "compress/runtime/conv_f32_params.h"
#include "compress/runtime/lower_internal.h"

namespace compress::runtime {
namespace {

using kernels::DnnlConvPass;

// x is channels-last, weights are ONNX's.
kernels::ConvF32Params params_of(const NodeContext& context, const Shape& x, const Shape& w) {
  if (w.rank() != 4) context.unsupported("weights of rank " + std::to_string(w.rank()));
  return conv_f32_params(context, x, w);
}

Shape output_of(const kernels::ConvF32Params& p) {
  return {p.batch, p.out_h(), p.out_w(), p.out_channels};
}

void require(const NodeContext& context, bool holds) {
  if (!holds) context.invalid("a gradient of another shape");
}

float* floats(const TensorView& view) { return static_cast<float*>(view.data); }

// What runs where the library has nothing: the reference row between two changes of layout.
Kernel fallback(const NodeContext& context) {
  context.unsupported("oneDNN has no implementation of this convolution; --no-lower runs it");
}

void infer_conv(NodeContext& context) {
  if (!context.in(0).is_concrete() || !context.in(1).is_concrete()) {
    return context.set_output(0, DType::float32);
  }
  context.set_output(0, DType::float32,
                     output_of(params_of(context, context.shape(0), context.shape(1))));
}

Kernel pass_kernel(std::shared_ptr<DnnlConvPass> pass, const char* name, bool bias) {
  Kernel kernel;
  kernel.name = fmt::format("{}/{}", name, pass->implementation());
  kernel.workspace_bytes = pass->workspace_bytes();
  kernel.run = [pass, bias](const KernelArgs& args) {
    pass->run(floats(args.inputs[0]), floats(args.inputs[1]),
              bias ? floats(args.inputs[2]) : nullptr, floats(args.outputs[0]), args.workspace);
  };
  return kernel;
}

// Images of the batch are shared by the threads.
Kernel patches_kernel(const kernels::ConvF32Params& params, bool bias) {
  const int64_t slots = std::clamp<int64_t>(thread_count(), 1, std::max<int64_t>(params.batch, 1));
  const size_t bytes = kernels::conv_patches_bytes(params);
  Kernel kernel;
  kernel.name = fmt::format("conv_patches_f32/{}", kernels::best_gemm_f32().name);
  kernel.workspace_bytes = bytes * static_cast<size_t>(slots);
  kernel.run = [=](const KernelArgs& args) {
    parallel_for(0, slots, 1, [&](int64_t from, int64_t to) {
      for (int64_t slot = from; slot < to; ++slot) {
        kernels::conv_patches_forward(params, floats(args.inputs[0]), floats(args.inputs[1]),
                                      bias ? floats(args.inputs[2]) : nullptr,
                                      floats(args.outputs[0]), params.batch * slot / slots,
                                      params.batch * (slot + 1) / slots,
                                      args.workspace + static_cast<size_t>(slot) * bytes);
      }
    });
  };
  return kernel;
}

Kernel prepare_conv(const NodeContext& context) {
  const kernels::ConvF32Params params = params_of(context, context.shape(0), context.shape(1));
  const bool bias = context.has_input(2);
  if (bias && context.shape(2).count() != params.out_channels) {
    context.invalid("its bias does not match its channels");
  }
  if (kernels::suits_patches(params)) return patches_kernel(params, bias);
  std::shared_ptr<DnnlConvPass> pass =
      DnnlConvPass::make(params, DnnlConvPass::Kind::forward, bias, false);
  return pass == nullptr ? fallback(context) : pass_kernel(std::move(pass), "conv_f32", bias);
}

// The shape operand is channels-first, as ONNX knows the value.
std::optional<Shape> shape_operand(const NodeContext& context, int i) {
  const auto dims = context.ints("", i);
  if (!dims) return std::nullopt;
  return Shape(std::span<const int64_t>(*dims));
}

void infer_data(NodeContext& context) {
  const auto shape = shape_operand(context, 2);
  if (!shape) return context.set_output(0, DType::float32);
  context.set_output(0, DType::float32, channels_last(*shape));
}

Kernel prepare_data(const NodeContext& context) {
  const kernels::ConvF32Params params =
      params_of(context, context.output_types[0].shape, context.shape(1));
  require(context, context.shape(0) == output_of(params));
  std::shared_ptr<DnnlConvPass> pass =
      DnnlConvPass::make(params, DnnlConvPass::Kind::data, false, false);
  return pass == nullptr ? fallback(context)
                         : pass_kernel(std::move(pass), "conv_data_gradient_f32", false);
}

// --- Weights -------------------------------------------------------------------------------------

void infer_weights(NodeContext& context) {
  const auto shape = shape_operand(context, 2);
  if (!shape) {
    context.set_output(0, DType::float32);
    return context.set_output(1, DType::float32);
  }
  context.set_output(0, DType::float32, *shape);
  context.set_output(1, DType::float32, {(*shape)[0]});
}

// The batch is cut into parts by its size alone; each part is summed by one thread, and the parts
// are added up in their order, so that no number of threads changes a bit.
struct WeightParts {
  static constexpr int64_t kParts = 8;
  int64_t part = 1;  // samples
  int64_t parts = 1;
  int64_t rest = 0;  // samples of the last one
  kernels::ConvF32Params params;
  bool patches = false;  // by products of patches; else by oneDNN:
  // for each thread the kernel of a whole part, and of the last.
  std::vector<std::shared_ptr<DnnlConvPass>> whole, last;
  size_t scratch = 0;  // bytes of one thread
  int64_t weights = 0, channels = 0;
  int64_t x_sample = 0, y_sample = 0;
  bool bias = false;

  int64_t threads() const { return std::min<int64_t>(thread_count(), parts); }
  int64_t sums() const { return kernels::round_up(weights + channels, kernels::kAlignment / 4); }
};

std::optional<WeightParts> cut_batch(kernels::ConvF32Params params, bool bias) {
  WeightParts cut;
  cut.bias = bias;
  cut.part = std::max<int64_t>((params.batch + WeightParts::kParts - 1) / WeightParts::kParts, 1);
  cut.parts = (params.batch + cut.part - 1) / cut.part;
  cut.rest = params.batch - (cut.parts - 1) * cut.part;
  cut.weights = params.out_channels * (params.in_channels / params.groups) * params.kernel_h *
                params.kernel_w;
  cut.channels = bias ? params.out_channels : 0;
  cut.x_sample = params.in_h * params.in_w * params.in_channels;
  cut.y_sample = params.out_h() * params.out_w() * params.out_channels;
  cut.params = params;
  cut.patches = kernels::suits_patches(params);
  if (cut.patches) {
    cut.scratch = kernels::conv_patches_bytes(params);
    return cut;
  }
  for (int64_t t = 0; t < cut.threads(); ++t) {
    params.batch = cut.part;
    cut.whole.push_back(DnnlConvPass::make(params, DnnlConvPass::Kind::weights, bias, true));
    params.batch = cut.rest;
    cut.last.push_back(cut.rest == cut.part
                           ? cut.whole.back()
                           : DnnlConvPass::make(params, DnnlConvPass::Kind::weights, bias, true));
    if (cut.whole.back() == nullptr || cut.last.back() == nullptr) return std::nullopt;
    cut.scratch = std::max(
        {cut.scratch, cut.whole.back()->workspace_bytes(), cut.last.back()->workspace_bytes()});
  }
  cut.scratch = static_cast<size_t>(
      kernels::round_up(static_cast<int64_t>(cut.scratch), kernels::kAlignment));
  return cut;
}

void run_weights(const WeightParts& cut, const KernelArgs& args) {
  auto* sums = reinterpret_cast<float*>(args.workspace);
  std::byte* scratch = args.workspace + static_cast<size_t>(cut.parts * cut.sums()) * sizeof(float);
  const float* dy = floats(args.inputs[0]);
  const float* x = floats(args.inputs[1]);
  const int64_t threads = cut.threads();
  parallel_for(0, threads, 1, [&](int64_t from, int64_t to) {
    for (int64_t t = from; t < to; ++t) {
      const auto slot = static_cast<size_t>(t);
      for (int64_t p = cut.parts * t / threads; p < cut.parts * (t + 1) / threads; ++p) {
        float* out = sums + p * cut.sums();
        float* bias = cut.bias ? out + cut.weights : nullptr;
        const float* g = dy + p * cut.part * cut.y_sample;
        const float* in = x + p * cut.part * cut.x_sample;
        const bool last = p + 1 == cut.parts;
        if (cut.patches) {
          kernels::conv_patches_weights(cut.params, g, in, last ? cut.rest : cut.part, out, bias,
                                        scratch + slot * cut.scratch);
        } else {
          DnnlConvPass& pass = last ? *cut.last[slot] : *cut.whole[slot];
          pass.run(g, in, bias, out, scratch + slot * cut.scratch);
        }
      }
    }
  });
  const auto add_up = [&](int64_t first, int64_t count, float* to) {
    for (int64_t i = 0; i < count; ++i) to[i] = sums[first + i];
    for (int64_t p = 1; p < cut.parts; ++p) {
      const float* part = sums + p * cut.sums() + first;
      for (int64_t i = 0; i < count; ++i) to[i] += part[i];
    }
  };
  add_up(0, cut.weights, floats(args.outputs[0]));
  if (cut.bias) add_up(cut.weights, cut.channels, floats(args.outputs[1]));
}

Kernel prepare_weights(const NodeContext& context) {
  const kernels::ConvF32Params params =
      params_of(context, context.shape(1), context.output_types[0].shape);
  require(context, context.shape(0) == output_of(params));
  auto cut = cut_batch(params, context.has_output(1));
  if (!cut) return fallback(context);
  Kernel kernel;
  kernel.name = fmt::format("conv_weight_gradient_f32/{}",
                            cut->patches ? "patches" : cut->whole[0]->implementation());
  kernel.workspace_bytes = static_cast<size_t>(cut->parts * cut->sums()) * sizeof(float) +
                           cut->scratch * static_cast<size_t>(cut->threads());
  kernel.run = [cut = std::move(*cut)](const KernelArgs& args) { run_weights(cut, args); };
  return kernel;
}

// --- Max pool ------------------------------------------------------------------------------------

void infer_max_pool(NodeContext& context) {
  if (!context.in(1).is_concrete()) return context.set_output(0, DType::float32);
  context.set_output(0, DType::float32, context.shape(1));
}

// One window: its taps inside the image, and for each channel the maximum and what is left of the
// gradient. The loops run over channels and choose instead of branching, so that they vectorize.
struct PoolWindow {
  std::vector<int32_t> pixels;
  std::vector<float> maxima;
  std::vector<float> left;

  void find(const Window& w, int64_t oh, int64_t ow) {
    pixels.clear();
    for (int64_t ky = 0; ky < w.kernel_h; ++ky) {
      const int64_t y = oh * w.stride_h - w.pad_top + ky * w.dilation_h;
      if (y < 0 || y >= w.in_h) continue;
      for (int64_t kx = 0; kx < w.kernel_w; ++kx) {
        const int64_t x = ow * w.stride_w - w.pad_left + kx * w.dilation_w;
        if (x >= 0 && x < w.in_w) pixels.push_back(static_cast<int32_t>(y * w.in_w + x));
      }
    }
  }

  void choose(const float* in, int64_t channels, bool relu, const float* __restrict g) {
    float* __restrict top = maxima.data();
    std::copy_n(in + pixels[0] * channels, channels, top);
    for (size_t k = 1; k < pixels.size(); ++k) {
      const float* __restrict values = in + pixels[k] * channels;
      for (int64_t c = 0; c < channels; ++c) top[c] = values[c] > top[c] ? values[c] : top[c];
    }
    float* __restrict rest = left.data();
    std::copy_n(g, channels, rest);
    if (!relu) return;
    for (int64_t c = 0; c < channels; ++c) rest[c] = top[c] > 0 ? rest[c] : 0;
  }

  // The first tap that is the maximum takes the gradient, and nothing is left for later ones.
  template <bool kAdd>
  void give(const float* in, int64_t channels, float* out) {
    const float* __restrict top = maxima.data();
    float* __restrict rest = left.data();
    for (const int32_t pixel : pixels) {
      const float* __restrict values = in + pixel * channels;
      float* __restrict to = out + pixel * channels;
      for (int64_t c = 0; c < channels; ++c) {
        const bool takes = values[c] == top[c];
        const float part = takes ? rest[c] : 0;
        to[c] = kAdd ? to[c] + part : part;
        rest[c] = takes ? 0 : rest[c];
      }
    }
  }
};

// Each pixel is in one window at most / in one.
bool is_disjoint(const Window& w) {
  return w.dilation_h == 1 && w.dilation_w == 1 && w.stride_h >= w.kernel_h &&
         w.stride_w >= w.kernel_w;
}

bool is_partition(const Window& w) {
  return is_disjoint(w) && w.stride_h == w.kernel_h && w.stride_w == w.kernel_w &&
         w.out_h * w.stride_h - w.pad_top >= w.in_h && w.out_w * w.stride_w - w.pad_left >= w.in_w;
}

// Windows of one image in their order; images in parallel.
template <bool kAdd>
void scatter_maxima(const Window& w, bool relu, const float* dy, const float* x, float* dx) {
  const int64_t image = w.in_h * w.in_w * w.channels;
  const bool blank = !is_partition(w);
  parallel_for(0, w.batch, 1, [&](int64_t from, int64_t to) {
    PoolWindow window;
    window.maxima.resize(static_cast<size_t>(w.channels));
    window.left.resize(static_cast<size_t>(w.channels));
    for (int64_t n = from; n < to; ++n) {
      const float* in = x + n * image;
      float* out = dx + n * image;
      if (blank) std::fill(out, out + image, 0.0f);
      const float* g = dy + n * w.out_h * w.out_w * w.channels;
      for (int64_t oh = 0; oh < w.out_h; ++oh) {
        for (int64_t ow = 0; ow < w.out_w; ++ow, g += w.channels) {
          window.find(w, oh, ow);
          if (window.pixels.empty()) continue;
          window.choose(in, w.channels, relu, g);
          window.give<kAdd>(in, w.channels, out);
        }
      }
    }
  });
}

Kernel prepare_max_pool(const NodeContext& context) {
  const Shape& x = context.shape(1);
  std::vector<int64_t> kernel = context.node().ints_or("kernel_shape", {});
  if (context.node().int_or("global", 0) != 0) kernel = {x[1], x[2]};
  Window window = window_of(context, x, kernel);
  // ceil_mode adds windows: the gradient of the output tells how many there are.
  window.out_h = context.shape(0)[1];
  window.out_w = context.shape(0)[2];
  require(context, context.shape(0)[0] == window.batch && context.shape(0)[3] == window.channels &&
                       x.count() / std::max<int64_t>(x[0], 1) < (int64_t{1} << 31));
  const bool relu = context.node().int_or("relu", 0) != 0;  // what it read was a Relu's output
  return {"max_pool_gradient_f32", [=](const KernelArgs& args) {
            const auto scatter = is_disjoint(window) ? scatter_maxima<false> : scatter_maxima<true>;
            scatter(window, relu, floats(args.inputs[0]), floats(args.inputs[1]),
                    floats(args.outputs[0]));
          }};
}

const std::array<OpDef, 4> kRows = {
    internal_row("TrainConv", infer_conv, prepare_conv),
    internal_row("ConvDataGradient", infer_data, prepare_data),
    internal_row("ConvWeightGradient", infer_weights, prepare_weights),
    internal_row("MaxPoolGradient", infer_max_pool, prepare_max_pool),
};

}  // namespace

const std::span<const OpDef> kTrainingRows = kRows;

}  // namespace compress::runtime
