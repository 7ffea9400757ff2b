// Convolutions of few input channels (a first layer) with weights that change, as products of
// patches: oneDNN has nothing for them on channels-last images but plain loops. Activations are
// NHWC, weights ONNX's [out, in, h, w]; no groups.
#pragma once

#include <cstddef>
#include <cstdint>

#include "compress/kernels/dnnl/dnnl_adapter.h"

namespace compress::kernels {

// Whether patches are the better way: they fit the first cache and few channels are there.
bool suits_patches(const ConvF32Params& params) noexcept;

// Bytes of workspace for one thread of either pass.
size_t conv_patches_bytes(const ConvF32Params& params) noexcept;

// out = clamp(conv(x, w) + bias) for images [first, last) of the batch, on the calling thread.
void conv_patches_forward(const ConvF32Params& params, const float* x, const float* w,
                          const float* bias, float* out, int64_t first, int64_t last,
                          std::byte* workspace) noexcept;

// dw (and db, where it is not null) summed over `images` images, in their order, on the calling
// thread.
void conv_patches_weights(const ConvF32Params& params, const float* dy, const float* x,
                          int64_t images, float* dw, float* db, std::byte* workspace) noexcept;

}  // namespace compress::kernels
