// Convolution with weights that change from run to run, and its two gradients, from oneDNN.
// Activations are NHWC; weights are ONNX's [out, in / groups, h, w] on both sides, and converted in
// the workspace.
//
// Bits: data gradients are summed over channels and taps by one thread each. The weight gradient is
// a sum over samples, which oneDNN cuts by its number of threads: make it with one thread, for a
// part of the batch, and add the parts up in their order.
#pragma once

#include <cstddef>
#include <memory>

#include "compress/kernels/dnnl/dnnl_adapter.h"

namespace compress::kernels {

class DnnlConvPass {
 public:
  // forward: out = clamp(conv(a = x, b = w) + bias); data: out = dx of (a = dy, b = w);
  // weights: out = dw of (a = dy, b = x), and `bias` is the sum of dy.
  enum class Kind { forward, data, weights };

  // `threads`: 1, or as many as thread_count() says. Null where oneDNN has no implementation.
  static std::unique_ptr<DnnlConvPass> make(const ConvF32Params& params, Kind kind, bool bias,
                                            bool one_thread);
  ~DnnlConvPass();

  size_t workspace_bytes() const noexcept;
  const char* implementation() const noexcept;
  // `bias` is read forward, written with the weights, and null where there is none. The workspace
  // is aligned to 64 bytes. One object may not run in two threads at once.
  void run(const float* a, const float* b, float* bias, float* out, void* workspace) noexcept;

 private:
  struct State;
  explicit DnnlConvPass(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace compress::kernels
