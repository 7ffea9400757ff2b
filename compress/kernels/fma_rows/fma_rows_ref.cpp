#include <cmath>

#include "compress/kernels/fma_rows/fma_rows_kernel.h"

namespace compress::kernels {
namespace {

void fma_rows_ref(int rows, float* const* y, const float* w, const float* x, int64_t stride,
                  int64_t n) noexcept {
  for (int r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < n; ++i) y[r][i] = std::fma(w[r], x[i * stride], y[r][i]);
  }
}

}  // namespace

const FmaRows kFmaRowsRef = fma_rows_ref;

}  // namespace compress::kernels
