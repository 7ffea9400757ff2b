// Gradients of a convolution: direct loops, each result element summed in one fixed order.
#include <algorithm>

#include "compress/ops/conv_loops.h"
#include "compress/ops/gradient_families.h"
#include "compress/ops/support.h"
#include "compress/ops/typed.h"

namespace compress {
namespace {

void infer_by_shape(NodeContext& c) {
  require_inputs(c, 3);
  if (infer_shape_operand(c, 2, c.in(0).has_shape ? c.shape(0).rank() : -1) &&
      c.output_types[0].shape.rank() > 0) {
    c.set_output(1, c.dtype(0), {c.output_types[0].shape[0]});
  } else {
    c.set_output(1, c.dtype(0));
  }
}

// Calls tap(x index, y index, w index, outputs) for the rows of outputs that each tap of output
// channel `oc` and input channel `ic` (of a group) meets: consecutive outputs, strided inputs.
template <class Tap>
void for_each_tap_row(const Window& s, int64_t kd, int64_t kh, int64_t kw, Tap&& tap) {
  const Window::Range ds = s.outputs_of_tap(0, kd);
  const Window::Range hs = s.outputs_of_tap(1, kh);
  const Window::Range ws = s.outputs_of_tap(2, kw);
  if (ws.begin >= ws.end) return;
  for (int64_t od = ds.begin; od < ds.end; ++od) {
    const int64_t id = od * s.stride[0] + s.offset(0, kd);
    for (int64_t oh = hs.begin; oh < hs.end; ++oh) {
      const int64_t ih = oh * s.stride[1] + s.offset(1, kh);
      tap((id * s.in[1] + ih) * s.in[2] + ws.begin * s.stride[2] + s.offset(2, kw),
          (od * s.out[1] + oh) * s.out[2] + ws.begin, ws.end - ws.begin);
    }
  }
}

template <class Body>
void for_each_tap(const Window& s, Body&& body) {
  int64_t k = 0;
  for (int64_t kd = 0; kd < s.kernel[0]; ++kd) {
    for (int64_t kh = 0; kh < s.kernel[1]; ++kh) {
      for (int64_t kw = 0; kw < s.kernel[2]; ++kw) body(k++, kd, kh, kw);
    }
  }
}

template <class T>
void data_gradient(const ConvShape& shape, const T* dy, const T* w, T* dx) {
  const Window& s = shape.window;
  const int64_t in_plane = Window::product(s.in), out_plane = Window::product(s.out);
  const int64_t taps = Window::product(s.kernel);
  parallel_for(0, shape.batch * shape.groups * shape.group_in, 1, [&](int64_t from, int64_t to) {
    for (int64_t plane = from; plane < to; ++plane) {
      T* x = dx + plane * in_plane;
      std::fill(x, x + in_plane, T{0});
      const int64_t ic = plane % shape.group_in;
      const int64_t image_group = plane / shape.group_in;
      const int64_t group = image_group % shape.groups;
      for (int64_t oc = 0; oc < shape.group_out; ++oc) {
        const T* y = dy + (image_group * shape.group_out + oc) * out_plane;
        const T* filter = w + ((group * shape.group_out + oc) * shape.group_in + ic) * taps;
        for_each_tap(s, [&](int64_t k, int64_t kd, int64_t kh, int64_t kw) {
          const T weight = filter[k];
          for_each_tap_row(s, kd, kh, kw, [&](int64_t at_x, int64_t at_y, int64_t n) {
            for (int64_t i = 0; i < n; ++i) x[at_x + i * s.stride[2]] += weight * y[at_y + i];
          });
        });
      }
    }
  });
}

template <class T>
void weight_gradient(const ConvShape& shape, const T* dy, const T* x, T* dw) {
  const Window& s = shape.window;
  const int64_t in_plane = Window::product(s.in), out_plane = Window::product(s.out);
  const int64_t taps = Window::product(s.kernel);
  const int64_t channels = shape.groups * shape.group_out;
  parallel_for(0, channels * shape.group_in, 1, [&](int64_t from, int64_t to) {
    for (int64_t pair = from; pair < to; ++pair) {
      const int64_t oc = pair / shape.group_in;
      const int64_t ic = oc / shape.group_out * shape.group_in + pair % shape.group_in;
      for_each_tap(s, [&](int64_t k, int64_t kd, int64_t kh, int64_t kw) {
        double sum = 0;
        for (int64_t image = 0; image < shape.batch; ++image) {
          const T* in = x + (image * shape.groups * shape.group_in + ic) * in_plane;
          const T* out = dy + (image * channels + oc) * out_plane;
          for_each_tap_row(s, kd, kh, kw, [&](int64_t at_x, int64_t at_y, int64_t n) {
            T row{0};
            for (int64_t i = 0; i < n; ++i) row += in[at_x + i * s.stride[2]] * out[at_y + i];
            sum += static_cast<double>(row);
          });
        }
        dw[pair * taps + k] = static_cast<T>(sum);
      });
    }
  });
}

// The sum of dy over all but the channels.
template <class T>
void bias_gradient(const ConvShape& shape, const T* dy, T* dbias) {
  const int64_t plane = Window::product(shape.window.out);
  const int64_t channels = shape.groups * shape.group_out;
  parallel_for(0, channels, 1, [&](int64_t from, int64_t to) {
    for (int64_t c = from; c < to; ++c) {
      double sum = 0;
      for (int64_t image = 0; image < shape.batch; ++image) {
        const T* row = dy + (image * channels + c) * plane;
        for (int64_t i = 0; i < plane; ++i) sum += static_cast<double>(row[i]);
      }
      dbias[c] = static_cast<T>(sum);
    }
  });
}

Kernel prepare_data(const NodeContext& c) {
  ops::require_same_dtype(c, 0, 2);
  const ConvShape shape = read_conv(c, c.output_types[0].shape, c.shape(1));
  if (!(window_output(shape.window, shape.batch, c.shape(1)[0]) == c.shape(0))) {
    c.invalid("a gradient of another shape");
  }
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    return Kernel{"conv_data_gradient_ref", [shape](const KernelArgs& args) {
                    data_gradient<T>(shape, args.inputs[0].as<const T>(),
                                     args.inputs[1].as<const T>(), args.outputs[0].as<T>());
                  }};
  });
}

Kernel prepare_weight(const NodeContext& c) {
  ops::require_same_dtype(c, 0, 2);
  const ConvShape shape = read_conv(c, c.shape(1), c.output_types[0].shape);
  if (!(window_output(shape.window, shape.batch, c.output_types[0].shape[0]) == c.shape(0))) {
    c.invalid("a gradient of another shape");
  }
  const bool bias = c.has_output(1);
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    return Kernel{"conv_weight_gradient_ref", [shape, bias](const KernelArgs& args) {
                    if (bias) {
                      bias_gradient<T>(shape, args.inputs[0].as<const T>(),
                                       args.outputs[1].as<T>());
                    }
                    weight_gradient<T>(shape, args.inputs[0].as<const T>(),
                                       args.inputs[1].as<const T>(), args.outputs[0].as<T>());
                  }};
  });
}

constexpr OpDef kRows[] = {
    gradient_row("ConvDataGradient", infer_by_shape, prepare_data),
    gradient_row("ConvWeightGradient", infer_by_shape, prepare_weight),
};

}  // namespace

const std::span<const OpDef> kConvGradients = kRows;

}  // namespace compress
