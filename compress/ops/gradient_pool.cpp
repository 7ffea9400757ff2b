// Gradients of pools: each input plane gathers from the windows that cover it, in window order.
#include <algorithm>
#include <vector>

#include "compress/ops/gradient_families.h"
#include "compress/ops/pool_loops.h"
#include "compress/ops/support.h"
#include "compress/ops/typed.h"

namespace compress {
namespace {

// The window over an input of shape `x`; global = 1: one that covers each plane.
Window pool_window(const NodeContext& c, const Shape& x) {
  if (x.rank() < 3 || x.rank() > 5) c.unsupported("a pool over " + x.to_string());
  if (c.node().int_or("global", 0) != 0) {
    Window window;
    window.spatial = x.rank() - 2;
    for (int i = 2; i < x.rank(); ++i) {
      const auto at = static_cast<size_t>(3 - (x.rank() - i));
      window.in[at] = window.kernel[at] = x[i];
    }
    return window;
  }
  return read_window(c, x, c.node().ints_or("kernel_shape", {}),
                     c.node().int_or("ceil_mode", 0) != 0);
}

// Calls body(output index, input index) for the taps of window (od, oh, ow), in order.
template <class Body>
void for_each_position(const Window& s, int64_t od, int64_t oh, int64_t ow, Body&& body) {
  const Window::Range ds = s.taps_of_output(0, od);
  const Window::Range hs = s.taps_of_output(1, oh);
  const Window::Range ws = s.taps_of_output(2, ow);
  for (int64_t kd = ds.begin; kd < ds.end; ++kd) {
    const int64_t d = od * s.stride[0] + s.offset(0, kd);
    for (int64_t kh = hs.begin; kh < hs.end; ++kh) {
      const int64_t h = oh * s.stride[1] + s.offset(1, kh);
      for (int64_t kw = ws.begin; kw < ws.end; ++kw) {
        body((d * s.in[1] + h) * s.in[2] + ow * s.stride[2] + s.offset(2, kw));
      }
    }
  }
}

// Calls body(plane's first input element, window's output element, od, oh, ow) for all windows;
// planes in parallel, each zeroed before.
template <class T, class Body>
void for_each_window(const Window& s, int64_t planes, T* dx, Body&& body) {
  const int64_t in_plane = Window::product(s.in);
  parallel_for(0, planes, 1, [&](int64_t from, int64_t to) {
    std::fill(dx + from * in_plane, dx + to * in_plane, T{0});
    for (int64_t plane = from; plane < to; ++plane) {
      int64_t out = plane * Window::product(s.out);
      for (int64_t od = 0; od < s.out[0]; ++od) {
        for (int64_t oh = 0; oh < s.out[1]; ++oh) {
          for (int64_t ow = 0; ow < s.out[2]; ++ow) {
            body(plane * in_plane, out++, od, oh, ow);
          }
        }
      }
    }
  });
}

// The first of equal maxima takes it all, as the forward pass with indices says.
Kernel prepare_max(const NodeContext& c) {
  ops::require_same_dtype(c, 0, 2);
  const Window window = pool_window(c, c.shape(1));
  const int64_t planes = c.shape(1).count(0, 2);
  if (planes * Window::product(window.out) != c.shape(0).count()) {
    c.invalid("a gradient of another shape");
  }
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    return Kernel{"max_pool_gradient_ref", [=](const KernelArgs& args) {
                    const T* dy = args.inputs[0].as<const T>();
                    const T* x = args.inputs[1].as<const T>();
                    T* dx = args.outputs[0].as<T>();
                    for_each_window(
                        window, planes, dx,
                        [&](int64_t first, int64_t out, int64_t od, int64_t oh, int64_t ow) {
                          int64_t best = -1;
                          for_each_position(window, od, oh, ow, [&](int64_t at) {
                            if (best < 0 || x[first + at] > x[first + best]) best = at;
                          });
                          if (best >= 0) dx[first + best] += dy[out];
                        });
                  }};
  });
}

void infer_max(NodeContext& c) {
  require_inputs(c, 2);
  if (c.in(1).has_shape) return c.set_output(0, c.dtype(0), c.shape(1));
  c.set_output(0, c.dtype(0));
}

void infer_average(NodeContext& c) {
  infer_shape_operand(c, 1, c.in(0).has_shape ? c.shape(0).rank() : -1);
}

Kernel prepare_average(const NodeContext& c) {
  const Shape& x = c.output_types[0].shape;
  const Window window = pool_window(c, x);
  const int64_t planes = x.count(0, 2);
  if (planes * Window::product(window.out) != c.shape(0).count()) {
    c.invalid("a gradient of another shape");
  }
  const bool with_pad = c.node().int_or("count_include_pad", 0) != 0;
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    return Kernel{"average_pool_gradient_ref", [=](const KernelArgs& args) {
                    const T* dy = args.inputs[0].as<const T>();
                    T* dx = args.outputs[0].as<T>();
                    for_each_window(
                        window, planes, dx,
                        [&](int64_t first, int64_t out, int64_t od, int64_t oh, int64_t ow) {
                          const int64_t count = pool_loops::window_size(window, 0, od, with_pad) *
                                                pool_loops::window_size(window, 1, oh, with_pad) *
                                                pool_loops::window_size(window, 2, ow, with_pad);
                          const T share = dy[out] / static_cast<T>(std::max<int64_t>(count, 1));
                          for_each_position(window, od, oh, ow,
                                            [&](int64_t at) { dx[first + at] += share; });
                        });
                  }};
  });
}

constexpr OpDef kRows[] = {
    gradient_row("MaxPoolGradient", infer_max, prepare_max),
    gradient_row("AveragePoolGradient", infer_average, prepare_average),
};

}  // namespace

const std::span<const OpDef> kPoolGradients = kRows;

}  // namespace compress
