// What gemm_f32.cpp and the kernels of each instruction set agree on. Plain data only, as in
// gemm_s8_kernel.h.
#pragma once

#include <cstdint>

#include "compress/kernels/isa.h"

namespace compress::kernels {

inline constexpr int64_t kGemmF32Columns = 16;  // of a panel
inline constexpr int64_t kGemmF32Rows = 6;      // of a tile, at most

// `rows` by 16 of the output: c = [c +] a * b; the last chunk of k finishes it.
struct GemmF32Tile {
  const float* a;
  int64_t lda;
  const float* b;     // [k][16]
  const float* next;  // what will be read after it, or b again
  int64_t k;
  float* c;
  int64_t ldc, rows;
  bool first, last;  // chunk of k
  float alpha, lo, hi;
  const float* bias;      // [16], or null
  const float* residual;  // rows ldc apart, or null
};

struct GemmF32Kernel {
  const char* name;
  Isa isa;
  void (*tile)(const GemmF32Tile& tile) noexcept;
  // One row over four neighbouring panels, `panel_stride` floats apart: first and last chunk.
  void (*row)(const GemmF32Tile& tile, int64_t panel_stride) noexcept;
  // Null, or as `tile`, over two neighbouring panels.
  void (*pair)(const GemmF32Tile& tile, int64_t panel_stride) noexcept = nullptr;
};

extern const GemmF32Kernel kGemmF32Ref;
extern const GemmF32Kernel kGemmF32Avx2;
extern const GemmF32Kernel kGemmF32Avx512;

}  // namespace compress::kernels
