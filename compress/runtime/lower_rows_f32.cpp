// Float rows of the internal domain: convolutions and products through oneDNN.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <vector>

#include "compress/core/parallel.h"
#include "compress/kernels/aligned.h"
#include "compress/kernels/dnnl/dnnl_adapter.h"
#include "compress/runtime/lower.h"
#include "compress/runtime/lower_internal.h"

namespace compress::runtime {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

kernels::ClampF32 clamp_of(const NodeContext& context) {
  return {context.node().float_or(kLo, -kInfinity), context.node().float_or(kHi, kInfinity)};
}

const float* floats_or_null(const NodeContext& context, int i, TensorData& keep) {
  const Tensor* tensor = context.constant(i);
  if (tensor == nullptr) return nullptr;
  keep = tensor->read();
  return keep.as<float>().data();
}

// --- Convolution ---------------------------------------------------------------------------------

Window conv_window(const NodeContext& context) {
  const Shape& w = context.shape(1);
  if (w.rank() < 3) context.invalid("its weights have fewer than three dimensions");
  return window_of(context, context.shape(0), w.dims().subspan(2));
}

void infer_conv(NodeContext& context) {
  if (!context.in(0).is_concrete()) return context.set_output(0, DType::float32);
  const Window window = conv_window(context);
  context.set_output(0, DType::float32,
                     window_output(window, context.shape(0).rank(), context.shape(1)[0]));
}

Kernel prepare_conv(const NodeContext& context) {
  const Window window = conv_window(context);
  const Shape& w = context.shape(1);
  kernels::ConvF32Params params;
  params.batch = window.batch;
  params.in_h = window.in_h;
  params.in_w = window.in_w;
  params.in_channels = window.channels;
  params.out_channels = w[0];
  params.groups = context.node().int_or("group", 1);
  params.kernel_h = window.kernel_h;
  params.kernel_w = window.kernel_w;
  params.stride_h = window.stride_h;
  params.stride_w = window.stride_w;
  params.dilation_h = window.dilation_h;
  params.dilation_w = window.dilation_w;
  params.pad_top = window.pad_top;
  params.pad_left = window.pad_left;
  params.pad_bottom = window.pad_bottom;
  params.pad_right = window.pad_right;
  params.residual = context.has_input(3);
  params.clamp = clamp_of(context);
  if (params.groups < 1 || params.out_channels % params.groups != 0 ||
      params.in_channels % params.groups != 0 || params.in_channels / params.groups != w[1]) {
    context.invalid("its channels do not match its weights and groups");
  }
  const Shape out = context.output_types[0].shape;
  if (params.residual && !(context.shape(3) == out)) {
    context.unsupported("adds a residual of another shape");
  }
  if (context.has_input(2) && context.shape(2).count() != params.out_channels) {
    context.invalid("its bias does not match its channels");
  }
  if (context.shape(0).count() == 0) return {"empty", [](const KernelArgs&) {}};
  TensorData weights, bias;
  const float* w_data = floats_or_null(context, 1, weights);
  std::shared_ptr<kernels::DnnlConvF32> conv =
      kernels::DnnlConvF32::make(params, w_data, floats_or_null(context, 2, bias));
  if (conv == nullptr) context.unsupported("has no convolution kernel");
  Kernel kernel;
  kernel.name = fmt::format("conv_f32/{}", conv->implementation());
  kernel.workspace_bytes = conv->workspace_bytes();
  kernel.run = [conv, residual = params.residual](const KernelArgs& args) {
    conv->run(static_cast<const float*>(args.inputs[0].data),
              residual ? static_cast<const float*>(args.inputs[3].data) : nullptr,
              static_cast<float*>(args.outputs[0].data), args.workspace);
  };
  return kernel;
}

// --- Product -------------------------------------------------------------------------------------

// Shapes of the operands as [batch..., rows, columns] of one rank, b by its logical dimensions.
struct Operands {
  std::vector<int64_t> a, b, b_strides;
};

Operands operands_of(const NodeContext& context) {
  const auto vector_of = [](const Shape& s) { return std::vector<int64_t>(s.begin(), s.end()); };
  Operands operands{vector_of(context.shape(0)), vector_of(context.shape(1)), {}};
  std::vector<int64_t>& a = operands.a;
  std::vector<int64_t>& b = operands.b;
  if (a.empty() || b.size() < 2) context.unsupported("multiplies vectors");
  if (b.size() == 2 && a.size() != 2) {
    a = {context.shape(0).count(0, context.shape(0).rank() - 1), a.back()};
  }
  while (a.size() < b.size()) a.insert(a.begin(), 1);
  while (b.size() < a.size()) b.insert(b.begin(), 1);
  int64_t stride = 1;
  operands.b_strides.resize(b.size());
  for (size_t i = b.size(); i-- > 0;) {
    operands.b_strides[i] = stride;
    stride *= b[i];
  }
  if (context.node().int_or(kTransposed, 0) != 0) {
    std::swap(b[b.size() - 1], b[b.size() - 2]);
    std::swap(operands.b_strides[b.size() - 1], operands.b_strides[b.size() - 2]);
  }
  if (a.back() != b[b.size() - 2]) context.invalid("its operands do not fit each other");
  return operands;
}

void infer_matmul(NodeContext& context) {
  if (!context.in(0).is_concrete() || !context.in(1).is_concrete()) {
    return context.set_output(0, DType::float32);
  }
  const Operands operands = operands_of(context);
  Shape batch_a, batch_b;
  const Shape& a = context.shape(0);
  const Shape& b = context.shape(1);
  for (int i = 0; i + 2 < a.rank(); ++i) batch_a.push_back(a[i]);
  for (int i = 0; i + 2 < b.rank(); ++i) batch_b.push_back(b[i]);
  Shape out = broadcast(batch_a, batch_b);
  if (a.rank() > 1) out.push_back(a[a.rank() - 2]);
  out.push_back(operands.b.back());
  context.set_output(0, DType::float32, out);
}

// A row vector times a constant matrix. oneDNN's result for one row depends on the number of
// threads; here each column is one sum, in the order of k.
struct RowProduct {
  static constexpr int64_t kColumns = 64;  // of a panel: a few registers' worth
  int64_t k, n;
  float alpha;
  kernels::ClampF32 clamp;
  kernels::AlignedArray<float> panels;  // [n / kColumns][k][kColumns]
  std::vector<float> bias;

  RowProduct(const Operands& operands, const float* b, const float* given_bias, float factor,
             kernels::ClampF32 limits)
      : k(operands.a.back()),
        n(operands.b.back()),
        alpha(factor),
        clamp(limits),
        panels(kernels::make_aligned<float>(kernels::round_up(n, kColumns) * k)),
        bias(static_cast<size_t>(n)) {
    if (given_bias != nullptr) std::copy_n(given_bias, n, bias.begin());
    const int64_t stride_k = operands.b_strides[operands.b_strides.size() - 2];
    const int64_t stride_n = operands.b_strides.back();
    for (int64_t column = 0; column < n; ++column) {
      float* to = panels.get() + column / kColumns * k * kColumns + column % kColumns;
      for (int64_t i = 0; i < k; ++i) to[i * kColumns] = b[i * stride_k + column * stride_n];
    }
  }

  void run(const float* a, float* out) const {
    parallel_for(0, kernels::divide_up(n, kColumns), 1, [&](int64_t begin, int64_t end) {
      for (int64_t panel = begin; panel < end; ++panel) {
        const float* from = panels.get() + panel * k * kColumns;
        std::array<float, kColumns> sum{};
        for (int64_t i = 0; i < k; ++i) {
          const float value = a[i];
          for (size_t c = 0; c < kColumns; ++c) sum[c] += value * from[c];
          from += kColumns;
        }
        const int64_t first = panel * kColumns;
        for (int64_t c = 0; c < std::min(kColumns, n - first); ++c) {
          const float y =
              alpha * sum[static_cast<size_t>(c)] + bias[static_cast<size_t>(first + c)];
          out[first + c] = std::min(std::max(y, clamp.lo), clamp.hi);
        }
      }
    });
  }
};

Kernel prepare_matmul(const NodeContext& context) {
  const Operands operands = operands_of(context);
  const float alpha = context.node().float_or(kAlpha, 1.0f);
  if (context.has_input(2) && context.shape(2).count() != operands.b.back()) {
    context.invalid("its bias does not match its columns");
  }
  if (context.output_types[0].shape.count() == 0) return {"empty", [](const KernelArgs&) {}};
  TensorData b_data, bias_data;
  const float* b = floats_or_null(context, 1, b_data);
  const float* bias = floats_or_null(context, 2, bias_data);
  if (b != nullptr && operands.a.size() == 2 && operands.a[0] == 1) {
    auto product = std::make_shared<const RowProduct>(operands, b, bias, alpha, clamp_of(context));
    return {"gemv_f32", [product](const KernelArgs& args) {
              product->run(static_cast<const float*>(args.inputs[0].data),
                           static_cast<float*>(args.outputs[0].data));
            }};
  }
  kernels::MatMulF32Params params;
  params.a_dims = operands.a;
  params.a_strides.resize(operands.a.size());
  int64_t stride = 1;
  for (size_t i = operands.a.size(); i-- > 0;) {
    params.a_strides[i] = stride;
    stride *= operands.a[i];
  }
  params.b_dims = operands.b;
  params.b_strides = operands.b_strides;
  params.alpha = alpha;
  params.clamp = clamp_of(context);
  std::shared_ptr<kernels::DnnlMatMulF32> product = kernels::DnnlMatMulF32::make(params, b, bias);
  if (product == nullptr) context.unsupported("has no product kernel");
  Kernel kernel;
  kernel.name = fmt::format("gemm_f32/{}", product->implementation());
  kernel.workspace_bytes = product->workspace_bytes();
  kernel.run = [product, constant = b != nullptr](const KernelArgs& args) {
    product->run(static_cast<const float*>(args.inputs[0].data),
                 constant ? nullptr : static_cast<const float*>(args.inputs[1].data),
                 static_cast<float*>(args.outputs[0].data), args.workspace);
  };
  return kernel;
}

const std::array<OpDef, 2> kRows = {
    OpDef{kInternalDomain, "Conv", 1, infer_conv, prepare_conv},
    OpDef{kInternalDomain, "MatMul", 1, infer_matmul, prepare_matmul},
};

}  // namespace

const std::span<const OpDef> kFloatRows = kRows;

}  // namespace compress::runtime
