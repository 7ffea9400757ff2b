// QuantizeLinear, DequantizeLinear (ai.onnx and com.microsoft), DynamicQuantizeLinear.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <type_traits>

#include "compress/core/int4.h"
#include "compress/core/parallel.h"
#include "compress/core/small_float.h"
#include "compress/ops/compute_families.h"
#include "compress/ops/integer_loops.h"
#include "compress/ops/scale_map.h"
#include "compress/ops/typed.h"
#include "compress/quant/qparams.h"

namespace compress {
namespace {

constexpr int64_t kGrain = 1 << 13;  // a multiple of the elements of any packed byte

int64_t load(const TensorView& view, int64_t i) {
  if (!is_sub_byte(view.dtype)) return integer_at(view, i);
  return get_packed(static_cast<const uint8_t*>(view.data), i, info(view.dtype).bits,
                    info(view.dtype).is_signed);
}

void store(const TensorView& view, int64_t i, int32_t value) {
  switch (info(view.dtype).bits) {
    case 8:
      static_cast<uint8_t*>(view.data)[i] = static_cast<uint8_t>(value);
      break;
    case 16:
      static_cast<uint16_t*>(view.data)[i] = static_cast<uint16_t>(value);
      break;
    default:
      set_packed(static_cast<uint8_t*>(view.data), i, info(view.dtype).bits, value);
  }
}

// The type that attribute output_dtype names, or `fallback`.
DType output_dtype(const NodeContext& c, DType fallback) {
  const int64_t given = c.node().int_or("output_dtype", 0);
  if (given == 0) return fallback;
  const DType dtype = info(static_cast<DType>(given & 0xFF)).dtype;
  if (given != static_cast<int64_t>(dtype)) c.invalid(fmt::format("output_dtype {}", given));
  return dtype;
}

bool is_quantized(DType dtype) { return is_integer(dtype) && info(dtype).bits <= 16; }

// --- QuantizeLinear ------------------------------------------------------------------------------

void infer_quantize(NodeContext& c) {
  require_inputs(c, 2);
  const DType dtype = c.has_input(2) ? c.dtype(2) : output_dtype(c, DType::uint8);
  if (c.in(0).has_shape) {
    c.set_output(0, dtype, c.shape(0));
  } else {
    c.set_output(0, dtype);
  }
}

// quantize_value() for a run of float32 with one scale, as a loop that vectorizes. With the clamp
// first, to integers, rounding cannot leave the range; adding and subtracting 1.5 * 2^23 rounds
// half to even (the sums are below 2^24, and this file is built without fast-math).
template <class Q>
void quantize_run(const float* x, int64_t n, float scale, int32_t zero, Q* out) {
  constexpr float kRound = 12582912.0f;
  const float low = static_cast<float>(std::numeric_limits<Q>::min() - zero);
  const float high = static_cast<float>(std::numeric_limits<Q>::max() - zero);
  for (int64_t i = 0; i < n; ++i) {
    float value = x[i] / scale;
    value = value == value ? value : 0.0f;
    value = value > low ? value : low;
    value = value < high ? value : high;
    out[i] = static_cast<Q>(static_cast<int32_t>((value + kRound) - kRound) + zero);
  }
}

// True where quantize_run() did the run.
bool quantize_fast(const float* x, int64_t n, float scale, int32_t zero, const TensorView& out,
                   int64_t at) {
  if (out.dtype == DType::uint8) {
    quantize_run(x, n, scale, zero, static_cast<uint8_t*>(out.data) + at);
  } else if (out.dtype == DType::int8) {
    quantize_run(x, n, scale, zero, static_cast<int8_t*>(out.data) + at);
  } else {
    return false;
  }
  return true;
}

template <class X, class Scale>
Kernel quantize_kernel(const NodeContext& c) {
  const ScaleMap map = map_scales(c);
  const DType dtype = c.output_types[0].dtype;
  const IntegerRange range = integer_range(dtype, false);
  const int64_t count = c.shape(0).count();
  return {"quantize_linear_ref", [=](const KernelArgs& args) {
            const X* x = args.inputs[0].as<const X>();
            const Scale* scales = args.inputs[1].as<const Scale>();
            const bool has_zero = args.inputs.size() > 2 && args.inputs[2].data != nullptr;
            const TensorView& out = args.outputs[0];
            parallel_for(0, count, kGrain, [&](int64_t from, int64_t to) {
              for_each_run(map, from, to, [&](int64_t at, int64_t n, int64_t s, int64_t step) {
                if constexpr (std::is_same_v<X, float>) {
                  const int32_t zero = has_zero ? static_cast<int32_t>(load(args.inputs[2], s)) : 0;
                  const auto scale = static_cast<float>(scales[s]);
                  if (step == 0 && quantize_fast(x + at, n, scale, zero, out, at)) return;
                }
                for (int64_t i = 0; i < n; ++i) {
                  const int64_t slice = s + i * step;
                  const auto zero =
                      has_zero ? static_cast<int32_t>(load(args.inputs[2], slice)) : 0;
                  store(out, at + i,
                        quantize_value(static_cast<float>(x[at + i]),
                                       static_cast<float>(scales[slice]), zero, range));
                }
              });
            });
          }};
}

Kernel prepare_quantize(const NodeContext& c) {
  if (is_small_float(c.output_types[0].dtype)) return quantize_float_kernel(c);
  if (!is_quantized(c.output_types[0].dtype)) {
    c.unsupported(fmt::format("output type {}", info(c.output_types[0].dtype).name));
  }
  return by_float(c, c.dtype(1), [&]<class Scale>(Scale) {
    if (c.dtype(0) == DType::int32) return quantize_kernel<int32_t, Scale>(c);
    return by_float(c, c.dtype(0), [&]<class X>(X) { return quantize_kernel<X, Scale>(c); });
  });
}

// --- DequantizeLinear ----------------------------------------------------------------------------

void infer_dequantize(NodeContext& c) {
  require_inputs(c, 2);
  const DType dtype = output_dtype(c, c.dtype(1));
  if (c.in(0).has_shape) {
    c.set_output(0, dtype, c.shape(0));
  } else {
    c.set_output(0, dtype);
  }
}

// out[i] = (x[i] - zero) * scale for a run; the loops that matter have a type and one scale.
template <class Q, class T>
void dequantize_row(const Q* x, int64_t n, int32_t zero, T scale, T* out) {
  for (int64_t i = 0; i < n; ++i)
    out[i] = static_cast<T>(static_cast<int32_t>(x[i]) - zero) * scale;
}

template <class T>
void dequantize_run(const TensorView& x, int64_t at, int64_t n, int64_t zero, T scale, T* out) {
  if (x.dtype == DType::uint8) {
    dequantize_row(static_cast<const uint8_t*>(x.data) + at, n, static_cast<int32_t>(zero), scale,
                   out);
  } else if (x.dtype == DType::int8) {
    dequantize_row(static_cast<const int8_t*>(x.data) + at, n, static_cast<int32_t>(zero), scale,
                   out);
  } else {
    for (int64_t i = 0; i < n; ++i) out[i] = static_cast<T>(load(x, at + i) - zero) * scale;
  }
}

Kernel prepare_dequantize(const NodeContext& c) {
  if (c.has_input(2) && c.dtype(2) != c.dtype(0)) c.invalid("the zero point has another type");
  if (c.output_types[0].dtype != c.dtype(1)) c.unsupported("output_dtype unlike the scale's");
  if (is_small_float(c.dtype(0))) return dequantize_float_kernel(c);
  if (!is_quantized(c.dtype(0)) && c.dtype(0) != DType::int32) {
    c.unsupported(fmt::format("input type {}", info(c.dtype(0)).name));
  }
  const ScaleMap map = map_scales(c);
  const int64_t count = c.shape(0).count();
  return by_float(c, c.dtype(1), [&]<class T>(T) {
    return Kernel{
        "dequantize_linear_ref", [=](const KernelArgs& args) {
          const TensorView& x = args.inputs[0];
          const T* scales = args.inputs[1].as<const T>();
          const bool has_zero = args.inputs.size() > 2 && args.inputs[2].data != nullptr;
          T* y = args.outputs[0].as<T>();
          const auto zero = [&](int64_t slice) {
            return has_zero ? load(args.inputs[2], slice) : 0;
          };
          parallel_for(0, count, kGrain, [&](int64_t from, int64_t to) {
            for_each_run(map, from, to, [&](int64_t at, int64_t n, int64_t s, int64_t step) {
              if (step == 0) return dequantize_run(x, at, n, zero(s), scales[s], y + at);
              for (int64_t i = 0; i < n; ++i) {
                y[at + i] = static_cast<T>(load(x, at + i) - zero(s + i)) * scales[s + i];
              }
            });
          });
        }};
  });
}

// --- DynamicQuantizeLinear -----------------------------------------------------------------------

void infer_dynamic_quantize(NodeContext& c) {
  require_inputs(c, 1);
  if (c.in(0).has_shape) {
    c.set_output(0, DType::uint8, c.shape(0));
  } else {
    c.set_output(0, DType::uint8);
  }
  c.set_output(1, DType::float32, Shape());
  c.set_output(2, DType::uint8, Shape());
}

Kernel prepare_dynamic_quantize(const NodeContext& c) {
  if (c.dtype(0) != DType::float32) {
    c.unsupported(fmt::format("element type {}", info(c.dtype(0)).name));
  }
  for (const int i : {0, 1, 2}) {
    if (!c.has_output(i)) c.invalid(fmt::format("output {} is missing", i));
  }
  const int64_t count = c.shape(0).count();
  return {"dynamic_quantize_linear_ref", [count](const KernelArgs& args) {
            const float* x = args.inputs[0].as<const float>();
            uint8_t* y = args.outputs[0].as<uint8_t>();
            const DynamicScale dynamic = dynamic_scale(x, count);
            *args.outputs[1].as<float>() = dynamic.scale;
            *args.outputs[2].as<uint8_t>() = dynamic.zero_point;
            quantize_bytes(x, count, dynamic, y);
          }};
}

constexpr OpDef kRows[] = {
    {"", "QuantizeLinear", 10, infer_quantize, prepare_quantize, {}, false, true},
    {"", "DequantizeLinear", 10, infer_dequantize, prepare_dequantize, {}, false, true},
    {"", "DynamicQuantizeLinear", 11, infer_dynamic_quantize, prepare_dynamic_quantize},
    {"com.microsoft", "QuantizeLinear", 1, infer_quantize, prepare_quantize, {}, false, true},
    {"com.microsoft", "DequantizeLinear", 1, infer_dequantize, prepare_dequantize, {}, false, true},
};

}  // namespace

DynamicScale dynamic_scale(const float* x, int64_t count) {
  // In lanes that vectorize; a NaN leaves a lane as it is.
  constexpr size_t kLanes = 16;
  std::array<float, kLanes> lows{}, highs{};
  int64_t i = 0;
  for (; i + static_cast<int64_t>(kLanes) <= count; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const float value = x[i + static_cast<int64_t>(lane)];
      lows[lane] = value < lows[lane] ? value : lows[lane];
      highs[lane] = value > highs[lane] ? value : highs[lane];
    }
  }
  for (; i < count; ++i) {
    lows[0] = std::min(lows[0], x[i]);
    highs[0] = std::max(highs[0], x[i]);
  }
  const float low = *std::min_element(lows.begin(), lows.end());
  const float high = *std::max_element(highs.begin(), highs.end());
  const float scale = high == low ? 1.0f : (high - low) / 255.0f;
  const float zero = std::nearbyint(std::clamp(-low / scale, 0.0f, 255.0f));
  return {scale, std::isnan(zero) ? uint8_t{0} : static_cast<uint8_t>(zero)};
}

void quantize_bytes(const float* x, int64_t count, DynamicScale dynamic, uint8_t* y) {
  parallel_for(0, count, kGrain, [&](int64_t from, int64_t to) {
    quantize_run(x + from, to - from, dynamic.scale, int32_t{dynamic.zero_point}, y + from);
  });
}

const std::span<const OpDef> kQuantizeOps = kRows;

}  // namespace compress
