// Rounding that makes up for its own errors: GPTQ (Frantar et al. 2022, arXiv 2210.17323).
#pragma once

#include <Eigen/Core>
#include <functional>

#include "compress/quant/qparams.h"

namespace compress {

// One layer y = W x: `weights` [rows, k] and `hessian` = X X' [k, k] over the inputs it saw.
struct GptqLayer {
  Eigen::MatrixXd weights;
  Eigen::MatrixXd hessian;
};

// Scale and zero point of an element; rows share an input, columns are rounded in order.
struct GptqGrid {
  IntegerRange range;
  // Called with the first column of each block of `block` columns before its rounding, with what
  // the weights are by then; may set what at() answers. `block` 0: never called.
  int64_t block = 0;
  std::function<void(int64_t column, const Eigen::MatrixXd& weights)> begin_block;
  std::function<ScaleZeroPoint(int64_t row, int64_t column)> at;
};

// Integers [rows, k]. Each column is rounded to nearest and what is lost moves to the columns after
// it, as the inverse Hessian says. `damping` times the mean of the diagonal is added to it; columns
// that saw only zeros keep their plain rounding. The result does not depend on the number of
// threads. Where the Hessian cannot be inverted (not finite) all columns are rounded to nearest.
Eigen::MatrixXi gptq_round(GptqLayer layer, const GptqGrid& grid, double damping = 0.01);

}  // namespace compress
