// Fused multiply-adds of rows: the inner loop of the reference convolution in float.
#pragma once

#include <cstdint>

namespace compress::kernels {

// y[r][i] = fma(w[r], x[i * stride], y[r][i]) with one rounding, for r in [0, rows) and i in
// [0, n). The same bits on every instruction set. The rows do not overlap each other or x.
void fma_rows(int rows, float* const* y, const float* w, const float* x, int64_t stride, int64_t n);

}  // namespace compress::kernels
