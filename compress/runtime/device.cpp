#include "compress/runtime/device.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "compress/error.h"

namespace compress {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLibrary = "libcompress_cuda.so";

std::vector<std::string> library_paths() {
  if (const char* given = std::getenv("COMPRESS_CUDA_LIBRARY")) return {given};
  std::vector<std::string> paths;
  std::error_code ignored;
  const fs::path program = fs::read_symlink("/proc/self/exe", ignored);
  if (!program.empty()) {
    for (const fs::path& folder : {program.parent_path(), program.parent_path() / "../lib"}) {
      if (fs::exists(folder / kLibrary, ignored)) paths.push_back((folder / kLibrary).string());
    }
  }
  paths.emplace_back(kLibrary);
  return paths;
}

// The table, or fails. The library stays loaded.
const cuda::Api& load_library() {
  std::string why;
  for (const std::string& path : library_paths()) {
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      why = dlerror();
      continue;
    }
    using Entry = const cuda::Api* (*)();
    const auto entry = reinterpret_cast<Entry>(dlsym(library, "compress_cuda_api"));
    const cuda::Api* api = entry != nullptr ? entry() : nullptr;
    if (api == nullptr || api->version != cuda::kApiVersion || api->bytes != sizeof(cuda::Api)) {
      fail(ErrorCode::unsupported, "{} belongs to another version of this program", path);
    }
    return *api;
  }
  fail(ErrorCode::unsupported, "no CUDA device: {}", why);
}

}  // namespace

std::shared_ptr<Device> Device::open() {
  const cuda::Api& api = load_library();
  if (api.device_count() == 0) {
    fail(ErrorCode::unsupported, "no CUDA device: the driver shows none");
  }
  cuda::DeviceInfo info;
  cuda::Context* context = api.describe(0, &info) == 0 ? api.open(0) : nullptr;
  if (context == nullptr) {
    fail(ErrorCode::unsupported, "no CUDA device: {}", api.last_error(nullptr));
  }
  return std::shared_ptr<Device>(new Device(&api, context, info));
}

std::shared_ptr<Device> Device::cuda() {
  static std::mutex mutex;
  static std::shared_ptr<Device> device;
  const std::lock_guard lock(mutex);
  if (device == nullptr) device = open();
  return device;
}

Device::~Device() { api_->close(context_); }

void Device::check(int status, const char* what) const {
  if (status != 0) fail(ErrorCode::internal, "{}: {}", what, api_->last_error(context_));
}

DeviceBuffer::DeviceBuffer(std::shared_ptr<Device> device, uint64_t bytes)
    : device_(std::move(device)), bytes_(bytes) {
  const cuda::Api& api = device_->api();
  data_ = static_cast<std::byte*>(api.allocate(device_->context(), bytes));
  if (data_ != nullptr) return;
  const std::string why = api.last_error(device_->context());
  uint64_t available = 0, total = 0;
  api.memory(device_->context(), &available, &total);
  fail(ErrorCode::unsupported,
       "{}: {}; {} bytes were needed, {} of {} are free; take a smaller --batch or --device cpu",
       device_->info().name, why, bytes, available, total);
}

DeviceBuffer& DeviceBuffer::operator=(DeviceBuffer&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

DeviceBuffer::~DeviceBuffer() {
  if (data_ != nullptr) device_->api().release(device_->context(), data_);
}

DeviceBuffer upload(const std::shared_ptr<Device>& device, const void* data, uint64_t bytes) {
  DeviceBuffer buffer(device, bytes);
  device->check(device->api().upload(device->context(), buffer.data(), data, bytes), "upload");
  return buffer;
}

namespace runtime {

std::optional<DeviceKernel> prepare_on_device(const std::shared_ptr<Device>& device,
                                              const NodeContext& context) {
  const Node& node = context.node();
  for (const auto* types : {&context.input_types, &context.output_types}) {
    for (const TypeInfo& type : *types) {
      if (type.is_concrete() && type.shape.count() >= cuda::kMaxElements) return std::nullopt;
    }
  }
  for (const auto rows : {kDeviceFloatRows, kDeviceIntegerRows, kDeviceMoveRows}) {
    const auto row = std::find_if(rows.begin(), rows.end(), [&](const DeviceRow& r) {
      return r.domain == node.domain && r.name == node.op_type;
    });
    if (row == rows.end()) continue;
    return row->prepare(device, context);
  }
  return std::nullopt;
}

}  // namespace runtime
}  // namespace compress
