// What transpose_32.cpp and the kernels of each instruction set agree on. Plain data only.
#pragma once

#include <cstdint>

#include "compress/kernels/isa.h"

namespace compress::kernels {

struct Transpose32Kernel {
  const char* name;
  Isa isa;
  // out[c * out_stride + r] = in[r * in_stride + c], r < rows, c < columns.
  void (*tile)(const uint32_t* in, int64_t in_stride, int64_t rows, int64_t columns, uint32_t* out,
               int64_t out_stride) noexcept;
};

extern const Transpose32Kernel kTranspose32Ref;
extern const Transpose32Kernel kTranspose32Avx2;

}  // namespace compress::kernels
