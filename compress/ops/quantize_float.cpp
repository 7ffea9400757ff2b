// QuantizeLinear to, and DequantizeLinear from, floating point types of 8 bits and fewer.
#include "compress/core/int4.h"
#include "compress/core/parallel.h"
#include "compress/core/small_float.h"
#include "compress/ops/scale_map.h"
#include "compress/ops/typed.h"

namespace compress {

namespace {

constexpr int64_t kGrain = 1 << 13;  // a multiple of the elements of any packed byte

float load(const TensorView& view, const std::array<float, 256>& values, int64_t i) {
  const auto* bytes = static_cast<const uint8_t*>(view.data);
  const int bits = info(view.dtype).bits;
  return values[static_cast<size_t>(bits == 8 ? bytes[i] : get_packed(bytes, i, bits, false))];
}

void store(const TensorView& view, int64_t i, uint8_t code) {
  auto* bytes = static_cast<uint8_t*>(view.data);
  const int bits = info(view.dtype).bits;
  if (bits == 8) {
    bytes[i] = code;
  } else {
    set_packed(bytes, i, bits, code);
  }
}

// The zero points, which are zeros in all files that make sense: ONNX keeps them in the formula.
struct Zeros {
  const TensorView* view;
  const std::array<float, 256>& values;

  Zeros(const KernelArgs& args, DType dtype)
      : view(args.inputs.size() > 2 && args.inputs[2].data != nullptr ? &args.inputs[2] : nullptr),
        values(small_float_values(dtype)) {}
  float operator[](int64_t i) const { return view == nullptr ? 0.0f : load(*view, values, i); }
};

// float8e8m0 holds scales, never values.
void require_value_type(const NodeContext& c, DType dtype) {
  if (dtype == DType::float8e8m0) c.unsupported("values of type float8e8m0");
}

}  // namespace

Kernel quantize_float_kernel(const NodeContext& c) {
  const DType dtype = c.output_types[0].dtype;
  require_value_type(c, dtype);
  const ScaleMap map = map_scales(c);
  const int64_t count = c.shape(0).count();
  const SmallRounding rounding{c.node().int_or("saturate", 1) != 0};
  if (c.dtype(1) != c.dtype(0)) c.unsupported("scales of another type than the input");
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    return Kernel{
        "quantize_linear_float_ref", [=](const KernelArgs& args) {
          const T* x = args.inputs[0].as<const T>();
          const T* scales = args.inputs[1].as<const T>();
          const TensorView& y = args.outputs[0];
          const Zeros zeros(args, dtype);
          parallel_for(0, count, kGrain, [&](int64_t from, int64_t to) {
            for_each_run(map, from, to, [&](int64_t at, int64_t n, int64_t s, int64_t step) {
              for (int64_t i = 0; i < n; ++i) {
                const int64_t slice = s + i * step;
                const T value = x[at + i] / scales[slice] + static_cast<T>(zeros[slice]);
                store(y, at + i, to_small_float(dtype, static_cast<double>(value), rounding));
              }
            });
          });
        }};
  });
}

Kernel dequantize_float_kernel(const NodeContext& c) {
  const DType dtype = c.dtype(0);
  require_value_type(c, dtype);
  const ScaleMap map = map_scales(c);
  const int64_t count = c.shape(0).count();
  return by_float(c, c.dtype(1), [&]<class T>(T) {
    return Kernel{
        "dequantize_linear_float_ref", [=](const KernelArgs& args) {
          const T* scales = args.inputs[1].as<const T>();
          T* y = args.outputs[0].as<T>();
          const auto& values = small_float_values(dtype);
          const Zeros zeros(args, dtype);
          parallel_for(0, count, kGrain, [&](int64_t from, int64_t to) {
            for_each_run(map, from, to, [&](int64_t at, int64_t n, int64_t s, int64_t step) {
              for (int64_t i = 0; i < n; ++i) {
                const int64_t slice = s + i * step;
                const float value = load(args.inputs[0], values, at + i) - zeros[slice];
                y[at + i] = static_cast<T>(value) * scales[slice];
              }
            });
          });
        }};
  });
}

}  // namespace compress
