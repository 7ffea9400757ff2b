// What rounding.cpp and the kernels of each instruction set agree on. Plain data only, as in
// gemm_s8_kernel.h.
#pragma once

#include <cstdint>

#include "compress/kernels/isa.h"

namespace compress::kernels {

inline constexpr int64_t kRoundingRows = 16;  // of a panel

// A scale and a zero point to judge, and the integers' range.
struct RoundingTrial {
  float scale, zero;
};
struct RoundingRange {
  float least, most;
};

// Columns of rows that are rounded one after the other (GPTQ). Arrays are [column][kRoundingRows].
struct RoundingPanel {
  float* weights;
  int32_t* integers;
  float* errors;        // what is lost, over the diagonal of the spread; unused where that is null
  const float* spread;  // row c, of the panel's columns, tells how an error in c moves the others;
  int64_t spread_stride;  // null: not at all
  int64_t begin, end;     // columns to round
  int64_t width;          // of the panel: columns that feel the errors
  const float* scale;     // [kRoundingRows]
  const float* zero;
  RoundingRange range;
};

struct RoundingKernel {
  const char* name;
  Isa isa;
  // Sums of weights[i] * (values[i] - rounded)^2, one a trial. Rounding multiplies by the inverse
  // scale: this ranks scales, and is no rounding that anything is stored by.
  void (*losses)(const float* values, const float* weights, int64_t n, const RoundingTrial* trials,
                 int64_t count, RoundingRange range, float* out) noexcept;
  // Rounds as quantize_value does; then w[j] -= error * spread[c][j] for the columns j behind c.
  void (*round_columns)(const RoundingPanel& panel) noexcept;
};

extern const RoundingKernel kRoundingRef;
extern const RoundingKernel kRoundingAvx2;

}  // namespace compress::kernels
