// What gemm_w4.cpp and the kernels of each instruction set agree on. Plain data only, as in
// gemm_s8_kernel.h.
//
// One packed layout serves all kernels. A panel is 16 columns; k comes in groups of four bytes a
// column: [k groups][16][4]. With 8 bits a byte is a weight. With 4 bits the low nibbles hold k to
// k + 3, the high ones k + 4 to k + 7. Weights are unsigned, as stored; k is padded with 0 to whole
// blocks, columns to whole panels.
#pragma once

#include <cstdint>

#include "compress/kernels/isa.h"

namespace compress::kernels {

inline constexpr int64_t kW4Columns = 16;
inline constexpr int64_t kW4FloatChunk = 256;  // k widened to float at a time
inline constexpr int64_t kW4FloatRows = 96;    // rows a call of a float kernel at most

struct GemmW4Panel {
  const uint8_t* weights;
  const float* scales;         // [blocks][16]
  const uint8_t* zero_points;  // [blocks][16]; null: all are `default_zero`
  int32_t default_zero;
  int bits;
  int64_t block_size, blocks;
  int64_t columns;    // of the 16 that exist
  const float* bias;  // [columns], or null
  float* out;         // at the first row and column
  int64_t ldc;
};

// Rows of float activations. `scratch`: (kW4FloatChunk + kW4FloatRows) * 16 floats.
struct GemmW4FloatRows {
  const float* a;
  int64_t lda, rows, k;
  float* scratch;
};

// Rows of activations quantized a block: a[r][k] is about values[r][k] * scale[r][block].
struct GemmW4Int8Rows {
  const int8_t* values;  // within [-127, 127]; rows `stride` apart, whole blocks, padded with 0
  int64_t stride, rows;
  const float* scale;  // [rows][blocks]
  const int32_t* sum;  // [rows][blocks], of the values, as the kernel's quantize_row leaves them
};

struct GemmW4FloatKernel {
  const char* name;
  Isa isa;
  void (*run)(const GemmW4Panel& panel, const GemmW4FloatRows& rows) noexcept;
};

struct GemmW4Int8Kernel {
  const char* name;
  Isa isa;
  // scale = max |a| / 127, value = rint(a / scale), half to even; a block of zeros has scale 0.
  // sum_halves: the sum over k % 4 < 2 is the low half of `sum`, that over the others the high one.
  bool sum_halves;
  void (*quantize_row)(const float* a, int64_t k, int64_t block_size, int8_t* values, float* scale,
                       int32_t* sum) noexcept;
  void (*run)(const GemmW4Panel& panel, const GemmW4Int8Rows& rows) noexcept;
};

extern const GemmW4FloatKernel kGemmW4FloatRef;
extern const GemmW4FloatKernel kGemmW4FloatAvx2;
extern const GemmW4Int8Kernel kGemmW4Int8Ref;
extern const GemmW4Int8Kernel kGemmW4Int8Avx2;
extern const GemmW4Int8Kernel kGemmW4Int8Avx512Vnni;

}  // namespace compress::kernels
