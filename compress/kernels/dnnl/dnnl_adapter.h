// Prepared float32 convolution and matrix product from oneDNN. dnnl_adapter.cpp is the only file
// that includes oneDNN; COMPRESS_ISA reaches it before its first use.
//
// Layout: prefer NHWC, which oneDNN reads and writes as it is. On plain NCHW it has only im2col and
// GEMM (measured on AVX2: depthwise 16 times slower), so the adapter lets it choose a layout and
// converts at both ends, in the workspace; that costs 5 to 50 % over NHWC.
//
// Bits: results differ between instruction sets, and those of a product with M = 1 between numbers
// of threads. Objects take thread_count() from when they are made (oneDNN uses the OpenMP pool that
// set_thread_count() configures), so make them again after changing it. One object may not run in
// two threads at once. oneDNN allocates a few small argument tables a run; tensors and scratch
// memory are the caller's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

namespace compress::kernels {

// Applied last: min(max(y, lo), hi). {0, inf} is Relu.
struct ClampF32 {
  float lo = -std::numeric_limits<float>::infinity();
  float hi = std::numeric_limits<float>::infinity();
};

struct ConvF32Params {
  enum class Layout { nchw, nhwc };
  Layout layout = Layout::nhwc;  // of input, residual and output
  int64_t batch = 1, in_h = 1, in_w = 1;
  int64_t in_channels = 0, out_channels = 0, groups = 1;
  int64_t kernel_h = 1, kernel_w = 1;
  int64_t stride_h = 1, stride_w = 1;
  int64_t dilation_h = 1, dilation_w = 1;
  int64_t pad_top = 0, pad_left = 0, pad_bottom = 0, pad_right = 0;
  bool residual = false;  // output = clamp(conv + bias + residual)
  ClampF32 clamp;

  int64_t out_h() const {
    return (in_h + pad_top + pad_bottom - dilation_h * (kernel_h - 1) - 1) / stride_h + 1;
  }
  int64_t out_w() const {
    return (in_w + pad_left + pad_right - dilation_w * (kernel_w - 1) - 1) / stride_w + 1;
  }
};

class DnnlConvF32 {
 public:
  // `weights` [out, in / groups, h, w] are reordered here, once; `bias` [out] may be null. Neither
  // is needed afterwards. Null where oneDNN has no implementation.
  static std::unique_ptr<DnnlConvF32> make(const ConvF32Params& params, const float* weights,
                                           const float* bias);
  ~DnnlConvF32();

  size_t workspace_bytes() const noexcept;
  const char* implementation() const noexcept;  // oneDNN's name, "brgconv:avx512_core"
  // `residual` has the output's shape and layout and may be the output itself, which saves a copy;
  // null where params.residual is false. `workspace` is aligned to 64 bytes.
  void run(const float* input, const float* residual, float* out, void* workspace) noexcept;

 private:
  struct State;
  explicit DnnlConvF32(std::unique_ptr<State> state);
  static std::unique_ptr<DnnlConvF32> make_for_threads(const ConvF32Params& params,
                                                       const float* weights, const float* bias);
  void run_here(const float* input, const float* residual, float* out, void* workspace) noexcept;
  std::unique_ptr<State> state_;
};

// out = clamp(alpha * A B + bias). Dimensions are [batch..., rows, columns], both operands of the
// same rank (2 to 6); a batch dimension of 1 is repeated. Strides in elements, so that a transposed
// matrix is a matter of strides; one of the last two must be 1. The output is contiguous.
struct MatMulF32Params {
  std::vector<int64_t> a_dims, a_strides;
  std::vector<int64_t> b_dims, b_strides;
  float alpha = 1.0f;
  ClampF32 clamp;

  std::vector<int64_t> out_dims() const;
};

class DnnlMatMulF32 {
 public:
  // A constant B is reordered here, once, and not needed afterwards; null where B comes with each
  // run. `bias` [columns] may be null. Null where oneDNN has no implementation.
  static std::unique_ptr<DnnlMatMulF32> make(const MatMulF32Params& params, const float* constant_b,
                                             const float* bias);
  ~DnnlMatMulF32();

  size_t workspace_bytes() const noexcept;
  const char* implementation() const noexcept;
  // `b` is null where B is constant.
  void run(const float* a, const float* b, float* out, void* workspace) noexcept;

 private:
  struct State;
  explicit DnnlMatMulF32(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace compress::kernels
