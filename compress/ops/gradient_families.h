// Operators that only derivatives are made of, in a domain of their own; no file holds them. Each
// takes the gradient of its operator's output first. `shape` operands are the shape of the result,
// so that no tensor is kept only for its dimensions.
//
//   ElementGradient      dy, v                attribute "of": the operator; v: see element_slope()
//   SumTo                dy, shape            sums what broadcasting repeated
//   ConvDataGradient     dy, w, shape         attributes of Conv
//   ConvWeightGradient   dy, x, shape -> dw, [dbias]             attributes of Conv
//   MaxPoolGradient      dy, x                attributes of MaxPool; global = 1: one window a plane
//   AveragePoolGradient  dy, shape            attributes of AveragePool; global likewise
//   BatchNormGradient    dy, x, scale, mean, variance -> dx, dscale, dbias
//   LayerNormGradient    dy, x, [scale] -> dx, dscale, dbias     rms = 1: no mean is taken off
//   InstanceNormGradient dy, x, scale -> dx, dscale, dbias
//   GatherGradient       dy, indices, shape   attribute axis
//   MoveGradient         dy, shape, ...       "of", "of_opset": an operator whose outputs are each
//                                             one input or none (Slice, Pad, nearest Resize...);
//                                             its attributes, and its operands from the second on
//   ResizeGradient       dy, shape, ...       likewise, of a linear or cubic Resize
//   FakeQuantizeGradient dy, x, scale, [zero point] -> dx, dscale    axis, lo, hi
//   Mask                 x, step              dropout: ratio, seed, id
//   RecurrentGradient    inputs of LSTM, GRU or RNN, then [dy, dh, dc] from slot 8 on
//                        -> dx, dw, dr, db, dh0, [dc0]; "of": the operator; its attributes. No
//                        peepholes, clip nor input_forget
#pragma once

#include <span>

#include "compress/ops/op.h"

namespace compress {

inline constexpr std::string_view kGradientDomain = "compress.gradient";

extern const std::span<const OpDef> kElementGradients;    // gradient_elements.cpp
extern const std::span<const OpDef> kConvGradients;       // gradient_conv.cpp
extern const std::span<const OpDef> kPoolGradients;       // gradient_pool.cpp
extern const std::span<const OpDef> kNormGradients;       // gradient_norm.cpp
extern const std::span<const OpDef> kMoveGradients;       // gradient_move.cpp
extern const std::span<const OpDef> kQuantizeGradients;   // gradient_quantize.cpp
extern const std::span<const OpDef> kResizeGradients;     // resize.cpp
extern const std::span<const OpDef> kRecurrentGradients;  // gradient_recurrent.cpp

constexpr OpDef gradient_row(std::string_view name, InferFn infer, PrepareFn prepare) {
  return {.domain = kGradientDomain,
          .name = name,
          .since_version = 1,
          .infer = infer,
          .prepare = prepare};
}

// For infer: output 0 has the type of input 0 and the shape that input `i` holds. False where that
// is not known yet; its rank is `rank` then, where that is given.
bool infer_shape_operand(NodeContext& c, int i, int rank = -1);

// Which value the slope of an element-wise operator is a function of, and whether there is one.
enum class SlopeOf { none, input, output };
SlopeOf element_slope(std::string_view op);

}  // namespace compress
