#include "passes/quantize/pack.h"

#include <cstring>

#include "compress/core/int4.h"

namespace compress {
namespace {

Tensor padded_columns(const Tensor& rows, int64_t width) {
  const Shape& shape = rows.shape();
  if (shape[1] == width) return rows;
  Tensor out = Tensor::zeros(DType::float32, {shape[0], width});
  const TensorData data = rows.read();
  for (int64_t r = 0; r < shape[0]; ++r) {
    std::memcpy(out.mutable_as<float>().data() + r * width,
                data.view().as<const float>() + r * shape[1],
                static_cast<size_t>(shape[1]) * sizeof(float));
  }
  return out;
}

bool is_symmetric(DType dtype) { return info(dtype).is_signed; }

}  // namespace

Tensor scale_tensor(const QuantParams& params, const Shape& shape) {
  return Tensor::from<float>(shape, params.scales);
}

Tensor pack_integers(DType dtype, const Shape& shape,
                     const std::function<int32_t(int64_t)>& integer) {
  Tensor out = Tensor::zeros(dtype, shape);
  auto* bytes = reinterpret_cast<uint8_t*>(out.mutable_data());
  const int bits = info(dtype).bits;
  for (int64_t i = 0; i < shape.count(); ++i) {
    const int32_t value = integer(i);
    if (bits < 8) {
      set_packed(bytes, i, bits, value);
    } else {
      std::memcpy(bytes + i * (bits / 8), &value, static_cast<size_t>(bits / 8));  // little endian
    }
  }
  return out;
}

Tensor zero_point_tensor(const QuantParams& params, const Shape& shape) {
  return pack_integers(params.dtype, shape,
                       [&](int64_t i) { return params.zero_points[static_cast<size_t>(i)]; });
}

BlockWeights pack_blocks(const Tensor& rows, DType dtype, int64_t block) {
  const int64_t blocks = (rows.shape()[1] + block - 1) / block;
  const Tensor whole = padded_columns(rows, blocks * block);
  const QuantParams params = weight_params(whole, dtype, is_symmetric(dtype), 1, block);
  return pack_blocks(quantize(whole, params), params);
}

BlockWeights pack_blocks(const Tensor& quantized, const QuantParams& params) {
  const DType dtype = params.dtype;
  const int bits = info(dtype).bits;
  const int64_t block = params.block_size;
  const int64_t n = quantized.shape()[0];
  const int64_t blocks = quantized.shape()[1] / block;
  BlockWeights out;
  out.scales = scale_tensor(params, {n, blocks});
  // Dense low-bits-first rows of whole blocks are the layout already; signed values become offsets
  // from 2^(bits-1), which flips the top bit of each.
  out.packed = Tensor::allocate(DType::uint8, {n, blocks, block * bits / 8});
  auto* to = out.packed.mutable_as<uint8_t>().data();
  const TensorData data = quantized.read();
  const auto* from = static_cast<const uint8_t*>(data.view().data);
  const uint8_t flip = !is_symmetric(dtype) ? 0 : bits == 2 ? 0xAA : bits == 4 ? 0x88 : 0x80;
  for (int64_t i = 0; i < out.packed.count(); ++i) to[i] = from[i] ^ flip;
  if (is_symmetric(dtype)) return out;
  const int64_t stride = (blocks * bits + 7) / 8;
  out.zero_points = Tensor::zeros(DType::uint8, {n, stride});
  auto* zeros = out.zero_points.mutable_as<uint8_t>().data();
  for (int64_t r = 0; r < n; ++r) {
    for (int64_t b = 0; b < blocks; ++b) {
      const int32_t zero = params.zero_points[static_cast<size_t>(r * blocks + b)];
      if (bits == 8) {
        zeros[r * stride + b] = static_cast<uint8_t>(zero);
      } else {
        set_packed(zeros + r * stride, b, bits, zero);
      }
    }
  }
  return out;
}

BlockWeights pack_table(const Tensor& table, DType dtype, int64_t block) {
  const QuantParams params = weight_params(table, dtype, is_symmetric(dtype), 1, block);
  const Shape scales = {table.shape()[0], table.shape()[1] / block};
  BlockWeights out;
  out.packed = quantize(table, params);
  out.scales = scale_tensor(params, scales);
  if (!is_symmetric(dtype)) out.zero_points = zero_point_tensor(params, scales);
  return out;
}

}  // namespace compress
