// Float32 weights to integers in blocks that share a scale: what rounding a model reads and writes
// once. The same bits on every instruction set.
#pragma once

#include <span>

#include "compress/kernels/block_pack/block_pack_kernel.h"

namespace compress::kernels {

// Best first.
std::span<const BlockPackKernel* const> block_pack_kernels() noexcept;
const BlockPackKernel& best_block_pack() noexcept;

}  // namespace compress::kernels
