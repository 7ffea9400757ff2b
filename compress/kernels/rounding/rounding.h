// The inner loops of rounding weights: judging scales, and rounding columns whose errors move on.
// The same bits on every instruction set.
#pragma once

#include <span>

#include "compress/kernels/rounding/rounding_kernel.h"

namespace compress::kernels {

// Best first.
std::span<const RoundingKernel* const> rounding_kernels() noexcept;
const RoundingKernel& best_rounding() noexcept;

}  // namespace compress::kernels
