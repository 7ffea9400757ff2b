#include <cmath>

#include "compress/kernels/gemm_w4/gemm_w4_kernel.h"

namespace compress::kernels {
namespace {

int32_t weight(const GemmW4Panel& p, int64_t k, int64_t column) noexcept {
  if (p.bits == 8) return p.weights[k / 4 * 64 + column * 4 + k % 4];
  const uint8_t byte = p.weights[k / 8 * 64 + column * 4 + k % 4];
  return k % 8 < 4 ? byte & 15 : byte >> 4;
}

int32_t zero_point(const GemmW4Panel& p, int64_t block, int64_t column) noexcept {
  return p.zero_points ? p.zero_points[block * kW4Columns + column] : p.default_zero;
}

void run_float(const GemmW4Panel& p, const GemmW4FloatRows& rows) noexcept {
  for (int64_t row = 0; row < rows.rows; ++row) {
    for (int64_t column = 0; column < p.columns; ++column) {
      float sum = 0.0f;
      for (int64_t k = 0; k < rows.k; ++k) {
        const int64_t block = k / p.block_size;
        const int32_t centred = weight(p, k, column) - zero_point(p, block, column);
        sum += rows.a[row * rows.lda + k] *
               (static_cast<float>(centred) * p.scales[block * kW4Columns + column]);
      }
      p.out[row * p.ldc + column] = p.bias ? sum + p.bias[column] : sum;
    }
  }
}

void quantize_row(const float* a, int64_t k, int64_t block_size, int8_t* values, float* scale,
                  int32_t* sum) noexcept {
  for (int64_t begin = 0; begin < k; begin += block_size, ++scale, ++sum) {
    const int64_t count = k - begin < block_size ? k - begin : block_size;
    float largest = 0.0f;
    for (int64_t i = 0; i < count; ++i) {
      const float magnitude = std::fabs(a[begin + i]);
      largest = magnitude > largest ? magnitude : largest;
    }
    *scale = largest / 127.0f;
    const float divisor = *scale > 0.0f ? *scale : 1.0f;
    *sum = 0;
    for (int64_t i = 0; i < block_size; ++i) {
      float value = i < count ? a[begin + i] / divisor : 0.0f;
      value = value > -127.0f ? value : -127.0f;  // infinities and NaN must not leave the range
      value = value < 127.0f ? value : 127.0f;
      values[begin + i] = static_cast<int8_t>(std::nearbyint(value));
      *sum += values[begin + i];
    }
  }
}

// acc + float(dot) * (a_scale * b_scale), three roundings, block after block.
void run_int8(const GemmW4Panel& p, const GemmW4Int8Rows& rows) noexcept {
  for (int64_t row = 0; row < rows.rows; ++row) {
    const int8_t* a = rows.values + row * rows.stride;
    for (int64_t column = 0; column < p.columns; ++column) {
      float acc = 0.0f;
      for (int64_t block = 0; block < p.blocks; ++block) {
        int32_t dot = 0;
        for (int64_t k = block * p.block_size; k < (block + 1) * p.block_size; ++k) {
          dot += a[k] * weight(p, k, column);
        }
        dot -= zero_point(p, block, column) * rows.sum[row * p.blocks + block];
        const float scale =
            rows.scale[row * p.blocks + block] * p.scales[block * kW4Columns + column];
        acc += static_cast<float>(dot) * scale;
      }
      p.out[row * p.ldc + column] = p.bias ? acc + p.bias[column] : acc;
    }
  }
}

}  // namespace

const GemmW4FloatKernel kGemmW4FloatRef = {"gemm_w4_f32_ref", Isa::ref, run_float};
const GemmW4Int8Kernel kGemmW4Int8Ref = {"gemm_w4_s8_ref", Isa::ref, false, quantize_row, run_int8};

}  // namespace compress::kernels
