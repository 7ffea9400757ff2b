// Work on one element at a time: float programs, and bytes between integer layers.
#include "compress/kernels/cuda/device_code.h"
#include "compress/kernels/cuda/element_ops.h"
#include "compress/kernels/cuda/launchers.h"

namespace compress::cuda {
namespace {

__global__ void __launch_bounds__(kBlock) elements_kernel(const Elements p) {
  for (int32_t i = thread_index(); i < p.count; i += thread_total()) {
    float values[kMaxElementInputs + kMaxElementRegisters];
    for (int input = 0; input < p.inputs; ++input) {
      values[input] = p.input[input][place_of(i, p.rank, p.dims, p.strides[input])];
    }
    float y = 0;
    for (int s = 0; s < p.steps; ++s) {
      const ElementStep& step = p.step[s];
      y = element_op(step.op, step.p, step.q, values[step.a], step.b >= 0 ? values[step.b] : 0.0f);
      values[step.to] = y;
    }
    p.out[i] = y;
  }
}

__global__ void __launch_bounds__(kBlock) quantize_kernel(const Quantize p) {
  for (int32_t i = thread_index(); i < p.count; i += thread_total()) {
    p.out[i] = into_byte(p.x[i] / p.scale, p.lo, p.hi, p.zero_point);
  }
}

__global__ void __launch_bounds__(kBlock) dequantize_kernel(const Dequantize p) {
  for (int32_t i = thread_index(); i < p.count; i += thread_total()) {
    p.out[i] = static_cast<float>(widen(p.x[i], p.is_signed) - p.zero_point) * p.scale;
  }
}

__global__ void __launch_bounds__(kBlock) lookup_kernel(const Lookup p) {
  for (int32_t i = thread_index(); i < p.count; i += thread_total()) p.out[i] = p.table[p.x[i]];
}

__global__ void __launch_bounds__(kBlock) binary_s8_kernel(const BinaryS8 p) {
  for (int32_t i = thread_index(); i < p.count; i += thread_total()) {
    const int32_t a = widen(p.a[place_of(i, p.rank, p.dims, p.a_strides)], p.a_signed) - p.a_zero;
    const int32_t b = widen(p.b[place_of(i, p.rank, p.dims, p.b_strides)], p.b_signed) - p.b_zero;
    const float y = p.multiplies != 0
                        ? static_cast<float>(a * b) * p.a_scale
                        : static_cast<float>(a) * p.a_scale + static_cast<float>(b) * p.b_scale;
    p.out[i] = into_byte(y, p.lo, p.hi, p.y_zero_point);
  }
}

template <class Params>
int launch_flat(Context* context, void (*kernel)(Params), const Params* params) {
  if (params->count == 0) return 0;
  return launch(*context, kernel, dim3(blocks_for(*context, params->count)), dim3(kBlock), *params);
}

}  // namespace

int elements(Context* context, const Elements* p) {
  return launch_flat(context, elements_kernel, p);
}
int quantize(Context* context, const Quantize* p) {
  return launch_flat(context, quantize_kernel, p);
}
int dequantize(Context* context, const Dequantize* p) {
  return launch_flat(context, dequantize_kernel, p);
}
int lookup(Context* context, const Lookup* p) { return launch_flat(context, lookup_kernel, p); }
int binary_s8(Context* context, const BinaryS8* p) {
  return launch_flat(context, binary_s8_kernel, p);
}

}  // namespace compress::cuda
