// What transpose.cpp and the kernels of each instruction set agree on. Plain data only.
#pragma once

#include <cstdint>

#include "compress/kernels/isa.h"

namespace compress::kernels {

struct TransposeKernel {
  const char* name;
  Isa isa;
  // out[c * out_stride + r] = in[r * in_stride + c], r < rows, c < columns.
  void (*tile_32)(const uint32_t* in, int64_t in_stride, int64_t rows, int64_t columns,
                  uint32_t* out, int64_t out_stride) noexcept;
  void (*tile_8)(const uint8_t* in, int64_t in_stride, int64_t rows, int64_t columns, uint8_t* out,
                 int64_t out_stride) noexcept;
};

extern const TransposeKernel kTransposeRef;
extern const TransposeKernel kTransposeAvx2;

}  // namespace compress::kernels
