#include "compress/kernels/float_rows/transpose_32_kernel.h"

namespace compress::kernels {
namespace {

void tile(const uint32_t* in, int64_t in_stride, int64_t rows, int64_t columns, uint32_t* out,
          int64_t out_stride) noexcept {
  for (int64_t c = 0; c < columns; ++c) {
    for (int64_t r = 0; r < rows; ++r) out[c * out_stride + r] = in[r * in_stride + c];
  }
}

}  // namespace

const Transpose32Kernel kTranspose32Ref{"ref", Isa::ref, tile};

}  // namespace compress::kernels
