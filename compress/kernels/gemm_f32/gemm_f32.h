// Float32 products with a right operand packed once (weights) or by each run (attention), and what
// follows a product fused into it.
//
// Every output element is one sum in the order of k, cut in the same chunks whatever the number of
// threads; results differ between instruction sets, since the fast kernels use FMA.
#pragma once

#include <cstdint>
#include <limits>
#include <span>

#include "compress/kernels/aligned.h"
#include "compress/kernels/gemm_f32/gemm_f32_kernel.h"

namespace compress::kernels {

// B [k, n] by its strides, in elements.
struct MatrixF32 {
  const float* data = nullptr;
  int64_t k = 0, n = 0;
  int64_t stride_k = 0, stride_n = 1;
};

// Panels of 16 columns: [n / 16][k][16], the last one padded with zeros.
struct PackedGemmF32 {
  int64_t k = 0, n = 0;
  AlignedArray<float> panels;
};

// Best first; [0] that runs here is what products use.
std::span<const GemmF32Kernel* const> gemm_f32_kernels() noexcept;
const GemmF32Kernel& best_gemm_f32() noexcept;

int64_t packed_gemm_f32_floats(int64_t k, int64_t n) noexcept;
void pack_gemm_f32(const MatrixF32& b, float* panels) noexcept;
PackedGemmF32 pack_gemm_f32(const MatrixF32& b);

// out = activate(clamp(alpha * A B + bias + residual)). `activate` works on runs of the output in
// place, while they are in the cache.
struct GemmF32Args {
  const float* a = nullptr;
  int64_t m = 0, k = 0, n = 0, lda = 0;  // rows may overlap: a convolution over a line
  const float* panels = nullptr;
  float* out = nullptr;
  int64_t ldc = 0;
  float alpha = 1.0f;
  const float* bias = nullptr;      // [n]
  const float* residual = nullptr;  // as `out`
  float lo = -std::numeric_limits<float>::infinity();
  float hi = std::numeric_limits<float>::infinity();
  void (*activate)(const void* state, float* values, int64_t count) = nullptr;
  const void* activate_state = nullptr;
};

// Splits the work over threads where there is enough of it.
void gemm_f32(const GemmF32Args& args, const GemmF32Kernel& kernel = best_gemm_f32()) noexcept;

}  // namespace compress::kernels
