// The reference convolution: direct, without im2col; vectorizes over the output row.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "compress/core/parallel.h"
#include "compress/kernels/fma_rows/fma_rows.h"
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
// Fails (invalid_model) where the bias in `slot` is known not to have a number a channel.
void check_conv_bias(const NodeContext& c, int slot, int64_t channels);

namespace conv_loops {

// Output columns that are computed before the next: four rows of them stay in the first cache.
inline constexpr int64_t kColumns = 1024;

// How the taps of one output add up. In float as ONNX Runtime's own matrix product does on x86-64
// (MLAS), so that a run op by op can be compared with its plain graph bit by bit: a quantized model
// turns the last bit of a sum into a whole step now and then. Sums of `block` taps add up in turn,
// and the bias comes last.
struct SumOrder {
  int64_t block;
  bool fused;  // fma inside of a block; else products are rounded
};

// `taps` of an output whose plane has `pixels`; `channels` of a group share an input.
inline SumOrder float_sum_order(int64_t taps, int64_t pixels, int64_t channels) {
  if (channels == 1) return {4, false};  // a vector times a matrix
  SumOrder order{128, true};
  // Panels of 128 x 128, which get longer where there are few columns.
  if (pixels < taps) {
    for (int64_t columns = 128; columns > 16 && columns / 2 >= pixels; columns /= 2) {
      order.block *= 2;
    }
  }
  return order;
}

// Integers wrap and double needs no partner: taps go straight into the output.
template <class T, int B>
class PlainSum {
 public:
  PlainSum(SumOrder, const T* bias, T* const (&y)[B], Window::Range columns) : y_(y) {
    for (int b = 0; b < B; ++b) {
      std::fill(y[b] + columns.begin, y[b] + columns.end, bias ? bias[b] : T{0});
    }
  }
  void add(int64_t, const T (&w)[B], const T* x, int64_t stride, int64_t begin, int64_t end) {
    for (int b = 0; b < B; ++b) {
      T* __restrict out = y_[b] + begin;
      const T* __restrict in = x;
      const T weight = w[b];
      for (int64_t i = 0; i < end - begin; ++i) out[i] += weight * in[i * stride];
    }
  }
  void finish() {}

 private:
  T* const (&y_)[B];
};

template <int B>
class BlockedSum {
 public:
  BlockedSum(SumOrder order, const float* bias, float* const (&y)[B], Window::Range columns)
      : order_(order), bias_(bias), y_(y), columns_(columns) {
    clear();
  }
  void add(int64_t tap, const float (&w)[B], const float* x, int64_t stride, int64_t begin,
           int64_t end) {
    if (tap / order_.block != block_) {
      flush();
      clear();
      block_ = tap / order_.block;
    }
    float* out[B];
    for (int b = 0; b < B; ++b) out[b] = sums_[b] + (begin - columns_.begin);
    if (order_.fused) return kernels::fma_rows(B, out, w, x, stride, end - begin);
    for (int b = 0; b < B; ++b) {
      for (int64_t i = 0; i < end - begin; ++i) out[b][i] += w[b] * x[i * stride];
    }
  }
  void finish() {
    flush();
    for (int b = 0; bias_ && b < B; ++b) {
      for (int64_t i = columns_.begin; i < columns_.end; ++i) y_[b][i] += bias_[b];
    }
  }

 private:
  void clear() {
    for (auto& row : sums_) std::fill(row, row + (columns_.end - columns_.begin), 0.0f);
  }
  void flush() {
    for (int b = 0; b < B; ++b) {
      float* y = y_[b] + columns_.begin;
      for (int64_t i = 0; i < columns_.end - columns_.begin; ++i) {
        y[i] = first_ ? sums_[b][i] : y[i] + sums_[b][i];
      }
    }
    first_ = false;
  }

  SumOrder order_;
  const float* bias_;
  float* const (&y_)[B];
  Window::Range columns_;
  int64_t block_ = 0;
  bool first_ = true;
  float sums_[B][kColumns];
};

template <class T, int B>
using Sum = std::conditional_t<std::is_same_v<T, float>, BlockedSum<B>, PlainSum<T, B>>;

// Columns [begin, end) of output row (od, oh) of B channels.
template <class T, int B>
void row(const Window& s, int64_t group_in, const T* x, const T* const (&w)[B], Sum<T, B>& sum,
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
          for (int b = 0; b < B; ++b) weights[b] = w[b][tap];
          sum.add(tap, weights, in_row + begin * s.stride[2] + s.offset(2, kw), s.stride[2], begin,
                  end);
        }
      }
    }
  }
}

template <class T, int B>
void planes(const Window& s, int64_t group_in, SumOrder order, const T* x, const T* w,
            const T* bias, T* y) {
  const int64_t out_count = Window::product(s.out);
  const int64_t filter = group_in * Window::product(s.kernel);
  const T* filters[B];
  for (int b = 0; b < B; ++b) filters[b] = w + b * filter;
  for (int64_t od = 0; od < s.out[0]; ++od) {
    for (int64_t oh = 0; oh < s.out[1]; ++oh) {
      T* rows[B];
      for (int b = 0; b < B; ++b) {
        rows[b] = y + b * out_count + (od * s.out[1] + oh) * s.out[2];
      }
      for (int64_t begin = 0; begin < s.out[2]; begin += kColumns) {
        const Window::Range columns{begin, std::min(begin + kColumns, s.out[2])};
        Sum<T, B> sum(order, bias, rows, columns);
        row<T, B>(s, group_in, x, filters, sum, od, oh, columns);
        sum.finish();
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
// kernel position, float ones as SumOrder says, whatever the number of threads. Unsigned T wraps,
// as int32 accumulators do.
template <class T>
void conv_forward(const ConvShape& shape, const T* x, const T* w, const T* bias, T* y) {
  const Window s = conv_loops::flattened(shape.window);
  const int64_t in_group = shape.group_in * Window::product(s.in);
  const int64_t out_plane = Window::product(s.out);
  const int64_t filter = shape.group_in * Window::product(s.kernel);
  const conv_loops::SumOrder order =
      conv_loops::float_sum_order(filter, out_plane, shape.group_out);
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
        conv_loops::planes<T, decltype(block)::value>(s, shape.group_in, order, input,
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
