// Block-quantized weights times int8 activations: weights are the unsigned operand of vpdpbusd.
#include "compress/kernels/gemm_w4/gemm_w4_kernel.h"
#include "compress/kernels/simd/row_pointers.h"
#include "compress/kernels/simd/simd512.h"

namespace compress::kernels {
namespace {

constexpr int kRows = 8;

// Minus the zero points of a block, in the low halves of lanes. The sum of a block of activations
// fits 16 bits (256 times 127), so that dot_s16 multiplies the two, whatever its high half is.
I512 negative_zeros(const GemmW4Panel& p, int64_t block) noexcept {
  const I512 zero =
      p.zero_points ? load_u8_as_i32(p.zero_points + block * kW4Columns) : set_i32(p.default_zero);
  return and_i32(sub_i32(zero_i32(), zero), set_i32(0xffff));
}

// Few rows have too few chains of dependent sums to hide their latency: each gets several.
template <int kCount, int kBits>
void tile(const GemmW4Panel& p, const GemmW4Int8Rows& rows, int64_t row) noexcept {
  constexpr int kChains = kCount >= 8 ? 1 : kCount >= 4 ? 2 : 4;
  constexpr int kStep = 32 / kBits;  // of k, a load
  const I512 mask = set_i32(0x0f0f0f0f);
  F512 acc[kCount];
#pragma GCC unroll 8
  for (int r = 0; r < kCount; ++r) acc[r] = set_f32(0.0f);
  RowPointers<uint8_t, kCount> a(reinterpret_cast<const uint8_t*>(rows.values + row * rows.stride),
                                 rows.stride);
  RowPointers<int32_t, kCount> sums(rows.sum + row * p.blocks, p.blocks);
  RowPointers<float, kCount> row_scales(rows.scale + row * p.blocks, p.blocks);
  const uint8_t* b = p.weights;
  for (int64_t block = 0; block < p.blocks; ++block) {
    const I512 zeros = negative_zeros(p, block);
    I512 dots[kCount][kChains];
#pragma GCC unroll 8
    for (int r = 0; r < kCount; ++r) {
      dots[r][0] = dot_s16(zeros, set_i32(*sums[r]));
#pragma GCC unroll 4
      for (int chain = 1; chain < kChains; ++chain) dots[r][chain] = zero_i32();
    }
    const auto add = [&]<int kAt>() __attribute__((always_inline)) {
      const I512 bytes = load_512(b + kAt * 64);
      if constexpr (kBits == 8) {
#pragma GCC unroll 8
        for (int r = 0; r < kCount; ++r) {
          I512& sum = dots[r][kAt % kChains];
          sum = dot_u8s8(sum, bytes, a[r] + kAt * kStep);
        }
      } else {
        const I512 first = and_i32(bytes, mask);
        const I512 second = and_i32(shift_right_u16<4>(bytes), mask);
#pragma GCC unroll 8
        for (int r = 0; r < kCount; ++r) {
          I512& even = dots[r][2 * kAt % kChains];
          even = dot_u8s8(even, first, a[r] + kAt * kStep);
          I512& odd = dots[r][(2 * kAt + 1) % kChains];
          odd = dot_u8s8(odd, second, a[r] + kAt * kStep + 4);
        }
      }
    };
    for (int64_t k = 0; k < p.block_size; k += 2 * kStep) {
      add.template operator()<0>();
      add.template operator()<1>();
      a.advance(2 * kStep);
      b += 128;
    }
    const F512 scale = load_f32(p.scales + block * kW4Columns);
#pragma GCC unroll 8
    for (int r = 0; r < kCount; ++r) {
      I512 dot = dots[r][0];
#pragma GCC unroll 4
      for (int chain = 1; chain < kChains; ++chain) dot = add_i32(dot, dots[r][chain]);
      acc[r] = add_f32(acc[r], mul_f32(to_f32(dot), mul_f32(set_f32(*row_scales[r]), scale)));
    }
    sums.advance(1);
    row_scales.advance(1);
  }
  const uint16_t lanes = first_lanes(p.columns);
#pragma GCC unroll 8
  for (int r = 0; r < kCount; ++r) {
    F512 value = acc[r];
    if (p.bias != nullptr) value = add_f32(value, load_f32(p.bias, lanes));
    store_f32(p.out + (row + r) * p.ldc, value, lanes);
  }
}

template <int kBits>
void rows_of(const GemmW4Panel& p, const GemmW4Int8Rows& rows) noexcept {
  int64_t row = 0;
  for (; row + kRows <= rows.rows; row += kRows) tile<kRows, kBits>(p, rows, row);
  if (rows.rows - row >= 4) {
    tile<4, kBits>(p, rows, row);
    row += 4;
  }
  for (; row < rows.rows; ++row) tile<1, kBits>(p, rows, row);
}

void run(const GemmW4Panel& p, const GemmW4Int8Rows& rows) noexcept {
  p.bits == 4 ? rows_of<4>(p, rows) : rows_of<8>(p, rows);
}

// As kGemmW4Int8Ref does it, 16 values at a time; blocks are multiples of 16.
void quantize_row(const float* a, int64_t k, int64_t block_size, int8_t* values, float* scale,
                  int32_t* sum) noexcept {
  for (int64_t begin = 0; begin < k; begin += block_size, ++scale, ++sum) {
    const int64_t count = k - begin < block_size ? k - begin : block_size;
    F512 largest = set_f32(0.0f);
    for (int64_t i = 0; i < count; i += 16) {
      largest = max_f32(abs_f32(load_f32(a + begin + i, first_lanes(count - i))), largest);
    }
    float lanes[16], top = 0.0f;
    store_f32(lanes, largest, first_lanes(16));
    for (const float lane : lanes) top = lane > top ? lane : top;
    *scale = top / 127.0f;
    const F512 divisor = set_f32(*scale > 0.0f ? *scale : 1.0f);
    I512 sums = zero_i32();
    for (int64_t i = 0; i < block_size; i += 16) {
      const uint16_t valid = i < count ? first_lanes(count - i) : uint16_t{0};
      const F512 quotient = div_f32(load_f32(a + begin + i, valid), divisor);
      const I512 rounded =
          round_to_i32(min_f32(max_f32(quotient, set_f32(-127.0f)), set_f32(127.0f)));
      sums = add_i32(sums, rounded);
      store_low_bytes(reinterpret_cast<uint8_t*>(values + begin + i), rounded, first_lanes(16));
    }
    int32_t parts[16];
    store_512(parts, sums);
    *sum = 0;
    for (const int32_t part : parts) *sum += part;
  }
}

}  // namespace

extern const GemmW4Int8Kernel COMPRESS_SIMD512_NAME(kGemmW4Int8Avx512Vnni);
const GemmW4Int8Kernel COMPRESS_SIMD512_NAME(kGemmW4Int8Avx512Vnni) = {
    "gemm_w4_s8_8x16_avx512vnni", Isa::avx512vnni, false, quantize_row, run};

}  // namespace compress::kernels
