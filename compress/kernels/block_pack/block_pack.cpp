#include "compress/kernels/block_pack/block_pack.h"

namespace compress::kernels {

namespace {
constexpr const BlockPackKernel* kKernels[] = {&kBlockPackAvx2, &kBlockPackRef};
}  // namespace

std::span<const BlockPackKernel* const> block_pack_kernels() noexcept { return kKernels; }

const BlockPackKernel& best_block_pack() noexcept {
  return active_isa() == Isa::ref ? kBlockPackRef : kBlockPackAvx2;
}

}  // namespace compress::kernels
