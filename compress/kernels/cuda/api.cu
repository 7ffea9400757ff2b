// What the library exports.
#include "compress/kernels/cuda/launchers.h"

namespace compress::cuda {
namespace {

Api make_table() {
  Api api = {};
  api.version = kApiVersion;
  api.bytes = sizeof(Api);
  api.device_count = device_count;
  api.describe = describe;
  api.open = open;
  api.close = close;
  api.last_error = last_error;
  api.allocate = allocate;
  api.release = release;
  api.memory = memory;
  api.upload = upload;
  api.download = download;
  api.synchronize = synchronize;
  api.elements = elements;
  api.matmul_f32 = matmul_f32;
  api.conv_f32 = conv_f32;
  api.matmul_s8 = matmul_s8;
  api.conv_s8 = conv_s8;
  api.matmul_nbits = matmul_nbits;
  api.quantize = quantize;
  api.dequantize = dequantize;
  api.lookup = lookup;
  api.binary_s8 = binary_s8;
  api.dynamic_quantize = dynamic_quantize;
  api.pool = pool;
  api.rows = rows;
  api.attention = attention;
  api.reduce = reduce;
  api.move = move;
  api.fill = fill;
  api.gather = gather;
  return api;
}

}  // namespace
}  // namespace compress::cuda

extern "C" const compress::cuda::Api* compress_cuda_api() {
  static const compress::cuda::Api api = compress::cuda::make_table();
  return &api;
}
