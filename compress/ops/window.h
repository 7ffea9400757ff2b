// Geometry of sliding windows: convolutions and pools over one to three spatial dimensions.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "compress/error.h"
#include "compress/ops/op.h"

namespace compress {

// Depth, height, width; leading ones where there are fewer.
struct Window {
  using Dims = std::array<int64_t, 3>;
  int spatial = 0;
  Dims in{1, 1, 1};  // negative: not known
  Dims out{1, 1, 1};
  Dims kernel{1, 1, 1};
  Dims stride{1, 1, 1};
  Dims dilation{1, 1, 1};
  Dims pad_begin{};
  Dims pad_end{};

  static int64_t product(const Dims& dims) { return dims[0] * dims[1] * dims[2]; }

  // The outputs o of dimension d whose tap k reads inside the input: o * stride + offset(d, k).
  struct Range {
    int64_t begin;
    int64_t end;
  };
  int64_t offset(size_t d, int64_t k) const { return k * dilation[d] - pad_begin[d]; }
  Range outputs_of_tap(size_t d, int64_t k) const;
  // The taps k of dimension d that read inside the input for output o.
  Range taps_of_output(size_t d, int64_t o) const;
};

// Reads strides, dilations, pads and auto_pad of a convolution or pool over `x` ([N, C, ...]),
// whose kernel dimensions are given (negative: not known), and computes the output dimensions.
Window read_window(const NodeContext& c, const Shape& x, std::span<const int64_t> kernel,
                   bool ceil_mode);
// The same for ConvTranspose, with output_padding and output_shape.
Window read_transposed_window(const NodeContext& c, const Shape& x,
                              std::span<const int64_t> kernel);
// [batch, channels, out...].
Shape window_output(const Window& w, int64_t batch, int64_t channels);

}  // namespace compress
