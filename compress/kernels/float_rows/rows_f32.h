// Work on rows of floats: softmax and the norms. A row is one thread's.
#pragma once

#include <cstdint>
#include <span>

#include "compress/kernels/float_rows/rows_f32_kernel.h"

namespace compress::kernels {

std::span<const RowsF32Kernel* const> rows_f32_kernels() noexcept;
const RowsF32Kernel& best_rows_f32() noexcept;

void softmax_f32(const float* x, int64_t rows, int64_t count, float* out,
                 const RowsF32Kernel& kernel = best_rows_f32()) noexcept;
void layer_norm_f32(const float* x, const float* gain, const float* bias, float epsilon,
                    int64_t rows, int64_t count, float* out,
                    const RowsF32Kernel& kernel = best_rows_f32()) noexcept;
void rms_norm_f32(const float* x, const float* gain, float epsilon, int64_t rows, int64_t count,
                  float* out, const RowsF32Kernel& kernel = best_rows_f32()) noexcept;

}  // namespace compress::kernels
