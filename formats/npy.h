// The .npy format in memory (NumPy's format.py, versions 1 to 3): files and members of archives
// alike.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "compress/core/tensor.h"

namespace compress {

struct NpyHeader {
  DType dtype = DType::undefined;
  bool big_endian = false;
  bool fortran_order = false;
  Shape shape;
  size_t data_offset = 0;  // header bytes
  uint64_t data_bytes = 0;
};

// Bytes that are certain to hold the fixed part of a header and its length field.
inline constexpr size_t kNpyPrefix = 12;
// Length of the whole header by its prefix. Fails (invalid_model) where it is no .npy.
size_t npy_header_size(std::span<const std::byte> prefix);
// Parses a header, strictly: three keys, once each, and nothing but their literals.
NpyHeader parse_npy_header(std::span<const std::byte> header);

// The array in `file`, which `keep` keeps alive: borrowed where alignment, byte order and memory
// order allow, else copied.
Tensor npy_tensor(std::span<const std::byte> file, std::shared_ptr<const void> keep);
// Puts data as stored (already in memory of its own) into little-endian, row-major order.
Tensor npy_decode(const NpyHeader& header, Tensor stored);

// A header, padded so that the data starts at a multiple of 64. Fails (unsupported) for types that
// NumPy does not have; see npy_storable.
std::string npy_header(DType dtype, const Shape& shape);
// The tensor in a type that .npy has: bfloat16 as float32, sub-byte integers as int8 or uint8.
Tensor npy_storable(const Tensor& tensor);

}  // namespace compress
