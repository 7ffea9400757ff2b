// Weights as entries: a unit of four values of K, of several columns side by side, and an index
// that says which values of K. Units of zeros have none, which makes sparse weights cheap. Not part
// of the public interface.
#pragma once

#include "compress/kernels/gemm_s8/gemm_s8.h"

namespace compress::kernels::gemm_s8_detail {

// Of a tile of rows, in one copy.
inline int64_t pair_units(int64_t k) { return divide_up(k, int64_t{32}) * 8; }

// Panels of [groups][16][4] become entries of eight columns whose products can be added in pairs;
// the index is that of the unit in a tile.
void make_pairs(PackedGemmS8& packed);

// The same panels become those of their groups that are not zero; the index is that of the group.
void leave_out_zeros(PackedGemmS8& packed);

}  // namespace compress::kernels::gemm_s8_detail
