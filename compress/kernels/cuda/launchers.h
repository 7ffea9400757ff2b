// The functions of the table: those of the device in device.cu or device_emulated.cpp, the others
// each in the file of its kernels.
#pragma once

#include "compress/kernels/cuda/cuda_api.h"

namespace compress::cuda {

int device_count();
int describe(int device, DeviceInfo*);
Context* open(int device);
void close(Context*);
const char* last_error(const Context*);
void* allocate(Context*, uint64_t bytes);
void release(Context*, void*);
int memory(Context*, uint64_t* free_bytes, uint64_t* total_bytes);
int upload(Context*, void* to, const void* from, uint64_t bytes);
int download(Context*, void* to, const void* from, uint64_t bytes);
int synchronize(Context*);

int elements(Context*, const Elements*);
int matmul_f32(Context*, const MatMulF32*);
int conv_f32(Context*, const ConvF32*);
int matmul_s8(Context*, const MatMulS8*);
int conv_s8(Context*, const ConvS8*);
int matmul_nbits(Context*, const MatMulNBits*);
int quantize(Context*, const Quantize*);
int dequantize(Context*, const Dequantize*);
int lookup(Context*, const Lookup*);
int binary_s8(Context*, const BinaryS8*);
int dynamic_quantize(Context*, const DynamicQuantize*);
int pool(Context*, const Pool*);
int rows(Context*, const Rows*);
int attention(Context*, const Attention*);
int reduce(Context*, const Reduce*);
int move(Context*, const Move*);
int fill(Context*, const Fill*);
int gather(Context*, const Gather*);

}  // namespace compress::cuda
