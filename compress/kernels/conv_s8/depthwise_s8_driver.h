// The depthwise half of conv_s8.cpp. Not part of the public interface.
#pragma once

#include "compress/kernels/conv_s8/conv_s8.h"

namespace compress::kernels::depthwise_s8_detail {

void pack(PackedConvS8& packed, const ConvS8Weights& weights, const DepthwiseS8Kernel& kernel);
size_t workspace_bytes(const PackedConvS8& weights, int64_t batch, int64_t in_h,
                       int64_t in_w) noexcept;
void run(const PackedConvS8& weights, const ConvS8Args& args) noexcept;

}  // namespace compress::kernels::depthwise_s8_detail
