#include <cstring>

#include "compress/kernels/block_pack/block_pack_kernel.h"

namespace compress::kernels {
namespace {

constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds half to even
constexpr float kFar = 1e6f;           // saturates all the same, and kRound still holds it

float load(const std::byte* x, int64_t i) noexcept {
  float value;
  std::memcpy(&value, x + i * 4, sizeof value);
  return value;
}

void widen(BlockRange& range, float x) noexcept {
  range.low = x < range.low ? x : range.low;
  range.high = x > range.high ? x : range.high;
  range.flaw += x * 0.0f;
}

uint32_t integer(float x, float scale, int32_t zero, const BlockGrid& grid) noexcept {
  float v = x / scale;
  v = v < -kFar ? -kFar : v;
  v = v > kFar ? kFar : v;
  const int32_t q = static_cast<int32_t>((v + kRound) - kRound) + zero;
  return static_cast<uint32_t>(q < grid.least ? grid.least : q > grid.most ? grid.most : q);
}

// value(i) of the block's rows, those from `height` on being 0.
template <class Value>
void pack(Value&& value, int64_t height, const BlockGrid& grid, float scale, int32_t zero,
          uint8_t* out) noexcept {
  const int64_t each = 8 / grid.bits;
  for (int64_t i = 0; i < grid.block; i += each) {
    uint32_t byte = 0;
    for (int64_t part = 0; part < each; ++part) {
      const float x = i + part < height ? value(i + part) : 0.0f;
      byte |= integer(x, scale, zero, grid) << (part * grid.bits);
    }
    *out++ = static_cast<uint8_t>(byte);
  }
}

BlockRange row_range(const std::byte* x, int64_t n) noexcept {
  BlockRange range{0, 0, 0};
  for (int64_t i = 0; i < n; ++i) widen(range, load(x, i));
  return range;
}

void row_pack(const std::byte* x, int64_t n, const BlockGrid& grid, float scale, int32_t zero,
              uint8_t* out) noexcept {
  pack([x](int64_t i) { return load(x, i); }, n, grid, scale, zero, out);
}

void column_range(const WeightTile& tile, float* low, float* high, float* flaw) noexcept {
  for (int64_t j = 0; j < tile.width; ++j) {
    BlockRange range{0, 0, 0};
    for (int64_t i = 0; i < tile.height; ++i) widen(range, load(tile.weights, i * tile.stride + j));
    low[j] = range.low;
    high[j] = range.high;
    flaw[j] = range.flaw;
  }
}

void column_pack(const WeightTile& tile, const BlockGrid& grid, const float* scale,
                 const int32_t* zero, uint8_t* out, int64_t stride) noexcept {
  for (int64_t j = 0; j < tile.width; ++j) {
    pack([&](int64_t i) { return load(tile.weights, i * tile.stride + j); }, tile.height, grid,
         scale[j], zero[j], out + j * stride);
  }
}

}  // namespace

const BlockPackKernel kBlockPackRef{"ref",    Isa::ref,     row_range,
                                    row_pack, column_range, column_pack};

}  // namespace compress::kernels
