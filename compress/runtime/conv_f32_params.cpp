#include "compress/runtime/conv_f32_params.h"

#include <limits>

#include "compress/runtime/lower_internal.h"

namespace compress::runtime {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

}  // namespace

kernels::ConvF32Params conv_f32_params(const NodeContext& context, const Shape& x, const Shape& w) {
  if (w.rank() < 3) context.invalid("its weights have fewer than three dimensions");
  const Window window = window_of(context, x, w.dims().subspan(2));
  kernels::ConvF32Params params;
  params.batch = window.batch;
  params.in_h = window.in_h;
  params.in_w = window.in_w;
  params.in_channels = window.channels;
  params.out_channels = w[0];
  params.groups = context.node().int_or("group", 1);
  copy_window(window, params);
  params.pad_bottom = window.pad_bottom;
  params.pad_right = window.pad_right;
  params.clamp = {context.node().float_or(kLo, -kInfinity),
                  context.node().float_or(kHi, kInfinity)};
  if (params.groups < 1 || params.out_channels % params.groups != 0 ||
      params.in_channels % params.groups != 0 || params.in_channels / params.groups != w[1]) {
    context.invalid("its channels do not match its weights and groups");
  }
  return params;
}

}  // namespace compress::runtime
