#include "compress/kernels/rounding/rounding.h"

namespace compress::kernels {

namespace {
constexpr const RoundingKernel* kKernels[] = {&kRoundingAvx2, &kRoundingRef};
}  // namespace

std::span<const RoundingKernel* const> rounding_kernels() noexcept { return kKernels; }

const RoundingKernel& best_rounding() noexcept {
  return active_isa() == Isa::ref ? kRoundingRef : kRoundingAvx2;
}

}  // namespace compress::kernels
