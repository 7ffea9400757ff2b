#include "passes/recover/round_rows.h"

#include <algorithm>

#include "passes/recover/adaround.h"
#include "passes/recover/round_blocks.h"

namespace compress {
namespace {

RowMatrixXi round_with_scales(const RowMatrixXf& rows, const Eigen::MatrixXd& hessian, DType dtype,
                              Rounding rounding, std::vector<ScaleZeroPoint>& scales) {
  Tensor part = Tensor::allocate(DType::float32, {rows.rows(), rows.cols()});
  std::copy_n(rows.data(), rows.size(), part.mutable_as<float>().begin());
  const BlockFormat format{dtype, info(dtype).bits, rows.cols(), true};
  const RoundedBlocks blocks = rounding == Rounding::gptq ? gptq_blocks(part, hessian, format)
                                                          : adaround_blocks(part, hessian, format);
  for (size_t r = 0; r < scales.size(); ++r) scales[r].scale = blocks.params.scales[r];
  const std::vector<int64_t> integers = blocks.quantized.to_ints();
  RowMatrixXi q(rows.rows(), rows.cols());
  std::copy(integers.begin(), integers.end(), q.data());
  return q;
}

}  // namespace

RowMatrixXi round_rows(const RowMatrixXf& rows, const Eigen::MatrixXd& hessian, DType dtype,
                       IntegerRange range, Rounding rounding, bool finds_scales,
                       std::vector<ScaleZeroPoint>& scales) {
  if (finds_scales) return round_with_scales(rows, hessian, dtype, rounding, scales);
  if (rounding == Rounding::adaround) return adaround({rows, hessian, 0, scales, range});
  GptqGrid grid;
  grid.range = range;
  grid.scale = [&](int64_t r, int64_t, std::span<const float>) {
    return scales[static_cast<size_t>(r)];
  };
  RowMatrixXi q = gptq_round({rows, hessian}, grid);
  refine_rounding(rows, hessian, scales, range, q);
  return q;
}

}  // namespace compress
