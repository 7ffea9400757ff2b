#include "passes/quantize/pack.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include "compress/core/int4.h"
#include "compress/core/parallel.h"
#include "compress/error.h"

namespace compress {
namespace {

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

namespace {

// The rules of weight_params.
ScaleZeroPoint block_scale(float low, float high, DType dtype) {
  if (!is_symmetric(dtype) || info(dtype).bits == 8) {
    return choose_scale(double{low}, double{high}, dtype, is_symmetric(dtype));
  }
  const float extreme = -low > high ? low : high;
  return {choose_signed_scale(std::span(&extreme, 1), dtype), 0};
}

constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds half to even
constexpr float kFar = 1e6f;           // saturates all the same, and kRound still holds it

// As quantize_value, in a form that vectorizes.
void quantize_run(const float* x, int64_t n, ScaleZeroPoint q, IntegerRange range, int32_t* out) {
  const auto low = static_cast<float>(range.min), high = static_cast<float>(range.max);
  const auto zero = static_cast<float>(q.zero_point);
  for (int64_t i = 0; i < n; ++i) {
    float v = x[i] / q.scale;
    v = v < -kFar ? -kFar : v;
    v = v > kFar ? kFar : v;
    v = ((v + kRound) - kRound) + zero;
    v = v < low ? low : v;
    v = v > high ? high : v;
    out[i] = static_cast<int32_t>(v);
  }
}

// Low bits first, as offsets from the lowest integer.
void pack_run(const int32_t* q, int64_t n, int bits, int32_t offset, uint8_t* out) {
  if (bits == 8) {
    for (int64_t i = 0; i < n; ++i) out[i] = static_cast<uint8_t>(q[i] + offset);
  } else if (bits == 4) {
    for (int64_t i = 0; i < n; i += 2) {
      out[i / 2] = static_cast<uint8_t>((q[i] + offset) | (q[i + 1] + offset) << 4);
    }
  } else {
    for (int64_t i = 0; i < n; ++i) set_packed(out, i, bits, q[i] + offset);
  }
}

}  // namespace

namespace {

// Packs rows of float32 one by one, in any order, into tensors for all of them.
class BlockPacker {
 public:
  BlockPacker(int64_t n, int64_t k, DType dtype, int64_t block)
      : k_(k), block_(block), blocks_((k + block - 1) / block), dtype_(dtype) {
    out_.packed = Tensor::zeros(DType::uint8, {n, blocks_, block * bits_ / 8});
    out_.scales = Tensor::allocate(DType::float32, {n, blocks_});
    if (!is_symmetric(dtype)) out_.zero_points = Tensor::zeros(DType::uint8, {n, zero_row_});
    packed_ = out_.packed.mutable_as<uint8_t>().data();
    scales_ = out_.scales.mutable_as<float>().data();
    zeros_ = out_.zero_points ? out_.zero_points.mutable_as<uint8_t>().data() : nullptr;
  }

  // Several threads may pack different rows.
  void pack(int64_t row, const float* weights) {
    std::vector<int32_t> integers(static_cast<size_t>(block_));
    for (int64_t b = 0; b < blocks_; ++b) {
      const float* x = weights + b * block_;
      const int64_t width = std::min(block_, k_ - b * block_);
      float low = 0, high = 0, sum = 0;
      for (int64_t i = 0; i < width; ++i) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
        sum += x[i] * 0.0f;  // NaN where a value is not finite
      }
      if (sum != 0) {
        for (int64_t i = 0; i < width; ++i) not_finite_ += std::isfinite(x[i]) ? 0 : 1;
        continue;
      }
      const ScaleZeroPoint q = block_scale(low, high, dtype_);
      scales_[row * blocks_ + b] = q.scale;
      set_zero_point(row, b, q.zero_point);
      quantize_run(x, width, q, range_, integers.data());
      std::fill(integers.begin() + width, integers.end(), q.zero_point);
      pack_run(integers.data(), block_, bits_, offset_,
               packed_ + (row * blocks_ + b) * (block_ * bits_ / 8));
    }
  }

  // Block `b` of up to kTile neighbouring rows, whose weights lie below each other: element i of
  // row first + j is weights[i * stride + j]. The arithmetic is that of pack().
  static constexpr int64_t kTile = 32;
  struct Scratch {
    std::vector<uint8_t> integers, packed;
  };
  void pack_tile(int64_t first, int64_t width, int64_t b, const float* weights, int64_t stride,
                 Scratch& scratch) {
    const int64_t height = std::min(block_, k_ - b * block_);
    float low[kTile] = {}, high[kTile] = {}, sum[kTile] = {};
    for (int64_t i = 0; i < height; ++i) {
      const float* x = weights + i * stride;
      for (int64_t j = 0; j < width; ++j) {
        low[j] = x[j] < low[j] ? x[j] : low[j];
        high[j] = x[j] > high[j] ? x[j] : high[j];
        sum[j] += x[j] * 0.0f;  // NaN where a value is not finite
      }
    }
    float scale[kTile] = {}, zero[kTile] = {};
    for (int64_t j = 0; j < width; ++j) {
      if (sum[j] != 0) {
        for (int64_t i = 0; i < height; ++i) {
          not_finite_ += std::isfinite(weights[i * stride + j]) ? 0 : 1;
        }
        low[j] = high[j] = 0;
      }
      const ScaleZeroPoint q = block_scale(low[j], high[j], dtype_);
      scale[j] = q.scale;
      zero[j] = static_cast<float>(q.zero_point);
      scales_[(first + j) * blocks_ + b] = q.scale;
      set_zero_point(first + j, b, q.zero_point);
    }
    std::vector<uint8_t>& integers = scratch.integers;
    integers.resize(static_cast<size_t>(block_ * kTile));
    for (int64_t i = 0; i < block_; ++i) {
      uint8_t* out = integers.data() + i * kTile;
      if (i < height) {
        round_tile(weights + i * stride, width, scale, zero, out);
      } else {
        for (int64_t j = 0; j < width; ++j) {
          out[j] = static_cast<uint8_t>(static_cast<int32_t>(zero[j]) + offset_);
        }
      }
    }
    // Rows of the result lie a power of two apart, in a few sets of the cache: each block is put
    // together elsewhere and stored at once.
    const int64_t bytes = block_ * bits_ / 8;
    scratch.packed.resize(static_cast<size_t>(kTile * bytes));
    for (int64_t at = 0, i = 0; at < bytes; ++at, i += 8 / bits_) {
      uint8_t merged[kTile] = {};
      for (int part = 0; part * bits_ < 8; ++part) {
        const uint8_t* from = integers.data() + (i + part) * kTile;
        for (int64_t j = 0; j < width; ++j) {
          merged[j] = static_cast<uint8_t>(merged[j] | from[j] << part * bits_);
        }
      }
      uint8_t* to = scratch.packed.data() + at;
      for (int64_t j = 0; j < width; ++j) to[j * bytes] = merged[j];
    }
    for (int64_t j = 0; j < width; ++j) {
      std::copy_n(scratch.packed.data() + j * bytes, bytes,
                  packed_ + ((first + j) * blocks_ + b) * bytes);
    }
  }

  BlockWeights finish(int64_t count) {
    if (not_finite_ > 0) {
      fail(ErrorCode::invalid_model, "{} of {} weights are not finite", not_finite_.load(), count);
    }
    return std::move(out_);
  }

 private:
  void set_zero_point(int64_t row, int64_t b, int32_t zero) {
    if (zeros_ != nullptr && bits_ == 8) {
      zeros_[row * zero_row_ + b] = static_cast<uint8_t>(zero);
    } else if (zeros_ != nullptr) {
      set_packed(zeros_ + row * zero_row_, b, bits_, zero);
    }
  }

  // As quantize_run, each column by its own scale, as offsets from the lowest integer.
  void round_tile(const float* x, int64_t width, const float* scale, const float* zero,
                  uint8_t* out) const {
    int64_t j = 0;
    for (; j + kLanes <= width; j += kLanes) {
      round_some<Floats, Ints>(x + j, scale + j, zero + j, out + j);
    }
    for (; j < width; ++j) round_some<float, int32_t>(x + j, scale + j, zero + j, out + j);
  }

  // Vectors by name: left to itself the compiler branches.
  static constexpr int64_t kLanes = 4;
  typedef float Floats __attribute__((vector_size(kLanes * sizeof(float))));
  typedef int32_t Ints __attribute__((vector_size(kLanes * sizeof(int32_t))));

  template <class F, class I>
  void round_some(const float* x, const float* scale, const float* zero, uint8_t* out) const {
    const auto load = [](const float* from) {
      F value;
      std::memcpy(&value, from, sizeof value);
      return value;
    };
    const auto at_most = [](F v, float bound) {
      const F most = F{} + bound;
      return v > most ? most : v;
    };
    const auto at_least = [](F v, float bound) {
      const F least = F{} + bound;
      return v < least ? least : v;
    };
    F v = at_most(at_least(load(x) / load(scale), -kFar), kFar);
    v = ((v + kRound) - kRound) + load(zero);
    v = at_most(at_least(v, static_cast<float>(range_.min)), static_cast<float>(range_.max));
    if constexpr (std::is_same_v<F, float>) {
      *out = static_cast<uint8_t>(static_cast<int32_t>(v) + offset_);
    } else {
      const I q = __builtin_convertvector(v, I) + offset_;
      for (int64_t lane = 0; lane < kLanes; ++lane) out[lane] = static_cast<uint8_t>(q[lane]);
    }
  }

  int64_t k_, block_, blocks_;
  DType dtype_;
  int bits_ = info(dtype_).bits;
  int64_t zero_row_ = (blocks_ * bits_ + 7) / 8;
  int32_t offset_ = is_symmetric(dtype_) ? 1 << (bits_ - 1) : 0;
  IntegerRange range_ = integer_range(dtype_, is_symmetric(dtype_));
  BlockWeights out_;
  uint8_t* packed_;
  float* scales_;
  uint8_t* zeros_;
  std::atomic<int64_t> not_finite_{0};
};

}  // namespace

BlockWeights block_shapes(int64_t n, int64_t k, DType dtype, int64_t block) {
  const int bits = info(dtype).bits;
  const int64_t blocks = (k + block - 1) / block;
  return {outline(DType::uint8, {n, blocks, block * bits / 8}),
          outline(DType::float32, {n, blocks}),
          is_symmetric(dtype) ? Tensor() : outline(DType::uint8, {n, (blocks * bits + 7) / 8})};
}

BlockWeights table_shapes(int64_t rows, int64_t width, DType dtype, int64_t block) {
  const Shape scales = {rows, width / block};
  return {outline(dtype, {rows, width}), outline(DType::float32, scales),
          is_symmetric(dtype) ? Tensor() : outline(dtype, scales)};
}

std::vector<Tensor> computed_later(const std::vector<Tensor>& like,
                                   std::function<std::vector<Tensor>()> make) {
  std::vector<size_t> sizes;
  for (const Tensor& tensor : like) {
    if (tensor) sizes.push_back(tensor.bytes());
  }
  auto group = std::make_shared<DeferredGroup>(
      std::move(sizes), [make = std::move(make)](std::span<const std::span<std::byte>> out) {
        size_t at = 0;
        for (const Tensor& tensor : make()) {
          if (!tensor) continue;
          const TensorData data = tensor.read();
          std::copy(data.bytes().begin(), data.bytes().end(), out[at++].begin());
        }
      });
  std::vector<Tensor> tensors;
  size_t index = 0;
  for (const Tensor& tensor : like) {
    tensors.push_back(tensor ? Tensor::deferred(tensor.dtype(), tensor.shape(), group, index++)
                             : Tensor());
  }
  return tensors;
}

BlockWeights pack_blocks(const Tensor& rows, DType dtype, int64_t block) {
  const int64_t n = rows.shape()[0], k = rows.shape()[1];
  BlockPacker packer(n, k, dtype, block);
  const TensorData data = rows.read();
  const auto* w = data.view().as<const float>();
  const int64_t grain = std::max<int64_t>(1, (int64_t{1} << 15) / std::max<int64_t>(1, k));
  parallel_for(0, n, grain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) packer.pack(r, w + r * k);
  });
  return packer.finish(rows.count());
}

BlockWeights pack_column_blocks(const Tensor& columns, DType dtype, int64_t block) {
  const int64_t k = columns.shape()[0], n = columns.shape()[1];
  BlockPacker packer(n, k, dtype, block);
  const TensorData data = columns.read();
  const auto* w = data.view().as<const float>();
  // Wide enough to read some lines of each row, narrow enough that what is written stays in cache
  // from one block to the next.
  constexpr int64_t kGroup = 4 * BlockPacker::kTile;
  parallel_for(0, (n + kGroup - 1) / kGroup, 1, [&](int64_t begin, int64_t end) {
    BlockPacker::Scratch scratch;
    const int64_t last = std::min(n, end * kGroup);
    for (int64_t group = begin; group < end; ++group) {
      const int64_t group_end = std::min(last, (group + 1) * kGroup);
      for (int64_t b = 0; b * block < k; ++b) {
        for (int64_t first = group * kGroup; first < group_end; first += BlockPacker::kTile) {
          packer.pack_tile(first, std::min(BlockPacker::kTile, group_end - first), b,
                           w + b * block * n + first, n, scratch);
        }
      }
    }
  });
  return packer.finish(columns.count());
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
  const Shape scales = {table.shape()[0], table.shape()[1] / block};
  BlockWeights out;
  if (is_symmetric(dtype) && info(dtype).bits == 4) {
    // The same integers as those of products, as numbers with a sign.
    const BlockWeights blocks = pack_blocks(table, dtype, block);
    out.packed = Tensor::allocate(dtype, table.shape());
    auto* to = reinterpret_cast<uint8_t*>(out.packed.mutable_data());
    const TensorData data = blocks.packed.read();
    const auto* from = data.view().as<const uint8_t>();
    for (int64_t i = 0; i < blocks.packed.count(); ++i) to[i] = from[i] ^ 0x88;
    out.scales = blocks.scales.reshaped(scales);
    return out;
  }
  const QuantParams params = weight_params(table, dtype, is_symmetric(dtype), 1, block);
  out.packed = quantize(table, params);
  out.scales = scale_tensor(params, scales);
  if (!is_symmetric(dtype)) out.zero_points = zero_point_tensor(params, scales);
  return out;
}

}  // namespace compress
