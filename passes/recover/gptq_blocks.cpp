#include "passes/recover/gptq_blocks.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "compress/core/int4.h"
#include "compress/core/parallel.h"

namespace compress {
namespace {

// Squared loss of rounding `values`, weighted.
double loss(const std::vector<float>& values, const std::vector<double>& weights, ScaleZeroPoint q,
            IntegerRange range) {
  double sum = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const int32_t rounded = quantize_value(values[i], q.scale, q.zero_point, range);
    const double lost =
        double{values[i]} - double{dequantize_value(rounded, q.scale, q.zero_point)};
    sum += weights[i] * lost * lost;
  }
  return sum;
}

// Parts of the whole range of one block, from all of it down to a half.
ScaleZeroPoint search_scale(const std::vector<float>& values, const std::vector<double>& weights,
                            DType dtype, IntegerRange range) {
  const bool symmetric = info(dtype).is_signed;
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  ScaleZeroPoint best{1, 0};
  double least = std::numeric_limits<double>::infinity();
  constexpr int kSteps = 50;
  for (int step = kSteps; step >= kSteps / 2; --step) {
    const double part = static_cast<double>(step) / kSteps;
    ScaleZeroPoint q{};
    if (symmetric && info(dtype).bits < 8) {
      q = {choose_signed_scale(values, dtype) * static_cast<float>(part), 0};
    } else {
      q = choose_scale(part * double{*low}, part * double{*high}, dtype, symmetric);
    }
    const double lost = loss(values, weights, q, range);
    if (lost < least) least = lost, best = q;
  }
  return best;
}

}  // namespace

RoundedBlocks gptq_blocks(const Tensor& rows, const Eigen::MatrixXd& hessian, DType dtype,
                          int64_t block) {
  const int64_t n = rows.shape()[0], k = rows.shape()[1];
  const int64_t blocks = (k + block - 1) / block;
  RoundedBlocks out;
  out.params = {dtype, info(dtype).is_signed, 1, block, {}, {}};
  std::vector<ScaleZeroPoint> scales(static_cast<size_t>(n * blocks), {1, 0});
  const auto scale_at = [&](int64_t r, int64_t c) -> ScaleZeroPoint& {
    return scales[static_cast<size_t>(r * blocks + c / block)];
  };
  GptqLayer layer;
  layer.weights =
      Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>(
          rows.read().view().as<const float>(), n, k)
          .cast<double>();
  layer.hessian = hessian;
  const Eigen::VectorXd moves = hessian.diagonal();
  GptqGrid grid;
  grid.range = integer_range(dtype, info(dtype).is_signed);
  grid.block = block;
  grid.at = [&](int64_t r, int64_t c) { return scale_at(r, c); };
  grid.begin_block = [&](int64_t column, const Eigen::MatrixXd& weights) {
    const int64_t width = std::min(block, k - column);
    std::vector<double> importance(static_cast<size_t>(width));
    for (int64_t i = 0; i < width; ++i) importance[static_cast<size_t>(i)] = moves(column + i);
    parallel_for(0, n, 16, [&](int64_t begin, int64_t end) {
      std::vector<float> values(static_cast<size_t>(width));
      for (int64_t r = begin; r < end; ++r) {
        for (int64_t i = 0; i < width; ++i) {
          values[static_cast<size_t>(i)] = static_cast<float>(weights(r, column + i));
        }
        scale_at(r, column) = search_scale(values, importance, dtype, grid.range);
      }
    });
  };
  const Eigen::MatrixXi integers = gptq_round(std::move(layer), grid);

  for (const ScaleZeroPoint& q : scales) {
    out.params.scales.push_back(q.scale);
    out.params.zero_points.push_back(q.zero_point);
  }
  out.quantized = Tensor::zeros(dtype, {n, blocks * block});
  auto* bytes = reinterpret_cast<uint8_t*>(out.quantized.mutable_data());
  const int bits = info(dtype).bits;
  for (int64_t r = 0; r < n; ++r) {
    for (int64_t c = 0; c < blocks * block; ++c) {
      const int32_t q = c < k ? integers(r, c) : scale_at(r, c).zero_point;
      if (bits == 8) {
        bytes[r * blocks * block + c] = static_cast<uint8_t>(q);
      } else {
        set_packed(bytes, r * blocks * block + c, bits, q);
      }
    }
  }
  return out;
}

}  // namespace compress
