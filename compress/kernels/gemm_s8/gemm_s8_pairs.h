// Not part of the public interface.
#pragma once

#include "compress/kernels/gemm_s8/gemm_s8.h"

namespace compress::kernels::gemm_s8_detail {

// Of a tile of rows, in one copy.
inline int64_t pair_units(int64_t k) { return divide_up(k, int64_t{32}) * 8; }

// Panels of [groups][16][4] become entries with an index.
void make_pairs(PackedGemmS8& packed);

}  // namespace compress::kernels::gemm_s8_detail
