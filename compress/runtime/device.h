// A CUDA device to run on, by way of libcompress_cuda.so, and nodes prepared for it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "compress/kernels/cuda/cuda_api.h"
#include "compress/ops/op.h"

namespace compress {

class Device : public std::enable_shared_from_this<Device> {
 public:
  // The first CUDA device, opened once a process. Fails (unsupported) with why there is none: no
  // library, another version of it, no driver, no device. The library is COMPRESS_CUDA_LIBRARY, or
  // libcompress_cuda.so beside the program, in ../lib from there, or where the system finds it.
  static std::shared_ptr<Device> cuda();

  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  ~Device();

  const cuda::DeviceInfo& info() const { return info_; }
  const cuda::Api& api() const { return *api_; }
  cuda::Context* context() const { return context_; }
  // Fails (internal) with the device's own words.
  void check(int status, const char* what) const;

 private:
  Device(const cuda::Api* api, cuda::Context* context, const cuda::DeviceInfo& info)
      : api_(api), context_(context), info_(info) {}
  static std::shared_ptr<Device> open();

  const cuda::Api* api_;
  cuda::Context* context_;
  cuda::DeviceInfo info_;
};

// Memory on a device.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  // Fails (unsupported) with what was needed and what was free.
  DeviceBuffer(std::shared_ptr<Device> device, uint64_t bytes);
  DeviceBuffer(DeviceBuffer&& other) noexcept { *this = std::move(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept;
  ~DeviceBuffer();

  std::byte* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }

 private:
  std::shared_ptr<Device> device_;
  std::byte* data_ = nullptr;
  uint64_t bytes_ = 0;
};

// A buffer with a copy of host memory.
DeviceBuffer upload(const std::shared_ptr<Device>& device, const void* data, uint64_t bytes);

namespace runtime {

// Pointers on the device; null where an operand is omitted or held by the kernel.
struct DeviceArgs {
  std::span<std::byte* const> inputs;
  std::span<std::byte* const> outputs;
  std::byte* workspace = nullptr;
};

struct DeviceKernel {
  std::string name;
  std::function<void(const DeviceArgs&)> run;
  size_t workspace_bytes = 0;
  uint32_t held_inputs = 0;  // as in Kernel
};

// The kernel of a node; nothing where the CPU is to run it. REQUIRES concrete types.
std::optional<DeviceKernel> prepare_on_device(const std::shared_ptr<Device>& device,
                                              const NodeContext& context);

// A node that a device runs.
struct DeviceRow {
  std::string_view domain;  // internal or ONNX's own
  std::string_view name;
  std::optional<DeviceKernel> (*prepare)(const std::shared_ptr<Device>& device,
                                         const NodeContext& context);
};

extern const std::span<const DeviceRow> kDeviceFloatRows;    // device_rows_float.cpp
extern const std::span<const DeviceRow> kDeviceIntegerRows;  // device_rows_s8.cpp
extern const std::span<const DeviceRow> kDeviceMoveRows;     // device_rows_move.cpp

}  // namespace runtime
}  // namespace compress
