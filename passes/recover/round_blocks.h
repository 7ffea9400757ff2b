// Weights in blocks, each with a scale of its own (weight-only quantization): ways to choose the
// scales and to round.
#pragma once

#include <Eigen/Core>
#include <optional>
#include <vector>

#include "compress/quant/qparams.h"
#include "passes/recover/gptq.h"

namespace compress {

struct BlockFormat {
  DType dtype = DType::int4;  // that holds the integers; signed: symmetric
  int bits = 4;               // used of it; 3 where 4 hold them
  int64_t block = 32;
  bool positive = false;  // scales: the lowest integer then serves negative values alone

  bool symmetric() const { return info(dtype).is_signed; }
  IntegerRange range() const;
};

struct RoundedBlocks {
  Tensor quantized;    // of params.dtype, [n, whole blocks of k], padded with zero points
  QuantParams params;  // blocks along axis 1
};

// All take `rows`, float32 [n, k]. Results do not depend on the number of threads.

// To nearest; the scale lets the extreme of the block through.
RoundedBlocks nearest_blocks(const Tensor& rows, const BlockFormat& format);

// To nearest; the scale loses least, each column counting by `moves` (how much its input moves:
// the diagonal of X X'). The clipping of AWQ (Lin et al. 2023, arXiv 2306.00978).
RoundedBlocks clipped_blocks(const Tensor& rows, const Eigen::VectorXd& moves,
                             const BlockFormat& format);

// Positive symmetric scales of a channel (`axis`) or the tensor, for fewer than 8 bits: what loses
// least.
QuantParams clipped_params(const Tensor& weights, DType dtype, std::optional<int> axis);

// Without data: few large errors are better than many small ones, so scale and zero point are
// solved for the l0.7 norm of what is lost (HQQ: Badri and Shaji 2023,
// mobiusml.github.io/hqq_blog).
RoundedBlocks hqq_blocks(const Tensor& rows, const BlockFormat& format);

// GPTQ (gptq.h) with `hessian` = X X' [k, k] of the inputs: the scale of a block is searched when
// the block is reached, by what its weights have become. Then scales and integers are
// improved in turn, each for the loss of the whole layer, where the layer is small enough for that.
RoundedBlocks gptq_blocks(const Tensor& rows, const Eigen::MatrixXd& hessian,
                          const BlockFormat& format);

// The scales of clipped_blocks, and rounding up or down learned for `hessian` (adaround.h).
RoundedBlocks adaround_blocks(const Tensor& rows, const Eigen::MatrixXd& hessian,
                              const BlockFormat& format);

// `integers` of rows with one scale each, improved one by one for the loss of the whole layer
// (where it is small enough for that).
void refine_rounding(const RowMatrixXf& weights, const Eigen::MatrixXd& hessian,
                     const std::vector<ScaleZeroPoint>& scales, IntegerRange range,
                     RowMatrixXi& integers);

}  // namespace compress
