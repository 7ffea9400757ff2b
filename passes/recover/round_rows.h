// The weights of a statically quantized layer, rounded anew by what its inputs are.
#pragma once

#include <vector>

#include "passes/recover/gptq.h"

namespace compress {

enum class Rounding { nearest, gptq, adaround };

// Integers for `rows` [rows, k] that share their inputs, whose X X' is `hessian`; `scales` has a
// row each. With `finds_scales` (few bits, symmetric) they are chosen as well.
RowMatrixXi round_rows(const RowMatrixXf& rows, const Eigen::MatrixXd& hessian, DType dtype,
                       IntegerRange range, Rounding rounding, bool finds_scales,
                       std::vector<ScaleZeroPoint>& scales);

}  // namespace compress
