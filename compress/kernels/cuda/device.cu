// Devices, memory and the stream, by the CUDA runtime.
#include <cstdio>
#include <cstring>
#include <new>

#include "compress/kernels/cuda/device_code.h"
#include "compress/kernels/cuda/launchers.h"

namespace compress::cuda {

struct Context {
  int device = 0;
  int blocks = 0;  // that fill it
  cudaStream_t stream = nullptr;
  char error[256] = "";
};

int block_limit(const Context& context) { return context.blocks; }
cudaStream_t stream_of(const Context& context) { return context.stream; }

namespace {

constexpr int kBlocksPerMultiprocessor = 8;  // of kBlock threads: what sm_80 and later hold

char open_error[256] = "";

int noted(char (&text)[256], cudaError_t status) {
  if (status == cudaSuccess) return 0;
  std::snprintf(text, sizeof text, "%s", cudaGetErrorString(status));
  return static_cast<int>(status);
}

}  // namespace

int device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

int describe(int device, DeviceInfo* info) {
  cudaDeviceProp properties;
  if (const int status = noted(open_error, cudaGetDeviceProperties(&properties, device))) {
    return status;
  }
  *info = {};
  std::snprintf(info->name, sizeof info->name, "%.*s", int{sizeof info->name - 1}, properties.name);
  info->major = properties.major;
  info->minor = properties.minor;
  info->multiprocessors = properties.multiProcessorCount;
  info->memory_bytes = properties.totalGlobalMem;
  return noted(open_error, cudaDriverGetVersion(&info->driver));
}

namespace {

// Freed memory stays with the pool, so that a run after the first asks the driver for nothing.
int keep_pool(int device) {
  cudaMemPool_t pool;
  if (const int status = noted(open_error, cudaDeviceGetDefaultMemPool(&pool, device))) {
    return status;
  }
  uint64_t never = UINT64_MAX;
  return noted(open_error, cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &never));
}

}  // namespace

Context* open(int device) {
  DeviceInfo info;
  if (describe(device, &info) != 0 || noted(open_error, cudaSetDevice(device)) != 0 ||
      keep_pool(device) != 0) {
    return nullptr;
  }
  auto* context = new (std::nothrow) Context;
  if (context == nullptr) return nullptr;
  context->device = device;
  context->blocks = info.multiprocessors * kBlocksPerMultiprocessor;
  if (noted(open_error, cudaStreamCreateWithFlags(&context->stream, cudaStreamNonBlocking)) != 0) {
    delete context;
    return nullptr;
  }
  return context;
}

void close(Context* context) {
  cudaStreamSynchronize(context->stream);
  cudaStreamDestroy(context->stream);
  delete context;
}

const char* last_error(const Context* context) {
  return context != nullptr ? context->error : open_error;
}

namespace {

// The calling thread may be another than the one that opened the context.
int enter(Context* context) { return noted(context->error, cudaSetDevice(context->device)); }

}  // namespace

void* allocate(Context* context, uint64_t bytes) {
  void* memory = nullptr;
  if (enter(context) != 0) return nullptr;
  if (noted(context->error, cudaMallocAsync(&memory, bytes > 0 ? bytes : 1, context->stream)) !=
      0) {
    cudaGetLastError();  // a failed allocation is no error of the next launch
    return nullptr;
  }
  return memory;
}

void release(Context* context, void* memory) { cudaFreeAsync(memory, context->stream); }

int memory(Context* context, uint64_t* free_bytes, uint64_t* total_bytes) {
  size_t free_now = 0, total = 0;
  if (const int status = enter(context)) return status;
  const int status = noted(context->error, cudaMemGetInfo(&free_now, &total));
  *free_bytes = free_now;
  *total_bytes = total;
  return status;
}

int upload(Context* context, void* to, const void* from, uint64_t bytes) {
  if (const int status = enter(context)) return status;
  return noted(context->error,
               cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, context->stream));
}

int synchronize(Context* context) {
  return noted(context->error, cudaStreamSynchronize(context->stream));
}

int download(Context* context, void* to, const void* from, uint64_t bytes) {
  if (const int status = enter(context)) return status;
  if (const int status =
          noted(context->error,
                cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, context->stream))) {
    return status;
  }
  return synchronize(context);
}

int check_launch(Context& context) { return noted(context.error, cudaGetLastError()); }

}  // namespace compress::cuda
