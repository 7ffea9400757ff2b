#include "compress/runtime/device_rows.h"

#include "compress/runtime/lower_params.h"

namespace compress::runtime {

std::vector<int64_t> broadcast_strides(const Shape& operand, const Shape& out) {
  std::vector<int64_t> strides(static_cast<size_t>(out.rank()), 0);
  int64_t stride = 1;
  for (int i = operand.rank() - 1, to = out.rank() - 1; i >= 0; --i, --to) {
    if (operand[i] != 1) strides[static_cast<size_t>(to)] = stride;
    stride *= operand[i];
  }
  return strides;
}

DeviceBuffer upload_constant(const DevicePtr& device, const Tensor* constant) {
  if (constant == nullptr) return {};
  const TensorData data = constant->read();
  return upload(device, data.view().data, data.view().bytes());
}

cuda::ConvShape conv_shape(const Window& window, int64_t out_channels, int64_t groups) {
  cuda::ConvShape shape = {};
  shape.batch = narrow(window.batch);
  shape.in_h = narrow(window.in_h);
  shape.in_w = narrow(window.in_w);
  shape.in_channels = narrow(window.channels);
  shape.out_h = narrow(window.out_h);
  shape.out_w = narrow(window.out_w);
  shape.out_channels = narrow(out_channels);
  shape.groups = narrow(groups);
  shape.kernel_h = narrow(window.kernel_h);
  shape.kernel_w = narrow(window.kernel_w);
  shape.stride_h = narrow(window.stride_h);
  shape.stride_w = narrow(window.stride_w);
  shape.dilation_h = narrow(window.dilation_h);
  shape.dilation_w = narrow(window.dilation_w);
  shape.pad_top = narrow(window.pad_top);
  shape.pad_left = narrow(window.pad_left);
  return shape;
}

cuda::Pool pool_call(const NodeContext& context, cuda::PoolKind kind) {
  const PoolWindow pool = pool_window(context);
  cuda::Pool call = {};
  call.kind = kind;
  call.shape = conv_shape(pool.window, pool.window.channels, 1);
  call.count_include_pad = pool.count_include_pad ? 1 : 0;
  call.padded_h = narrow(pool.padded_h);
  call.padded_w = narrow(pool.padded_w);
  return call;
}

}  // namespace compress::runtime
