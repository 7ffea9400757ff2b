// The families of operators: what table.cpp lists. One file a family.
#pragma once

#include <span>

#include "compress/ops/op.h"

namespace compress {

extern const std::span<const OpDef> kBinaryOps;    // binary.cpp
extern const std::span<const OpDef> kLogicOps;     // logic.cpp
extern const std::span<const OpDef> kUnaryOps;     // unary.cpp
extern const std::span<const OpDef> kShapeOps;     // shape.cpp
extern const std::span<const OpDef> kCastOps;      // cast.cpp
extern const std::span<const OpDef> kMoveOps;      // move.cpp
extern const std::span<const OpDef> kGatherOps;    // gather.cpp
extern const std::span<const OpDef> kGenerateOps;  // generate.cpp
extern const std::span<const OpDef> kPadOps;       // pad.cpp
extern const std::span<const OpDef> kReduceOps;    // reduce.cpp
extern const std::span<const OpDef> kResizeOps;    // resize.cpp
extern const std::span<const OpDef> kSelectOps;    // select.cpp
extern const std::span<const OpDef> kSoftmaxOps;   // softmax.cpp

}  // namespace compress
