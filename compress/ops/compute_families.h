// The families of operators that compute (convolutions, products, norms, recurrences,
// quantization); table.cpp lists them.
#pragma once

#include <span>

#include "compress/ops/op.h"

namespace compress {

extern const std::span<const OpDef> kConvOps;
extern const std::span<const OpDef> kPoolOps;
extern const std::span<const OpDef> kMatMulOps;
extern const std::span<const OpDef> kEinsumOps;
extern const std::span<const OpDef> kBatchNormOps;
extern const std::span<const OpDef> kNormOps;
extern const std::span<const OpDef> kRecurrentOps;
extern const std::span<const OpDef> kQuantizeOps;
extern const std::span<const OpDef> kQLinearOps;
extern const std::span<const OpDef> kQLinearElementwiseOps;
extern const std::span<const OpDef> kNBitsOps;
extern const std::span<const OpDef> kAttentionOps;
extern const std::span<const OpDef> kGroupQueryOps;
extern const std::span<const OpDef> kTransformerOps;

}  // namespace compress
