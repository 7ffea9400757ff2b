#include "compress/quant/qparams.h"

#include <algorithm>
#include <cassert>
#include <cfloat>
#include <cmath>

#include "compress/core/int4.h"
#include "compress/core/parallel.h"
#include "compress/error.h"

namespace compress {
namespace {

// Where element i of a tensor finds its scale: the tensor seen as [outer, axis, inner].
struct SliceMap {
  int64_t outer = 1;
  int64_t axis = 1;
  int64_t inner = 1;
  int64_t block = 1;   // elements along the axis that share a scale
  int64_t blocks = 1;  // scales along the axis

  int64_t scales() const { return per_tensor ? 1 : block_scales(); }
  bool per_tensor = true;
  bool blocked = false;

 private:
  int64_t block_scales() const { return blocked ? outer * blocks * inner : axis; }
};

SliceMap slices_of(const Shape& shape, std::optional<int> axis, int64_t block_size) {
  SliceMap map;
  if (!axis) {
    map.inner = shape.count();
    return map;
  }
  const int a = normalize_axis(*axis, shape.rank());
  map.per_tensor = false;
  map.outer = shape.count(0, a);
  map.axis = shape[a];
  map.inner = shape.count(a + 1, shape.rank());
  map.blocked = block_size > 0;
  map.block = map.blocked ? block_size : 1;
  map.blocks = (map.axis + map.block - 1) / map.block;
  return map;
}

// Calls body(offset, count, scale index) for the runs of elements that share a scale, `row` by row;
// a row is one (outer, axis) pair, its elements are contiguous.
template <class Body>
void for_each_run(const SliceMap& map, int64_t row, Body&& body) {
  const int64_t a = row % map.axis;
  const int64_t o = row / map.axis;
  const int64_t offset = row * map.inner;
  if (map.per_tensor) {
    body(offset, map.inner, int64_t{0});
  } else if (!map.blocked) {
    body(offset, map.inner, a);
  } else {
    const int64_t first = (o * map.blocks + a / map.block) * map.inner;
    for (int64_t i = 0; i < map.inner; ++i) body(offset + i, int64_t{1}, first + i);
  }
}

constexpr int64_t kElementsPerTask = 1 << 15;

void check_sizes(const QuantParams& params, const SliceMap& map) {
  const auto count = static_cast<size_t>(map.scales());
  if (params.scales.size() != count || params.zero_points.size() != count) {
    fail(ErrorCode::internal, "{} scales for {} slices", params.scales.size(), count);
  }
}

void store(DType dtype, std::byte* out, int64_t index, int32_t value) {
  switch (info(dtype).bits) {
    case 8:
      out[index] = static_cast<std::byte>(value);
      break;
    case 16:
      reinterpret_cast<uint16_t*>(out)[index] = static_cast<uint16_t>(value);
      break;
    case 32:
      reinterpret_cast<uint32_t*>(out)[index] = static_cast<uint32_t>(value);
      break;
    default:
      set_packed(reinterpret_cast<uint8_t*>(out), index, info(dtype).bits, value);
  }
}

int32_t load(DType dtype, const std::byte* in, int64_t index) {
  const DTypeInfo& row = info(dtype);
  const auto* bytes = reinterpret_cast<const uint8_t*>(in);
  switch (row.bits) {
    case 8:
      return row.is_signed ? static_cast<int8_t>(bytes[index]) : bytes[index];
    case 16: {
      const uint16_t raw = reinterpret_cast<const uint16_t*>(in)[index];
      return row.is_signed ? static_cast<int16_t>(raw) : raw;
    }
    case 32:
      return reinterpret_cast<const int32_t*>(in)[index];
    default:
      return get_packed(bytes, index, row.bits, row.is_signed);
  }
}

}  // namespace

IntegerRange integer_range(DType dtype, bool symmetric, bool reduce_range) {
  assert(is_integer(dtype) && info(dtype).bits <= 16);
  const bool is_signed = info(dtype).is_signed;
  const auto low = static_cast<int32_t>(min_value(dtype));
  const auto high = static_cast<int32_t>(max_value(dtype));
  if (reduce_range && info(dtype).bits == 8) {
    return is_signed ? IntegerRange{-64, 64} : IntegerRange{0, 127};
  }
  if (symmetric && is_signed && info(dtype).bits >= 8) return {low + 1, high};
  return {low, high};
}

ScaleZeroPoint choose_scale(double min, double max, DType dtype, bool symmetric,
                            bool reduce_range) {
  const IntegerRange range = integer_range(dtype, symmetric, reduce_range);
  min = std::min(min, 0.0);
  max = std::max(max, 0.0);
  const double steps = static_cast<double>(range.max) - range.min;
  if (symmetric) {
    const double absmax = std::max(-min, max);
    const auto scale = static_cast<float>(absmax / (steps / 2));
    const auto middle = static_cast<int32_t>(std::nearbyint((range.min + range.max) / 2.0));
    return {scale < FLT_MIN ? 1.0f : scale, middle};
  }
  const auto scale = static_cast<float>((max - min) / steps);
  if (scale < FLT_MIN) return {1.0f, 0};
  const double zero = std::nearbyint(range.min - min / scale);
  return {scale, static_cast<int32_t>(std::clamp<double>(zero, range.min, range.max))};
}

float choose_signed_scale(std::span<const float> values, DType dtype) {
  float extreme = 0;
  for (const float v : values) {
    if (std::fabs(v) > std::fabs(extreme)) extreme = v;
  }
  // A negative scale when the extreme is positive: the extreme is exactly qmin steps either way.
  const float scale = extreme / static_cast<float>(min_value(dtype));
  return std::fabs(scale) < FLT_MIN ? 1.0f : scale;
}

int32_t quantize_value(float x, float scale, int32_t zero_point, IntegerRange range) {
  const float q = std::nearbyintf(x / scale) + static_cast<float>(zero_point);
  if (!(q > static_cast<float>(range.min))) {
    return q != q ? zero_point : range.min;  // NaN carries no information: the value 0
  }
  return q >= static_cast<float>(range.max) ? range.max : static_cast<int32_t>(q);
}

Tensor quantize(const Tensor& values, const QuantParams& params) {
  const Tensor wide = convert(values, DType::float32);
  const SliceMap map = slices_of(values.shape(), params.axis, params.block_size);
  check_sizes(params, map);
  const IntegerRange range = integer_range(params.dtype, params.symmetric);
  Tensor out = Tensor::zeros(params.dtype, values.shape());
  std::byte* to = out.mutable_data();
  const TensorData data = wide.read();
  const float* from = data.view().as<const float>();
  const int64_t rows = map.outer * map.axis;
  // Rows of packed types may share a byte, so those stay on one thread.
  const int64_t grain =
      is_sub_byte(params.dtype)
          ? rows
          : std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(1, map.inner));
  parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for_each_run(map, row, [&](int64_t offset, int64_t count, int64_t s) {
        const float scale = params.scales[static_cast<size_t>(s)];
        const int32_t zero = params.zero_points[static_cast<size_t>(s)];
        for (int64_t i = offset; i < offset + count; ++i) {
          store(params.dtype, to, i, quantize_value(from[i], scale, zero, range));
        }
      });
    }
  });
  return out;
}

namespace {

// Elements [begin, end) of one scale. Bytes have a loop of their own: it vectorizes.
void dequantize_run(DType dtype, const std::byte* from, float* to, int64_t begin, int64_t end,
                    float scale, int32_t zero) {
  const auto bytes = [&](const auto* in) {
    for (int64_t i = begin; i < end; ++i) to[i] = dequantize_value(in[i], scale, zero);
  };
  if (dtype == DType::uint8) return bytes(reinterpret_cast<const uint8_t*>(from));
  if (dtype == DType::int8) return bytes(reinterpret_cast<const int8_t*>(from));
  for (int64_t i = begin; i < end; ++i) {
    to[i] = dequantize_value(load(dtype, from, i), scale, zero);
  }
}

}  // namespace

Tensor dequantize(const Tensor& quantized, const QuantParams& params) {
  const SliceMap map = slices_of(quantized.shape(), params.axis, params.block_size);
  check_sizes(params, map);
  Tensor out = Tensor::allocate(DType::float32, quantized.shape());
  float* to = out.mutable_as<float>().data();
  const TensorData data = quantized.read();
  const std::byte* from = static_cast<const std::byte*>(data.view().data);
  const int64_t grain = std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(1, map.inner));
  parallel_for(0, map.outer * map.axis, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for_each_run(map, row, [&](int64_t offset, int64_t count, int64_t s) {
        const float scale = params.scales[static_cast<size_t>(s)];
        const int32_t zero = params.zero_points[static_cast<size_t>(s)];
        dequantize_run(quantized.dtype(), from, to, offset, offset + count, scale, zero);
      });
    }
  });
  return out;
}

QuantParams weight_params(const Tensor& weights, DType dtype, bool symmetric,
                          std::optional<int> axis, int64_t block_size, bool reduce_range) {
  const Tensor wide = convert(weights, DType::float32);
  const SliceMap map = slices_of(weights.shape(), axis, block_size);
  const auto count = static_cast<size_t>(map.scales());
  std::vector<float> low(count, 0);
  std::vector<float> high(count, 0);
  const TensorData data = wide.read();
  const float* from = data.view().as<const float>();
  int64_t not_finite = 0;
  for (int64_t row = 0; row < map.outer * map.axis; ++row) {
    for_each_run(map, row, [&](int64_t offset, int64_t n, int64_t s) {
      float smallest = low[static_cast<size_t>(s)];
      float largest = high[static_cast<size_t>(s)];
      for (int64_t i = offset; i < offset + n; ++i) {
        not_finite += std::isfinite(from[i]) ? 0 : 1;
        smallest = std::min(smallest, from[i]);
        largest = std::max(largest, from[i]);
      }
      low[static_cast<size_t>(s)] = smallest;
      high[static_cast<size_t>(s)] = largest;
    });
  }
  if (not_finite > 0) {
    fail(ErrorCode::invalid_model, "{} of {} weights are not finite", not_finite, weights.count());
  }
  QuantParams params{dtype, symmetric, axis, block_size, {}, {}};
  const bool full_range = symmetric && info(dtype).is_signed && info(dtype).bits < 8;
  for (size_t s = 0; s < count; ++s) {
    if (full_range) {
      const float extreme = -low[s] > high[s] ? low[s] : high[s];
      params.scales.push_back(choose_signed_scale(std::span(&extreme, 1), dtype));
      params.zero_points.push_back(0);
    } else {
      const ScaleZeroPoint chosen = choose_scale(low[s], high[s], dtype, symmetric, reduce_range);
      params.scales.push_back(chosen.scale);
      params.zero_points.push_back(chosen.zero_point);
    }
  }
  return params;
}

}  // namespace compress
