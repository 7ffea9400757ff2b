// The depthwise half of conv_s8.cpp. Not part of the public interface.
#pragma once

#include "compress/kernels/conv_s8/conv_s8.h"

namespace compress::kernels::depthwise_s8_detail {

void pack(PackedConvS8& packed, const ConvS8Weights& weights, const DepthwiseS8Kernel& kernel);
size_t workspace_bytes(const PackedConvS8& weights, int64_t batch, int64_t in_h,
                       int64_t in_w) noexcept;
void run(const PackedConvS8& weights, const ConvS8Args& args) noexcept;

// depthwise_s8_lines.cpp: output line by output line where the kernel has a function for that.
DepthwiseS8LineFunction line_function(const ConvS8Params& params, const DepthwiseS8Kernel& kernel);
// Where a line function wants a tap: columns of the kernel one after the other, their taps in
// groups downwards. The lowest row is alone where groups are pairs: it comes last, in pairs along
// x.
int64_t line_tap(int64_t size, int64_t group, int64_t ky, int64_t kx);
int64_t line_taps(int64_t size, int64_t group);                 // places for them
int64_t line_bytes(const ConvS8Params& params, int64_t out_w);  // scratch memory of a thread
// Output lines [begin, end) of the batch.
void run_lines(const PackedConvS8& weights, const ConvS8Args& args, const S8Finish& finish,
               int64_t begin, int64_t end, uint8_t* scratch) noexcept;

}  // namespace compress::kernels::depthwise_s8_detail
