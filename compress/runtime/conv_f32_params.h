// What float convolutions of inference and of training read from their nodes alike.
#pragma once

#include "compress/kernels/dnnl/dnnl_adapter.h"
#include "compress/ops/op.h"

namespace compress::runtime {

// Geometry, groups and clamp; `x` is channels-last, `w` ONNX's weights of one or two dimensions in
// space. Fails (invalid_model) where their channels do not match.
kernels::ConvF32Params conv_f32_params(const NodeContext& context, const Shape& x, const Shape& w);

}  // namespace compress::runtime
