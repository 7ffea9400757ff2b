#include "compress/kernels/fma_rows/fma_rows.h"

#include "compress/kernels/fma_rows/fma_rows_kernel.h"
#include "compress/kernels/isa.h"

namespace compress::kernels {

void fma_rows(int rows, float* const* y, const float* w, const float* x, int64_t stride,
              int64_t n) {
  static const FmaRows kernel = active_isa() >= Isa::avx2 ? kFmaRowsAvx2 : kFmaRowsRef;
  kernel(rows, y, w, x, stride, n);
}

}  // namespace compress::kernels
