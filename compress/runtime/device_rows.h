// What the rows of a device share.
#pragma once

#include <array>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "compress/runtime/device.h"
#include "compress/runtime/lower_internal.h"

namespace compress::runtime {

using DevicePtr = std::shared_ptr<Device>;
using Prepared = std::optional<DeviceKernel>;

template <class T>
const T* input(const DeviceArgs& args, size_t i) {
  return i < args.inputs.size() ? reinterpret_cast<const T*>(args.inputs[i]) : nullptr;
}
template <class T>
T* output(const DeviceArgs& args, size_t i = 0) {
  return reinterpret_cast<T*>(args.outputs[i]);
}

// A kernel that calls `function` of the table with `params`, after set(params, args) has put the
// pointers in. `keep` lives as long as the kernel.
template <class Params, class Set, class Keep = int>
DeviceKernel device_kernel(const DevicePtr& device, std::string name,
                           int (*cuda::Api::*function)(cuda::Context*, const Params*),
                           Params params, Set set, Keep keep = {}) {
  DeviceKernel kernel;
  kernel.name = name;
  auto shared = std::make_shared<Keep>(std::move(keep));
  kernel.run = [device, name, function, params, set, shared](const DeviceArgs& args) {
    Params call = params;
    set(call, args);
    device->check((device->api().*function)(device->context(), &call), name.c_str());
  };
  return kernel;
}

inline int32_t narrow(int64_t value) { return static_cast<int32_t>(value); }

// Copies into the fixed arrays of a call; false where there are too many.
template <size_t N>
bool copy_dims(std::span<const int64_t> from, int32_t (&to)[N]) {
  if (from.size() > N) return false;
  for (size_t i = 0; i < from.size(); ++i) to[i] = narrow(from[i]);
  return true;
}

// Strides of an operand that is broadcast to `out`, one for each of its dimensions.
std::vector<int64_t> broadcast_strides(const Shape& operand, const Shape& out);

// A constant of the node, on the device, or an empty buffer.
DeviceBuffer upload_constant(const DevicePtr& device, const Tensor* constant);
template <class T>
DeviceBuffer upload_vector(const DevicePtr& device, const std::vector<T>& values) {
  return upload(device, values.data(), values.size() * sizeof(T));
}

cuda::ConvShape conv_shape(const Window& window, int64_t out_channels, int64_t groups);
// The windows of a pool, without the scales that one of bytes has.
cuda::Pool pool_call(const NodeContext& context, cuda::PoolKind kind);

}  // namespace compress::runtime
