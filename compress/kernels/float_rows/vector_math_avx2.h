// exp, erf, tanh and the logistic function of eight floats, for files built with -mavx2 -mfma only:
// all in an anonymous namespace, so that nothing weak leaks out of them.
//
// Polynomials are minimax fits made for this file; tests/kernels/float_rows_test.cpp holds each
// function to its error against double.
#pragma once

#include <immintrin.h>

namespace compress::kernels {
namespace {

inline __m256 number(float value) noexcept { return _mm256_set1_ps(value); }

// exp(x) = 2^n exp(r), |r| <= ln(2) / 2. Below -87.34 (where floats become subnormal) the result is
// 0, above 88.72 infinite; NaN stays.
inline __m256 exp8(__m256 x) noexcept {
  const __m256 kMost = number(88.722839f), kLeast = number(-87.336544f);
  const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, number(1.44269504f)),
                                   _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  // ln 2 in two parts: the product of n and the first is exact.
  __m256 r = _mm256_fnmadd_ps(n, number(0.693359375f), x);
  r = _mm256_fnmadd_ps(n, number(-2.12194440e-4f), r);
  __m256 y = number(1.3941117e-3f);
  y = _mm256_fmadd_ps(y, r, number(8.36317986e-3f));
  y = _mm256_fmadd_ps(y, r, number(4.16663736e-2f));
  y = _mm256_fmadd_ps(y, r, number(0.166665763f));
  y = _mm256_fmadd_ps(y, r, number(0.5f));
  y = _mm256_fmadd_ps(y, _mm256_mul_ps(r, r), r);
  y = _mm256_add_ps(y, number(1.0f));
  // 2^n in two factors: n is 128 at the upper end, which one exponent cannot hold.
  const __m256i whole = _mm256_cvtps_epi32(n);
  const __m256i half = _mm256_srai_epi32(whole, 1);
  const __m256i rest = _mm256_sub_epi32(whole, half);
  const __m256i bias = _mm256_set1_epi32(127);
  y = _mm256_mul_ps(y, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23)));
  y = _mm256_mul_ps(y, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23)));
  y = _mm256_blendv_ps(y, number(__builtin_inff()), _mm256_cmp_ps(x, kMost, _CMP_GT_OQ));
  y = _mm256_andnot_ps(_mm256_cmp_ps(x, kLeast, _CMP_LT_OQ), y);
  return _mm256_blendv_ps(y, x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}

inline __m256 sigmoid8(__m256 x) noexcept {
  const __m256 one = number(1.0f);
  return _mm256_div_ps(one, _mm256_add_ps(one, exp8(_mm256_sub_ps(_mm256_setzero_ps(), x))));
}

// x P(x^2) below 0.625, 1 - 2 / (exp(2 |x|) + 1) beyond it.
inline __m256 tanh8(__m256 x) noexcept {
  const __m256 sign = _mm256_and_ps(x, number(-0.0f));
  const __m256 size = _mm256_andnot_ps(number(-0.0f), x);
  const __m256 t = _mm256_mul_ps(x, x);
  __m256 small = number(-5.67242177e-3f);
  small = _mm256_fmadd_ps(small, t, number(2.06031464e-2f));
  small = _mm256_fmadd_ps(small, t, number(-5.37252314e-2f));
  small = _mm256_fmadd_ps(small, t, number(0.133311853f));
  small = _mm256_fmadd_ps(small, t, number(-0.333332628f));
  small = _mm256_fmadd_ps(_mm256_mul_ps(small, t), x, x);
  const __m256 e = exp8(_mm256_add_ps(size, size));
  __m256 large = _mm256_div_ps(number(2.0f), _mm256_add_ps(e, number(1.0f)));
  large = _mm256_or_ps(_mm256_sub_ps(number(1.0f), large), sign);
  return _mm256_blendv_ps(small, large, _mm256_cmp_ps(size, number(0.625f), _CMP_GE_OQ));
}

// x P(x^2) below 0.92, 1 - exp(Q(|x|)) beyond it; 1 from 4 on.
inline __m256 erf8(__m256 x) noexcept {
  const __m256 sign = _mm256_and_ps(x, number(-0.0f));
  const __m256 size = _mm256_andnot_ps(number(-0.0f), x);
  const __m256 t = _mm256_mul_ps(x, x);
  __m256 small = number(-6.02180604e-4f);
  small = _mm256_fmadd_ps(small, t, number(4.99960128e-3f));
  small = _mm256_fmadd_ps(small, t, number(-2.67712828e-2f));
  small = _mm256_fmadd_ps(small, t, number(0.112819552f));
  small = _mm256_fmadd_ps(small, t, number(-0.376125067f));
  small = _mm256_fmadd_ps(small, t, number(1.12837911f));
  small = _mm256_mul_ps(small, x);
  const __m256 z = _mm256_min_ps(number(4.0f), size);
  __m256 q = number(-2.08286183e-5f);
  q = _mm256_fmadd_ps(q, z, number(4.31393564e-4f));
  q = _mm256_fmadd_ps(q, z, number(-4.1562547e-3f));
  q = _mm256_fmadd_ps(q, z, number(2.50806157e-2f));
  q = _mm256_fmadd_ps(q, z, number(-0.108220384f));
  q = _mm256_fmadd_ps(q, z, number(-0.633400857f));
  q = _mm256_fmadd_ps(q, z, number(-1.12948835f));
  q = _mm256_fmadd_ps(q, z, number(1.69205116e-4f));
  const __m256 large = _mm256_or_ps(_mm256_sub_ps(number(1.0f), exp8(q)), sign);
  const __m256 y = _mm256_blendv_ps(small, large, _mm256_cmp_ps(size, number(0.92f), _CMP_GE_OQ));
  return _mm256_blendv_ps(y, x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}

}  // namespace
}  // namespace compress::kernels
