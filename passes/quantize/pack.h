// Integer weights in the layouts of com.microsoft's block operators (docs/numbers.md).
#pragma once

#include <functional>
#include <vector>

#include "compress/quant/qparams.h"

namespace compress {

// MatMulNBits: packed uint8 [n, blocks, block * bits / 8], element k of row r in block k / block,
// low bits first, the last block padded with zero points; scales float32 [n, blocks]; zero_points
// uint8 [n, ceil(blocks * bits / 8)], undefined for symmetric weights (then 2^(bits-1)).
struct BlockWeights {
  Tensor packed;
  Tensor scales;
  Tensor zero_points;
};

// `rows` is float32 [n, k]; dtype of 2, 4 or 8 bits (unsigned: asymmetric).
BlockWeights pack_blocks(const Tensor& rows, DType dtype, int64_t block);
// Types and shapes of what pack_blocks gives for [n, k]; nothing to read.
BlockWeights block_shapes(int64_t n, int64_t k, DType dtype, int64_t block);
// What `make` gives, of the types and shapes of `like` (undefined ones left out), once somebody
// reads one of them.
std::vector<Tensor> computed_later(const std::vector<Tensor>& like,
                                   std::function<std::vector<Tensor>()> make);
// A tensor of no content, for its type and shape.
inline Tensor outline(DType dtype, const Shape& shape) {
  return Tensor::borrow(dtype, shape, nullptr, nullptr);
}
// The same as pack_blocks from float32 [k, n].
BlockWeights pack_column_blocks(const Tensor& columns, DType dtype, int64_t block);

// The same from integers [n, whole blocks] that were rounded already, with `params` along axis 1.
BlockWeights pack_blocks(const Tensor& quantized, const QuantParams& params);

// GatherBlockQuantized: data of `dtype` (int4 or uint4) [rows, width], scales [rows, width /
// block], zero_points like scales in `dtype`, undefined for symmetric ones. REQUIRES width % block
// == 0.
BlockWeights pack_table(const Tensor& table, DType dtype, int64_t block);
BlockWeights table_shapes(int64_t rows, int64_t width, DType dtype, int64_t block);

// integer(i) of every element, packed as the type wants.
Tensor pack_integers(DType dtype, const Shape& shape,
                     const std::function<int32_t(int64_t)>& integer);

// scales as a float32 tensor and zero points in the type of the weights.
Tensor scale_tensor(const QuantParams& params, const Shape& shape);
Tensor zero_point_tensor(const QuantParams& params, const Shape& shape);

}  // namespace compress
