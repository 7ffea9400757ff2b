// Float rows of the internal domain: convolutions through oneDNN, products through our own kernels
// (oneDNN packs the weights on every run: at 64 rows that costs a third).
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <vector>

#include "compress/core/parallel.h"
#include "compress/kernels/aligned.h"
#include "compress/kernels/dnnl/dnnl_adapter.h"
#include "compress/kernels/float_rows/conv_f32_ref.h"
#include "compress/kernels/float_rows/elementwise_f32.h"
#include "compress/kernels/gemm_f32/gemm_f32.h"
#include "compress/runtime/conv_f32_params.h"
#include "compress/runtime/lower.h"
#include "compress/runtime/lower_internal.h"
#include "compress/runtime/lower_params.h"

namespace compress::runtime {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

}  // namespace

kernels::ClampF32 clamp_of(const NodeContext& context) {
  return {context.node().float_or(kLo, -kInfinity), context.node().float_or(kHi, kInfinity)};
}

kernels::ActivationF32 activation_of(const NodeContext& context) {
  const Node& node = context.node();
  kernels::ActivationF32 activation;
  activation.has = node.attribute(kActivation) != nullptr;
  activation.op = static_cast<kernels::ElementOp>(node.int_or(kActivation, 0));
  activation.p = node.float_or(kActivationP, 0);
  activation.q = node.float_or(kActivationQ, 0);
  return activation;
}

ProductOperands product_operands(const NodeContext& context) {
  const auto vector_of = [](const Shape& s) { return std::vector<int64_t>(s.begin(), s.end()); };
  ProductOperands operands{vector_of(context.shape(0)), vector_of(context.shape(1)), {}};
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

ProductBatches::ProductBatches(const ProductOperands& operands) {
  const size_t rank = operands.a.size();
  int64_t a_stride = operands.a[rank - 1] * operands.a[rank - 2];
  a.resize(rank - 2);
  for (size_t i = rank - 2; i-- > 0;) {
    a[i] = operands.a[i] == 1 ? 0 : a_stride;
    a_stride *= operands.a[i];
  }
  for (size_t i = 0; i + 2 < rank; ++i) {
    dims.push_back(std::max(operands.a[i], operands.b[i]));
    b.push_back(operands.b[i] == 1 ? 0 : operands.b_strides[i]);
    count *= dims.back();
  }
}

std::pair<int64_t, int64_t> ProductBatches::offsets(int64_t batch) const {
  std::pair<int64_t, int64_t> at{0, 0};
  for (size_t i = dims.size(); i-- > 0;) {
    at.first += batch % dims[i] * a[i];
    at.second += batch % dims[i] * b[i];
    batch /= dims[i];
  }
  return at;
}

namespace {

const float* floats_or_null(const NodeContext& context, int i, TensorData& keep) {
  const Tensor* tensor = context.constant(i);
  if (tensor == nullptr) return nullptr;
  keep = tensor->read();
  return keep.as<float>().data();
}

// What follows the sums of a product: owns what the arguments point to.
class AfterSum {
 public:
  AfterSum(const NodeContext& context, int bias_slot)
      : activation_(activation_of(context)),
        clamp_(clamp_of(context)),
        alpha_(context.node().float_or(kAlpha, 1.0f)) {
    if (const Tensor* bias = context.constant(bias_slot)) {
      bias_ = *bias;
      data_ = bias_.read();
    }
  }

  const float* bias() const { return bias_ ? data_.as<float>().data() : nullptr; }
  void activate(float* values, int64_t count) const {
    if (activation_.has) kernels::activate_f32(activation_, values, count);
  }
  // REQUIRES that this outlives the arguments.
  void apply(kernels::GemmF32Args& args) const {
    args.alpha = alpha_;
    args.bias = bias();
    args.lo = clamp_.lo;
    args.hi = clamp_.hi;
    if (!activation_.has) return;
    args.activate_state = &activation_;
    args.activate = [](const void* state, float* values, int64_t count) {
      const auto& activation = *static_cast<const kernels::ActivationF32*>(state);
      kernels::best_elementwise_f32().apply(activation.op, activation.p, activation.q, values,
                                            nullptr, values, count);
    };
  }

 private:
  Tensor bias_;
  TensorData data_;
  kernels::ActivationF32 activation_;
  kernels::ClampF32 clamp_;
  float alpha_;
};

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

kernels::ConvF32Params conv_params(const NodeContext& context) {
  kernels::ConvF32Params params = conv_f32_params(context, context.shape(0), context.shape(1));
  params.residual = context.has_input(3);
  const Shape out = context.output_types[0].shape;
  if (params.residual && !(context.shape(3) == out)) {
    context.unsupported("adds a residual of another shape");
  }
  if (context.has_input(2) && context.shape(2).count() != params.out_channels) {
    context.invalid("its bias does not match its channels");
  }
  return params;
}

// One column is the same as one line.
kernels::ConvF32Params lying(kernels::ConvF32Params p) {
  if (p.in_w != 1 || p.kernel_w != 1 || p.pad_left != 0 || p.pad_right != 0) return p;
  std::swap(p.in_h, p.in_w);
  std::swap(p.kernel_h, p.kernel_w);
  std::swap(p.stride_h, p.stride_w);
  std::swap(p.dilation_h, p.dilation_w);
  std::swap(p.pad_top, p.pad_left);
  std::swap(p.pad_bottom, p.pad_right);
  return p;
}

// A convolution whose windows are runs of its input, one line without padding, is a product with
// overlapping rows (measured: a sixth of oneDNN's time on 2,048 positions of 256 channels). What is
// 1 x 1 stays with oneDNN, whose kernel for it is as fast as our product, and faster where there
// are few channels.
bool is_product(const kernels::ConvF32Params& p) {
  const bool unpadded = p.pad_top == 0 && p.pad_left == 0 && p.pad_bottom == 0 && p.pad_right == 0;
  return unpadded && p.kernel_h == 1 && p.kernel_w > 1 && p.dilation_w == 1 && p.groups == 1;
}

// [out, in, 1, kw] as [kw, in] x [out].
kernels::PackedGemmF32 line_weights(const kernels::ConvF32Params& p, const float* w) {
  const int64_t k = p.kernel_w * p.in_channels;
  std::vector<float> rows(static_cast<size_t>(k * p.out_channels));
  for (int64_t out = 0; out < p.out_channels; ++out) {
    for (int64_t in = 0; in < p.in_channels; ++in) {
      for (int64_t x = 0; x < p.kernel_w; ++x) {
        rows[static_cast<size_t>(out * k + x * p.in_channels + in)] =
            w[(out * p.in_channels + in) * p.kernel_w + x];
      }
    }
  }
  return kernels::pack_gemm_f32({rows.data(), k, p.out_channels, 1, k});
}

Kernel product_conv(const NodeContext& context, const kernels::ConvF32Params& p) {
  struct State {
    std::shared_ptr<const kernels::PackedGemmF32> packed;
    AfterSum after;
  };
  auto state = std::make_shared<State>(State{nullptr, AfterSum(context, 2)});
  const Tensor& weights = *context.constant(1);
  state->packed = packed_once<kernels::PackedGemmF32>(weights, "line", [&] {
    const TensorData data = weights.read();
    return line_weights(p, data.as<float>().data());
  });
  kernels::GemmF32Args args;
  args.k = state->packed->k;
  args.n = p.out_channels;
  args.lda = p.stride_w * p.in_channels;
  args.ldc = p.out_channels;
  args.panels = state->packed->panels.get();
  state->after.apply(args);
  const int64_t lines = p.batch * p.out_h();
  args.m = p.out_w();
  Kernel kernel;
  kernel.name = fmt::format("conv_f32/gemm:{}", kernels::best_gemm_f32().name);
  kernel.held_inputs = 1u << 1;
  kernel.run = [state, args, p, lines](const KernelArgs& run) {
    kernels::GemmF32Args call = args;
    for (int64_t line = 0; line < lines; ++line) {
      const int64_t image = line / p.out_h(), y = line % p.out_h() * p.stride_h;
      const int64_t from = (image * p.in_h + y) * p.in_w * p.in_channels;
      const int64_t to = line * args.m * args.n;
      call.a = static_cast<const float*>(run.inputs[0].data) + from;
      if (p.residual) call.residual = static_cast<const float*>(run.inputs[3].data) + to;
      call.out = static_cast<float*>(run.outputs[0].data) + to;
      kernels::gemm_f32(call);
    }
  };
  return kernel;
}

// What runs where the library has nothing: plain sums.
Kernel plain_conv(const NodeContext& context, const kernels::ConvF32Params& p) {
  struct State {
    Tensor weights;
    TensorData data;
    AfterSum after;
  };
  auto state =
      std::make_shared<State>(State{*context.constant(1), TensorData(), AfterSum(context, 2)});
  state->data = state->weights.read();
  Kernel kernel;
  kernel.name = "conv_f32/ref";
  kernel.run = [state, p](const KernelArgs& run) {
    const float* bias = state->after.bias();
    auto* out = static_cast<float*>(run.outputs[0].data);
    kernels::conv_f32_ref(
        p, static_cast<const float*>(run.inputs[0].data), state->data.as<float>().data(), bias,
        p.residual ? static_cast<const float*>(run.inputs[3].data) : nullptr, out);
    state->after.activate(out, run.outputs[0].count());
  };
  return kernel;
}

Kernel prepare_conv(const NodeContext& context) {
  const kernels::ConvF32Params params = conv_params(context);
  if (context.shape(0).count() == 0) return {"empty", [](const KernelArgs&) {}};
  if (context.node().int_or(kReference, 0) != 0) return plain_conv(context, params);
  if (is_product(lying(params))) return product_conv(context, lying(params));
  TensorData weights, bias;
  const float* w_data = floats_or_null(context, 1, weights);
  std::shared_ptr<kernels::DnnlConvF32> conv =
      kernels::DnnlConvF32::make(params, w_data, floats_or_null(context, 2, bias));
  if (conv == nullptr) return plain_conv(context, params);
  Kernel kernel;
  kernel.name = fmt::format("conv_f32/{}", conv->implementation());
  kernel.workspace_bytes = conv->workspace_bytes();
  kernel.held_inputs = 1u << 1 | 1u << 2;
  kernel.run = [conv, residual = params.residual,
                activation = activation_of(context)](const KernelArgs& args) {
    auto* out = static_cast<float*>(args.outputs[0].data);
    conv->run(static_cast<const float*>(args.inputs[0].data),
              residual ? static_cast<const float*>(args.inputs[3].data) : nullptr, out,
              args.workspace);
    if (activation.has) kernels::activate_f32(activation, out, args.outputs[0].count());
  };
  return kernel;
}

// --- Product -------------------------------------------------------------------------------------

void infer_matmul(NodeContext& context) {
  if (!context.in(0).is_concrete() || !context.in(1).is_concrete()) {
    return context.set_output(0, DType::float32);
  }
  const ProductOperands operands = product_operands(context);
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

Kernel batched_product(const NodeContext& context, const ProductOperands& operands) {
  struct State {
    ProductBatches batches;
    AfterSum after;
    kernels::GemmF32Args args;
    kernels::MatrixF32 b;
    Tensor constant;  // keeps B where it is one
  };
  auto state =
      std::make_shared<State>(State{ProductBatches(operands), AfterSum(context, 2), {}, {}, {}});
  const size_t rank = operands.a.size();
  kernels::GemmF32Args& args = state->args;
  args.m = operands.a[rank - 2];
  args.k = operands.a[rank - 1];
  args.n = operands.b[rank - 1];
  args.lda = args.k;
  args.ldc = args.n;
  state->after.apply(args);
  state->b = {nullptr, args.k, args.n, operands.b_strides[rank - 2], operands.b_strides[rank - 1]};
  // Each thread packs into memory of its own: a slot for each of its ranges of batches.
  const int64_t floats =
      kernels::round_up(kernels::packed_gemm_f32_floats(args.k, args.n), kernels::kAlignment / 4);
  const int64_t slots = std::min<int64_t>(state->batches.count, thread_count());
  Kernel kernel;
  kernel.name = fmt::format("gemm_f32/{}", kernels::best_gemm_f32().name);
  kernel.workspace_bytes = static_cast<size_t>(floats * slots) * sizeof(float);
  kernel.run = [state, floats, slots](const KernelArgs& run) {
    const ProductBatches& batches = state->batches;
    const auto* a = static_cast<const float*>(run.inputs[0].data);
    const auto* b = static_cast<const float*>(run.inputs[1].data);
    const bool residual = run.inputs.size() > 3 && run.inputs[3].data != nullptr;
    parallel_for(0, slots, 1, [&](int64_t begin, int64_t end) {
      for (int64_t slot = begin; slot < end; ++slot) {
        auto* panels = reinterpret_cast<float*>(run.workspace) + slot * floats;
        kernels::GemmF32Args call = state->args;
        kernels::MatrixF32 matrix = state->b;
        int64_t packed = -1;
        for (int64_t i = batches.count * slot / slots; i < batches.count * (slot + 1) / slots;
             ++i) {
          const auto [a_offset, b_offset] = batches.offsets(i);
          if (b_offset != packed) {
            matrix.data = b + b_offset;
            kernels::pack_gemm_f32(matrix, panels);
            packed = b_offset;
          }
          call.a = a + a_offset;
          call.panels = panels;
          call.out = static_cast<float*>(run.outputs[0].data) + i * call.m * call.n;
          if (residual) {
            call.residual = static_cast<const float*>(run.inputs[3].data) + i * call.m * call.n;
          }
          kernels::gemm_f32(call);
        }
      }
    });
  };
  return kernel;
}

Kernel prepare_matmul(const NodeContext& context) {
  const ProductOperands operands = product_operands(context);
  if (context.has_input(2) && context.shape(2).count() != operands.b.back()) {
    context.invalid("its bias does not match its columns");
  }
  const Shape& out = context.output_types[0].shape;
  if (context.has_input(3) && !(context.shape(3) == out)) {
    context.unsupported("adds a residual of another shape");
  }
  if (out.count() == 0) return {"empty", [](const KernelArgs&) {}};
  const Tensor* weights = context.constant(1);
  if (weights == nullptr || weights->shape().rank() != 2) return batched_product(context, operands);
  struct State {
    std::shared_ptr<const kernels::PackedGemmF32> packed;
    AfterSum after;
    kernels::GemmF32Args args;
  };
  auto state = std::make_shared<State>(State{nullptr, AfterSum(context, 2), {}});
  const bool transposed = context.node().int_or(kTransposed, 0) != 0;
  state->packed =
      packed_once<kernels::PackedGemmF32>(*weights, transposed ? "gemm_f32'" : "gemm_f32", [&] {
        const TensorData data = weights->read();
        const size_t rank = operands.b.size();
        return kernels::pack_gemm_f32({data.as<float>().data(), operands.b[rank - 2],
                                       operands.b[rank - 1], operands.b_strides[rank - 2],
                                       operands.b_strides[rank - 1]});
      });
  kernels::GemmF32Args& args = state->args;
  args.k = state->packed->k;
  args.n = state->packed->n;
  args.m = out.count() / args.n;
  args.lda = args.k;
  args.ldc = args.n;
  args.panels = state->packed->panels.get();
  state->after.apply(args);
  Kernel kernel;
  kernel.name = fmt::format("gemm_f32/{}", kernels::best_gemm_f32().name);
  kernel.held_inputs = 1u << 1;
  kernel.run = [state](const KernelArgs& run) {
    kernels::GemmF32Args call = state->args;
    call.a = static_cast<const float*>(run.inputs[0].data);
    call.out = static_cast<float*>(run.outputs[0].data);
    if (run.inputs.size() > 3) call.residual = static_cast<const float*>(run.inputs[3].data);
    kernels::gemm_f32(call);
  };
  return kernel;
}

const std::array<OpDef, 2> kRows = {
    internal_row("Conv", infer_conv, prepare_conv),
    internal_row("MatMul", infer_matmul, prepare_matmul),
};

}  // namespace

const std::span<const OpDef> kFloatRows = kRows;

}  // namespace compress::runtime
