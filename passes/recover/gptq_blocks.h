// GPTQ for weights in blocks, each with a scale of its own (weight-only quantization).
#pragma once

#include "passes/recover/gptq.h"

namespace compress {

struct RoundedBlocks {
  Tensor quantized;    // of params.dtype, [n, whole blocks of k], padded with zero points
  QuantParams params;  // blocks along axis 1
};

// `rows` is float32 [n, k], `hessian` X X' [k, k] of the inputs. When a block is reached its scale
// is searched: the clipping of the range that loses least, each weight counting by how much its
// input moves (the diagonal of the Hessian).
RoundedBlocks gptq_blocks(const Tensor& rows, const Eigen::MatrixXd& hessian, DType dtype,
                          int64_t block);

}  // namespace compress
