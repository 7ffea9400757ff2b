// Elements of any type, by their size, from one place to another.
#include "compress/kernels/cuda/device_code.h"
#include "compress/kernels/cuda/launchers.h"

namespace compress::cuda {
namespace {

template <class T>
__global__ void __launch_bounds__(kBlock) move_kernel(const Move p) {
  for (int32_t i = thread_index(); i < p.count; i += thread_total()) {
    static_cast<T*>(p.to)[place_of(i, p.rank, p.dims, p.to_strides)] =
        static_cast<const T*>(p.from)[place_of(i, p.rank, p.dims, p.from_strides)];
  }
}

template <class T>
__global__ void __launch_bounds__(kBlock) fill_kernel(const Fill p) {
  for (int32_t i = thread_index(); i < p.count; i += thread_total()) {
    static_cast<T*>(p.to)[i] = static_cast<T>(p.value);
  }
}

template <class T>
__global__ void __launch_bounds__(kBlock) gather_kernel(const Gather p) {
  const int32_t count = p.outer * p.index_count * p.inner;
  for (int32_t i = thread_index(); i < count; i += thread_total()) {
    const int32_t inner = i % p.inner, rest = i / p.inner;
    const int32_t which = rest % p.index_count, outer = rest / p.index_count;
    int64_t index = p.indices_are_64 != 0 ? static_cast<const int64_t*>(p.indices)[which]
                                          : static_cast<const int32_t*>(p.indices)[which];
    if (index < 0) index += p.axis;
    static_cast<T*>(p.out)[i] = static_cast<const T*>(
        p.x)[(outer * p.axis + static_cast<int32_t>(index)) * p.inner + inner];
  }
}

template <class Params>
struct Variants {
  void (*bytes1)(Params);
  void (*bytes2)(Params);
  void (*bytes4)(Params);
  void (*bytes8)(Params);
};

template <class Params>
int launch_sized(Context* context, const Variants<Params>& kernels, const Params* params,
                 int32_t count) {
  if (count == 0) return 0;
  void (*kernel)(Params) = kernels.bytes8;
  if (params->element_bytes == 1) kernel = kernels.bytes1;
  if (params->element_bytes == 2) kernel = kernels.bytes2;
  if (params->element_bytes == 4) kernel = kernels.bytes4;
  return launch(*context, kernel, dim3(blocks_for(*context, count)), dim3(kBlock), *params);
}

}  // namespace

int move(Context* context, const Move* p) {
  const Variants<Move> kernels = {move_kernel<uint8_t>, move_kernel<uint16_t>,
                                  move_kernel<uint32_t>, move_kernel<uint64_t>};
  return launch_sized(context, kernels, p, p->count);
}

int fill(Context* context, const Fill* p) {
  const Variants<Fill> kernels = {fill_kernel<uint8_t>, fill_kernel<uint16_t>,
                                  fill_kernel<uint32_t>, fill_kernel<uint64_t>};
  return launch_sized(context, kernels, p, p->count);
}

int gather(Context* context, const Gather* p) {
  const Variants<Gather> kernels = {gather_kernel<uint8_t>, gather_kernel<uint16_t>,
                                    gather_kernel<uint32_t>, gather_kernel<uint64_t>};
  return launch_sized(context, kernels, p, p->outer * p->index_count * p->inner);
}

}  // namespace compress::cuda
