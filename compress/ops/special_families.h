// Families of vision, signals, sequences, trees and training: what table.cpp lists beside
// families.h and compute_families.h.
#pragma once

#include <span>

#include "compress/ops/op.h"

namespace compress {

extern const std::span<const OpDef> kDeformConvOps;  // deform_conv.cpp
extern const std::span<const OpDef> kDetOps;         // determinant.cpp
extern const std::span<const OpDef> kDetectionOps;   // detection.cpp
extern const std::span<const OpDef> kFourierOps;     // fourier.cpp
extern const std::span<const OpDef> kGridSampleOps;  // grid_sample.cpp
extern const std::span<const OpDef> kMlOps;          // ml.cpp
extern const std::span<const OpDef> kNgramOps;       // ngram.cpp
extern const std::span<const OpDef> kOptimizerOps;   // optimizer.cpp
extern const std::span<const OpDef> kOptionalOps;    // optional.cpp
extern const std::span<const OpDef> kRandomOps;      // random.cpp
extern const std::span<const OpDef> kSequenceOps;    // sequence.cpp
extern const std::span<const OpDef> kTreeOps;        // tree.cpp
extern const std::span<const OpDef> kUniqueOps;      // unique.cpp
extern const std::span<const OpDef> kUnpoolOps;      // unpool.cpp

}  // namespace compress
