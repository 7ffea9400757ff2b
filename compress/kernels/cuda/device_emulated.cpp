// A device that is the CPU: what libcompress_cuda_emulated.so has in place of device.cu. Its memory
// is apart from the host's, and filled with a pattern, so that a copy that was forgotten shows.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "compress/kernels/cuda/device_code.h"
#include "compress/kernels/cuda/launchers.h"

namespace compress::cuda {

struct Context {
  uint64_t used = 0;
  char error[256] = "";
};

int block_limit(const Context&) { return 8; }
int check_launch(Context&) { return 0; }

namespace {

constexpr uint64_t kDefaultBytes = uint64_t{4} << 30;
constexpr int kUnwritten = 0xA5;  // a NaN's bytes are likely to show in sums
constexpr uint64_t kHeader = 64;

// COMPRESS_EMULATED_BYTES makes the device as small as a test wants it.
uint64_t device_bytes() {
  const char* text = std::getenv("COMPRESS_EMULATED_BYTES");
  return text != nullptr ? std::strtoull(text, nullptr, 10) : kDefaultBytes;
}

}  // namespace

int device_count() { return 1; }

int describe(int, DeviceInfo* info) {
  *info = {};
  std::snprintf(info->name, sizeof info->name, "emulated");
  info->multiprocessors = 1;
  info->memory_bytes = device_bytes();
  info->is_emulated = 1;
  return 0;
}

Context* open(int) { return new Context; }
void close(Context* context) { delete context; }
const char* last_error(const Context* context) { return context != nullptr ? context->error : ""; }

void* allocate(Context* context, uint64_t bytes) {
  if (bytes > device_bytes() || context->used + bytes > device_bytes()) {
    std::snprintf(context->error, sizeof context->error, "out of memory");
    return nullptr;
  }
  auto* block = static_cast<char*>(std::aligned_alloc(kHeader, (bytes / kHeader + 2) * kHeader));
  if (block == nullptr) return nullptr;
  std::memcpy(block, &bytes, sizeof bytes);
  std::memset(block + kHeader, kUnwritten, bytes);
  context->used += bytes;
  return block + kHeader;
}

void release(Context* context, void* memory) {
  char* block = static_cast<char*>(memory) - kHeader;
  uint64_t bytes;
  std::memcpy(&bytes, block, sizeof bytes);
  context->used -= bytes;
  std::free(block);
}

int memory(Context* context, uint64_t* free_bytes, uint64_t* total_bytes) {
  *total_bytes = device_bytes();
  *free_bytes = device_bytes() - context->used;
  return 0;
}

int upload(Context*, void* to, const void* from, uint64_t bytes) {
  std::memcpy(to, from, bytes);
  return 0;
}

int download(Context* context, void* to, const void* from, uint64_t bytes) {
  return upload(context, to, from, bytes);
}

int synchronize(Context*) { return 0; }

}  // namespace compress::cuda
