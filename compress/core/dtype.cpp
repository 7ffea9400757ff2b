#include "compress/core/dtype.h"

#include <array>
#include <cassert>

#include "compress/error.h"

namespace compress {
namespace {

constexpr std::array kTypes = std::to_array<DTypeInfo>({
    {DType::undefined, "undefined", 0, false, false},
    {DType::float32, "float32", 32, true, true},
    {DType::uint8, "uint8", 8, false, false},
    {DType::int8, "int8", 8, false, true},
    {DType::uint16, "uint16", 16, false, false},
    {DType::int16, "int16", 16, false, true},
    {DType::int32, "int32", 32, false, true},
    {DType::int64, "int64", 64, false, true},
    {DType::string, "string", 0, false, false},
    {DType::boolean, "bool", 8, false, false},
    {DType::float16, "float16", 16, true, true},
    {DType::float64, "float64", 64, true, true},
    {DType::uint32, "uint32", 32, false, false},
    {DType::uint64, "uint64", 64, false, false},
    {DType::complex64, "complex64", 64, false, true},
    {DType::complex128, "complex128", 128, false, true},
    {DType::bfloat16, "bfloat16", 16, true, true},
    {DType::float8e4m3fn, "float8e4m3fn", 8, true, true},
    {DType::float8e4m3fnuz, "float8e4m3fnuz", 8, true, true},
    {DType::float8e5m2, "float8e5m2", 8, true, true},
    {DType::float8e5m2fnuz, "float8e5m2fnuz", 8, true, true},
    {DType::uint4, "uint4", 4, false, false},
    {DType::int4, "int4", 4, false, true},
    {DType::float4e2m1, "float4e2m1", 4, true, true},
    {DType::float8e8m0, "float8e8m0", 8, true, false},
    {DType::uint2, "uint2", 2, false, false},
    {DType::int2, "int2", 2, false, true},
});

}  // namespace

const DTypeInfo& info(DType dtype) {
  const size_t index = static_cast<size_t>(dtype);
  if (index >= kTypes.size()) return kTypes[0];
  assert(kTypes[index].dtype == dtype);
  return kTypes[index];
}

const DTypeInfo* find_dtype(std::string_view name) {
  for (const DTypeInfo& row : kTypes) {
    if (row.name == name) return &row;
  }
  return nullptr;
}

uint64_t byte_size(DType dtype, uint64_t count) {
  const uint64_t bits = static_cast<uint64_t>(info(dtype).bits);
  if (bits == 0) {
    fail(ErrorCode::unsupported, "elements of type {} have no fixed size", info(dtype).name);
  }
  if (count > (uint64_t{1} << 62) / bits) {
    fail(ErrorCode::invalid_model, "a tensor of {} elements is too large", count);
  }
  return (count * bits + 7) / 8;
}

int64_t max_value(DType dtype) {
  const DTypeInfo& row = info(dtype);
  assert(is_integer(dtype) && row.bits <= 32);
  return (int64_t{1} << (row.is_signed ? row.bits - 1 : row.bits)) - 1;
}

int64_t min_value(DType dtype) {
  const DTypeInfo& row = info(dtype);
  assert(is_integer(dtype) && row.bits <= 32);
  return row.is_signed ? -(int64_t{1} << (row.bits - 1)) : 0;
}

}  // namespace compress
