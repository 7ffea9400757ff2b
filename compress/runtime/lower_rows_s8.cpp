// Integer rows of the internal domain: int8 convolutions and products, elementwise work by tables.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "compress/core/parallel.h"
#include "compress/error.h"
#include "compress/kernels/conv_s8/conv_s8.h"
#include "compress/kernels/elementwise_s8/elementwise_s8.h"
#include "compress/kernels/gemm_s8/gemm_s8.h"
#include "compress/ops/support.h"
#include "compress/runtime/lower.h"
#include "compress/runtime/lower_internal.h"
#include "compress/runtime/lower_params.h"

namespace compress::runtime {
namespace {

using kernels::S8Epilogue;
using kernels::S8Output;
using kernels::S8Params;

}  // namespace

DType y_type(const NodeContext& context) {
  return static_cast<DType>(context.node().int_or(kYType, static_cast<int64_t>(DType::uint8)));
}

std::vector<float> s8_multipliers(const NodeContext& context, int64_t channels) {
  const TensorData data = context.node().tensor_or_null(kMultiplier)->read();
  const auto values = data.as<float>();
  std::vector<float> multipliers(values.begin(), values.end());
  if (values.size() == 1) multipliers.assign(static_cast<size_t>(channels), values[0]);
  if (static_cast<int64_t>(multipliers.size()) != channels) {
    context.invalid("its scales do not match its channels");
  }
  return multipliers;
}

Window s8_conv_window(const NodeContext& context) {
  const Shape& w = context.shape(1);
  if (w.rank() < 3) context.invalid("its weights have fewer than three dimensions");
  return window_of(context, context.shape(0), w.dims().subspan(2));
}

S8Params s8_params(const NodeContext& context, const char* scale, const char* zero_point,
                   DType dtype) {
  return {context.node().float_or(scale, 1.0f),
          static_cast<int32_t>(context.node().int_or(zero_point, 0)), dtype == DType::int8};
}

kernels::BinaryS8 s8_binary(const NodeContext& context, bool multiplies) {
  const S8Params a = s8_params(context, kXScale, kXZeroPoint, context.dtype(0));
  const S8Params b = s8_params(context, kBScale, kBZeroPoint, context.dtype(1));
  const S8Params y = s8_params(context, kYScale, kYZeroPoint, y_type(context));
  const auto lo = static_cast<int32_t>(context.node().int_or(kLo, y.is_signed ? -128 : 0));
  const auto hi = static_cast<int32_t>(context.node().int_or(kHi, y.is_signed ? 127 : 255));
  return multiplies ? kernels::mul_params(a, b, y, lo, hi) : kernels::add_params(a, b, y, lo, hi);
}

namespace {

// What follows an exact sum; owns the arrays that the kernel's epilogue points to.
struct Epilogue {
  std::vector<float> multiplier;
  TensorData bias;
  S8Epilogue view;

  Epilogue(const NodeContext& context, int64_t channels) {
    multiplier = s8_multipliers(context, channels);
    const DType type = y_type(context);
    view.output = type == DType::float32 ? S8Output::float32 : S8Output::quantized;
    view.scale = multiplier.data();
    view.is_signed = type == DType::int8;
    view.zero_point = static_cast<int32_t>(context.node().int_or(kYZeroPoint, 0));
    view.lo = static_cast<int32_t>(context.node().int_or(kLo, view.is_signed ? -128 : 0));
    view.hi = static_cast<int32_t>(context.node().int_or(kHi, view.is_signed ? 127 : 255));
    if (const Tensor* given = context.constant(2)) {
      bias = given->read();
      if (bias.view().count() != channels) context.invalid("its bias does not match its channels");
      const void* values_of_bias = bias.view().data;
      if (bias.view().dtype == DType::float32) {
        view.float_bias = static_cast<const float*>(values_of_bias);
      } else {
        view.bias = static_cast<const int32_t*>(values_of_bias);
      }
    }
  }
};

// --- Convolution ---------------------------------------------------------------------------------

void infer_conv(NodeContext& context) {
  if (!context.in(0).is_concrete()) return context.set_output(0, y_type(context));
  const Window window = s8_conv_window(context);
  context.set_output(0, y_type(context),
                     window_output(window, context.shape(0).rank(), context.shape(1)[0]));
}

Kernel prepare_conv(const NodeContext& context) {
  const Window window = s8_conv_window(context);
  const Shape& w = context.shape(1);
  const Tensor* weights = context.constant(1);
  kernels::ConvS8Params params;
  params.in_channels = window.channels;
  params.out_channels = w[0];
  params.groups = context.node().int_or("group", 1);
  copy_window(window, params);
  params.pad_bottom = window.pad_bottom;
  params.pad_right = window.pad_right;
  if (params.groups < 1 || params.out_channels % params.groups != 0 ||
      params.in_channels % params.groups != 0 || params.in_channels / params.groups != w[1]) {
    context.invalid("its channels do not match its weights and groups");
  }
  struct State {
    std::shared_ptr<const kernels::PackedConvS8> packed;
    Epilogue epilogue;
  };
  const Tensor* zero_point = context.node().tensor_or_null(kWZeroPoint);
  const int64_t pixels = window.batch * window.out_h * window.out_w;
  const bool many = kernels::prefers_entries(pixels);
  const std::string key = fmt::format(
      "conv{}{}/{}/{}x{}/{}x{}/{},{},{},{}", many ? "+" : "", params.groups, params.in_channels,
      params.stride_h, params.stride_w, params.dilation_h, params.dilation_w, params.pad_top,
      params.pad_left, params.pad_bottom, params.pad_right);
  auto state = std::make_shared<State>(
      State{packed_once<kernels::PackedConvS8>(
                *weights, key,
                [&] {
                  const TensorData data = weights->read();
                  const TensorData zero = zero_point != nullptr ? zero_point->read() : TensorData();
                  kernels::ConvS8Weights source;
                  source.data = data.view().data;
                  source.is_signed = weights->dtype() == DType::int8;
                  source.zero_point = zero.view().data;
                  source.zero_point_per_channel = zero_point != nullptr && zero_point->count() > 1;
                  return kernels::pack_conv_s8_for(params, source, pixels);
                }),
            Epilogue(context, params.out_channels)});
  kernels::ConvS8Args args;
  args.batch = window.batch;
  args.in_h = window.in_h;
  args.in_w = window.in_w;
  args.input_signed = context.dtype(0) == DType::int8;
  args.input_zero_point = static_cast<int32_t>(context.node().int_or(kXZeroPoint, 0));
  args.epilogue = state->epilogue.view;
  Kernel kernel;
  kernel.name = fmt::format("conv_s8/{}", state->packed->name());
  kernel.held_inputs = 1u << 1;
  kernel.workspace_bytes =
      kernels::conv_s8_workspace_bytes(*state->packed, window.batch, window.in_h, window.in_w);
  kernel.run = [state, args](const KernelArgs& run) {
    kernels::ConvS8Args call = args;
    call.input = run.inputs[0].data;
    call.out = run.outputs[0].data;
    call.workspace = run.workspace;
    kernels::conv_s8(*state->packed, call);
  };
  return kernel;
}

// --- Product -------------------------------------------------------------------------------------

void infer_matmul(NodeContext& context) {
  if (!context.in(0).is_concrete()) return context.set_output(0, y_type(context));
  const Shape& w = context.shape(1);
  const bool transposed = context.node().int_or(kTransposed, 0) != 0;
  Shape out = context.shape(0);
  if (w.rank() != 2 || out.rank() < 1 || out[out.rank() - 1] != w[transposed ? 1 : 0]) {
    context.invalid("its operands do not fit each other");
  }
  out[out.rank() - 1] = w[transposed ? 0 : 1];
  context.set_output(0, y_type(context), out);
}

Kernel prepare_matmul(const NodeContext& context) {
  const Shape& x = context.shape(0);
  const bool transposed = context.node().int_or(kTransposed, 0) != 0;
  const Tensor* weights = context.constant(1);
  const Tensor* zero_point = context.node().tensor_or_null(kWZeroPoint);
  kernels::GemmS8Weights source;
  source.is_signed = weights->dtype() == DType::int8;
  source.transposed = transposed;
  source.k = weights->shape()[transposed ? 1 : 0];
  source.n = weights->shape()[transposed ? 0 : 1];
  source.ld = weights->shape()[1];
  const int64_t rows = x.count(0, x.rank() - 1);
  struct State {
    std::shared_ptr<const kernels::PackedGemmS8> packed;
    Epilogue epilogue;
  };
  auto state = std::make_shared<State>(
      State{packed_once<kernels::PackedGemmS8>(
                *weights, gemm_key(rows, transposed),
                [&] {
                  const TensorData data = weights->read();
                  const TensorData zero = zero_point != nullptr ? zero_point->read() : TensorData();
                  source.data = data.view().data;
                  source.zero_point = zero.view().data;
                  source.zero_point_per_column = zero_point != nullptr && zero_point->count() > 1;
                  return kernels::pack_gemm_s8_for(source, rows);
                }),
            Epilogue(context, source.n)});
  kernels::GemmS8Args args;
  args.m = rows;
  args.lda = source.k;
  args.a_signed = context.dtype(0) == DType::int8;
  args.a_zero_point = static_cast<int32_t>(context.node().int_or(kXZeroPoint, 0));
  args.ldc = source.n;
  args.epilogue = state->epilogue.view;
  Kernel kernel;
  kernel.name = fmt::format("gemm_s8/{}", state->packed->kernel->name);
  kernel.held_inputs = 1u << 1;
  kernel.workspace_bytes = kernels::gemm_s8_workspace_bytes(*state->packed, args.m);
  kernel.run = [state, args](const KernelArgs& run) {
    kernels::GemmS8Args call = args;
    call.a = run.inputs[0].data;
    call.out = run.outputs[0].data;
    call.workspace = run.workspace;
    kernels::gemm_s8(*state->packed, call);
  };
  return kernel;
}

// --- Elementwise ---------------------------------------------------------------------------------

void infer_binary(NodeContext& context) {
  if (!context.in(0).has_shape || !context.in(1).has_shape) {
    return context.set_output(0, y_type(context));
  }
  context.set_output(0, y_type(context), broadcast(context.shape(0), context.shape(1)));
}

using BinaryRow = void (*)(const uint8_t* a, const uint8_t* b, int64_t count,
                           const kernels::BinaryS8& params, uint8_t* out) noexcept;

constexpr int64_t kSplat = 256;
constexpr int64_t kPattern = 1024;

// Elements after which the second operand repeats itself, as channels do, where the first has the
// output's shape; 0 where they are not so.
int64_t period_of(const Shape& out, const Shape& a, const Shape& b) {
  if (!(a == out) || b.rank() == 0) return 0;
  const int64_t last = b[b.rank() - 1];
  return b.count() == last && last == out[out.rank() - 1] && last < kSplat ? last : 0;
}

// Short rows: the second operand is written out many times over.
void run_repeated(BinaryRow row, const uint8_t* a, const uint8_t* b, int64_t period, bool swapped,
                  int64_t count, const kernels::BinaryS8& params, uint8_t* out) {
  std::array<uint8_t, kPattern> pattern;
  const int64_t length = kPattern / period * period;
  for (int64_t i = 0; i < length; i += period) std::copy_n(b, period, pattern.data() + i);
  const int64_t grain = ops::kGrain / length + 1;
  parallel_for(0, (count + length - 1) / length, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * length; i < std::min(end * length, count); i += length) {
      const int64_t n = std::min(length, count - i);
      row(swapped ? pattern.data() : a + i, swapped ? a + i : pattern.data(), n, params, out + i);
    }
  });
}

// Any shapes that broadcast. Along a row an operand has an element for each, or one for all, which
// is written out in short runs.
Kernel prepare_binary(const NodeContext& context, const char* name, BinaryRow row,
                      bool multiplies) {
  const kernels::BinaryS8 params = s8_binary(context, multiplies);
  const std::array<Shape, 2> shapes = {context.shape(0), context.shape(1)};
  const Shape& shape = context.output_types[0].shape;
  const std::string kernel_name = fmt::format("{}/{}", name, kernels::best_elementwise_s8().name);
  for (const bool swapped : {false, true}) {
    const int64_t period = period_of(shape, shapes[swapped ? 1 : 0], shapes[swapped ? 0 : 1]);
    if (period == 0) continue;
    return {kernel_name, [=, count = shape.count()](const KernelArgs& args) {
              const auto* a = static_cast<const uint8_t*>(args.inputs[swapped ? 1 : 0].data);
              const auto* b = static_cast<const uint8_t*>(args.inputs[swapped ? 0 : 1].data);
              run_repeated(row, a, b, period, swapped, count, params,
                           static_cast<uint8_t*>(args.outputs[0].data));
            }};
  }
  const ops::BroadcastPlan plan = ops::plan_broadcast(shape, shapes);
  return {kernel_name, [plan, params, row](const KernelArgs& args) {
            const auto* a = static_cast<const uint8_t*>(args.inputs[0].data);
            const auto* b = static_cast<const uint8_t*>(args.inputs[1].data);
            auto* out = static_cast<uint8_t*>(args.outputs[0].data);
            const bool a_moves = plan.row_strides()[0] != 0, b_moves = plan.row_strides()[1] != 0;
            ops::for_each_row(plan, [&](int64_t at, const auto& from, int64_t n) {
              const uint8_t* left = a + from[0];
              const uint8_t* right = b + from[1];
              if (a_moves && b_moves) return row(left, right, n, params, out + at);
              std::array<uint8_t, kSplat> left_splat, right_splat;
              left_splat.fill(*left);
              right_splat.fill(*right);
              for (int64_t i = 0; i < n; i += kSplat) {
                row(a_moves ? left + i : left_splat.data(),
                    b_moves ? right + i : right_splat.data(), std::min(kSplat, n - i), params,
                    out + at + i);
              }
            });
          }};
}

Kernel prepare_add(const NodeContext& context) {
  return prepare_binary(context, "add_s8", kernels::best_elementwise_s8().add, false);
}

Kernel prepare_mul(const NodeContext& context) {
  return prepare_binary(context, "mul_s8", kernels::best_elementwise_s8().mul, true);
}

void infer_like_input(NodeContext& context) {
  if (!context.in(0).has_shape) return context.set_output(0, y_type(context));
  context.set_output(0, y_type(context), context.shape(0));
}

Kernel prepare_lookup(const NodeContext& context) {
  std::array<uint8_t, 256> table;
  const TensorData data = context.node().tensor_or_null(kTable)->read();
  std::memcpy(table.data(), data.view().data, table.size());
  const int64_t count = context.shape(0).count();
  return {"lookup_s8", [table, count](const KernelArgs& args) {
            kernels::lookup_s8(static_cast<const uint8_t*>(args.inputs[0].data), count,
                               table.data(), static_cast<uint8_t*>(args.outputs[0].data));
          }};
}

Kernel prepare_quantize(const NodeContext& context) {
  const S8Params params = s8_params(context, kYScale, kYZeroPoint, y_type(context));
  const int64_t count = context.shape(0).count();
  return {fmt::format("quantize_s8/{}", kernels::best_elementwise_s8().name),
          [params, count](const KernelArgs& args) {
            kernels::quantize_s8(static_cast<const float*>(args.inputs[0].data), count, params,
                                 static_cast<uint8_t*>(args.outputs[0].data));
          }};
}

void infer_dequantize(NodeContext& context) {
  if (!context.in(0).has_shape) return context.set_output(0, DType::float32);
  context.set_output(0, DType::float32, context.shape(0));
}

Kernel prepare_dequantize(const NodeContext& context) {
  const S8Params params = s8_params(context, kXScale, kXZeroPoint, context.dtype(0));
  const int64_t count = context.shape(0).count();
  return {fmt::format("dequantize_s8/{}", kernels::best_elementwise_s8().name),
          [params, count](const KernelArgs& args) {
            kernels::dequantize_s8(static_cast<const uint8_t*>(args.inputs[0].data), count, params,
                                   static_cast<float*>(args.outputs[0].data));
          }};
}

const std::array<OpDef, 7> kRows = {
    internal_row("QConv", infer_conv, prepare_conv),
    internal_row("QMatMul", infer_matmul, prepare_matmul),
    internal_row("QAdd", infer_binary, prepare_add),
    internal_row("QMul", infer_binary, prepare_mul),
    internal_row("Lookup", infer_like_input, prepare_lookup),
    internal_row("Quantize", infer_like_input, prepare_quantize),
    internal_row("Dequantize", infer_dequantize, prepare_dequantize),
};

}  // namespace

const std::span<const OpDef> kIntegerRows = kRows;

}  // namespace compress::runtime
