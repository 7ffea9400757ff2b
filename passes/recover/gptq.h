// Rounding that makes up for its own errors: GPTQ (Frantar et al. 2022, arXiv 2210.17323).
#pragma once

#include <Eigen/Core>
#include <functional>
#include <span>

#include "compress/quant/qparams.h"

namespace compress {

using RowMatrixXf = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using RowMatrixXi = Eigen::Matrix<int32_t, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// One layer y = W x: `weights` [rows, k] and `hessian` = X X' [k, k] over the inputs it saw.
struct GptqLayer {
  RowMatrixXf weights;
  Eigen::MatrixXd hessian;
};

// Rows share an input; columns are rounded in order.
struct GptqGrid {
  IntegerRange range;
  int64_t block = 0;  // columns that share a scale; 0: all of a row
  // Scale and zero point of a row's block, asked before its first column is rounded, with what its
  // weights are by then. Several rows are asked at once.
  std::function<ScaleZeroPoint(int64_t row, int64_t column, std::span<const float> weights)> scale;
};

// Part of the mean of the Hessian's diagonal that is added to it.
inline constexpr double kGptqDamping = 0.01;

// Integers [rows, k]. Each column is rounded to nearest and what is lost moves to the columns after
// it, as the inverse Hessian says. `damping` times the mean of the diagonal is added to it; columns
// that saw only zeros keep their plain rounding. The result does not depend on the number of
// threads. Where the Hessian cannot be inverted (not finite) all columns are rounded to nearest.
RowMatrixXi gptq_round(GptqLayer layer, const GptqGrid& grid, double damping = kGptqDamping);

// Upper triangular U with U'U = H^-1, whose row k says how an error in column k spreads over those
// behind it: damped as above, columns that saw only zeros apart. Empty where H has no inverse.
RowMatrixXf gptq_spread(Eigen::MatrixXd hessian, double damping);

// Upper triangular U with U'U = H^-1, by blocks in float32 (large matrices); empty where H is not
// positive definite or not finite. Only the upper half of H is read.
RowMatrixXf inverse_factor(RowMatrixXf hessian);

}  // namespace compress
