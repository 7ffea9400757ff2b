#include "passes/quantize/pack.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <span>
#include <vector>

#include "compress/core/int4.h"
#include "compress/core/mapped_pages.h"
#include "compress/core/parallel.h"
#include "compress/error.h"
#include "compress/kernels/block_pack/block_pack.h"

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

// Packs float32 weights, block by block in any order, into tensors for all of them. Several threads
// may pack different blocks, unless their zero points share a byte.
class BlockPacker {
 public:
  BlockPacker(int64_t n, int64_t k, DType dtype, int64_t block)
      : k_(k), block_(block), blocks_((k + block - 1) / block), dtype_(dtype) {
    out_.packed = Tensor::allocate(DType::uint8, {n, blocks_, bytes_});
    out_.scales = Tensor::allocate(DType::float32, {n, blocks_});
    if (!is_symmetric(dtype)) out_.zero_points = Tensor::zeros(DType::uint8, {n, zero_row_});
    packed_ = out_.packed.mutable_as<uint8_t>().data();
    scales_ = out_.scales.mutable_as<float>().data();
    zeros_ = out_.zero_points ? out_.zero_points.mutable_as<uint8_t>().data() : nullptr;
  }

  // Row `row` of the result, from k weights that follow each other.
  void pack_row(int64_t row, const std::byte* weights) {
    for (int64_t b = 0; b < blocks_; ++b) {
      const std::byte* x = weights + b * block_ * kFloat;
      const int64_t width = std::min(block_, k_ - b * block_);
      const kernels::BlockRange range = kernel_.row_range(x, width);
      if (range.flaw != 0) {
        count_flaws({x, 1, width, 1});
        continue;
      }
      const ScaleZeroPoint q = block_scale(range.low, range.high, dtype_);
      note(row, b, q);
      kernel_.row_pack(x, width, grid_, q.scale, q.zero_point + offset_,
                       packed_ + (row * blocks_ + b) * bytes_);
    }
  }

  // Blocks that make whole cache lines of a row, whose zero points share no byte with others'.
  int64_t blocks_at_once() const { return std::max({int64_t{1}, 64 / bytes_, int64_t{8 / bits_}}); }

  // Rows [first, first + width) of the result, at most kBlockPackColumns, of `count` blocks from
  // `b` on. Element i of row first + j is number (i * n + first + j) of `weights`.
  void pack_tile(int64_t first, int64_t width, int64_t b, int64_t count, const std::byte* weights,
                 int64_t n, std::vector<uint8_t>& scratch) {
    const int64_t stride = count * bytes_;
    scratch.resize(static_cast<size_t>(kernels::kBlockPackColumns * stride));
    for (int64_t at = 0; at < count; ++at) {
      const int64_t row = (b + at) * block_;
      pack_columns({weights + (row * n + first) * kFloat, n, std::min(block_, k_ - row), width},
                   first, b + at, scratch.data() + at * bytes_, stride);
    }
    // Rows of the result lie a power of two apart, in a few sets of the cache: lines are put
    // together elsewhere and stored at once.
    for (int64_t j = 0; j < width; ++j) {
      std::copy_n(scratch.data() + j * stride, stride,
                  packed_ + ((first + j) * blocks_ + b) * bytes_);
    }
  }

  int64_t blocks() const { return blocks_; }

  BlockWeights finish(int64_t count) {
    if (not_finite_ > 0) {
      fail(ErrorCode::invalid_model, "{} of {} weights are not finite", not_finite_.load(), count);
    }
    return std::move(out_);
  }

 private:
  static constexpr int64_t kFloat = sizeof(float);

  void pack_columns(const kernels::WeightTile& tile, int64_t first, int64_t b, uint8_t* out,
                    int64_t stride) {
    constexpr int64_t kColumns = kernels::kBlockPackColumns;
    float low[kColumns] = {}, high[kColumns] = {}, flaw[kColumns] = {}, scale[kColumns] = {};
    int32_t zero[kColumns] = {};
    kernel_.column_range(tile, low, high, flaw);
    for (int64_t j = 0; j < tile.width; ++j) {
      if (flaw[j] != 0) {
        count_flaws({tile.weights + j * kFloat, tile.stride, tile.height, 1});
        low[j] = high[j] = 0;
      }
      const ScaleZeroPoint q = block_scale(low[j], high[j], dtype_);
      scale[j] = q.scale;
      zero[j] = q.zero_point + offset_;
      note(first + j, b, q);
    }
    kernel_.column_pack(tile, grid_, scale, zero, out, stride);
  }

  void note(int64_t row, int64_t b, ScaleZeroPoint q) {
    scales_[row * blocks_ + b] = q.scale;
    if (zeros_ != nullptr && bits_ == 8) {
      zeros_[row * zero_row_ + b] = static_cast<uint8_t>(q.zero_point);
    } else if (zeros_ != nullptr) {
      set_packed(zeros_ + row * zero_row_, b, bits_, q.zero_point);
    }
  }

  // Of one column.
  void count_flaws(const kernels::WeightTile& column) {
    for (int64_t i = 0; i < column.height; ++i) {
      float x;
      std::memcpy(&x, column.weights + i * column.stride * kFloat, sizeof x);
      not_finite_ += std::isfinite(x) ? 0 : 1;
    }
  }

  int64_t k_, block_, blocks_;
  DType dtype_;
  int bits_ = info(dtype_).bits;
  int64_t bytes_ = block_ * bits_ / 8;
  int64_t zero_row_ = (blocks_ * bits_ + 7) / 8;
  int32_t offset_ = is_symmetric(dtype_) ? 1 << (bits_ - 1) : 0;
  IntegerRange range_ = integer_range(dtype_, is_symmetric(dtype_));
  kernels::BlockGrid grid_{bits_, block_, range_.min + offset_, range_.max + offset_};
  const kernels::BlockPackKernel& kernel_ = kernels::best_block_pack();
  BlockWeights out_;
  uint8_t* packed_;
  float* scales_;
  uint8_t* zeros_;
  std::atomic<int64_t> not_finite_{0};
};

// The bytes of float32 weights where they lie; of what is computed, where `held` keeps them.
const std::byte* weight_bytes(const Tensor& weights, TensorData& held) {
  if (weights.dtype() != DType::float32) fail_element_type(weights.dtype(), DType::float32);
  if (!weights.is_deferred()) return weights.stored_bytes().data();
  held = weights.read();
  return held.bytes().data();
}

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
  auto group = std::make_shared<DeferredGroup>([make = std::move(make)] {
    std::vector<Tensor> made = make();
    std::erase_if(made, [](const Tensor& tensor) { return !tensor; });
    return made;
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
  TensorData held;
  const std::byte* const w = weight_bytes(rows, held);
  const int64_t row_bytes = k * static_cast<int64_t>(sizeof(float));
  const int64_t grain = std::max<int64_t>(1, (int64_t{1} << 15) / std::max<int64_t>(1, k));
  parallel_for(0, n, grain, [&](int64_t begin, int64_t end) {
    PagesBehind pages(w + begin * row_bytes);
    for (int64_t r = begin; r < end; ++r) {
      packer.pack_row(r, w + r * row_bytes);
      pages.reached(w + (r + 1) * row_bytes);
    }
  });
  return packer.finish(rows.count());
}

BlockWeights pack_column_blocks(const Tensor& columns, DType dtype, int64_t block) {
  const int64_t k = columns.shape()[0], n = columns.shape()[1];
  BlockPacker packer(n, k, dtype, block);
  TensorData held;
  const std::byte* const w = weight_bytes(columns, held);
  // Panels of some rows, which lie together, in tiles; a task is a part of a panel.
  constexpr int64_t kTask = 32 * kernels::kBlockPackColumns;
  const int64_t step = packer.blocks_at_once();
  const int64_t panels = (packer.blocks() + step - 1) / step, parts = (n + kTask - 1) / kTask;
  const int64_t panel_bytes = step * block * n * static_cast<int64_t>(sizeof(float));
  parallel_for(0, panels * parts, 1, [&](int64_t begin, int64_t end) {
    std::vector<uint8_t> scratch;
    PagesBehind pages(w + begin / parts * panel_bytes);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / parts * step, from = task % parts * kTask;
      const int64_t count = std::min(step, packer.blocks() - b), to = std::min(n, from + kTask);
      for (int64_t first = from; first < to; first += kernels::kBlockPackColumns) {
        packer.pack_tile(first, std::min(kernels::kBlockPackColumns, to - first), b, count, w, n,
                         scratch);
      }
      if (to == n) pages.reached(w + std::min((task / parts + 1) * panel_bytes, 4 * k * n));
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
