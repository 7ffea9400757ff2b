// int8 convolution in two dimensions (one: height 1), NHWC activations, weights packed once.
//
//   acc[pixel][o] = bias[o] + sum over taps and channels of
//                   (X - x_zero_point) * (W[o][c][ky][kx] - w_zero_point[o])
//
// followed by S8Epilogue. Padding counts as x_zero_point, that is 0. u8 and s8 in any combination,
// groups, strides, dilations, uneven pads. Every instruction set gives the same bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "compress/kernels/conv_s8/depthwise_s8_kernel.h"
#include "compress/kernels/gemm_s8/gemm_s8.h"

namespace compress::kernels {

struct ConvS8Params {
  int64_t in_channels = 0, out_channels = 0, groups = 1;
  int64_t kernel_h = 1, kernel_w = 1;
  int64_t stride_h = 1, stride_w = 1;
  int64_t dilation_h = 1, dilation_w = 1;
  int64_t pad_top = 0, pad_left = 0, pad_bottom = 0, pad_right = 0;

  int64_t out_h(int64_t in_h) const {
    return (in_h + pad_top + pad_bottom - dilation_h * (kernel_h - 1) - 1) / stride_h + 1;
  }
  int64_t out_w(int64_t in_w) const {
    return (in_w + pad_left + pad_right - dilation_w * (kernel_w - 1) - 1) / stride_w + 1;
  }
};

struct ConvS8Weights {
  const void* data = nullptr;  // [out_channels, in_channels / groups, kernel_h, kernel_w]
  bool is_signed = true;
  const void* zero_point = nullptr;  // of the type of data; null means 0
  bool zero_point_per_channel = false;
};

// Best first, as in gemm_s8.h.
std::span<const DepthwiseS8Kernel* const> depthwise_s8_kernels() noexcept;
const DepthwiseS8Kernel& best_depthwise_s8() noexcept;

struct PackedConvS8 {
  ConvS8Params params;
  bool whole_rows = false;  // a segment is a kernel row rather than a tap
  std::vector<PackedGemmS8> groups;

  const DepthwiseS8Kernel* depthwise = nullptr;  // one channel a group; groups is then empty
  int64_t taps = 0;                              // padded to the kernel's tap_group
  DepthwiseS8LineFunction line = nullptr;        // takes whole lines; null: pixel by pixel
  AlignedArray<uint8_t> depthwise_weights;
  AlignedArray<int32_t> depthwise_sum;      // of the weights, a channel
  AlignedArray<int32_t> depthwise_row_sum;  // the same a row of the kernel: [kernel_h][channels],
                                            // channels padded to blocks; with `line` alone

  // The kernel's name, for reports.
  const char* name() const { return depthwise ? depthwise->name : groups[0].kernel->name; }
};

// One channel in, one out a group takes the depthwise kernel, unless weights have a zero point.
PackedConvS8 pack_conv_s8(const ConvS8Params& params, const ConvS8Weights& weights,
                          const GemmS8Kernel& gemm = best_gemm_s8(),
                          const DepthwiseS8Kernel& depthwise = best_depthwise_s8());

// Kernels chosen for the weights and that many output pixels, as pack_gemm_s8_for() does.
PackedConvS8 pack_conv_s8_for(const ConvS8Params& params, const ConvS8Weights& weights,
                              int64_t pixels);

struct ConvS8Args {
  int64_t batch = 1, in_h = 1, in_w = 1;
  const void* input = nullptr;  // [batch, in_h, in_w, in_channels]
  bool input_signed = false;
  int32_t input_zero_point = 0;
  void* out = nullptr;  // [batch, out_h, out_w, out_channels]
  S8Epilogue epilogue;
  void* workspace = nullptr;  // conv_s8_workspace_bytes(), aligned to kAlignment
};

// Depends on thread_count(), so ask again after changing it.
size_t conv_s8_workspace_bytes(const PackedConvS8& weights, int64_t batch, int64_t in_h,
                               int64_t in_w) noexcept;

// Splits output rows over the threads. Allocates nothing.
void conv_s8(const PackedConvS8& weights, const ConvS8Args& args) noexcept;

}  // namespace compress::kernels
