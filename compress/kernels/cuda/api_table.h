// The kernels' half of the table; device.cu and device_emulated.cpp add the other half.
#pragma once

#include "compress/kernels/cuda/launchers.h"

namespace compress::cuda {

inline Api kernel_table() {
  Api api = {};
  api.version = kApiVersion;
  api.bytes = sizeof(Api);
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

}  // namespace compress::cuda
