// What fma_rows.cpp and the kernels of each instruction set agree on.
#pragma once

#include <cstdint>

namespace compress::kernels {

using FmaRows = void (*)(int rows, float* const* y, const float* w, const float* x, int64_t stride,
                         int64_t n) noexcept;
extern const FmaRows kFmaRowsRef;
extern const FmaRows kFmaRowsAvx2;

}  // namespace compress::kernels
