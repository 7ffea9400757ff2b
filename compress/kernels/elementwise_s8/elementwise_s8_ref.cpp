#include <cmath>

#include "compress/kernels/elementwise_s8/elementwise_s8_kernel.h"

namespace compress::kernels {
namespace {

int32_t widen(uint8_t byte, bool is_signed) noexcept {
  return is_signed ? static_cast<int8_t>(byte) : byte;
}

// The bounds are integers, so clamping before rounding gives what clamping after it would.
uint8_t into(float value, S8Range range) noexcept {
  float clamped = value > range.lo ? value : range.lo;
  clamped = clamped < range.hi ? clamped : range.hi;
  return static_cast<uint8_t>(static_cast<int32_t>(std::nearbyint(clamped)) + range.zero_point);
}

void quantize(const float* x, int64_t count, float scale, S8Range range, uint8_t* out) noexcept {
  for (int64_t i = 0; i < count; ++i) out[i] = into(x[i] / scale, range);
}

void dequantize(const uint8_t* x, int64_t count, float scale, int32_t zero_point, bool is_signed,
                float* out) noexcept {
  for (int64_t i = 0; i < count; ++i) {
    out[i] = static_cast<float>(widen(x[i], is_signed) - zero_point) * scale;
  }
}

void add(const uint8_t* a, const uint8_t* b, int64_t count, const BinaryS8& p,
         uint8_t* out) noexcept {
  for (int64_t i = 0; i < count; ++i) {
    const float left = static_cast<float>(widen(a[i], p.a_signed) - p.a_zero) * p.a_scale;
    const float right = static_cast<float>(widen(b[i], p.b_signed) - p.b_zero) * p.b_scale;
    out[i] = into(left + right, p.range);
  }
}

void mul(const uint8_t* a, const uint8_t* b, int64_t count, const BinaryS8& p,
         uint8_t* out) noexcept {
  for (int64_t i = 0; i < count; ++i) {
    const int32_t product =
        (widen(a[i], p.a_signed) - p.a_zero) * (widen(b[i], p.b_signed) - p.b_zero);
    out[i] = into(static_cast<float>(product) * p.a_scale, p.range);
  }
}

void average(const PoolWindow& w, int32_t offset, float scale, S8Range range,
             uint8_t* out) noexcept {
  for (int64_t c = 0; c < w.channels; ++c) {
    int32_t sum = offset;
    for (int64_t y = 0; y < w.ny; ++y) {
      for (int64_t x = 0; x < w.nx; ++x) {
        sum += widen(w.first[y * w.step_y + x * w.step_x + c], w.is_signed);
      }
    }
    out[c] = into(static_cast<float>(sum) * scale, range);
  }
}

void max(const PoolWindow& w, uint8_t* out) noexcept {
  for (int64_t c = 0; c < w.channels; ++c) {
    int32_t best = w.is_signed ? -128 : 0;
    for (int64_t y = 0; y < w.ny; ++y) {
      for (int64_t x = 0; x < w.nx; ++x) {
        const int32_t value = widen(w.first[y * w.step_y + x * w.step_x + c], w.is_signed);
        best = value > best ? value : best;
      }
    }
    out[c] = static_cast<uint8_t>(best);
  }
}

void lookup(const uint8_t* x, int64_t count, const uint8_t* table, uint8_t* out) noexcept {
  for (int64_t i = 0; i < count; ++i) out[i] = table[x[i]];
}

}  // namespace

const ElementwiseS8Kernel kElementwiseS8Ref = {
    "elementwise_s8_ref", Isa::ref, quantize, dequantize, add, mul, average, max, lookup};

}  // namespace compress::kernels
