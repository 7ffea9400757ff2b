// Element types. The enumerators carry the numbers of ONNX's TensorProto.DataType, so formats need
// no mapping; a new number format is a row of the table in dtype.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace compress {

enum class DType : uint8_t {
  undefined = 0,
  float32 = 1,
  uint8 = 2,
  int8 = 3,
  uint16 = 4,
  int16 = 5,
  int32 = 6,
  int64 = 7,
  string = 8,
  boolean = 9,
  float16 = 10,
  float64 = 11,
  uint32 = 12,
  uint64 = 13,
  complex64 = 14,
  complex128 = 15,
  bfloat16 = 16,
  float8e4m3fn = 17,
  float8e4m3fnuz = 18,
  float8e5m2 = 19,
  float8e5m2fnuz = 20,
  uint4 = 21,
  int4 = 22,
  float4e2m1 = 23,
  float8e8m0 = 24,
  uint2 = 25,
  int2 = 26,
};

struct DTypeInfo {
  DType dtype;
  std::string_view name;  // as in recipes, reports and messages: "float32", "int8", "int4"
  int bits;               // of one element; 0 where elements have no fixed size (string)
  bool is_float;
  bool is_signed;
};

// The row of a type; of `undefined` for a number that this program does not know.
const DTypeInfo& info(DType dtype);
// The row with this name, or nullptr.
const DTypeInfo* find_dtype(std::string_view name);

inline bool is_float(DType dtype) { return info(dtype).is_float; }
// float16 or bfloat16: stored in half, computed in float32.
inline bool is_half(DType dtype) { return dtype == DType::float16 || dtype == DType::bfloat16; }
inline bool is_integer(DType dtype) {
  const DTypeInfo& row = info(dtype);
  return row.bits > 0 && !row.is_float && dtype != DType::boolean && dtype != DType::complex64 &&
         dtype != DType::complex128;
}
inline bool is_sub_byte(DType dtype) { return info(dtype).bits > 0 && info(dtype).bits < 8; }

// Bytes of `count` elements; sub-byte types are packed densely, low bits first, as ONNX does.
// Fails (invalid_model) where the size does not fit in 63 bits or the type has no fixed size.
uint64_t byte_size(DType dtype, uint64_t count);

// Largest and smallest value of an integer type of up to 32 bits.
int64_t max_value(DType dtype);
int64_t min_value(DType dtype);

template <class T>
constexpr DType dtype_of();
struct Half;      // core/half.h
struct BFloat16;  // core/half.h
// clang-format off
template <> constexpr DType dtype_of<float>() { return DType::float32; }
template <> constexpr DType dtype_of<double>() { return DType::float64; }
template <> constexpr DType dtype_of<uint8_t>() { return DType::uint8; }
template <> constexpr DType dtype_of<int8_t>() { return DType::int8; }
template <> constexpr DType dtype_of<uint16_t>() { return DType::uint16; }
template <> constexpr DType dtype_of<int16_t>() { return DType::int16; }
template <> constexpr DType dtype_of<uint32_t>() { return DType::uint32; }
template <> constexpr DType dtype_of<int32_t>() { return DType::int32; }
template <> constexpr DType dtype_of<uint64_t>() { return DType::uint64; }
template <> constexpr DType dtype_of<int64_t>() { return DType::int64; }
template <> constexpr DType dtype_of<bool>() { return DType::boolean; }
template <> constexpr DType dtype_of<Half>() { return DType::float16; }
template <> constexpr DType dtype_of<BFloat16>() { return DType::bfloat16; }
// clang-format on

}  // namespace compress
