// The reference convolution: direct, without im2col; vectorizes over the output row.
#pragma once

#include <algorithm>
#include <cstdint>

#include "compress/core/parallel.h"
#include "compress/ops/window.h"

namespace compress {

struct ConvShape {
  Window window;
  int64_t batch = 0;
  int64_t groups = 1;
  int64_t group_in = 0;  // channels of a group
  int64_t group_out = 0;
};

// Checks x [N, C, ...], w [M, C / groups, ...] and fills the shape. REQUIRES known ranks; unknown
// dimensions stay unknown.
ConvShape read_conv(const NodeContext& c, const Shape& x, const Shape& w);

namespace conv_loops {

// Output columns that are computed before the next: four rows of them stay in the first cache.
inline constexpr int64_t kColumns = 1024;

template <class T, int B>
void add_tap(T* const (&y)[B], const T* x, int64_t stride, const T (&w)[B], int64_t n) {
  if (stride == 1) {
    for (int b = 0; b < B; ++b) {
      T* __restrict out = y[b];
      const T* __restrict in = x;
      const T weight = w[b];
      for (int64_t i = 0; i < n; ++i) out[i] += weight * in[i];
    }
    return;
  }
  for (int64_t i = 0; i < n; ++i) {
    const T value = x[i * stride];
    for (int b = 0; b < B; ++b) y[b][i] += w[b] * value;
  }
}

// Columns [begin, end) of output row (od, oh) of B channels; y[b] are the rows' starts.
template <class T, int B>
void row(const Window& s, int64_t group_in, const T* x, const T* const (&w)[B], T* const (&y)[B],
         int64_t od, int64_t oh, Window::Range columns) {
  const int64_t taps = Window::product(s.kernel);
  const Window::Range kd_range = s.taps_of_output(0, od);
  const Window::Range kh_range = s.taps_of_output(1, oh);
  for (int64_t ic = 0; ic < group_in; ++ic) {
    const T* plane = x + ic * Window::product(s.in);
    for (int64_t kd = kd_range.begin; kd < kd_range.end; ++kd) {
      const int64_t id = od * s.stride[0] + s.offset(0, kd);
      for (int64_t kh = kh_range.begin; kh < kh_range.end; ++kh) {
        const int64_t ih = oh * s.stride[1] + s.offset(1, kh);
        const T* in_row = plane + (id * s.in[1] + ih) * s.in[2];
        for (int64_t kw = 0; kw < s.kernel[2]; ++kw) {
          const Window::Range all = s.outputs_of_tap(2, kw);
          const int64_t begin = std::max(all.begin, columns.begin);
          const int64_t end = std::min(all.end, columns.end);
          if (begin >= end) continue;
          const int64_t tap = ic * taps + (kd * s.kernel[1] + kh) * s.kernel[2] + kw;
          T weights[B];
          T* out[B];
          for (int b = 0; b < B; ++b) {
            weights[b] = w[b][tap];
            out[b] = y[b] + begin;
          }
          add_tap<T, B>(out, in_row + begin * s.stride[2] + s.offset(2, kw), s.stride[2], weights,
                        end - begin);
        }
      }
    }
  }
}

template <class T, int B>
void planes(const Window& s, int64_t group_in, const T* x, const T* w, const T* bias, T* y) {
  const int64_t out_count = Window::product(s.out);
  const int64_t filter = group_in * Window::product(s.kernel);
  const T* filters[B];
  for (int b = 0; b < B; ++b) filters[b] = w + b * filter;
  for (int64_t od = 0; od < s.out[0]; ++od) {
    for (int64_t oh = 0; oh < s.out[1]; ++oh) {
      T* rows[B];
      for (int b = 0; b < B; ++b) {
        rows[b] = y + b * out_count + (od * s.out[1] + oh) * s.out[2];
        std::fill(rows[b], rows[b] + s.out[2], bias ? bias[b] : T{0});
      }
      for (int64_t begin = 0; begin < s.out[2]; begin += kColumns) {
        row<T, B>(s, group_in, x, filters, rows, od, oh,
                  {begin, std::min(begin + kColumns, s.out[2])});
      }
    }
  }
}

// The same convolution with the longest rows that its memory allows: a window that neither moves
// nor pads sees all as one row, and innermost dimensions of size one (a kernel [5, 1]) are moved
// out.
inline Window flattened(Window s) {
  const bool pointwise = Window::product(s.kernel) == 1 && Window::product(s.stride) == 1 &&
                         s.pad_begin == Window::Dims{} && s.pad_end == Window::Dims{};
  if (pointwise) {
    s.in = s.out = {1, 1, Window::product(s.in)};
    return s;
  }
  for (int turns = 0; turns < 2; ++turns) {
    const bool trivial = s.in[2] == 1 && s.out[2] == 1 && s.kernel[2] == 1 && s.pad_begin[2] == 0;
    if (!trivial) break;
    for (Window::Dims* dims :
         {&s.in, &s.out, &s.kernel, &s.stride, &s.dilation, &s.pad_begin, &s.pad_end}) {
      *dims = {(*dims)[2], (*dims)[0], (*dims)[1]};
    }
  }
  return s;
}

}  // namespace conv_loops

// y = conv(x, w) + bias (may be null). Each output adds its taps in order of input channel and
// kernel position, whatever the number of threads. Unsigned T wraps, as int32 accumulators do.
template <class T>
void conv_forward(const ConvShape& shape, const T* x, const T* w, const T* bias, T* y) {
  const Window s = conv_loops::flattened(shape.window);
  const int64_t in_group = shape.group_in * Window::product(s.in);
  const int64_t out_plane = Window::product(s.out);
  const int64_t filter = shape.group_in * Window::product(s.kernel);
  constexpr int kBlock = 4;
  const int64_t blocks = (shape.group_out + kBlock - 1) / kBlock;
  parallel_for(0, shape.batch * shape.groups * blocks, 1, [&](int64_t from, int64_t to) {
    for (int64_t task = from; task < to; ++task) {
      const int64_t image_group = task / blocks;
      const int64_t group = image_group % shape.groups;
      const T* input = x + image_group * in_group;
      int64_t oc = task % blocks * kBlock;
      const int64_t last = std::min(oc + kBlock, shape.group_out);
      const auto at = [&](auto block) {
        const int64_t channel = group * shape.group_out + oc;
        T* output = y + (image_group * shape.group_out + oc) * out_plane;
        conv_loops::planes<T, decltype(block)::value>(s, shape.group_in, input,
                                                      w + channel * filter,
                                                      bias ? bias + channel : nullptr, output);
      };
      if (last - oc == kBlock) {
        at(std::integral_constant<int, kBlock>());
        continue;
      }
      for (; oc < last; ++oc) at(std::integral_constant<int, 1>());
    }
  });
}

}  // namespace compress
