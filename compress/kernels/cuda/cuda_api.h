// The boundary to libcompress_cuda.so: plain structs and one table of functions. Nothing of the C++
// library crosses it, no exceptions either: every call gives 0, or another number and a text by
// last_error(). The library is built by nvcc from this folder alone.
//
// Pointers named in structs are on the device. Tensors have fewer than kMaxElements elements: the
// kernels' index arithmetic is in 32 bits, since a division of 64 takes a device some forty
// instructions. Images are channels-last. Integer results are those of the CPU's reference kernels,
// bit by bit; float sums run in another order.
#pragma once

#include <cstdint>

namespace compress::cuda {

// Raised with every change of what is below: the program and the library then do not match, and
// the program runs on the CPU.
inline constexpr uint32_t kApiVersion = 1;
inline constexpr int kMaxDims = 8;
inline constexpr int64_t kMaxElements = int64_t{1} << 30;

struct Context;  // one device, one stream, in whose order everything happens

struct DeviceInfo {
  char name[128];
  int32_t major, minor;  // compute capability
  int32_t multiprocessors;
  int32_t driver;  // CUDA version of the driver, 12040 for 12.4
  uint64_t memory_bytes;
  int32_t is_emulated;  // 1: the kernels run on the CPU, thread by thread (tests)
};

// --- Float work, element by element --------------------------------------------------------------

// One step of kernels::ElementProgram; `op` counts as kernels::ElementOp does.
struct ElementStep {
  int32_t op, a, b, to;
  float p, q;
};

inline constexpr int kMaxElementInputs = 8;
inline constexpr int kMaxElementSteps = 24;
inline constexpr int kMaxElementRegisters = 8;

// out[i] = program(inputs). An input is read at the sum of its strides, one for each of `dims`.
struct Elements {
  int32_t inputs, steps, rank;
  ElementStep step[kMaxElementSteps];
  int32_t count;
  int32_t dims[kMaxDims];
  int32_t strides[kMaxElementInputs][kMaxDims];
  const float* input[kMaxElementInputs];
  float* out;
};

// What follows a float sum: y = alpha * sum + bias[column] + residual, clamped, then one step.
struct AfterSum {
  const float* bias;      // null: none
  const float* residual;  // of the output's shape; null: none
  float alpha, lo, hi;
  int32_t activation;  // kernels::ElementOp; -1: none
  float p, q;
};

// --- Products and convolutions -------------------------------------------------------------------

// out[batch][m][n] = after(A B). Strides in elements; out is contiguous.
struct MatMulF32 {
  int32_t m, n, k;
  const float *a, *b;
  float* out;
  int32_t a_row, a_column, b_row, b_column;
  int32_t batch_rank;
  int32_t batch_dims[kMaxDims], a_batch[kMaxDims], b_batch[kMaxDims];
  AfterSum after;
};

struct ConvShape {
  int32_t batch, in_h, in_w, in_channels, out_h, out_w, out_channels, groups;
  int32_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
};

// Weights [out][kernel_h][kernel_w][in / groups].
struct ConvF32 {
  ConvShape shape;
  const float *x, *w;
  float* out;
  AfterSum after;
};

// What follows an exact int32 sum of signed bytes (unsigned ones are moved by -128): the sum of
// (x - x_zero) * w is sum + (shift - x_zero) * weight_sum[n], shift being 128 where x is unsigned.
struct AfterSumS8 {
  const int32_t* weight_sum;  // one a channel
  const int32_t* bias;        // null: none
  const float* scale;         // one a channel
  const float* float_bias;    // float32 output only; null: none
  const float* x_scale;       // null: 1; one number, known at run time
  const uint8_t* x_zero;      // null: x_zero_point
  int32_t x_zero_point, x_signed;
  int32_t is_float;  // 1: float(acc) * scale + float_bias
  float lo, hi;      // else bounds minus y_zero_point
  int32_t y_zero_point;
};

// Weights [n][k] and [out][kernel_h][kernel_w][in / groups], signed; each row of in / groups (of k)
// bytes is padded with zeros to a multiple of 4.
struct MatMulS8 {
  int32_t m, n, k;
  const uint8_t* a;
  const int8_t* w;
  void* out;
  AfterSumS8 after;
};

struct ConvS8 {
  ConvShape shape;
  const uint8_t* x;
  const int8_t* w;
  void* out;
  AfterSumS8 after;
};

// com.microsoft MatMulNBits: codes [n][blocks][block_size * bits / 8], low bits first. x is float
// and stays so.
struct MatMulNBits {
  int32_t m, n, k, blocks;
  int32_t block_size, bits;
  const float* x;
  const uint8_t* codes;
  const float* scales;         // [n][blocks]
  const uint8_t* zero_points;  // packed as codes, [n][ceil(blocks * bits / 8)]; null: the middle
  const float* bias;
  float* out;
};

// --- Bytes ---------------------------------------------------------------------------------------

struct Quantize {  // saturate(rint(x / scale) + zero_point), lo and hi minus zero_point
  int32_t count;
  const float* x;
  uint8_t* out;
  float scale, lo, hi;
  int32_t zero_point;
};

struct Dequantize {
  int32_t count;
  const uint8_t* x;
  float* out;
  float scale;
  int32_t zero_point, is_signed;
};

struct Lookup {
  int32_t count;
  const uint8_t* x;
  const uint8_t* table;  // 256
  uint8_t* out;
};

// kernels::BinaryS8, with strides as in Elements.
struct BinaryS8 {
  int32_t multiplies, rank;
  int32_t count;
  int32_t dims[kMaxDims], a_strides[kMaxDims], b_strides[kMaxDims];
  const uint8_t *a, *b;
  uint8_t* out;
  int32_t a_signed, b_signed, a_zero, b_zero;
  float a_scale, b_scale, lo, hi;
  int32_t y_zero_point;
};

// x -> bytes with one scale and zero point, found on the way. `partial` has 2 * kPartials floats.
inline constexpr int kPartials = 256;
struct DynamicQuantize {
  int32_t count;
  const float* x;
  uint8_t* out;
  float* scale;
  uint8_t* zero_point;
  float* partial;
};

// --- Windows -------------------------------------------------------------------------------------

enum class PoolKind : int32_t { max, average, max_s8, average_s8 };
struct Pool {
  PoolKind kind;
  ConvShape shape;  // out_channels is in_channels
  int32_t count_include_pad;
  int32_t padded_h, padded_w;
  const void* x;
  void* out;
  // of bytes
  int32_t x_signed, x_zero_point, y_zero_point;
  float x_scale, y_scale, lo, hi;
};

// --- Rows ----------------------------------------------------------------------------------------

enum class RowKind : int32_t { softmax, layer_norm, rms_norm };
struct Rows {
  RowKind kind;
  int32_t rows, count;
  const float *x, *gain, *bias;
  float epsilon;
  float* out;
};

// kernels::AttentionF32: strides of batch, head, row.
struct Attention {
  int32_t batch, heads, queries, keys, size, value_size;
  float scale;
  int32_t q[3], k[3], v[3], o[3], mask[3];
  int32_t mask_repeats;
  const float *query, *key, *value, *mask_data;
  float* out;
};

// out[o] = what is left of the inputs at the sum of o's strides plus each of the reduced ones.
enum class ReduceKind : int32_t { sum, mean, max, min };
struct Reduce {
  ReduceKind kind;
  int32_t outputs, reduced;
  int32_t out_rank, reduced_rank;
  int32_t out_dims[kMaxDims], out_strides[kMaxDims];
  int32_t reduced_dims[kMaxDims], reduced_strides[kMaxDims];
  const float* x;
  float* out;
};

// --- Moves ---------------------------------------------------------------------------------------

// to[sum of to_strides] = from[sum of from_strides], over all of `dims`; strides in elements.
struct Move {
  int32_t element_bytes, rank;  // 1, 2, 4 or 8
  int32_t count;
  int32_t dims[kMaxDims], from_strides[kMaxDims], to_strides[kMaxDims];
  const void* from;
  void* to;
};

// to[i] = the first element of `value`.
struct Fill {
  int32_t element_bytes;
  int32_t count;
  uint64_t value;
  void* to;
};

// out[outer][index][inner] = x[outer][indices[index]][inner]; negative indices count from the end.
// REQUIRES that they are in range.
struct Gather {
  int32_t element_bytes, indices_are_64;
  int32_t outer, axis, inner, index_count;
  const void *x, *indices;
  void* out;
};

struct Api {
  uint32_t version;
  uint32_t bytes;  // of this struct
  int (*device_count)();
  int (*describe)(int device, DeviceInfo* info);
  Context* (*open)(int device);  // null: failed
  void (*close)(Context*);
  const char* (*last_error)(const Context*);  // of the last call that failed; null context: of open

  // Stream-ordered. allocate: null where memory is short.
  void* (*allocate)(Context*, uint64_t bytes);
  void (*release)(Context*, void*);
  int (*memory)(Context*, uint64_t* free_bytes, uint64_t* total_bytes);
  int (*upload)(Context*, void* to, const void* from, uint64_t bytes);
  int (*download)(Context*, void* to, const void* from, uint64_t bytes);  // has arrived on return
  int (*synchronize)(Context*);

  int (*elements)(Context*, const Elements*);
  int (*matmul_f32)(Context*, const MatMulF32*);
  int (*conv_f32)(Context*, const ConvF32*);
  int (*matmul_s8)(Context*, const MatMulS8*);
  int (*conv_s8)(Context*, const ConvS8*);
  int (*matmul_nbits)(Context*, const MatMulNBits*);
  int (*quantize)(Context*, const Quantize*);
  int (*dequantize)(Context*, const Dequantize*);
  int (*lookup)(Context*, const Lookup*);
  int (*binary_s8)(Context*, const BinaryS8*);
  int (*dynamic_quantize)(Context*, const DynamicQuantize*);
  int (*pool)(Context*, const Pool*);
  int (*rows)(Context*, const Rows*);
  int (*attention)(Context*, const Attention*);
  int (*reduce)(Context*, const Reduce*);
  int (*move)(Context*, const Move*);
  int (*fill)(Context*, const Fill*);
  int (*gather)(Context*, const Gather*);
};

}  // namespace compress::cuda

// What the library exports.
extern "C" const compress::cuda::Api* compress_cuda_api();
