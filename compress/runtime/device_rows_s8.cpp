// Integer nodes on a device: the same integers as the CPU's kernels.
#include <cstring>

#include "compress/runtime/device_rows.h"
#include "compress/runtime/lower_params.h"

namespace compress::runtime {
namespace {

constexpr int64_t kWord = 4;  // bytes that the device multiplies at once

// Signed weights without zero points, rows padded to words; and what each channel sums to.
struct SignedWeights {
  std::vector<int8_t> bytes;
  std::vector<int32_t> sums;
};

// How weights lie: channels, then rows of each (taps), then the bytes of a row, by their strides.
struct WeightLayout {
  int64_t channels, rows, row_bytes;
  int64_t channel_stride, row_stride, byte_stride;
};

// Nothing where a weight less its zero point is no signed byte.
std::optional<SignedWeights> signed_weights(const Tensor& weights, const Tensor* zero_point,
                                            const WeightLayout& layout) {
  const TensorData data = weights.read();
  const auto* from = static_cast<const uint8_t*>(data.view().data);
  const bool is_signed = weights.dtype() == DType::int8;
  const std::vector<double> zeros =
      zero_point != nullptr ? zero_point->to_doubles() : std::vector<double>{0};
  const int64_t padded = (layout.row_bytes + kWord - 1) / kWord * kWord;
  SignedWeights out;
  out.bytes.resize(static_cast<size_t>(layout.channels * layout.rows * padded));
  out.sums.resize(static_cast<size_t>(layout.channels));
  for (int64_t c = 0; c < layout.channels; ++c) {
    const auto zero = static_cast<int32_t>(zeros[zeros.size() == 1 ? 0 : static_cast<size_t>(c)]);
    for (int64_t r = 0; r < layout.rows; ++r) {
      for (int64_t i = 0; i < layout.row_bytes; ++i) {
        const uint8_t byte =
            from[c * layout.channel_stride + r * layout.row_stride + i * layout.byte_stride];
        const int32_t value = (is_signed ? int32_t{static_cast<int8_t>(byte)} : byte) - zero;
        if (value < -128 || value > 127) return std::nullopt;
        out.bytes[static_cast<size_t>((c * layout.rows + r) * padded + i)] =
            static_cast<int8_t>(value);
        out.sums[static_cast<size_t>(c)] += value;
      }
    }
  }
  return out;
}

// Device copies of what an integer product holds.
struct Held {
  DeviceBuffer weights, sums, scales, bias;
};

Held upload_held(const DevicePtr& device, const SignedWeights& weights,
                 const std::vector<float>& scales, const Tensor* bias) {
  return {upload_vector(device, weights.bytes), upload_vector(device, weights.sums),
          upload_vector(device, scales), upload_constant(device, bias)};
}

template <class T>
const T* pointer(const DeviceBuffer& buffer) {
  return reinterpret_cast<const T*>(buffer.data());
}

// Everything that does not come with a run.
cuda::AfterSumS8 after_sum(const NodeContext& context, const Held& held, DType bias_type) {
  const DType type = y_type(context);
  const Node& node = context.node();
  cuda::AfterSumS8 after = {};
  after.weight_sum = pointer<int32_t>(held.sums);
  after.scale = pointer<float>(held.scales);
  if (bias_type == DType::int32) after.bias = pointer<int32_t>(held.bias);
  if (bias_type == DType::float32) after.float_bias = pointer<float>(held.bias);
  after.x_zero_point = static_cast<int32_t>(node.int_or(kXZeroPoint, 0));
  after.x_signed = context.dtype(0) == DType::int8 ? 1 : 0;
  after.is_float = type == DType::float32 ? 1 : 0;
  after.y_zero_point = static_cast<int32_t>(node.int_or(kYZeroPoint, 0));
  const bool is_signed = type == DType::int8;
  after.lo = static_cast<float>(node.int_or(kLo, is_signed ? -128 : 0) - after.y_zero_point);
  after.hi = static_cast<float>(node.int_or(kHi, is_signed ? 127 : 255) - after.y_zero_point);
  return after;
}

Prepared prepare_conv(const DevicePtr& device, const NodeContext& context) {
  const Tensor& weights = *context.constant(1);
  const Shape& w = weights.shape();
  const Window window = s8_conv_window(context);
  const int64_t taps = w.count(2, w.rank());
  const auto packed = signed_weights(weights, context.node().tensor_or_null(kWZeroPoint),
                                     {w[0], taps, w[1], w[1] * taps, 1, taps});
  if (!packed) return {};
  const Tensor* bias = context.constant(2);
  Held held = upload_held(device, *packed, s8_multipliers(context, w[0]), bias);
  cuda::ConvS8 conv = {};
  conv.shape = conv_shape(window, w[0], context.node().int_or("group", 1));
  conv.w = pointer<int8_t>(held.weights);
  conv.after = after_sum(context, held, bias != nullptr ? bias->dtype() : DType::undefined);
  DeviceKernel kernel = device_kernel(
      device, "conv_s8/cuda", &cuda::Api::conv_s8, conv,
      [](cuda::ConvS8& call, const DeviceArgs& args) {
        call.x = input<uint8_t>(args, 0);
        call.out = args.outputs[0];
      },
      std::move(held));
  kernel.held_inputs = 1u << 1 | 1u << 2;
  return kernel;
}

cuda::MatMulS8 product_of(const Shape& x, int64_t k, int64_t n) {
  cuda::MatMulS8 product = {};
  product.m = narrow(x.count(0, x.rank() - 1));
  product.k = narrow(k);
  product.n = narrow(n);
  return product;
}

Prepared prepare_matmul(const DevicePtr& device, const NodeContext& context) {
  const Tensor& weights = *context.constant(1);
  const bool transposed = context.node().int_or(kTransposed, 0) != 0;
  const int64_t rows = weights.shape()[0], columns = weights.shape()[1];
  const int64_t k = transposed ? columns : rows, n = transposed ? rows : columns;
  const auto packed = signed_weights(
      weights, context.node().tensor_or_null(kWZeroPoint),
      transposed ? WeightLayout{n, 1, k, columns, 0, 1} : WeightLayout{n, 1, k, 1, 0, columns});
  if (!packed) return {};
  const Tensor* bias = context.constant(2);
  Held held = upload_held(device, *packed, s8_multipliers(context, n), bias);
  cuda::MatMulS8 product = product_of(context.shape(0), k, n);
  product.w = pointer<int8_t>(held.weights);
  product.after = after_sum(context, held, bias != nullptr ? bias->dtype() : DType::undefined);
  DeviceKernel kernel = device_kernel(
      device, "gemm_s8/cuda", &cuda::Api::matmul_s8, product,
      [](cuda::MatMulS8& call, const DeviceArgs& args) {
        call.a = input<uint8_t>(args, 0);
        call.out = args.outputs[0];
      },
      std::move(held));
  kernel.held_inputs = 1u << 1 | 1u << 2;
  return kernel;
}

// u8, scale, zero point, w, w scales, [bias]; scale and zero point are made on the way.
Prepared prepare_dynamic_matmul(const DevicePtr& device, const NodeContext& context) {
  const Tensor& weights = *context.constant(3);
  const Tensor* bias = context.constant(5);
  if (context.has_input(5) && bias == nullptr) return {};
  const int64_t k = weights.shape()[0], n = weights.shape()[1];
  const auto packed =
      signed_weights(weights, context.node().tensor_or_null(kWZeroPoint), {n, 1, k, 1, 0, n});
  if (!packed) return {};
  const TensorData given = context.constant(4)->read();
  std::vector<float> scales(given.as<float>().begin(), given.as<float>().end());
  if (scales.size() == 1) scales.assign(static_cast<size_t>(n), scales[0]);
  Held held = upload_held(device, *packed, scales, bias);
  cuda::MatMulS8 product = product_of(context.shape(0), k, n);
  product.w = pointer<int8_t>(held.weights);
  product.after.weight_sum = pointer<int32_t>(held.sums);
  product.after.scale = pointer<float>(held.scales);
  product.after.float_bias = pointer<float>(held.bias);
  product.after.is_float = 1;
  DeviceKernel kernel = device_kernel(
      device, "gemm_s8/cuda", &cuda::Api::matmul_s8, product,
      [](cuda::MatMulS8& call, const DeviceArgs& args) {
        call.a = input<uint8_t>(args, 0);
        call.after.x_scale = input<float>(args, 1);
        call.after.x_zero = input<uint8_t>(args, 2);
        call.out = args.outputs[0];
      },
      std::move(held));
  kernel.held_inputs = 1u << 3 | 1u << 4 | 1u << 5;
  return kernel;
}

Prepared prepare_dynamic_quantize(const DevicePtr& device, const NodeContext& context) {
  cuda::DynamicQuantize call = {};
  call.count = narrow(context.shape(0).count());
  if (call.count == 0) return {};
  DeviceKernel kernel = device_kernel(device, "dynamic_quantize/cuda", &cuda::Api::dynamic_quantize,
                                      call, [](cuda::DynamicQuantize& run, const DeviceArgs& args) {
                                        run.x = input<float>(args, 0);
                                        run.out = output<uint8_t>(args, 0);
                                        run.scale = output<float>(args, 1);
                                        run.zero_point = output<uint8_t>(args, 2);
                                        run.partial = reinterpret_cast<float*>(args.workspace);
                                      });
  kernel.workspace_bytes = 2 * cuda::kPartials * sizeof(float);
  return kernel;
}

// --- Elements ------------------------------------------------------------------------------------

Prepared prepare_quantize(const DevicePtr& device, const NodeContext& context) {
  const kernels::S8Params params = s8_params(context, kYScale, kYZeroPoint, y_type(context));
  cuda::Quantize call = {};
  call.count = narrow(context.shape(0).count());
  call.scale = params.scale;
  call.zero_point = params.zero_point;
  call.lo = static_cast<float>((params.is_signed ? -128 : 0) - params.zero_point);
  call.hi = static_cast<float>((params.is_signed ? 127 : 255) - params.zero_point);
  return device_kernel(device, "quantize_s8/cuda", &cuda::Api::quantize, call,
                       [](cuda::Quantize& run, const DeviceArgs& args) {
                         run.x = input<float>(args, 0);
                         run.out = output<uint8_t>(args);
                       });
}

Prepared prepare_dequantize(const DevicePtr& device, const NodeContext& context) {
  const kernels::S8Params params = s8_params(context, kXScale, kXZeroPoint, context.dtype(0));
  cuda::Dequantize call = {};
  call.count = narrow(context.shape(0).count());
  call.scale = params.scale;
  call.zero_point = params.zero_point;
  call.is_signed = params.is_signed ? 1 : 0;
  return device_kernel(device, "dequantize_s8/cuda", &cuda::Api::dequantize, call,
                       [](cuda::Dequantize& run, const DeviceArgs& args) {
                         run.x = input<uint8_t>(args, 0);
                         run.out = output<float>(args);
                       });
}

Prepared prepare_lookup(const DevicePtr& device, const NodeContext& context) {
  DeviceBuffer table = upload_constant(device, context.node().tensor_or_null(kTable));
  cuda::Lookup call = {};
  call.count = narrow(context.shape(0).count());
  call.table = pointer<uint8_t>(table);
  return device_kernel(
      device, "lookup_s8/cuda", &cuda::Api::lookup, call,
      [](cuda::Lookup& run, const DeviceArgs& args) {
        run.x = input<uint8_t>(args, 0);
        run.out = output<uint8_t>(args);
      },
      std::move(table));
}

template <bool Multiplies>
Prepared prepare_binary(const DevicePtr& device, const NodeContext& context) {
  const kernels::BinaryS8 params = s8_binary(context, Multiplies);
  const Shape& out = context.output_types[0].shape;
  cuda::BinaryS8 call = {};
  call.multiplies = Multiplies ? 1 : 0;
  call.rank = out.rank();
  call.count = narrow(out.count());
  if (!copy_dims(out.dims(), call.dims)) return {};
  copy_dims(broadcast_strides(context.shape(0), out), call.a_strides);
  copy_dims(broadcast_strides(context.shape(1), out), call.b_strides);
  call.a_signed = params.a_signed ? 1 : 0;
  call.b_signed = params.b_signed ? 1 : 0;
  call.a_zero = params.a_zero;
  call.b_zero = params.b_zero;
  call.a_scale = params.a_scale;
  call.b_scale = params.b_scale;
  call.lo = params.range.lo;
  call.hi = params.range.hi;
  call.y_zero_point = params.range.zero_point;
  return device_kernel(device, Multiplies ? "mul_s8/cuda" : "add_s8/cuda", &cuda::Api::binary_s8,
                       call, [](cuda::BinaryS8& run, const DeviceArgs& args) {
                         run.a = input<uint8_t>(args, 0);
                         run.b = input<uint8_t>(args, 1);
                         run.out = output<uint8_t>(args);
                       });
}

// --- Pools ---------------------------------------------------------------------------------------

template <cuda::PoolKind Kind>
Prepared prepare_pool(const DevicePtr& device, const NodeContext& context) {
  const kernels::S8Params x = s8_params(context, kXScale, kXZeroPoint, context.dtype(0));
  const kernels::S8Params y =
      s8_params(context, kYScale, kYZeroPoint, context.output_types[0].dtype);
  cuda::Pool call = pool_call(context, Kind);
  call.x_signed = x.is_signed ? 1 : 0;
  call.x_scale = x.scale;
  call.x_zero_point = x.zero_point;
  call.y_scale = y.scale;
  call.y_zero_point = y.zero_point;
  call.lo = static_cast<float>((y.is_signed ? -128 : 0) - y.zero_point);
  call.hi = static_cast<float>((y.is_signed ? 127 : 255) - y.zero_point);
  return device_kernel(device,
                       Kind == cuda::PoolKind::max_s8 ? "max_pool_s8/cuda" : "average_pool_s8/cuda",
                       &cuda::Api::pool, call, [](cuda::Pool& run, const DeviceArgs& args) {
                         run.x = args.inputs[0];
                         run.out = args.outputs[0];
                       });
}

constexpr DeviceRow kRows[] = {
    {kInternalDomain, "QConv", prepare_conv},
    {kInternalDomain, "QMatMul", prepare_matmul},
    {kInternalDomain, "DynamicMatMul", prepare_dynamic_matmul},
    {kInternalDomain, "DynamicQuantize", prepare_dynamic_quantize},
    {kInternalDomain, "Quantize", prepare_quantize},
    {kInternalDomain, "Dequantize", prepare_dequantize},
    {kInternalDomain, "Lookup", prepare_lookup},
    {kInternalDomain, "QAdd", prepare_binary<false>},
    {kInternalDomain, "QMul", prepare_binary<true>},
    {kInternalDomain, "QMaxPool", prepare_pool<cuda::PoolKind::max_s8>},
    {kInternalDomain, "QAveragePool", prepare_pool<cuda::PoolKind::average_s8>},
    {kInternalDomain, "QGlobalAveragePool", prepare_pool<cuda::PoolKind::average_s8>},
};

}  // namespace

const std::span<const DeviceRow> kDeviceIntegerRows = kRows;

}  // namespace compress::runtime
