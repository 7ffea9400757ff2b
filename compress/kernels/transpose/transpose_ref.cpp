#include "compress/kernels/transpose/transpose_kernel.h"

namespace compress::kernels {
namespace {

template <class T>
void tile(const T* in, int64_t in_stride, int64_t rows, int64_t columns, T* out,
          int64_t out_stride) noexcept {
  for (int64_t c = 0; c < columns; ++c) {
    for (int64_t r = 0; r < rows; ++r) out[c * out_stride + r] = in[r * in_stride + c];
  }
}

}  // namespace

const TransposeKernel kTransposeRef{"ref", Isa::ref, tile<uint32_t>, tile<uint8_t>};

}  // namespace compress::kernels
