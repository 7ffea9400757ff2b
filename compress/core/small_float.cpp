#include "compress/core/small_float.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace compress {
namespace {

// What the codes with the largest exponents mean.
enum class Specials {
  ieee,  // infinities and NaN, as in wider types
  fn,    // no infinity; all ones is NaN
  fnuz,  // no infinity and no negative zero; the code of that is NaN
  none,  // numbers alone
};

struct Format {
  int exponent_bits;
  int mantissa_bits;
  int bias;
  Specials specials;

  unsigned sign() const { return 1u << (exponent_bits + mantissa_bits); }
  // Without the sign; codes above it are infinity or NaN.
  unsigned largest() const {
    if (specials == Specials::fn) return sign() - 2;
    if (specials == Specials::ieee) return sign() - (1u << mantissa_bits) - 1;
    return sign() - 1;
  }
};

// e8m0 is a bare exponent and has functions of its own.
Format format_of(DType dtype) {
  switch (dtype) {
    case DType::float8e4m3fn:
      return {4, 3, 7, Specials::fn};
    case DType::float8e4m3fnuz:
      return {4, 3, 8, Specials::fnuz};
    case DType::float8e5m2:
      return {5, 2, 15, Specials::ieee};
    case DType::float8e5m2fnuz:
      return {5, 2, 16, Specials::fnuz};
    default:
      return {2, 1, 1, Specials::none};  // float4e2m1
  }
}

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

float decode(const Format& format, unsigned code) {
  code &= 2 * format.sign() - 1;
  const bool negative = (code & format.sign()) != 0;
  const unsigned magnitude = code & (format.sign() - 1);
  if (format.specials == Specials::fnuz && code == format.sign()) return kNaN;
  float value = 0;
  if (magnitude > format.largest()) {
    value =
        format.specials == Specials::ieee && magnitude == format.largest() + 1 ? kInfinity : kNaN;
  } else {
    const int exponent = static_cast<int>(magnitude >> format.mantissa_bits);
    const unsigned one = 1u << format.mantissa_bits;
    const unsigned mantissa = (magnitude & (one - 1)) + (exponent > 0 ? one : 0);
    value = std::ldexp(static_cast<float>(mantissa),
                       std::max(exponent, 1) - format.bias - format.mantissa_bits);
  }
  return negative ? -value : value;
}

uint8_t encode(const Format& format, double value, bool saturate) {
  const unsigned sign = std::signbit(value) ? format.sign() : 0;
  // ONNX leaves NaN open for float4e2m1, which has none: -0, as ml_dtypes casts it.
  if (std::isnan(value)) {
    if (format.specials == Specials::none || format.specials == Specials::fnuz) {
      return static_cast<uint8_t>(format.sign());
    }
    const unsigned quiet = format.specials == Specials::fn ? 1 : 1u << (format.mantissa_bits - 1);
    return static_cast<uint8_t>(sign + format.largest() + quiet +
                                (format.specials == Specials::ieee ? 1 : 0));
  }
  const double magnitude = std::fabs(value);
  unsigned code = format.largest() + 1;
  if (std::isfinite(magnitude)) {
    // In units of the last place; a carry out of the mantissa is the next exponent's first code.
    const int exponent = magnitude == 0 ? 1 : std::max(std::ilogb(magnitude) + format.bias, 1);
    const double scaled = std::ldexp(magnitude, format.bias + format.mantissa_bits - exponent);
    const auto above = static_cast<unsigned>(exponent - 1);
    if (above < 1u << format.exponent_bits) {
      code = (above << format.mantissa_bits) + static_cast<unsigned>(std::nearbyint(scaled));
    }
  }
  if (code > format.largest()) {
    if (saturate || format.specials == Specials::none) {
      code = format.largest();
    } else if (format.specials == Specials::fnuz) {
      return static_cast<uint8_t>(format.sign());
    } else {
      code = format.largest() + 1;  // infinity, or the only NaN
    }
  }
  if (code == 0 && format.specials == Specials::fnuz) return 0;
  return static_cast<uint8_t>(sign + code);
}

// --- float8e8m0: powers of two from 2^-127 to 2^127, and NaN -------------------------------------

constexpr uint8_t kE8M0NaN = 0xFF;
constexpr int kE8M0Bias = 127;
constexpr int kE8M0Largest = 254;

// The sign of a value is dropped: ONNX leaves negative values open.
uint8_t encode_e8m0(double value, SmallRounding rounding) {
  if (std::isnan(value)) return kE8M0NaN;
  const double magnitude = std::fabs(value);
  int code = kE8M0Largest + 1;
  if (magnitude == 0) {
    code = -1;
  } else if (std::isfinite(magnitude)) {
    const int exponent = std::ilogb(magnitude);
    const double fraction = std::ldexp(magnitude, -exponent);  // in [1, 2)
    const bool up = rounding.mode == SmallRounding::Mode::up        ? fraction > 1
                    : rounding.mode == SmallRounding::Mode::nearest ? fraction >= 1.5
                                                                    : false;
    code = exponent + kE8M0Bias + (up ? 1 : 0);
  }
  if (code >= 0 && code <= kE8M0Largest) return static_cast<uint8_t>(code);
  if (!rounding.saturate) return kE8M0NaN;
  return static_cast<uint8_t>(code < 0 ? 0 : kE8M0Largest);
}

std::array<float, 256> values_of(DType dtype) {
  std::array<float, 256> values{};
  for (unsigned code = 0; code < values.size(); ++code) {
    if (dtype == DType::float8e8m0) {
      values[code] = code == kE8M0NaN ? kNaN : std::ldexp(1.0f, static_cast<int>(code) - kE8M0Bias);
    } else {
      values[code] = decode(format_of(dtype), code);
    }
  }
  return values;
}

}  // namespace

bool is_small_float(DType dtype) { return is_float(dtype) && info(dtype).bits <= 8; }

const std::array<float, 256>& small_float_values(DType dtype) {
  static const std::array<std::array<float, 256>, 6> tables = {
      values_of(DType::float8e4m3fn), values_of(DType::float8e4m3fnuz),
      values_of(DType::float8e5m2),   values_of(DType::float8e5m2fnuz),
      values_of(DType::float8e8m0),   values_of(DType::float4e2m1)};
  switch (dtype) {
    case DType::float8e4m3fn:
      return tables[0];
    case DType::float8e4m3fnuz:
      return tables[1];
    case DType::float8e5m2:
      return tables[2];
    case DType::float8e5m2fnuz:
      return tables[3];
    case DType::float8e8m0:
      return tables[4];
    default:
      return tables[5];
  }
}

uint8_t to_small_float(DType dtype, double value, SmallRounding rounding) {
  if (dtype == DType::float8e8m0) return encode_e8m0(value, rounding);
  return encode(format_of(dtype), value, rounding.saturate);
}

}  // namespace compress
