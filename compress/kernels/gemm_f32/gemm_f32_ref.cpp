#include "compress/kernels/gemm_f32/gemm_f32_kernel.h"

namespace compress::kernels {
namespace {

float finished(const GemmF32Tile& t, float sum, int64_t at, int64_t column) noexcept {
  float y = t.alpha * sum;
  if (t.bias != nullptr) y += t.bias[column];
  if (t.residual != nullptr) y += t.residual[at];
  y = y < t.lo ? t.lo : y;
  return y > t.hi ? t.hi : y;
}

void tile(const GemmF32Tile& t) noexcept {
  for (int64_t r = 0; r < t.rows; ++r) {
    for (int64_t j = 0; j < kGemmF32Columns; ++j) {
      float sum = t.first ? 0.0f : t.c[r * t.ldc + j];
      for (int64_t i = 0; i < t.k; ++i) {
        sum += t.a[r * t.lda + i] * t.b[i * kGemmF32Columns + j];
      }
      t.c[r * t.ldc + j] = t.last ? finished(t, sum, r * t.ldc + j, j) : sum;
    }
  }
}

void row(const GemmF32Tile& t, int64_t panel_stride) noexcept {
  for (int64_t panel = 0; panel < 4; ++panel) {
    GemmF32Tile one = t;
    one.b += panel * panel_stride;
    one.c += panel * kGemmF32Columns;
    if (one.bias != nullptr) one.bias += panel * kGemmF32Columns;
    if (one.residual != nullptr) one.residual += panel * kGemmF32Columns;
    tile(one);
  }
}

}  // namespace

const GemmF32Kernel kGemmF32Ref{"ref", Isa::ref, tile, row};

}  // namespace compress::kernels
