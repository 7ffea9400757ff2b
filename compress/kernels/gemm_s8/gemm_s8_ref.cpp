// The oracle: one sum after the other. Arithmetic is modulo 2^32, as vector registers have it.
#include <cmath>

#include "compress/kernels/gemm_s8/gemm_s8_kernel.h"

namespace compress::kernels {
namespace {

void pack_row(const uint8_t* source, int64_t length, uint8_t flip, uint8_t* packed,
              int32_t* sum) noexcept {
  for (int64_t k = 0; k < length; ++k) {
    packed[k] = source[k] ^ flip;
    if (sum != nullptr) *sum += packed[k];
  }
}

void pack_rows(const GemmS8Rows& p) noexcept {
  for (int64_t row = 0; row < p.count; ++row) {
    pack_row(p.source + row * p.source_stride, p.length, p.flip, p.packed + row * p.packed_stride,
             p.sums ? p.sums + row : nullptr);
  }
}

void store(const GemmS8Block& p, uint32_t sum, int64_t row, int64_t column) noexcept {
  const int64_t at = row * p.ldc + column;
  const int32_t acc = static_cast<int32_t>(sum);
  if (p.finish.output == S8Output::int32) {
    static_cast<int32_t*>(p.out)[at] = acc;
    return;
  }
  const float scaled = static_cast<float>(acc) * p.finish.scale[column];
  if (p.finish.output == S8Output::float32) {
    static_cast<float*>(p.out)[at] = scaled + p.finish.float_bias[column];
    return;
  }
  // The bounds are integers, so clamping before rounding gives what clamping after it would.
  float clamped = scaled > p.finish.lo ? scaled : p.finish.lo;
  clamped = clamped < p.finish.hi ? clamped : p.finish.hi;
  const int32_t value = static_cast<int32_t>(std::nearbyint(clamped)) + p.finish.zero_point;
  static_cast<uint8_t*>(p.out)[at] = static_cast<uint8_t>(value);
}

void block(const GemmS8Block& p) noexcept {
  for (int64_t column = 0; column < p.columns; ++column) {
    const int8_t* b = p.b + column / kS8PanelColumns * p.panel_bytes + column % kS8PanelColumns;
    for (int64_t row = 0; row < p.rows; ++row) {
      const uint8_t* a = p.a + row * p.a_stride;
      uint32_t sum = static_cast<uint32_t>(p.finish.offset[column]);
      for (int64_t k = 0; k < p.groups; ++k) {
        sum += static_cast<uint32_t>(int32_t{a[k]} * b[k * kS8PanelColumns]);
      }
      if (p.b_zero != nullptr) {
        sum -= static_cast<uint32_t>(p.b_zero[column]) * static_cast<uint32_t>(p.row_sum[row]);
      }
      store(p, sum, row, column);
    }
  }
}

// Groups of two: what they add up to is held to 16 bits, as vpmaddubsw does.
void block_of_pairs(const GemmS8Block& p) noexcept {
  for (int64_t first = 0; first < p.columns; first += kS8PanelColumns) {
    const int8_t* panel = p.b + first / kS8PanelColumns * p.panel_bytes;
    const int64_t width = p.columns - first < kS8PanelColumns ? p.columns - first : kS8PanelColumns;
    for (int64_t row = 0; row < p.rows; ++row) {
      const uint8_t* a = p.a + row * p.a_stride;
      uint32_t sums[kS8PanelColumns] = {};
      for (int64_t k = 0; k < p.groups; ++k) {
        const int32_t a0 = a[2 * k], a1 = a[2 * k + 1];
        const int8_t* b = panel + k * 2 * kS8PanelColumns;
        for (int64_t c = 0; c < kS8PanelColumns; ++c) {
          int32_t pair = a0 * b[2 * c] + a1 * b[2 * c + 1];
          pair = pair < -32768 ? -32768 : pair;
          sums[c] += static_cast<uint32_t>(pair > 32767 ? 32767 : pair);
        }
      }
      for (int64_t c = 0; c < width; ++c) {
        const int64_t column = first + c;
        uint32_t sum = static_cast<uint32_t>(p.finish.offset[column]) + sums[c];
        if (p.b_zero != nullptr) {
          sum -= static_cast<uint32_t>(p.b_zero[column]) * static_cast<uint32_t>(p.row_sum[row]);
        }
        store(p, sum, row, column);
      }
    }
  }
}

}  // namespace

const GemmS8Kernel kGemmS8Saturating = {"gemm_s8_saturating", Isa::ref, 2, 1, pack_rows,
                                        block_of_pairs};
const GemmS8Kernel kGemmS8Ref = {"gemm_s8_ref", Isa::ref, 1, 1, pack_rows, block};

}  // namespace compress::kernels
