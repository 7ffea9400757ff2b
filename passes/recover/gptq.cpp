#include "passes/recover/gptq.h"

#include <Eigen/Cholesky>
#include <algorithm>

#include "compress/core/parallel.h"
#include "compress/kernels/gemm_f32/gemm_f32.h"
#include "compress/kernels/rounding/rounding.h"

namespace compress {
namespace {

using Eigen::MatrixXd;

constexpr int64_t kPanel = 128;  // columns that are rounded before those behind them hear of it

// c [m, n] = alpha a b, or added to c. Rows of a and c are contiguous. For sums into c, b has no
// more rows than the product takes in one go (384).
void multiply(const float* a, int64_t lda, int64_t m, const kernels::MatrixF32& b, float* c,
              int64_t ldc, float alpha, bool add) {
  if (m == 0 || b.n == 0) return;
  const kernels::PackedGemmF32 packed = kernels::pack_gemm_f32(b);
  kernels::GemmF32Args args;
  args.a = a;
  args.m = m;
  args.k = b.k;
  args.n = b.n;
  args.lda = lda;
  args.panels = packed.panels.get();
  args.out = c;
  args.ldc = ldc;
  args.alpha = alpha;
  args.residual = add ? c : nullptr;
  kernels::gemm_f32(args);
}

// Upper triangular R with R R' = D (a Cholesky factorization from the last column on), or empty.
MatrixXd upper_factor(const MatrixXd& d) {
  const Eigen::Index k = d.rows();
  MatrixXd r = MatrixXd::Zero(k, k);
  for (Eigen::Index c = k - 1; c >= 0; --c) {
    const Eigen::Index after = k - 1 - c;
    const auto row = r.block(c, c + 1, 1, after);
    const double pivot = d(c, c) - row.squaredNorm();
    if (!(pivot > 0)) return {};
    r(c, c) = std::sqrt(pivot);
    r.col(c).head(c) = (d.col(c).head(c) - r.block(0, c + 1, c, after) * row.transpose()) / r(c, c);
  }
  return r;
}

// The same as inverse_factor, in double: small matrices.
RowMatrixXf exact_inverse_factor(const MatrixXd& hessian) {
  const MatrixXd r = upper_factor(hessian);
  if (r.size() == 0) return {};
  const MatrixXd inverse =
      r.triangularView<Eigen::Upper>().solve(MatrixXd::Identity(r.rows(), r.cols()));
  return inverse.allFinite() ? RowMatrixXf(inverse.cast<float>()) : RowMatrixXf();
}

// Some rows of a layer, panel by panel, with the columns of a panel below each other.
class RowRounder {
 public:
  RowRounder(const GptqGrid& grid, const RowMatrixXf& spread, RowMatrixXf& weights, int64_t first)
      : grid_(grid),
        spread_(spread),
        w_(weights),
        k_(weights.cols()),
        first_(first),
        rows_(std::min(kRows, weights.rows() - first)) {
    std::fill(std::begin(scale_), std::end(scale_), 1.0f);  // of rows that are not there
  }

  // Rounds columns [begin, end); notes in `errors` [rows of the layer, kPanel] what spreads behind
  // them.
  void round(int64_t begin, int64_t end, RowMatrixXi& out, RowMatrixXf& errors) {
    const int64_t width = end - begin;
    alignas(64) float weights[kPanel * kRows] = {}, lost[kPanel * kRows] = {};
    alignas(64) int32_t integers[kPanel * kRows];
    for (int64_t r = 0; r < rows_; ++r) {
      const float* from = w_.data() + (first_ + r) * k_ + begin;
      for (int64_t c = 0; c < width; ++c) weights[c * kRows + r] = from[c];
    }
    kernels::RoundingPanel panel{};
    panel.weights = weights;
    panel.integers = integers;
    panel.errors = lost;
    panel.spread_stride = k_;
    panel.width = width;
    panel.scale = scale_;
    panel.zero = zero_;
    panel.range = {static_cast<float>(grid_.range.min), static_cast<float>(grid_.range.max)};
    if (spread_.size() > 0) panel.spread = spread_.data() + begin * k_ + begin;
    for (int64_t c = begin; c < end; c = begin + panel.end) {
      const bool starts = grid_.block > 0 ? c % grid_.block == 0 : c == 0;
      if (starts) choose_scales(weights, begin, c, end);
      const int64_t next = grid_.block > 0 ? (c / grid_.block + 1) * grid_.block : k_;
      panel.begin = c - begin;
      panel.end = std::min(next, end) - begin;
      kernel_.round_columns(panel);
    }
    for (int64_t r = 0; r < rows_; ++r) {
      int32_t* to = out.data() + (first_ + r) * k_ + begin;
      float* moves = errors.data() + (first_ + r) * kPanel;
      for (int64_t c = 0; c < width; ++c) {
        to[c] = integers[c * kRows + r];
        moves[c] = lost[c * kRows + r];
      }
    }
  }

 private:
  static constexpr int64_t kRows = kernels::kRoundingRows;

  // Of the block at column c, by what its weights have become in the panel [begin, end).
  void choose_scales(const float* weights, int64_t begin, int64_t c, int64_t end) {
    const int64_t width = grid_.block > 0 ? std::min(grid_.block, k_ - c) : k_;
    for (int64_t r = 0; r < rows_; ++r) {
      float* now = w_.data() + (first_ + r) * k_ + c;
      for (int64_t i = 0; i < std::min(width, end - c); ++i) {
        now[i] = weights[(c - begin + i) * kRows + r];
      }
      const ScaleZeroPoint q = grid_.scale(first_ + r, c, {now, static_cast<size_t>(width)});
      scale_[r] = q.scale;
      zero_[r] = static_cast<float>(q.zero_point);
    }
  }

  const GptqGrid& grid_;
  const RowMatrixXf& spread_;
  RowMatrixXf& w_;
  int64_t k_, first_, rows_;
  const kernels::RoundingKernel& kernel_ = kernels::best_rounding();
  float scale_[kRows], zero_[kRows] = {};  // of the block that is being rounded
};

}  // namespace

RowMatrixXf inverse_factor(RowMatrixXf h) {
  constexpr int64_t kSide = 256;  // of the blocks; at most what a sum takes in one go
  const int64_t k = h.rows();
  const auto at = [&](int64_t r, int64_t c) { return h.data() + r * k + c; };
  const int64_t blocks = (k + kSide - 1) / kSide;
  std::vector<RowMatrixXf> inverses(static_cast<size_t>(blocks));  // of the diagonal blocks of R
  constexpr int64_t kStrip = 2 * kSide;  // rows whose part below the diagonal is computed in vain

  // H = R R', R upper triangular, in the place of H's upper half.
  for (int64_t b = blocks - 1; b >= 0; --b) {
    const int64_t from = b * kSide, to = std::min(k, from + kSide), width = to - from;
    MatrixXd d = h.block(from, from, width, width).cast<double>();
    d.triangularView<Eigen::StrictlyLower>() = d.transpose();
    const MatrixXd r = upper_factor(d);
    if (r.size() == 0 || !r.allFinite()) return {};
    const MatrixXd inverse =
        r.triangularView<Eigen::Upper>().solve(MatrixXd::Identity(width, width));
    inverses[static_cast<size_t>(b)] = inverse.cast<float>();
    RowMatrixXf above(from, width);
    multiply(at(0, from), k, from,
             {inverses[static_cast<size_t>(b)].data(), width, width, 1, width}, above.data(), width,
             1, false);
    h.block(0, from, from, width) = above;
    const RowMatrixXf turned = above.transpose();  // packed below in runs
    for (int64_t row = 0; row < from; row += kStrip) {
      const int64_t rows = std::min(kStrip, from - row);
      multiply(above.data() + row * width, width, rows,
               {turned.data() + row, width, from - row, from, 1}, at(row, row), k, -1, true);
    }
  }
  // U = R^-1: U(above, b) = -U(above, above) R(above, b) U(b, b).
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t from = b * kSide, to = std::min(k, from + kSide), width = to - from;
    RowMatrixXf product(from, width), column(from, width);
    for (int64_t row = 0; row < from; row += kStrip) {
      multiply(at(row, row), k, std::min(kStrip, from - row),
               {at(row, from), from - row, width, k, 1}, product.data() + row * width, width, 1,
               false);
    }
    const RowMatrixXf& diagonal = inverses[static_cast<size_t>(b)];
    multiply(product.data(), width, from, {diagonal.data(), width, width, width, 1}, column.data(),
             width, -1, false);
    h.block(0, from, from, width) = column;
    h.block(from, from, width, width) = diagonal;
    h.block(from, 0, width, from).setZero();
  }
  return h.allFinite() ? h : RowMatrixXf();
}

RowMatrixXf gptq_spread(MatrixXd hessian, double damping) {
  const Eigen::Index k = hessian.rows();
  const double mean = hessian.diagonal().mean();
  for (Eigen::Index i = 0; i < k; ++i) {
    double& d = hessian(i, i);
    d = d > 0 ? d + damping * mean : 1.0;
  }
  constexpr Eigen::Index kSmall = 512;  // below, double costs next to nothing
  if (k <= kSmall) return exact_inverse_factor(hessian);
  return inverse_factor(hessian.cast<float>());
}

RowMatrixXi gptq_round(GptqLayer layer, const GptqGrid& grid, double damping) {
  const int64_t rows = layer.weights.rows(), k = layer.weights.cols();
  RowMatrixXf& w = layer.weights;
  const RowMatrixXf spread = gptq_spread(std::move(layer.hessian), damping);
  RowMatrixXi out(rows, k);
  RowMatrixXf errors(rows, kPanel);
  std::vector<RowRounder> rounders;
  for (int64_t r = 0; r < rows; r += kernels::kRoundingRows)
    rounders.emplace_back(grid, spread, w, r);
  // Columns inside of a panel feel each error at once, those behind it when the panel is done.
  for (int64_t begin = 0; begin < k; begin += kPanel) {
    const int64_t end = std::min(begin + kPanel, k);
    parallel_for(0, static_cast<int64_t>(rounders.size()), 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        rounders[static_cast<size_t>(i)].round(begin, end, out, errors);
      }
    });
    if (spread.size() == 0) continue;
    multiply(errors.data(), kPanel, rows,
             {spread.data() + begin * k + end, end - begin, k - end, k, 1}, w.data() + end, k, -1,
             true);
  }
  return out;
}

}  // namespace compress
