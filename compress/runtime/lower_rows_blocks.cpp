// Rows of the internal domain for weight-only and dynamic quantization.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <vector>

#include "compress/kernels/elementwise_s8/elementwise_s8.h"
#include "compress/kernels/gemm_s8/gemm_s8.h"
#include "compress/kernels/gemm_w4/gemm_w4.h"
#include "compress/ops/integer_loops.h"
#include "compress/runtime/lower.h"
#include "compress/runtime/lower_internal.h"

namespace compress::runtime {
namespace {

// --- MatMulNBits ---------------------------------------------------------------------------------

void infer_nbits(NodeContext& context) {
  if (!context.in(0).is_concrete()) return context.set_output(0, DType::float32);
  Shape out = context.shape(0);
  if (out.rank() < 1 || out[out.rank() - 1] != context.node().int_or("K", 0)) {
    context.invalid("its activations do not have K columns");
  }
  out[out.rank() - 1] = context.node().int_or("N", 0);
  context.set_output(0, DType::float32, out);
}

Kernel prepare_nbits(const NodeContext& context) {
  const Node& node = context.node();
  kernels::GemmW4Weights source;
  source.k = node.int_or("K", 0);
  source.n = node.int_or("N", 0);
  source.block_size = node.int_or("block_size", 0);
  source.bits = static_cast<int>(node.int_or("bits", 4));
  const Tensor* data = context.constant(1);
  const Tensor* scales = context.constant(2);
  const Tensor* zero_points = context.constant(3);
  struct State {
    std::shared_ptr<const kernels::PackedGemmW4> packed;
    TensorData bias;
  };
  const std::string key =
      fmt::format("nbits{}/{}/{}", source.bits, source.block_size, scales->identity());
  auto state = std::make_shared<State>();
  state->packed = packed_once<kernels::PackedGemmW4>(*data, key, [&] {
    const TensorData codes = data->read();
    const TensorData steps = scales->read();
    const TensorData zeros = zero_points != nullptr ? zero_points->read() : TensorData();
    source.data = codes.as<uint8_t>().data();
    source.scales = steps.as<float>().data();
    source.zero_points = static_cast<const uint8_t*>(zeros.view().data);
    return kernels::pack_gemm_w4(source);
  });
  kernels::GemmW4Args args;
  args.m = context.shape(0).count(0, context.shape(0).rank() - 1);
  args.lda = source.k;
  args.ldc = source.n;
  if (const Tensor* bias = context.constant(4)) {
    state->bias = bias->read();
    args.bias = state->bias.as<float>().data();
  }
  const bool integer = node.int_or("accuracy_level", 0) == 4;
  Kernel kernel;
  kernel.name =
      fmt::format("gemm_w{}/{}", source.bits,
                  integer ? kernels::best_gemm_w4_int8().name : kernels::best_gemm_w4_float().name);
  kernel.held_inputs = 1u << 1 | 1u << 2 | 1u << 3;
  kernel.workspace_bytes = integer ? kernels::gemm_w4_int8_workspace_bytes(*state->packed, args.m)
                                   : kernels::gemm_w4_float_workspace_bytes(*state->packed, args.m);
  kernel.run = [state, args, integer](const KernelArgs& run) {
    kernels::GemmW4Args call = args;
    call.a = static_cast<const float*>(run.inputs[0].data);
    call.out = static_cast<float*>(run.outputs[0].data);
    call.workspace = run.workspace;
    if (integer) {
      kernels::gemm_w4_int8(*state->packed, call);
    } else {
      kernels::gemm_w4_float(*state->packed, call);
    }
  };
  return kernel;
}

// --- Dynamic quantization ------------------------------------------------------------------------

void infer_dynamic_quantize(NodeContext& context) {
  if (context.in(0).has_shape) {
    context.set_output(0, DType::uint8, context.shape(0));
  } else {
    context.set_output(0, DType::uint8);
  }
  context.set_output(1, DType::float32, {});
  context.set_output(2, DType::uint8, {});
}

Kernel prepare_dynamic_quantize(const NodeContext& context) {
  const int64_t count = context.shape(0).count();
  return {fmt::format("dynamic_quantize/{}", kernels::best_elementwise_s8().name),
          [count](const KernelArgs& args) {
            const auto* x = static_cast<const float*>(args.inputs[0].data);
            const DynamicScale dynamic = dynamic_scale(x, count);
            const kernels::S8Params params{dynamic.scale, int32_t{dynamic.zero_point}, false};
            kernels::quantize_s8(x, count, params, static_cast<uint8_t*>(args.outputs[0].data));
            *static_cast<float*>(args.outputs[1].data) = dynamic.scale;
            *static_cast<uint8_t*>(args.outputs[2].data) = dynamic.zero_point;
          }};
}

void infer_dynamic_matmul(NodeContext& context) {
  if (!context.in(0).is_concrete()) return context.set_output(0, DType::float32);
  Shape out = context.shape(0);
  const Shape& w = context.shape(3);
  if (out.rank() < 1 || w.rank() != 2 || out[out.rank() - 1] != w[0]) {
    context.invalid("its operands do not fit each other");
  }
  out[out.rank() - 1] = w[1];
  context.set_output(0, DType::float32, out);
}

Kernel prepare_dynamic_matmul(const NodeContext& context) {
  const Tensor* weights = context.constant(3);
  const Tensor* zero_point = context.node().tensor_or_null(kWZeroPoint);
  kernels::GemmS8Weights source;
  source.is_signed = weights->dtype() == DType::int8;
  source.k = weights->shape()[0];
  source.n = weights->shape()[1];
  source.ld = source.n;
  struct State {
    std::shared_ptr<const kernels::PackedGemmS8> packed;
    std::vector<float> scales;
    std::vector<float> bias;
  };
  const int64_t rows = context.shape(0).count(0, context.shape(0).rank() - 1);
  auto state = std::make_shared<State>();
  state->packed = packed_once<kernels::PackedGemmS8>(*weights, gemm_key(rows, false), [&] {
    const TensorData data = weights->read();
    const TensorData zero = zero_point != nullptr ? zero_point->read() : TensorData();
    source.data = data.view().data;
    source.zero_point = zero.view().data;
    source.zero_point_per_column = zero_point != nullptr && zero_point->count() > 1;
    return kernels::pack_gemm_s8_for(source, rows);
  });
  const TensorData scales = context.constant(4)->read();
  state->scales.assign(scales.as<float>().begin(), scales.as<float>().end());
  if (state->scales.size() == 1) {
    state->scales.assign(static_cast<size_t>(source.n), state->scales[0]);
  }
  kernels::GemmS8Args args;
  args.m = rows;
  args.lda = source.k;
  args.ldc = source.n;
  args.epilogue.output = kernels::S8Output::float32;
  args.epilogue.scale = state->scales.data();
  if (const Tensor* bias = context.constant(5)) {
    const TensorData data = bias->read();
    state->bias.assign(data.as<float>().begin(), data.as<float>().end());
    args.epilogue.float_bias = state->bias.data();
  }
  Kernel kernel;
  kernel.name = fmt::format("gemm_s8/{}", state->packed->kernel->name);
  kernel.held_inputs = 1u << 3;
  kernel.workspace_bytes = kernels::gemm_s8_workspace_bytes(*state->packed, args.m);
  kernel.run = [state, args](const KernelArgs& run) {
    kernels::GemmS8Args call = args;
    call.a = run.inputs[0].data;
    call.epilogue.scale_factor = *static_cast<const float*>(run.inputs[1].data);
    call.a_zero_point = *static_cast<const uint8_t*>(run.inputs[2].data);
    call.out = run.outputs[0].data;
    call.workspace = run.workspace;
    kernels::gemm_s8(*state->packed, call);
  };
  return kernel;
}

const std::array<OpDef, 3> kRows = {
    internal_row("MatMulNBits", infer_nbits, prepare_nbits),
    internal_row("DynamicQuantize", infer_dynamic_quantize, prepare_dynamic_quantize),
    internal_row("DynamicMatMul", infer_dynamic_matmul, prepare_dynamic_matmul),
};

}  // namespace

const std::span<const OpDef> kBlockRows = kRows;

}  // namespace compress::runtime
