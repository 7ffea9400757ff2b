// Sums run in 32 lanes that are joined in a fixed order: with rows of a few thousand elements their
// error is that of a few dozen additions.
#include <immintrin.h>

#include "compress/kernels/float_rows/rows_f32_kernel.h"
#include "compress/kernels/float_rows/vector_math_avx2.h"

namespace compress::kernels {
namespace {

// The elements from `at` on as a whole register; what lies beyond `count` is `fill`.
__m256 load_rest(const float* x, int64_t at, int64_t count, float fill) noexcept {
  static constexpr int32_t kMasks[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
  const int64_t left = count - at < 8 ? count - at : 8;
  const __m256i mask = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kMasks + 8 - left));
  return _mm256_blendv_ps(number(fill), _mm256_maskload_ps(x + at, mask),
                          _mm256_castsi256_ps(mask));
}

void store_rest(__m256 value, float* out, int64_t at, int64_t count) noexcept {
  alignas(32) float rest[8];
  _mm256_store_ps(rest, value);
  for (int64_t k = at; k < count; ++k) out[k] = rest[k - at];
}

float sum_of(__m256 v) noexcept {
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}

float most_of(__m256 v) noexcept {
  alignas(32) float lanes[8];
  _mm256_store_ps(lanes, v);
  float most = lanes[0];
  for (int i = 1; i < 8; ++i) most = lanes[i] > most || lanes[i] != lanes[i] ? lanes[i] : most;
  return most;
}

// The sum of f(x) over a row; f(fill) is 0.
template <class Function>
float reduce(const float* x, int64_t count, float fill, Function f) noexcept {
  __m256 sum[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(),
                   _mm256_setzero_ps()};
  int64_t i = 0;
  for (; i + 32 <= count; i += 32) {
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      sum[k] = _mm256_add_ps(sum[k], f(_mm256_loadu_ps(x + i + 8 * k)));
    }
  }
  for (; i + 8 <= count; i += 8) sum[0] = _mm256_add_ps(sum[0], f(_mm256_loadu_ps(x + i)));
  if (i < count) sum[1] = _mm256_add_ps(sum[1], f(load_rest(x, i, count, fill)));
  return sum_of(_mm256_add_ps(_mm256_add_ps(sum[0], sum[1]), _mm256_add_ps(sum[2], sum[3])));
}

void softmax(const float* x, const float* mask, float scale, int64_t count, float* out) noexcept {
  const __m256 factor = number(scale);
  const float kLeast = -__builtin_inff();
  __m256 most = number(kLeast);
  int64_t i = 0;
  const auto take = [&](__m256 value) {
    // A NaN in `most` stays: it is the second operand.
    most = _mm256_blendv_ps(_mm256_max_ps(value, most), value,
                            _mm256_cmp_ps(value, value, _CMP_UNORD_Q));
  };
  for (; i + 8 <= count; i += 8) {
    __m256 value = _mm256_mul_ps(_mm256_loadu_ps(x + i), factor);
    if (mask != nullptr) value = _mm256_add_ps(value, _mm256_loadu_ps(mask + i));
    _mm256_storeu_ps(out + i, value);
    take(value);
  }
  if (i < count) {
    __m256 value = _mm256_mul_ps(load_rest(x, i, count, 0), factor);
    if (mask != nullptr) value = _mm256_add_ps(value, load_rest(mask, i, count, 0));
    store_rest(value, out, i, count);
    take(load_rest(out, i, count, kLeast));
  }
  const __m256 top = number(most_of(most));
  __m256 sum = _mm256_setzero_ps(), more = _mm256_setzero_ps();
  for (i = 0; i + 16 <= count; i += 16) {
    const __m256 a = exp8(_mm256_sub_ps(_mm256_loadu_ps(out + i), top));
    const __m256 b = exp8(_mm256_sub_ps(_mm256_loadu_ps(out + i + 8), top));
    _mm256_storeu_ps(out + i, a);
    _mm256_storeu_ps(out + i + 8, b);
    sum = _mm256_add_ps(sum, a);
    more = _mm256_add_ps(more, b);
  }
  for (; i < count; i += 8) {
    const __m256 a = exp8(_mm256_sub_ps(load_rest(out, i, count, kLeast), top));
    store_rest(a, out, i, count < i + 8 ? count : i + 8);
    sum = _mm256_add_ps(sum, a);
  }
  const __m256 inverse = number(1.0f / sum_of(_mm256_add_ps(sum, more)));
  for (i = 0; i + 8 <= count; i += 8) {
    _mm256_storeu_ps(out + i, _mm256_mul_ps(_mm256_loadu_ps(out + i), inverse));
  }
  if (i < count) {
    store_rest(_mm256_mul_ps(load_rest(out, i, count, 0), inverse), out, i, count);
  }
}

// out = (x - mean) * inverse * gain + bias.
void scale_row(const float* x, const float* gain, const float* bias, float mean, float inverse,
               int64_t count, float* out) noexcept {
  const __m256 middle = number(mean), factor = number(inverse);
  for (int64_t i = 0; i < count; i += 8) {
    const bool whole = i + 8 <= count;
    const auto load = [&](const float* from) {
      return whole ? _mm256_loadu_ps(from + i) : load_rest(from, i, count, 0);
    };
    __m256 y = _mm256_mul_ps(_mm256_sub_ps(load(x), middle), factor);
    if (gain != nullptr) y = _mm256_mul_ps(y, load(gain));
    if (bias != nullptr) y = _mm256_add_ps(y, load(bias));
    if (whole) {
      _mm256_storeu_ps(out + i, y);
    } else {
      store_rest(y, out, i, count);
    }
  }
}

void layer_norm(const float* x, const float* gain, const float* bias, float epsilon, int64_t count,
                float* out) noexcept {
  const float mean = reduce(x, count, 0, [](__m256 v) { return v; }) / static_cast<float>(count);
  const __m256 middle = number(mean);
  const float squares = reduce(x, count, mean, [=](__m256 v) {
    const __m256 distance = _mm256_sub_ps(v, middle);
    return _mm256_mul_ps(distance, distance);
  });
  const float inverse = 1.0f / __builtin_sqrtf(squares / static_cast<float>(count) + epsilon);
  scale_row(x, gain, bias, mean, inverse, count, out);
}

void rms_norm(const float* x, const float* gain, float epsilon, int64_t count,
              float* out) noexcept {
  const float squares = reduce(x, count, 0, [](__m256 v) { return _mm256_mul_ps(v, v); });
  const float inverse = 1.0f / __builtin_sqrtf(squares / static_cast<float>(count) + epsilon);
  scale_row(x, gain, nullptr, 0.0f, inverse, count, out);
}

}  // namespace

const RowsF32Kernel kRowsF32Avx2{"avx2", Isa::avx2, softmax, layer_norm, rms_norm};

}  // namespace compress::kernels
