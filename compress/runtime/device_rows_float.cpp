// Float nodes on a device: convolutions, products, elements, rows, pools.
#include <fmt/format.h>

#include <algorithm>

#include "compress/runtime/device_rows.h"
#include "compress/runtime/lower_params.h"

namespace compress::runtime {
namespace {

constexpr size_t kBiasSlot = 2;
constexpr size_t kResidualSlot = 3;

cuda::AfterSum after_sum(const NodeContext& context) {
  const kernels::ClampF32 clamp = clamp_of(context);
  const kernels::ActivationF32 activation = activation_of(context);
  cuda::AfterSum after = {};
  after.alpha = context.node().float_or(kAlpha, 1.0f);
  after.lo = clamp.lo;
  after.hi = clamp.hi;
  after.activation = activation.has ? static_cast<int32_t>(activation.op) : -1;
  after.p = activation.p;
  after.q = activation.q;
  return after;
}

void set_after(cuda::AfterSum& after, const DeviceArgs& args) {
  after.bias = input<float>(args, kBiasSlot);
  after.residual = input<float>(args, kResidualSlot);
}

// --- Convolution ---------------------------------------------------------------------------------

// ONNX's [out, in, h, w] as [out, h, w, in].
std::vector<float> channels_innermost(const Tensor& weights) {
  const Shape& shape = weights.shape();
  const int64_t out = shape[0], in = shape[1], taps = shape.count(2, shape.rank());
  const TensorData data = weights.read();
  const auto from = data.as<float>();
  std::vector<float> to(from.size());
  for (int64_t o = 0; o < out; ++o) {
    for (int64_t i = 0; i < in; ++i) {
      for (int64_t t = 0; t < taps; ++t) {
        to[static_cast<size_t>((o * taps + t) * in + i)] =
            from[static_cast<size_t>((o * in + i) * taps + t)];
      }
    }
  }
  return to;
}

Prepared prepare_conv(const DevicePtr& device, const NodeContext& context) {
  const Tensor* weights = context.constant(1);
  if (weights == nullptr || (context.has_input(2) && context.constant(2) == nullptr)) return {};
  if (context.has_input(3) && !(context.shape(3) == context.output_types[0].shape)) return {};
  const Window window = window_of(context, context.shape(0), weights->shape().dims().subspan(2));
  DeviceBuffer w = upload_vector(device, channels_innermost(*weights));
  cuda::ConvF32 conv = {};
  conv.shape = conv_shape(window, weights->shape()[0], context.node().int_or("group", 1));
  conv.w = reinterpret_cast<const float*>(w.data());
  conv.after = after_sum(context);
  DeviceKernel kernel = device_kernel(
      device, "conv_f32/cuda", &cuda::Api::conv_f32, conv,
      [](cuda::ConvF32& call, const DeviceArgs& args) {
        call.x = input<float>(args, 0);
        call.out = output<float>(args);
        set_after(call.after, args);
      },
      std::move(w));
  kernel.held_inputs = 1u << 1;
  return kernel;
}

// --- Product -------------------------------------------------------------------------------------

Prepared prepare_matmul(const DevicePtr& device, const NodeContext& context) {
  const ProductOperands operands = product_operands(context);
  const ProductBatches batches(operands);
  if (context.has_input(3) && !(context.shape(3) == context.output_types[0].shape)) return {};
  cuda::MatMulF32 product = {};
  const size_t rank = operands.a.size();
  product.m = narrow(operands.a[rank - 2]);
  product.k = narrow(operands.a[rank - 1]);
  product.n = narrow(operands.b[rank - 1]);
  product.a_row = product.k;
  product.a_column = 1;
  product.b_row = narrow(operands.b_strides[rank - 2]);
  product.b_column = narrow(operands.b_strides[rank - 1]);
  product.batch_rank = static_cast<int32_t>(batches.dims.size());
  if (!copy_dims(batches.dims, product.batch_dims) || !copy_dims(batches.a, product.a_batch) ||
      !copy_dims(batches.b, product.b_batch)) {
    return {};
  }
  product.after = after_sum(context);
  return device_kernel(device, "gemm_f32/cuda", &cuda::Api::matmul_f32, product,
                       [](cuda::MatMulF32& call, const DeviceArgs& args) {
                         call.a = input<float>(args, 0);
                         call.b = input<float>(args, 1);
                         call.out = output<float>(args);
                         set_after(call.after, args);
                       });
}

Prepared prepare_nbits(const DevicePtr& device, const NodeContext& context) {
  const Node& node = context.node();
  const auto bits = static_cast<int32_t>(node.int_or("bits", 4));
  if (bits != 4 && bits != 8) return {};
  cuda::MatMulNBits product = {};
  product.k = narrow(node.int_or("K", 0));
  product.n = narrow(node.int_or("N", 0));
  product.m = narrow(context.output_types[0].shape.count() / std::max<int64_t>(product.n, 1));
  product.bits = bits;
  product.block_size = static_cast<int32_t>(node.int_or("block_size", 0));
  product.blocks = (product.k + product.block_size - 1) / product.block_size;
  return device_kernel(device, fmt::format("gemm_w{}/cuda", bits), &cuda::Api::matmul_nbits,
                       product, [](cuda::MatMulNBits& call, const DeviceArgs& args) {
                         call.x = input<float>(args, 0);
                         call.codes = input<uint8_t>(args, 1);
                         call.scales = input<float>(args, 2);
                         call.zero_points = input<uint8_t>(args, 3);
                         call.bias = input<float>(args, 4);
                         call.out = output<float>(args);
                       });
}

// --- Elements ------------------------------------------------------------------------------------

Prepared prepare_elements(const DevicePtr& device, const NodeContext& context) {
  const kernels::ElementProgram program = element_program(context);
  if (program.inputs > cuda::kMaxElementInputs ||
      program.steps.size() > static_cast<size_t>(cuda::kMaxElementSteps)) {
    return {};
  }
  const Shape& out = context.output_types[0].shape;
  cuda::Elements call = {};
  call.inputs = program.inputs;
  call.steps = static_cast<int32_t>(program.steps.size());
  for (size_t i = 0; i < program.steps.size(); ++i) {
    const kernels::ElementStep& step = program.steps[i];
    call.step[i] = {static_cast<int32_t>(step.op), step.a, step.b, step.to, step.p, step.q};
  }
  call.count = narrow(out.count());
  call.rank = out.rank();
  if (!copy_dims(out.dims(), call.dims)) return {};
  for (int i = 0; i < program.inputs; ++i) {
    copy_dims(broadcast_strides(context.shape(i), out), call.strides[i]);
  }
  return device_kernel(device, "elements_f32/cuda", &cuda::Api::elements, call,
                       [](cuda::Elements& run, const DeviceArgs& args) {
                         for (int32_t i = 0; i < run.inputs; ++i) {
                           run.input[i] = input<float>(args, static_cast<size_t>(i));
                         }
                         run.out = output<float>(args);
                       });
}

// --- Rows ----------------------------------------------------------------------------------------

template <cuda::RowKind Kind>
Prepared prepare_rows(const DevicePtr& device, const NodeContext& context) {
  const Shape& shape = context.shape(0);
  cuda::Rows rows = {};
  rows.kind = Kind;
  rows.count = narrow(shape[shape.rank() - 1]);
  rows.rows = narrow(shape.count(0, shape.rank() - 1));
  rows.epsilon = context.node().float_or(kEpsilon, 1e-5f);
  constexpr const char* kNames[] = {"softmax_f32/cuda", "layer_norm_f32/cuda", "rms_norm_f32/cuda"};
  return device_kernel(device, kNames[static_cast<int>(Kind)], &cuda::Api::rows, rows,
                       [](cuda::Rows& call, const DeviceArgs& args) {
                         call.x = input<float>(args, 0);
                         call.gain = input<float>(args, 1);
                         call.bias = input<float>(args, 2);
                         call.out = output<float>(args);
                       });
}

void set_steps(const kernels::AttentionStrides& from, int32_t (&to)[3]) {
  to[0] = narrow(from.batch);
  to[1] = narrow(from.head);
  to[2] = narrow(from.row);
}

Prepared prepare_attention(const DevicePtr& device, const NodeContext& context) {
  constexpr int64_t kMostValues = 1024;  // of a row that one block sums
  const kernels::AttentionF32 plan = attention_plan(context);
  if (plan.value_size > kMostValues) return {};
  cuda::Attention call = {};
  call.batch = narrow(plan.batch);
  call.heads = narrow(plan.heads);
  call.queries = narrow(plan.queries);
  call.keys = narrow(plan.keys);
  call.size = narrow(plan.size);
  call.value_size = narrow(plan.value_size);
  call.scale = plan.scale;
  call.mask_repeats = plan.mask_repeats ? 1 : 0;
  set_steps(plan.q, call.q);
  set_steps(plan.k, call.k);
  set_steps(plan.v, call.v);
  set_steps(plan.out, call.o);
  set_steps(plan.mask, call.mask);
  return device_kernel(device, "attention_f32/cuda", &cuda::Api::attention, call,
                       [](cuda::Attention& run, const DeviceArgs& args) {
                         run.query = input<float>(args, 0);
                         run.key = input<float>(args, 1);
                         run.value = input<float>(args, 2);
                         run.mask_data = input<float>(args, 3);
                         run.out = output<float>(args);
                       });
}

// --- Pools ---------------------------------------------------------------------------------------

template <cuda::PoolKind Kind>
Prepared prepare_pool(const DevicePtr& device, const NodeContext& context) {
  const cuda::Pool call = pool_call(context, Kind);
  return device_kernel(device,
                       Kind == cuda::PoolKind::max ? "max_pool_f32/cuda" : "average_pool_f32/cuda",
                       &cuda::Api::pool, call, [](cuda::Pool& run, const DeviceArgs& args) {
                         run.x = input<float>(args, 0);
                         run.out = output<float>(args);
                       });
}

constexpr DeviceRow kRows[] = {
    {kInternalDomain, "Conv", prepare_conv},
    {kInternalDomain, "MatMul", prepare_matmul},
    {kInternalDomain, "MatMulNBits", prepare_nbits},
    {kInternalDomain, "Elements", prepare_elements},
    {kInternalDomain, "Softmax", prepare_rows<cuda::RowKind::softmax>},
    {kInternalDomain, "LayerNorm", prepare_rows<cuda::RowKind::layer_norm>},
    {kInternalDomain, "RmsNorm", prepare_rows<cuda::RowKind::rms_norm>},
    {kInternalDomain, "Attention", prepare_attention},
    {kInternalDomain, "MaxPool", prepare_pool<cuda::PoolKind::max>},
    {kInternalDomain, "GlobalMaxPool", prepare_pool<cuda::PoolKind::max>},
    {kInternalDomain, "AveragePool", prepare_pool<cuda::PoolKind::average>},
    {kInternalDomain, "GlobalAveragePool", prepare_pool<cuda::PoolKind::average>},
};

}  // namespace

const std::span<const DeviceRow> kDeviceFloatRows = kRows;

}  // namespace compress::runtime
