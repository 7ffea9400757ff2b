#include "passes/recover/round_blocks.h"

#include <algorithm>
#include <array>
#include <cfloat>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "compress/core/parallel.h"
#include "compress/kernels/rounding/rounding.h"
#include "passes/quantize/pack.h"
#include "passes/recover/adaround.h"

namespace compress {
namespace {

// --- One block ----------------------------------------------------------------------------------

// The range of the values and 0.
struct Reach {
  double low;
  double high;
};

Reach reach_of(std::span<const float> values) {
  float low = 0, high = 0;
  for (const float v : values) {
    low = v < low ? v : low;
    high = v > high ? v : high;
  }
  return {double{low}, double{high}};
}

// The scale and zero point that let `part` of the range through.
ScaleZeroPoint scale_of(Reach reach, double part, bool flip, const BlockFormat& format) {
  const double low = part * reach.low;
  const double high = part * reach.high;
  const IntegerRange range = format.range();
  if (format.symmetric()) {
    // Of fewer than 8 bits the lowest integer has no counterpart; it goes to the extreme, by the
    // sign of the scale, or with `flip` to the other side.
    const bool whole = format.bits < 8 && !format.positive;
    const double extreme = -low > high ? low : high;
    const auto scale =
        static_cast<float>(whole ? extreme / range.min * (flip ? -1 : 1)
                                 : std::fabs(extreme) / static_cast<double>(range.max));
    return {std::fabs(scale) < FLT_MIN ? 1.0f : scale, 0};
  }
  const auto scale = static_cast<float>((high - low) / (range.max - range.min));
  if (scale < FLT_MIN) return {1.0f, 0};
  const double zero = std::nearbyint(range.min - low / double{scale});
  return {scale, static_cast<int32_t>(std::clamp<double>(zero, range.min, range.max))};
}

// Parts of the whole range, from a little more than all of it down to less than a half: with few
// bits much may be cut off.
ScaleZeroPoint search_scale(std::span<const float> values, std::span<const float> weights,
                            const BlockFormat& format) {
  constexpr int kSteps = 50, kMost = 52, kLeast = 20, kCoarse = 4;
  constexpr size_t kTrials = 2 * ((kMost - kLeast) / kCoarse + 1);
  static const kernels::RoundingKernel& kernel = kernels::best_rounding();
  const Reach reach = reach_of(values);
  const IntegerRange range = format.range();
  const kernels::RoundingRange ends{static_cast<float>(range.min), static_cast<float>(range.max)};
  std::array<ScaleZeroPoint, kTrials> trials;
  std::array<kernels::RoundingTrial, kTrials> judged;
  std::array<int, kTrials> steps;
  std::array<float, kTrials> lost;
  size_t count = 0;
  const auto consider = [&](int step, bool flip) {
    trials[count] = scale_of(reach, static_cast<double>(step) / kSteps, flip, format);
    judged[count] = {trials[count].scale, static_cast<float>(trials[count].zero_point)};
    steps[count++] = flip ? -step : step;
  };
  ScaleZeroPoint best = scale_of(reach, 1, false, format);
  float least = std::numeric_limits<float>::infinity();
  int nearest = kSteps;
  // Of equal ones the first.
  const auto judge = [&] {
    kernel.losses(values.data(), weights.data(), static_cast<int64_t>(values.size()), judged.data(),
                  static_cast<int64_t>(count), ends, lost.data());
    for (size_t i = 0; i < count; ++i) {
      if (lost[i] < least) least = lost[i], best = trials[i], nearest = steps[i];
    }
    count = 0;
  };
  consider(kSteps, false);
  judge();
  const bool flips = format.symmetric() && format.bits < 8 && !format.positive;
  for (int step = kMost; step >= kLeast; step -= kCoarse) {
    consider(step, false);
    if (flips) consider(step, true);
  }
  judge();
  const int middle = std::abs(nearest);
  for (int step = middle + kCoarse - 1; step > middle - kCoarse; --step) {
    consider(step, nearest < 0);
  }
  judge();
  return best;
}

// Half-quadratic splitting: what is lost is split into a sparse part, by the proximal operator of
// the l0.7 norm, and the rest, for which scale and zero point have closed forms.
ScaleZeroPoint solve_half_quadratic(std::span<const float> values, const BlockFormat& format) {
  constexpr double kNorm = 0.7, kGrowth = 1.01;
  constexpr int kIterations = 20;
  // Lengths are in units of the first scale, so that beta means the same for all weights: with 2,
  // losses above 0.6 of a step, which only clipped values have, count as sparse.
  double beta = 2;
  const IntegerRange range = format.range();
  const auto lost_of = [&](ScaleZeroPoint q) {
    double sum = 0;
    for (const float v : values) {
      const int32_t rounded = quantize_value(v, q.scale, q.zero_point, range);
      const float kept = dequantize_value(rounded, q.scale, q.zero_point);
      sum += std::pow(std::fabs(double{v} - double{kept}), kNorm);
    }
    return sum;
  };
  const Reach reach = reach_of(values);
  const ScaleZeroPoint whole = scale_of(reach, 1, false, format);
  const double unit = std::fabs(double{whole.scale});
  ScaleZeroPoint best = whole;
  double least = lost_of(best);
  for (const double part : {1.0, 0.9, 0.8, 0.7}) {
    ScaleZeroPoint q = scale_of(reach, part, false, format);
    for (int i = 0; i < kIterations; ++i, beta *= kGrowth) {
      double zeros = 0, across = 0, squares = 0;
      for (const float v : values) {
        const int32_t integer = quantize_value(v, q.scale, q.zero_point, range);
        const double lost =
            (double{v} - double{dequantize_value(integer, q.scale, q.zero_point)}) / unit;
        const double size = std::fabs(lost);
        const double sparse =
            size == 0 ? 0 : std::max(0.0, size - std::pow(size, kNorm - 1) / beta);
        const double rest = double{v} - std::copysign(sparse, lost) * unit;
        const double steps = integer - q.zero_point;
        zeros += integer - rest / double{q.scale};
        across += steps * rest;
        squares += steps * steps;
      }
      if (!format.symmetric()) {
        const double zero = std::nearbyint(zeros / static_cast<double>(values.size()));
        q.zero_point = static_cast<int32_t>(std::clamp<double>(zero, range.min, range.max));
      }
      const auto scale = static_cast<float>(across / squares);
      if (!std::isfinite(scale) || std::fabs(scale) < FLT_MIN) break;
      q.scale = scale;
      const double lost = lost_of(q);
      if (lost < least) least = lost, best = q;
    }
  }
  return best;
}

// --- Matrices of blocks -------------------------------------------------------------------------

// Scales of the blocks of all rows, and the integers.
struct Grid {
  Grid(int64_t rows, int64_t columns, const BlockFormat& block_format)
      : format(block_format),
        n(rows),
        k(columns),
        blocks((columns + block_format.block - 1) / block_format.block),
        scales(static_cast<size_t>(n * blocks), {1, 0}) {}

  ScaleZeroPoint& at(int64_t r, int64_t c) {
    return scales[static_cast<size_t>(r * blocks + c / format.block)];
  }
  const ScaleZeroPoint& at(int64_t r, int64_t c) const {
    return scales[static_cast<size_t>(r * blocks + c / format.block)];
  }

  template <class Integer>
  RoundedBlocks pack(Integer&& integer) const {
    RoundedBlocks out;
    out.params = {format.dtype, format.symmetric(), 1, format.block, {}, {}};
    for (const ScaleZeroPoint& q : scales) {
      out.params.scales.push_back(q.scale);
      out.params.zero_points.push_back(q.zero_point);
    }
    const int64_t width = blocks * format.block;
    const auto at_column = [&](int64_t r, int64_t c) {
      return c < k ? integer(r, c) : at(r, c).zero_point;
    };
    const int bits = info(format.dtype).bits;
    if (bits > 8 || width * bits % 8 != 0) {  // rows that share a byte
      out.quantized = pack_integers(format.dtype, {n, width},
                                    [&](int64_t i) { return at_column(i / width, i % width); });
      return out;
    }
    out.quantized = Tensor::allocate(format.dtype, {n, width});
    auto* const bytes = reinterpret_cast<uint8_t*>(out.quantized.mutable_data());
    const int64_t each = 8 / bits, mask = (1 << bits) - 1;  // bits divide a byte
    parallel_for(0, n, 4, [&](int64_t begin, int64_t end) {
      uint8_t* to = bytes + begin * width / each;
      for (int64_t r = begin; r < end; ++r) {
        for (int64_t c = 0; c < width; c += each) {
          int64_t byte = 0;
          for (int64_t part = 0; part < each; ++part) {
            byte |= (at_column(r, c + part) & mask) << (part * bits);
          }
          *to++ = static_cast<uint8_t>(byte);
        }
      }
    });
    return out;
  }

  BlockFormat format;
  int64_t n, k, blocks;
  std::vector<ScaleZeroPoint> scales;
};

// Over their mean, so that squares stay in the range of float.
std::vector<float> relative(const Eigen::VectorXd& moves) {
  const double mean = moves.mean();
  std::vector<float> out;
  for (const double move : moves) {
    out.push_back(mean > 0 ? static_cast<float>(move / mean) : 1.0f);
  }
  return out;
}

// choose(values of one block, first column) gives its scale; weights are rounded to nearest.
template <class Choose>
RoundedBlocks round_with(const Tensor& rows, const BlockFormat& format, Choose&& choose) {
  Grid grid(rows.shape()[0], rows.shape()[1], format);
  const TensorData data = rows.read();
  const auto* w = data.view().as<const float>();
  parallel_for(0, grid.n, 4, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t c = 0; c < grid.k; c += format.block) {
        const auto width = static_cast<size_t>(std::min(format.block, grid.k - c));
        grid.at(r, c) = choose(std::span(w + r * grid.k + c, width), c);
      }
    }
  });
  const IntegerRange range = format.range();
  return grid.pack([&](int64_t r, int64_t c) {
    const ScaleZeroPoint q = grid.at(r, c);
    return quantize_value(w[r * grid.k + c], q.scale, q.zero_point, range);
  });
}

// --- Improving in turn --------------------------------------------------------------------------

// One row of a layer: the loss is (w - v) H (w - v)', v what the integers stand for.
class RowRefiner {
 public:
  RowRefiner(const Eigen::MatrixXd& hessian, Grid& grid, IntegerRange range, bool fits_scales,
             RowMatrixXi& integers, int64_t row)
      : h_(hessian),
        grid_(grid),
        range_(range),
        fits_scales_(fits_scales),
        integers_(integers),
        row_(row) {}

  void run(const Eigen::RowVectorXd& weights) {
    lost_ = weights;
    for (int64_t c = 0; c < grid_.k; ++c) lost_(c) -= value(c);
    pull_ = lost_ * h_;
    constexpr int kSweeps = 4;
    for (int sweep = 0; sweep < kSweeps; ++sweep) {
      bool changed = false;
      for (int64_t c = 0; c < grid_.k; c += grid_.format.block) {
        if (fits_scales_) fit_scale(c);
        changed = round_block(c) || changed;
      }
      if (!changed) break;
    }
  }

 private:
  double value(int64_t c) const {
    const ScaleZeroPoint q = grid_.at(row_, c);
    return double{dequantize_value(integers_(row_, c), q.scale, q.zero_point)};
  }

  // The scale of a block that loses least with its integers as they are.
  void fit_scale(int64_t first) {
    const int64_t width = std::min(grid_.format.block, grid_.k - first);
    ScaleZeroPoint& q = grid_.at(row_, first);
    Eigen::RowVectorXd steps(width);
    for (int64_t i = 0; i < width; ++i) steps(i) = integers_(row_, first + i) - q.zero_point;
    const double along = steps.dot(pull_.segment(first, width));
    const double curve = steps * h_.block(first, first, width, width) * steps.transpose();
    if (!(curve > 0)) return;
    const auto scale = static_cast<float>(double{q.scale} + along / curve);
    if (!std::isfinite(scale) || std::fabs(scale) < FLT_MIN || scale * q.scale < 0) return;
    const double moved = double{scale} - double{q.scale};
    q.scale = scale;
    lost_.segment(first, width) -= moved * steps;
    pull_ -= moved * steps * h_.middleRows(first, width);
  }

  // Each integer in turn goes where the loss of the layer is least.
  bool round_block(int64_t first) {
    const ScaleZeroPoint q = grid_.at(row_, first);
    bool changed = false;
    for (int64_t c = first; c < std::min(first + grid_.format.block, grid_.k); ++c) {
      if (!(h_(c, c) > 0)) continue;
      const double before = value(c);
      const auto best = static_cast<float>(before + pull_(c) / h_(c, c));
      const int32_t integer = quantize_value(best, q.scale, q.zero_point, range_);
      if (integer == integers_(row_, c)) continue;
      integers_(row_, c) = integer;
      const double moved = value(c) - before;
      lost_(c) -= moved;
      pull_ -= moved * h_.row(c);
      changed = true;
    }
    return changed;
  }

  const Eigen::MatrixXd& h_;
  Grid& grid_;
  IntegerRange range_;
  bool fits_scales_;
  RowMatrixXi& integers_;
  int64_t row_;
  Eigen::RowVectorXd lost_;  // w - v
  Eigen::RowVectorXd pull_;  // (w - v) H
};

void refine(const RowMatrixXf& weights, const Eigen::MatrixXd& undamped, Grid& grid,
            IntegerRange range, bool fits_scales, RowMatrixXi& integers) {
  constexpr double kMostWork = 2e9;  // n k^2 multiplications a sweep at most
  const auto k = static_cast<double>(grid.k);
  if (static_cast<double>(grid.n) * k * k > kMostWork || !undamped.allFinite()) return;
  Eigen::MatrixXd hessian = undamped;
  hessian.diagonal().array() += kGptqDamping * hessian.diagonal().mean();
  parallel_for(0, grid.n, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      RowRefiner(hessian, grid, range, fits_scales, integers, r).run(weights.row(r).cast<double>());
    }
  });
}

}  // namespace

IntegerRange BlockFormat::range() const {
  if (!symmetric()) return {0, (1 << bits) - 1};
  if (bits >= 8) return integer_range(dtype, true);
  return {-(1 << (bits - 1)), (1 << (bits - 1)) - 1};
}

RoundedBlocks nearest_blocks(const Tensor& rows, const BlockFormat& format) {
  return round_with(rows, format, [&](std::span<const float> values, int64_t) {
    return scale_of(reach_of(values), 1, false, format);
  });
}

RoundedBlocks clipped_blocks(const Tensor& rows, const Eigen::VectorXd& moves,
                             const BlockFormat& format) {
  const std::vector<float> importance = relative(moves);
  return round_with(rows, format, [&](std::span<const float> values, int64_t first) {
    return search_scale(
        values, std::span(importance).subspan(static_cast<size_t>(first), values.size()), format);
  });
}

QuantParams clipped_params(const Tensor& weights, DType dtype, std::optional<int> axis) {
  const Shape& shape = weights.shape();
  const int64_t rows = axis ? shape[*axis] : 1;
  const int64_t k = weights.count() / std::max<int64_t>(1, rows);
  const int64_t inner = axis ? shape.count(*axis + 1, shape.rank()) : k;
  Tensor sorted = Tensor::allocate(DType::float32, {rows, k});
  auto to = sorted.mutable_as<float>();
  const TensorData data = weights.read();
  const auto* from = data.view().as<const float>();
  for (int64_t i = 0; i < weights.count(); ++i) {
    const int64_t row = i / inner % rows, column = i / inner / rows * inner + i % inner;
    to[static_cast<size_t>(row * k + column)] = from[i];
  }
  const RoundedBlocks rounded =
      clipped_blocks(sorted, Eigen::VectorXd::Ones(k), {dtype, info(dtype).bits, k, true});
  return {dtype, true, axis, 0, rounded.params.scales, rounded.params.zero_points};
}

RoundedBlocks hqq_blocks(const Tensor& rows, const BlockFormat& format) {
  return round_with(rows, format, [&](std::span<const float> values, int64_t) {
    return solve_half_quadratic(values, format);
  });
}

RoundedBlocks gptq_blocks(const Tensor& rows, const Eigen::MatrixXd& hessian,
                          const BlockFormat& format) {
  Grid grid(rows.shape()[0], rows.shape()[1], format);
  const TensorData data = rows.read();
  const RowMatrixXf weights =
      Eigen::Map<const RowMatrixXf>(data.view().as<const float>(), grid.n, grid.k);
  const std::vector<float> importance = relative(hessian.diagonal());
  GptqGrid rounding;
  rounding.range = format.range();
  rounding.block = format.block;
  rounding.scale = [&](int64_t row, int64_t column, std::span<const float> now) {
    const auto moves = std::span(importance).subspan(static_cast<size_t>(column), now.size());
    return grid.at(row, column) = search_scale(now, moves, format);
  };
  RowMatrixXi integers = gptq_round({weights, hessian}, rounding);
  refine(weights, hessian, grid, format.range(), true, integers);
  return grid.pack([&](int64_t r, int64_t c) { return integers(r, c); });
}

RoundedBlocks adaround_blocks(const Tensor& rows, const Eigen::MatrixXd& hessian,
                              const BlockFormat& format) {
  Grid grid(rows.shape()[0], rows.shape()[1], format);
  const RoundedBlocks clipped = clipped_blocks(rows, hessian.diagonal(), format);
  for (size_t i = 0; i < grid.scales.size(); ++i) {
    grid.scales[i] = {clipped.params.scales[i], clipped.params.zero_points[i]};
  }
  const TensorData data = rows.read();
  const RowMatrixXf weights =
      Eigen::Map<const RowMatrixXf>(data.view().as<const float>(), grid.n, grid.k);
  const RowMatrixXi integers =
      adaround({weights, hessian, format.block, grid.scales, format.range()});
  return grid.pack([&](int64_t r, int64_t c) { return integers(r, c); });
}

void refine_rounding(const RowMatrixXf& weights, const Eigen::MatrixXd& hessian,
                     const std::vector<ScaleZeroPoint>& scales, IntegerRange range,
                     RowMatrixXi& integers) {
  Grid grid(weights.rows(), weights.cols(), {DType::int8, 8, weights.cols()});
  grid.scales = scales;
  refine(weights, hessian, grid, range, false, integers);
}

}  // namespace compress
