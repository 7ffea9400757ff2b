// The families of operators: what table.cpp lists. One file a family.
#pragma once

#include <span>

#include "compress/ops/op.h"

namespace compress {

extern const std::span<const OpDef> kBinaryOps;  // binary.cpp
extern const std::span<const OpDef> kLogicOps;   // logic.cpp
extern const std::span<const OpDef> kUnaryOps;   // unary.cpp

}  // namespace compress
