// Float activations times weights quantized in blocks along K: MatMulNBits with 4 or 8 bits.
//
//   out[m][n] = bias[n] + sum over k of a[m][k] * (q[n][k] - zero_point[n][block]) *
//   scale[n][block]
//
// Two modes. float32: weights become floats, results differ between instruction sets by rounding.
// int8 (accuracy_level 4): each row of activations is quantized a block to symmetric s8, blocks are
// multiplied in integers, and every instruction set and number of threads gives the same bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "compress/kernels/aligned.h"
#include "compress/kernels/gemm_w4/gemm_w4_kernel.h"

namespace compress::kernels {

// Best first, as in gemm_s8.h.
std::span<const GemmW4FloatKernel* const> gemm_w4_float_kernels() noexcept;
std::span<const GemmW4Int8Kernel* const> gemm_w4_int8_kernels() noexcept;
const GemmW4FloatKernel& best_gemm_w4_float() noexcept;
const GemmW4Int8Kernel& best_gemm_w4_int8() noexcept;

// As ONNX Runtime's MatMulNBits stores them.
struct GemmW4Weights {
  const uint8_t* data = nullptr;         // [n, blocks, block_size * bits / 8], low nibble first
  const float* scales = nullptr;         // [n, blocks]
  const uint8_t* zero_points = nullptr;  // [n, bytes of blocks * bits], packed; null: 2^(bits - 1)
  int64_t k = 0, n = 0;
  int64_t block_size = 32;  // a power of two, 16 to 256; the last block of a row may be partial
  int bits = 4;             // 4 or 8
};

struct PackedGemmW4 {
  int64_t k = 0, n = 0, block_size = 0, blocks = 0;
  int bits = 0;
  AlignedArray<uint8_t> panels;
  AlignedArray<float> scales;
  AlignedArray<uint8_t> zero_points;  // null where all are the default

  int64_t panel_count() const { return divide_up(n, kW4Columns); }
  int64_t panel_bytes() const { return blocks * block_size * kW4Columns * bits / 8; }
  size_t bytes() const;
};

PackedGemmW4 pack_gemm_w4(const GemmW4Weights& weights);

struct GemmW4Args {
  int64_t m = 0;
  const float* a = nullptr;  // [m, k], rows lda apart
  int64_t lda = 0;
  float* out = nullptr;  // [m, n], rows ldc apart
  int64_t ldc = 0;
  const float* bias = nullptr;  // [n], optional
  void* workspace = nullptr;    // of the mode's _workspace_bytes(), aligned to kAlignment
};

// These depend on thread_count(), so ask again after changing it.
size_t gemm_w4_float_workspace_bytes(const PackedGemmW4& weights, int64_t m) noexcept;
size_t gemm_w4_int8_workspace_bytes(const PackedGemmW4& weights, int64_t m) noexcept;

// Split columns over the threads. Allocate nothing.
void gemm_w4_float(const PackedGemmW4& weights, const GemmW4Args& args,
                   const GemmW4FloatKernel& kernel = best_gemm_w4_float()) noexcept;
void gemm_w4_int8(const PackedGemmW4& weights, const GemmW4Args& args,
                  const GemmW4Int8Kernel& kernel = best_gemm_w4_int8()) noexcept;

}  // namespace compress::kernels
