// What the rows of the internal domain share: attribute names, geometry of channels-last
// convolutions, packed constants that plans share.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "compress/core/function_ref.h"
#include "compress/ops/op.h"
#include "compress/runtime/lower.h"

namespace compress::runtime {

// --- Operators -----------------------------------------------------------------------------------
// Tensors of three or more dimensions are channels-last ([N, H, W, C]) where a row says NHWC;
// weights keep ONNX's layout.
//
//   QConv     x, w, [bias]       NHWC; u8 or s8, bias int32 (quantized) or float32 (float output)
//   QMatMul   x, w, [bias]       w [K, N], or [N, K] with transposed = 1
//   QAdd/QMul a, b               broadcast
//   Lookup    x                  table: 256 bytes
//   Quantize, Dequantize         per tensor
//   QMaxPool, QAveragePool       NHWC
//   MatMulNBits  a, b, scales, [zero points], [bias]   attributes of com.microsoft's
//   DynamicQuantize  x -> u8, scale, zero point
//   DynamicMatMul    u8, scale, zero point, w, w scales, [bias]; float32
//   Conv      x, w, [bias], [residual]   NHWC float32, clamp lo..hi, then an activation
//   MatMul    a, b, [bias], [residual]   float32, alpha, clamp, activation; transposed = 1: b is
//                                        [.., N, K]
//   Elements  inputs...          float32; a program of steps, element by element
//   Softmax   x                  float32, along the last axis
//   LayerNorm x, [gain], [bias]  float32, along the last axis
//   RmsNorm   x, gain            likewise
//   Attention q, k, v, [mask]    float32; permutations of [batch, head, row, element]
//   Transpose x                  elements of 4 bytes
//   MaxPool, AveragePool, GlobalAveragePool, GlobalMaxPool      NHWC float32
//   RNN, GRU, LSTM, DynamicQuantizeLSTM   ONNX's operands and attributes; weights are constant
//   TrainConv x, w, [bias]       NHWC float32; w and bias come with each run; clamp lo..hi
//   ConvDataGradient, ConvWeightGradient (-> dw, [dbias]), MaxPoolGradient
//                                as in ops/gradient_families.h, images NHWC

extern const std::span<const OpDef> kIntegerRows;    // lower_rows_s8.cpp
extern const std::span<const OpDef> kPoolRows;       // lower_rows_pool.cpp
extern const std::span<const OpDef> kFloatRows;      // lower_rows_f32.cpp
extern const std::span<const OpDef> kBlockRows;      // lower_rows_blocks.cpp
extern const std::span<const OpDef> kElementRows;    // lower_rows_elements.cpp
extern const std::span<const OpDef> kTrainingRows;   // lower_rows_training.cpp
extern const std::span<const OpDef> kAttentionRows;  // lower_rows_attention.cpp
extern const std::span<const OpDef> kRecurrentRows;  // lower_rows_recurrent.cpp

// A row that takes its operands as they are stored; only those that say so see elements below 8
// bits packed.
inline OpDef internal_row(std::string_view name, InferFn infer, PrepareFn prepare,
                          bool packed_types = true) {
  OpDef def{kInternalDomain, name, 1, infer, prepare};
  def.any_type = true;
  def.packed_types = packed_types;
  return def;
}

// True for rows whose operands and results are channels-last.
bool is_channels_last(std::string_view internal_op);

// Attributes of integer rows.
inline constexpr const char* kXScale = "x_scale";
inline constexpr const char* kXZeroPoint = "x_zero_point";
inline constexpr const char* kBScale = "b_scale";
inline constexpr const char* kBZeroPoint = "b_zero_point";
inline constexpr const char* kYScale = "y_scale";
inline constexpr const char* kYZeroPoint = "y_zero_point";
inline constexpr const char* kYType = "y_type";             // DType number; float32: not quantized
inline constexpr const char* kWZeroPoint = "w_zero_point";  // Tensor, of w's type
inline constexpr const char* kMultiplier = "multiplier";  // Tensor, float32: one, or one a channel
inline constexpr const char* kLo = "lo";
inline constexpr const char* kHi = "hi";
inline constexpr const char* kTable = "table";
inline constexpr const char* kTransposed = "transposed";
inline constexpr const char* kAlpha = "alpha";
// Attributes of float rows.
inline constexpr const char* kActivation = "activation";  // kernels::ElementOp, after the clamp
inline constexpr const char* kActivationP = "activation_p";
inline constexpr const char* kActivationQ = "activation_q";
inline constexpr const char* kInputs = "inputs";        // of a program of Elements
inline constexpr const char* kSteps = "steps";          // op, a, b, to of each step
inline constexpr const char* kNumbers = "numbers";      // p, q of each step
inline constexpr const char* kReference = "reference";  // 1: the plain kernel (for tests)
inline constexpr const char* kEpsilon = "epsilon";
// Of Attention: axes of its operands.
inline constexpr const char* kQueryPerm = "q_perm";
inline constexpr const char* kKeyPerm = "k_perm";
inline constexpr const char* kValuePerm = "v_perm";
inline constexpr const char* kOutPerm = "out_perm";

// --- Geometry ------------------------------------------------------------------------------------
struct Window {
  int64_t batch = 1, in_h = 1, in_w = 1, channels = 0;
  int64_t out_h = 1, out_w = 1;
  int64_t kernel_h = 1, kernel_w = 1, stride_h = 1, stride_w = 1, dilation_h = 1, dilation_w = 1;
  int64_t pad_top = 0, pad_left = 0, pad_bottom = 0, pad_right = 0;
};

// The fields that the parameters of every windowed kernel have.
template <class Params>
void copy_window(const Window& window, Params& params) {
  params.kernel_h = window.kernel_h;
  params.kernel_w = window.kernel_w;
  params.stride_h = window.stride_h;
  params.stride_w = window.stride_w;
  params.dilation_h = window.dilation_h;
  params.dilation_w = window.dilation_w;
  params.pad_top = window.pad_top;
  params.pad_left = window.pad_left;
}

// Of a convolution over channels-last x (rank 3: height 1) with the spatial kernel of
// `kernel_dims`. Resolves auto_pad. Fails (invalid_model) for what does not fit.
Window window_of(const NodeContext& context, const Shape& x, std::span<const int64_t> kernel_dims);
// [N, H, W, C] of a window; [N, W, C] where `rank` is 3.
Shape window_output(const Window& window, int rank, int64_t channels);

// The same shape with the channels moved: [N, C, ...] <-> [N, ..., C].
Shape channels_first(const Shape& shape);
Shape channels_last(const Shape& shape);

// --- Packed constants ----------------------------------------------------------------------------
// One packing of a constant is shared by the plans that use it and dies with the last of them.
// `key` tells apart packings of one constant.
std::shared_ptr<const void> shared_packing(const Tensor& source, const std::string& key,
                                           FunctionRef<std::shared_ptr<const void>()> make);

// The key of int8 weights packed for that many rows.
std::string gemm_key(int64_t rows, bool transposed);

template <class T, class Make>
std::shared_ptr<const T> packed_once(const Tensor& source, const std::string& key, Make&& make) {
  return std::static_pointer_cast<const T>(shared_packing(
      source, key,
      [&]() -> std::shared_ptr<const void> { return std::make_shared<const T>(make()); }));
}

}  // namespace compress::runtime
