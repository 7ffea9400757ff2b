// The plain NHWC convolution: what runs where oneDNN has no implementation, and an oracle.
#pragma once

#include "compress/kernels/dnnl/dnnl_adapter.h"

namespace compress::kernels {

// `weights` [out, in / groups, h, w]; `bias` and `residual` may be null. REQUIRES layout nhwc.
void conv_f32_ref(const ConvF32Params& params, const float* input, const float* weights,
                  const float* bias, const float* residual, float* out) noexcept;

}  // namespace compress::kernels
