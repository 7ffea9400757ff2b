// What elementwise_s8.cpp and the kernels of each instruction set agree on. Plain data only, as in
// gemm_s8_kernel.h.
#pragma once

#include <cstdint>

#include "compress/kernels/isa.h"

namespace compress::kernels {

// saturate(rint(value) + zero_point): lo and hi are the bounds minus zero_point. NaN becomes lo.
struct S8Range {
  float lo, hi;
  int32_t zero_point;
};

struct BinaryS8 {
  int32_t a_zero, b_zero;
  // add: of the inputs, divided by that of the output. mul: a_scale alone, for the product.
  float a_scale, b_scale;
  bool a_signed, b_signed;
  S8Range range;
};

// ny * nx pixels of `channels` bytes, step_y and step_x bytes apart.
struct PoolWindow {
  const uint8_t* first;
  int64_t ny, nx, step_y, step_x, channels;
  bool is_signed;
};

struct ElementwiseS8Kernel {
  const char* name;
  Isa isa;
  // rint(x / scale), a division, into the range.
  void (*quantize)(const float* x, int64_t count, float scale, S8Range range,
                   uint8_t* out) noexcept;
  // float(x - zero_point) * scale.
  void (*dequantize)(const uint8_t* x, int64_t count, float scale, int32_t zero_point,
                     bool is_signed, float* out) noexcept;
  // float(a - a_zero) * a_scale + float(b - b_zero) * b_scale, three roundings, into the range.
  void (*add)(const uint8_t* a, const uint8_t* b, int64_t count, const BinaryS8& params,
              uint8_t* out) noexcept;
  // float((a - a_zero) * (b - b_zero)) * a_scale, into the range.
  void (*mul)(const uint8_t* a, const uint8_t* b, int64_t count, const BinaryS8& params,
              uint8_t* out) noexcept;
  // float(sum + offset) * scale, into the range.
  void (*average)(const PoolWindow& window, int32_t offset, float scale, S8Range range,
                  uint8_t* out) noexcept;
  void (*max)(const PoolWindow& window, uint8_t* out) noexcept;
  // out[i] = table[x[i]].
  void (*lookup)(const uint8_t* x, int64_t count, const uint8_t* table, uint8_t* out) noexcept;
};

extern const ElementwiseS8Kernel kElementwiseS8Ref;
extern const ElementwiseS8Kernel kElementwiseS8Avx2;

}  // namespace compress::kernels
