// int8 work between matrix products: quantize, dequantize, add, lookup tables, pools. Every
// instruction set gives the same bits. Work is split over elements or output lines; nothing is
// allocated. Buffers may be the same where one element in gives one element out.
#pragma once

#include <cstdint>
#include <span>

#include "compress/kernels/elementwise_s8/elementwise_s8_kernel.h"

namespace compress::kernels {

// Best first, as in gemm_s8.h. These are bound by memory: no variant is wider than AVX2.
std::span<const ElementwiseS8Kernel* const> elementwise_s8_kernels() noexcept;
const ElementwiseS8Kernel& best_elementwise_s8() noexcept;

// Quantization parameters of a tensor, zero_point in the type's range.
struct S8Params {
  float scale = 1.0f;
  int32_t zero_point = 0;
  bool is_signed = false;
};

// saturate(rint(x / scale) + zero_point), half to even. NaN becomes the lowest value.
void quantize_s8(const float* x, int64_t count, const S8Params& params, uint8_t* out,
                 const ElementwiseS8Kernel& kernel = best_elementwise_s8()) noexcept;

// float(x - zero_point) * scale.
void dequantize_s8(const uint8_t* x, int64_t count, const S8Params& params, float* out,
                   const ElementwiseS8Kernel& kernel = best_elementwise_s8()) noexcept;

// For ElementwiseS8Kernel::add: saturate(rint((a - za) * ma + (b - zb) * mb) + zy), ma = float(
// double(sa) / sy), mb likewise; both products and the sum are rounded to float. lo..hi are bounds
// in the output's type that include its zero point.
BinaryS8 add_params(const S8Params& a, const S8Params& b, const S8Params& out, int32_t lo,
                    int32_t hi) noexcept;

// For ElementwiseS8Kernel::mul: saturate(rint((a - za) * (b - zb) * m) + zy), m = float(
// double(sa) * sb / sy); the integer product is exact.
BinaryS8 mul_params(const S8Params& a, const S8Params& b, const S8Params& out, int32_t lo,
                    int32_t hi) noexcept;

// out[i] = table[x[i]], x and the table by their bytes.
void lookup_s8(const uint8_t* x, int64_t count, const uint8_t table[256], uint8_t* out,
               const ElementwiseS8Kernel& kernel = best_elementwise_s8()) noexcept;

// Fills a table for lookup_s8: dequantize, `function`, quantize.
void make_lookup_s8(const S8Params& in, const S8Params& out, float (*function)(float),
                    uint8_t table[256]) noexcept;

// NHWC pooling. A global pool has the kernel's size equal to the image's.
struct PoolS8 {
  int64_t batch = 1, in_h = 1, in_w = 1, channels = 0;
  int64_t out_h = 1, out_w = 1;
  int64_t kernel_h = 1, kernel_w = 1, stride_h = 1, stride_w = 1, dilation_h = 1, dilation_w = 1;
  int64_t pad_top = 0, pad_left = 0;
};

// saturate(rint(float(sum of (x - zx)) * m) + zy), m = float(double(sx) / sy / count), where count
// is the number of pixels in the window, those of the padding only where they are to be counted
// (`padded_h` and `padded_w`: size of the image with the pads, which may cut a window short).
void average_pool_s8(const uint8_t* x, const S8Params& in, const PoolS8& pool,
                     bool count_include_pad, int64_t padded_h, int64_t padded_w,
                     const S8Params& out_params, uint8_t* out,
                     const ElementwiseS8Kernel& kernel = best_elementwise_s8()) noexcept;

// Padding never wins. Scale and zero point stay.
void max_pool_s8(const uint8_t* x, bool is_signed, const PoolS8& pool, uint8_t* out,
                 const ElementwiseS8Kernel& kernel = best_elementwise_s8()) noexcept;

}  // namespace compress::kernels
