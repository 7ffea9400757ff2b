// int8 GEMM on vpdpbusd. Tile 6 x 64: 24 accumulators, four panels of 16 columns, one broadcast.
#include "compress/kernels/gemm_s8/gemm_s8_kernel.h"
#include "compress/kernels/simd/simd512.h"

namespace compress::kernels {
namespace {

constexpr int64_t kRows = 6;
constexpr int64_t kMaxPanels = 4;
constexpr int64_t kGroup = 4;

void pack_row(const uint8_t* source, int64_t length, uint8_t flip, uint8_t* packed,
              int32_t* sum) noexcept {
  const I512 flips = set_u8(flip);
  const I512 ones = set_u8(1);
  I512 sums = zero_i32();
  int64_t k = 0;
  for (; k + 64 <= length; k += 64) {
    const I512 bytes = xor_i32(load_512(source + k), flips);
    store_512(packed + k, bytes);
    sums = dot_u8s8(sums, bytes, ones);
  }
  int32_t rest = 0;
  for (; k < length; ++k) {
    packed[k] = source[k] ^ flip;
    rest += packed[k];
  }
  if (sum != nullptr) {
    int32_t lanes[16];
    store_512(lanes, sums);
    for (int32_t lane : lanes) rest += lane;
    *sum += rest;
  }
}

void pack_rows(const GemmS8Rows& p) noexcept {
  for (int64_t row = 0; row < p.count; ++row) {
    pack_row(p.source + row * p.source_stride, p.length, p.flip, p.packed + row * p.packed_stride,
             p.sums ? p.sums + row : nullptr);
  }
}

// Column tables and constants of one panel.
struct Finish {
  const GemmS8Block& p;
  int64_t column;
  uint16_t lanes;

  void row(I512 acc, int64_t r) const noexcept {
    acc = add_i32(acc, load_512(p.finish.offset + column));
    if (p.b_zero != nullptr) {
      acc = sub_i32(acc, mul_i32(load_512(p.b_zero + column), set_i32(p.row_sum[r])));
    }
    const int64_t at = r * p.ldc + column;
    if (p.finish.output == S8Output::int32) {
      store_i32(static_cast<int32_t*>(p.out) + at, acc, lanes);
      return;
    }
    const F512 scaled = mul_f32(to_f32(acc), load_f32(p.finish.scale + column));
    if (p.finish.output == S8Output::float32) {
      store_f32(static_cast<float*>(p.out) + at,
                add_f32(scaled, load_f32(p.finish.float_bias + column)), lanes);
      return;
    }
    const F512 clamped = min_f32(max_f32(scaled, set_f32(p.finish.lo)), set_f32(p.finish.hi));
    store_low_bytes(static_cast<uint8_t*>(p.out) + at,
                    add_i32(round_to_i32(clamped), set_i32(p.finish.zero_point)), lanes);
  }
};

template <int kCount, int kPanels>
void tile(const GemmS8Block& p, int64_t row, const int8_t* b, int64_t column) noexcept {
  I512 acc[kCount][kPanels];
#pragma GCC unroll 6
  for (int r = 0; r < kCount; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < kPanels; ++j) acc[r][j] = zero_i32();
  }
  const uint8_t* a = p.a + row * p.a_stride;
  for (int64_t group = 0; group < p.groups; ++group) {
    I512 weights[kPanels];
#pragma GCC unroll 4
    for (int j = 0; j < kPanels; ++j) weights[j] = load_512(b + j * p.panel_bytes);
#pragma GCC unroll 6
    for (int r = 0; r < kCount; ++r) {
      const I512 value = broadcast_bytes4(a + r * p.a_stride);
#pragma GCC unroll 4
      for (int j = 0; j < kPanels; ++j) acc[r][j] = dot_u8s8(acc[r][j], value, weights[j]);
    }
    a += kGroup;
    b += kGroup * kS8PanelColumns;
  }
  for (int j = 0; j < kPanels; ++j) {
    const int64_t at = column + j * kS8PanelColumns;
    const Finish finish{p, at, first_lanes(p.columns - at)};
    for (int r = 0; r < kCount; ++r) finish.row(acc[r][j], row + r);
  }
}

template <int kPanels>
void rows(const GemmS8Block& p, const int8_t* b, int64_t column) noexcept {
  int64_t row = 0;
  for (; row + kRows <= p.rows; row += kRows) tile<6, kPanels>(p, row, b, column);
  switch (p.rows - row) {
    case 5:
      tile<5, kPanels>(p, row, b, column);
      break;
    case 4:
      tile<4, kPanels>(p, row, b, column);
      break;
    case 3:
      tile<3, kPanels>(p, row, b, column);
      break;
    case 2:
      tile<2, kPanels>(p, row, b, column);
      break;
    case 1:
      tile<1, kPanels>(p, row, b, column);
      break;
    default:
      break;
  }
}

void block(const GemmS8Block& p) noexcept {
  const int64_t panels = (p.columns + kS8PanelColumns - 1) / kS8PanelColumns;
  for (int64_t panel = 0; panel < panels; panel += kMaxPanels) {
    const int8_t* b = p.b + panel * p.panel_bytes;
    const int64_t column = panel * kS8PanelColumns;
    switch (panels - panel) {
      case 1:
        rows<1>(p, b, column);
        break;
      case 2:
        rows<2>(p, b, column);
        break;
      case 3:
        rows<3>(p, b, column);
        break;
      default:
        rows<4>(p, b, column);
        break;
    }
  }
}

}  // namespace

extern const GemmS8Kernel COMPRESS_SIMD512_NAME(kGemmS8Avx512Vnni);
const GemmS8Kernel COMPRESS_SIMD512_NAME(kGemmS8Avx512Vnni) = {
    "gemm_s8_6x64_avx512vnni", Isa::avx512vnni, kGroup, 1, pack_rows, block, nullptr, nullptr};

}  // namespace compress::kernels
