// Loops over windows that the float and the quantized pools share.
#pragma once

#include <algorithm>
#include <cstdint>

#include "compress/core/parallel.h"
#include "compress/ops/window.h"

namespace compress {

// The window of a pool: kernel_shape, strides, dilations, pads, auto_pad, ceil_mode over input 0.
Window read_pool(const NodeContext& c);
// Output 0 by read_pool(), with the type given.
void infer_pool_as(NodeContext& c, DType dtype);
// [N, C, 1...], with the type given.
void infer_global_pool_as(NodeContext& c, DType dtype);

namespace pool_loops {

// Calls body(plane, od, oh) for all rows of all planes, in parallel.
template <class Body>
void for_each_output_row(const Window& s, int64_t planes, Body&& body) {
  parallel_for(0, planes, 1, [&](int64_t from, int64_t to) {
    for (int64_t plane = from; plane < to; ++plane) {
      for (int64_t od = 0; od < s.out[0]; ++od) {
        for (int64_t oh = 0; oh < s.out[1]; ++oh) body(plane, od, oh);
      }
    }
  });
}

// Calls tap(input row, first input column of tap, outputs) for all taps of an output row.
template <class T, class Tap>
void for_each_tap(const Window& s, const T* plane, int64_t od, int64_t oh, Tap&& tap) {
  const Window::Range ds = s.taps_of_output(0, od);
  const Window::Range hs = s.taps_of_output(1, oh);
  for (int64_t kd = ds.begin; kd < ds.end; ++kd) {
    const int64_t id = od * s.stride[0] + s.offset(0, kd);
    for (int64_t kh = hs.begin; kh < hs.end; ++kh) {
      const int64_t ih = oh * s.stride[1] + s.offset(1, kh);
      const T* row = plane + (id * s.in[1] + ih) * s.in[2];
      // Taps left of every output's reach are skipped: a hostile kernel may be far wider than the
      // row.
      const int64_t widest = (s.in[2] + s.pad_begin[2]) / s.dilation[2] + 1;
      for (int64_t kw = 0; kw < std::min(s.kernel[2], widest); ++kw) {
        const Window::Range columns = s.outputs_of_tap(2, kw);
        if (columns.begin < columns.end) tap(row + s.offset(2, kw), columns);
      }
    }
  }
}

inline int64_t row_start(const Window& s, int64_t plane, int64_t od, int64_t oh) {
  return ((plane * s.out[0] + od) * s.out[1] + oh) * s.out[2];
}

// Positions of window o of dimension d: all that lie inside the input, or inside input and padding.
inline int64_t window_size(const Window& s, size_t d, int64_t o, bool with_pad) {
  if (!with_pad) {
    const Window::Range taps = s.taps_of_output(d, o);
    return taps.end - taps.begin;
  }
  const int64_t room = s.in[d] + s.pad_end[d] - 1 - (o * s.stride[d] - s.pad_begin[d]);
  return room < 0 ? 0 : std::min(s.kernel[d], room / s.dilation[d] + 1);
}

template <class T>
void average_pool(const Window& s, int64_t planes, bool with_pad, const T* x, T* y) {
  for_each_output_row(s, planes, [&](int64_t plane, int64_t od, int64_t oh) {
    T* out = y + row_start(s, plane, od, oh);
    std::fill(out, out + s.out[2], T{0});
    for_each_tap(s, x + plane * Window::product(s.in), od, oh,
                 [&](const T* in, Window::Range columns) {
                   const int64_t stride = s.stride[2];
                   for (int64_t o = columns.begin; o < columns.end; ++o) out[o] += in[o * stride];
                 });
    const int64_t rows = window_size(s, 0, od, with_pad) * window_size(s, 1, oh, with_pad);
    for (int64_t ow = 0; ow < s.out[2]; ++ow) {
      const int64_t count = rows * window_size(s, 2, ow, with_pad);
      if (count > 0) out[ow] /= static_cast<T>(count);
    }
  });
}

}  // namespace pool_loops
}  // namespace compress
