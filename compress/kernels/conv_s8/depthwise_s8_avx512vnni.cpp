// Depthwise convolution: four taps of a channel side by side, one vpdpbusd for all of them.
#include "compress/kernels/conv_s8/depthwise_s8_kernel.h"
#include "compress/kernels/simd/s8_store_avx512.h"

namespace compress::kernels {
namespace {

constexpr int64_t kWeightBytes = 4 * kDepthwiseBlock;

int64_t block_start(int64_t channels, int64_t begin) noexcept {
  return begin + kDepthwiseBlock <= channels ? begin : channels - kDepthwiseBlock;
}

void run(const DepthwiseS8Run& p) noexcept {
  const I512 flips = set_u8(p.flip);
  for (int64_t pixel = 0; pixel < p.pixels; ++pixel) {
    const uint8_t* const* taps = p.taps_of_pixels + pixel * p.taps;
    const int8_t* weights = static_cast<const int8_t*>(p.weights);
    for (int64_t begin = 0; begin < p.channels; begin += kDepthwiseBlock) {
      const int64_t channel = block_start(p.channels, begin);
      const S8Store store(p.finish, p.out, channel, first_lanes(kDepthwiseBlock));
      I512 acc = load_offset(p.finish, channel);
      for (int64_t tap = 0; tap < p.taps; tap += 4) {
        const I512 values = interleave_rows(taps[tap] + channel, taps[tap + 1] + channel,
                                            taps[tap + 2] + channel, taps[tap + 3] + channel);
        acc = dot_u8s8(acc, xor_i32(values, flips), load_512(weights));
        weights += kWeightBytes;
      }
      store(acc, pixel * p.channels + channel);
    }
  }
}

// Up to four input pixels one below the other: byte j of a lane is that of row j.
template <int kRows>
I512 stacked(const uint8_t* const* rows, int64_t at) noexcept {
  I512 values = load_u8_as_i32(rows[0] + at);
  if constexpr (kRows > 1) {
    values = or_i32(values, shift_left_i32<8>(load_u8_as_i32(rows[1] + at)));
  }
  if constexpr (kRows > 2) {
    values = or_i32(values, shift_left_i32<16>(load_u8_as_i32(rows[2] + at)));
  }
  if constexpr (kRows > 3) {
    values = or_i32(values, shift_left_i32<24>(load_u8_as_i32(rows[3] + at)));
  }
  return values;
}

template <int kSize>
struct LineWeights {
  static constexpr int kGroups = (kSize + 3) / 4;  // of rows
  I512 of[kSize * kGroups];

  explicit LineWeights(const int8_t* packed) noexcept {
#pragma GCC unroll 10
    for (int i = 0; i < kSize * kGroups; ++i) of[i] = load_512(packed + i * kWeightBytes);
  }
};

// kTile neighbouring pixels of a block of channels: a column of inputs is put together once and
// added to every pixel that it touches.
template <int kSize, int kStride, int kTile>
void line_tile(const DepthwiseS8Line& p, const LineWeights<kSize>& weights, int64_t pixel,
               int64_t channel) noexcept {
  constexpr int kGroups = LineWeights<kSize>::kGroups;
  constexpr int kColumns = (kTile - 1) * kStride + kSize;
  I512 acc[kTile];
#pragma GCC unroll 8
  for (int i = 0; i < kTile; ++i) acc[i] = load_offset(p.finish, channel);
  int64_t at = pixel * kStride * p.channels + channel;
#pragma GCC unroll 20
  for (int column = 0; column < kColumns; ++column, at += p.channels) {
    I512 values[2];
    values[0] = stacked < kSize < 4 ? kSize : 4 > (p.rows, at);
    if constexpr (kGroups > 1) values[1] = stacked<kSize - 4>(p.rows + 4, at);
#pragma GCC unroll 8
    for (int i = 0; i < kTile; ++i) {
      const int tap = column - i * kStride;
      if (tap < 0 || tap >= kSize) continue;
#pragma GCC unroll 2
      for (int group = 0; group < kGroups; ++group) {
        acc[i] = dot_u8s8(acc[i], values[group], weights.of[tap * kGroups + group]);
      }
    }
  }
  const int64_t first = pixel * p.channels + channel;
  if constexpr (kTile % 4 == 0) {
    if (packs(p.finish)) {
      const S8Pack pack(p.finish);
      const F512 scale = load_f32(p.finish.scale + channel);
      uint8_t* out = static_cast<uint8_t*>(p.out) + first;
#pragma GCC unroll 2
      for (int i = 0; i < kTile; i += 4, out += 4 * p.channels) {
        store_quarters(
            out, p.channels,
            pack.bytes(S8Pack::rounded(acc[i], scale), S8Pack::rounded(acc[i + 1], scale),
                       S8Pack::rounded(acc[i + 2], scale), S8Pack::rounded(acc[i + 3], scale)));
      }
      return;
    }
  }
  const S8Store store(p.finish, p.out, channel, first_lanes(kDepthwiseBlock));
#pragma GCC unroll 8
  for (int i = 0; i < kTile; ++i) store(acc[i], first + i * p.channels);
}

// Tiles of eight pixels and four; the last one overlaps the one before where the line is as long.
template <int kSize, int kStride>
void run_line(const DepthwiseS8Line& p) noexcept {
  const int8_t* packed = static_cast<const int8_t*>(p.weights);
  for (int64_t begin = 0; begin < p.channels; begin += kDepthwiseBlock) {
    const int64_t channel = block_start(p.channels, begin);
    const LineWeights<kSize> weights(packed);
    packed += sizeof weights;
    int64_t pixel = 0;
    for (int64_t rest = p.pixels; rest > 0; rest = p.pixels - pixel) {
      if (p.pixels >= 8 && rest > 4) {
        pixel = rest < 8 ? p.pixels - 8 : pixel;
        line_tile<kSize, kStride, 8>(p, weights, pixel, channel);
        pixel += 8;
      } else if (p.pixels >= 4) {
        pixel = rest < 4 ? p.pixels - 4 : pixel;
        line_tile<kSize, kStride, 4>(p, weights, pixel, channel);
        pixel += 4;
      } else {
        line_tile<kSize, kStride, 1>(p, weights, pixel, channel);
        pixel += 1;
      }
    }
  }
}

DepthwiseS8LineFunction line(int64_t size, int64_t stride) noexcept {
  if (size == 3 && stride == 1) return run_line<3, 1>;
  if (size == 3 && stride == 2) return run_line<3, 2>;
  if (size == 5 && stride == 1) return run_line<5, 1>;
  if (size == 5 && stride == 2) return run_line<5, 2>;
  return nullptr;
}

}  // namespace

extern const DepthwiseS8Kernel COMPRESS_SIMD512_NAME(kDepthwiseS8Avx512Vnni);
const DepthwiseS8Kernel COMPRESS_SIMD512_NAME(kDepthwiseS8Avx512Vnni) = {
    "depthwise_s8_avx512vnni", Isa::avx512vnni, 4, 1, false, run, line};

}  // namespace compress::kernels
