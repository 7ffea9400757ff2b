#include "passes/recover/gptq.h"

#include <Eigen/Cholesky>
#include <algorithm>

#include "compress/core/parallel.h"

namespace compress {
namespace {

using Eigen::MatrixXd;

// Upper triangular U with U'U = (H + damping)^-1: row k says how an error in column k spreads.
// Empty where H is not positive definite even so.
MatrixXd spread_matrix(MatrixXd hessian, double damping) {
  const Eigen::Index k = hessian.rows();
  const double mean = hessian.diagonal().mean();
  for (Eigen::Index i = 0; i < k; ++i) {
    double& d = hessian(i, i);
    d = d > 0 ? d + damping * mean : 1.0;
  }
  const Eigen::LLT<MatrixXd> factor(hessian);
  if (factor.info() != Eigen::Success) return {};
  MatrixXd inverse = factor.solve(MatrixXd::Identity(k, k));
  const Eigen::LLT<MatrixXd, Eigen::Upper> spread(inverse);
  if (spread.info() != Eigen::Success) return {};
  MatrixXd upper = spread.matrixU();
  if (!upper.allFinite()) return {};
  return upper;
}

}  // namespace

Eigen::MatrixXi gptq_round(GptqLayer layer, const GptqGrid& grid, double damping) {
  const Eigen::Index rows = layer.weights.rows(), k = layer.weights.cols();
  MatrixXd& w = layer.weights;
  const MatrixXd spread = spread_matrix(std::move(layer.hessian), damping);
  const bool spreads = spread.size() > 0;
  Eigen::MatrixXi out(rows, k);
  // Columns inside of a panel feel each error at once, those behind it when the panel is done.
  // Panels are whole blocks, so that a block is up to date when it begins.
  const Eigen::Index panel =
      grid.block > 0 ? grid.block * std::max<int64_t>(1, 64 / grid.block) : 64;
  MatrixXd errors(rows, panel);
  for (Eigen::Index begin = 0; begin < k; begin += panel) {
    const Eigen::Index end = std::min(begin + panel, k);
    for (Eigen::Index c = begin; c < end; ++c) {
      if (grid.block > 0 && c % grid.block == 0) grid.begin_block(c, w);
      for (Eigen::Index r = 0; r < rows; ++r) {
        const ScaleZeroPoint q = grid.at(r, c);
        out(r, c) = quantize_value(static_cast<float>(w(r, c)), q.scale, q.zero_point, grid.range);
        const double lost = w(r, c) - double{dequantize_value(out(r, c), q.scale, q.zero_point)};
        errors(r, c - begin) = spreads ? lost / spread(c, c) : 0;
      }
      if (!spreads) continue;
      w.middleCols(c + 1, end - c - 1).noalias() -=
          errors.col(c - begin) * spread.block(c, c + 1, 1, end - c - 1);
    }
    if (!spreads) continue;
    constexpr int64_t kColumns = 64;  // fixed, so that threads do not decide the bits
    const int64_t chunks = (k - end + kColumns - 1) / kColumns;
    parallel_for(0, chunks, 1, [&](int64_t from, int64_t to) {
      for (int64_t chunk = from; chunk < to; ++chunk) {
        const Eigen::Index at = end + chunk * kColumns;
        const Eigen::Index width = std::min<Eigen::Index>(kColumns, k - at);
        w.middleCols(at, width).noalias() -=
            errors.leftCols(end - begin) * spread.block(begin, at, end - begin, width);
      }
    });
  }
  return out;
}

}  // namespace compress
