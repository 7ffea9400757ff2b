#include <immintrin.h>

#include "compress/kernels/float_rows/elementwise_f32_kernel.h"
#include "compress/kernels/float_rows/vector_math_avx2.h"

namespace compress::kernels {
namespace {

__m256 clip8(__m256 x, __m256 lo, __m256 hi) noexcept {
  // NaN stays: max and min return their second operand then.
  return _mm256_min_ps(hi, _mm256_max_ps(lo, x));
}

template <class Function>
void each(const float* a, float* out, int64_t count, Function function) noexcept {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) _mm256_storeu_ps(out + i, function(_mm256_loadu_ps(a + i)));
  if (i == count) return;
  alignas(32) float rest[8] = {};
  for (int64_t k = i; k < count; ++k) rest[k - i] = a[k];
  _mm256_store_ps(rest, function(_mm256_load_ps(rest)));
  for (int64_t k = i; k < count; ++k) out[k] = rest[k - i];
}

template <class Function>
void each_pair(const float* a, const float* b, float* out, int64_t count,
               Function function) noexcept {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    _mm256_storeu_ps(out + i, function(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i)));
  }
  if (i == count) return;
  alignas(32) float left[8] = {};
  alignas(32) float right[8] = {};
  for (int64_t k = i; k < count; ++k) {
    left[k - i] = a[k];
    right[k - i] = b[k];
  }
  _mm256_store_ps(left, function(_mm256_load_ps(left), _mm256_load_ps(right)));
  for (int64_t k = i; k < count; ++k) out[k] = left[k - i];
}

__m256 hard_swish8(__m256 x) noexcept {
  const __m256 gate = _mm256_fmadd_ps(x, number(1.0f / 6), number(0.5f));
  return _mm256_mul_ps(x, clip8(gate, _mm256_setzero_ps(), number(1.0f)));
}

__m256 gelu8(__m256 x) noexcept {
  const __m256 half = _mm256_mul_ps(x, number(0.5f));
  return _mm256_mul_ps(half,
                       _mm256_add_ps(number(1.0f), erf8(_mm256_mul_ps(x, number(0.70710678f)))));
}

__m256 gelu_tanh8(__m256 x) noexcept {
  const __m256 cube = _mm256_mul_ps(_mm256_mul_ps(x, x), x);
  const __m256 inner =
      _mm256_mul_ps(number(0.79788456f), _mm256_fmadd_ps(cube, number(0.044715f), x));
  return _mm256_mul_ps(_mm256_mul_ps(x, number(0.5f)), _mm256_add_ps(number(1.0f), tanh8(inner)));
}

// NaN of either operand stays.
__m256 maximum8(__m256 a, __m256 b) noexcept {
  return _mm256_blendv_ps(_mm256_max_ps(a, b), a, _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
}
__m256 minimum8(__m256 a, __m256 b) noexcept {
  return _mm256_blendv_ps(_mm256_min_ps(a, b), a, _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
}

void apply_two(ElementOp op, const float* a, const float* b, float* out, int64_t count) noexcept {
  switch (op) {
    case ElementOp::add:
      return each_pair(a, b, out, count, [](__m256 x, __m256 y) { return _mm256_add_ps(x, y); });
    case ElementOp::subtract:
      return each_pair(a, b, out, count, [](__m256 x, __m256 y) { return _mm256_sub_ps(x, y); });
    case ElementOp::multiply:
      return each_pair(a, b, out, count, [](__m256 x, __m256 y) { return _mm256_mul_ps(x, y); });
    case ElementOp::divide:
      return each_pair(a, b, out, count, [](__m256 x, __m256 y) { return _mm256_div_ps(x, y); });
    case ElementOp::maximum:
      return each_pair(a, b, out, count, [](__m256 x, __m256 y) { return maximum8(x, y); });
    default:
      return each_pair(a, b, out, count, [](__m256 x, __m256 y) { return minimum8(x, y); });
  }
}

void apply(ElementOp op, float p_number, float q_number, const float* a, const float* b, float* out,
           int64_t count) noexcept {
  if (b != nullptr) return apply_two(op, a, b, out, count);
  const __m256 p = number(p_number), q = number(q_number);
  const __m256 sign = number(-0.0f), zero = _mm256_setzero_ps(), one = number(1.0f);
  switch (op) {
    case ElementOp::negate:
      return each(a, out, count, [=](__m256 x) { return _mm256_xor_ps(x, sign); });
    case ElementOp::absolute:
      return each(a, out, count, [=](__m256 x) { return _mm256_andnot_ps(sign, x); });
    case ElementOp::square:
      return each(a, out, count, [=](__m256 x) { return _mm256_mul_ps(x, x); });
    case ElementOp::square_root:
      return each(a, out, count, [=](__m256 x) { return _mm256_sqrt_ps(x); });
    case ElementOp::reciprocal:
      return each(a, out, count, [=](__m256 x) { return _mm256_div_ps(one, x); });
    case ElementOp::exponential:
      return each(a, out, count, [=](__m256 x) { return exp8(x); });
    case ElementOp::error_function:
      return each(a, out, count, [=](__m256 x) { return erf8(x); });
    case ElementOp::tangent_h:
      return each(a, out, count, [=](__m256 x) { return tanh8(x); });
    case ElementOp::sigmoid:
      return each(a, out, count, [=](__m256 x) { return sigmoid8(x); });
    case ElementOp::clip:
      return each(a, out, count, [=](__m256 x) { return clip8(x, p, q); });
    case ElementOp::leaky:
      return each(a, out, count, [=](__m256 x) {
        return _mm256_blendv_ps(x, _mm256_mul_ps(x, p), _mm256_cmp_ps(x, zero, _CMP_LT_OQ));
      });
    case ElementOp::hard_sigmoid:
      return each(a, out, count,
                  [=](__m256 x) { return clip8(_mm256_fmadd_ps(p, x, q), zero, one); });
    case ElementOp::hard_swish:
      return each(a, out, count, [=](__m256 x) { return hard_swish8(x); });
    case ElementOp::silu:
      return each(a, out, count,
                  [=](__m256 x) { return _mm256_mul_ps(x, sigmoid8(_mm256_mul_ps(p, x))); });
    case ElementOp::gelu:
      return each(a, out, count, [=](__m256 x) { return gelu8(x); });
    case ElementOp::gelu_tanh:
      return each(a, out, count, [=](__m256 x) { return gelu_tanh8(x); });
    case ElementOp::add_number:
      return each(a, out, count, [=](__m256 x) { return _mm256_add_ps(x, p); });
    case ElementOp::from_number:
      return each(a, out, count, [=](__m256 x) { return _mm256_sub_ps(p, x); });
    case ElementOp::scale:
      return each(a, out, count, [=](__m256 x) { return _mm256_mul_ps(x, p); });
    case ElementOp::divide_by:
      return each(a, out, count, [=](__m256 x) { return _mm256_div_ps(x, p); });
    default:
      return each(a, out, count, [=](__m256 x) { return _mm256_div_ps(p, x); });
  }
}

}  // namespace

const ElementwiseF32Kernel kElementwiseF32Avx2{"avx2", Isa::avx2, apply};

}  // namespace compress::kernels
