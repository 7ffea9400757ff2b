// What rows of the internal domain read from their nodes, for the CPU's kernels and a device's
// alike.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "compress/kernels/attention_f32/attention_f32.h"
#include "compress/kernels/dnnl/dnnl_adapter.h"
#include "compress/kernels/elementwise_s8/elementwise_s8.h"
#include "compress/kernels/float_rows/elementwise_f32.h"
#include "compress/ops/op.h"
#include "compress/runtime/lower_internal.h"

namespace compress::runtime {

// lower_rows_f32.cpp
kernels::ClampF32 clamp_of(const NodeContext& context);
kernels::ActivationF32 activation_of(const NodeContext& context);

// Shapes of a product's operands as [batch..., rows, columns] of one rank, b by its logical
// dimensions.
struct ProductOperands {
  std::vector<int64_t> a, b, b_strides;
};
ProductOperands product_operands(const NodeContext& context);

// The batches of a product: strides of the operands' batch dimensions, 0 where one is repeated.
struct ProductBatches {
  std::vector<int64_t> dims, a, b;
  int64_t count = 1;

  explicit ProductBatches(const ProductOperands& operands);
  std::pair<int64_t, int64_t> offsets(int64_t batch) const;
};

// lower_rows_elements.cpp
kernels::ElementProgram element_program(const NodeContext& context);

// lower_rows_attention.cpp
kernels::AttentionF32 attention_plan(const NodeContext& context);

// lower_rows_pool.cpp
struct PoolWindow {
  Window window;
  bool count_include_pad = false;
  int64_t padded_h = 0, padded_w = 0;
};
PoolWindow pool_window(const NodeContext& context);

// lower_rows_s8.cpp
DType y_type(const NodeContext& context);
// Window of an int8 convolution. Fails (invalid_model) where it does not fit its weights.
Window s8_conv_window(const NodeContext& context);
// Multipliers of QConv and QMatMul, one for each of `channels`.
std::vector<float> s8_multipliers(const NodeContext& context, int64_t channels);
kernels::S8Params s8_params(const NodeContext& context, const char* scale, const char* zero_point,
                            DType dtype);
// Of QAdd, QMul.
kernels::BinaryS8 s8_binary(const NodeContext& context, bool multiplies);

}  // namespace compress::runtime
