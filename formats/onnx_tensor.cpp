#include "formats/onnx_tensor.h"

#include <algorithm>
#include <charconv>
#include <cstring>

#include "compress/core/int4.h"
#include "compress/core/mapped_pages.h"
#include "formats/onnx_fields.h"
#include "formats/wire.h"

namespace compress {
namespace {

namespace field = onnx_field::tensor;

constexpr int64_t kMaxSparseBytes = int64_t{256} << 20;

std::pair<std::string, std::string> scan_entry(std::string_view wire) {
  std::pair<std::string, std::string> entry;
  WireReader reader(wire);
  for (WireField f; reader.next(f);) {
    if (f.number == onnx_field::entry::key) entry.first = f.string();
    if (f.number == onnx_field::entry::value) entry.second = f.string();
  }
  return entry;
}

void append_ints(const WireField& f, std::vector<int64_t>& out) {
  if (f.type != WireType::bytes) {
    out.push_back(f.int64());
    return;
  }
  std::string_view run = f.bytes;
  for (uint64_t value = 0; !run.empty();) {
    if (!take_varint(run, value)) fail(ErrorCode::invalid_model, "a list of numbers is cut off");
    out.push_back(static_cast<int64_t>(value));
  }
}

uint64_t decimal(const std::string& text, const TensorWire& tensor, std::string_view key) {
  uint64_t value = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end) {
    fail(ErrorCode::invalid_model, "tensor {}: external data has the {} \"{}\"", tensor.name, key,
         text);
  }
  return value;
}

DType known_type(const TensorWire& tensor) {
  if (tensor.data_type == 27 || tensor.data_type == 28) {
    fail(ErrorCode::unsupported, "tensor {}: 6-bit floats", tensor.name);
  }
  if (tensor.data_type <= 0 || tensor.data_type > static_cast<int64_t>(DType::int2)) {
    fail(ErrorCode::invalid_model, "tensor {}: data type {}", tensor.name, tensor.data_type);
  }
  return static_cast<DType>(tensor.data_type);
}

Shape checked_shape(const TensorWire& tensor) {
  for (const int64_t dim : tensor.dims) {
    if (dim < 0) {
      fail(ErrorCode::invalid_model, "tensor {}: a dimension is {}", tensor.name, dim);
    }
  }
  return Shape(tensor.dims);
}

// The typed field that ONNX prescribes for a type.
uint32_t field_of(DType dtype) {
  switch (dtype) {
    case DType::float32:
    case DType::complex64:
      return field::float_data;
    case DType::float64:
    case DType::complex128:
      return field::double_data;
    case DType::int64:
      return field::int64_data;
    case DType::uint32:
    case DType::uint64:
      return field::uint64_data;
    case DType::string:
      return field::string_data;
    default:
      return field::int32_data;
  }
}

size_t fixed_width(uint32_t data_field) {
  return data_field == field::float_data ? 4 : data_field == field::double_data ? 8 : 0;
}

uint64_t entry_count(const TensorWire& tensor) {
  uint64_t count = tensor.loose.size();
  const size_t width = fixed_width(tensor.data_field);
  for (const std::string_view run : tensor.packed) {
    if (width > 0) {
      if (run.size() % width != 0) {
        fail(ErrorCode::invalid_model, "tensor {}: its data is cut off", tensor.name);
      }
      count += run.size() / width;
    } else {
      count += static_cast<uint64_t>(
          std::count_if(run.begin(), run.end(), [](char c) { return (c & 0x80) == 0; }));
    }
  }
  return count;
}

template <class Visit>
void for_each_entry(const TensorWire& tensor, Visit&& visit) {
  for (const uint64_t value : tensor.loose) visit(value);
  const size_t width = fixed_width(tensor.data_field);
  for (std::string_view run : tensor.packed) {
    while (!run.empty()) {
      uint64_t value = 0;
      if (width > 0) {
        std::memcpy(&value, run.data(), width);
        run.remove_prefix(width);
      } else if (!take_varint(run, value)) {
        fail(ErrorCode::invalid_model, "tensor {}: its data is cut off", tensor.name);
      }
      visit(value);
    }
  }
}

[[noreturn]] void wrong_size(const TensorWire& tensor, uint64_t have, uint64_t want,
                             std::string_view unit) {
  fail(ErrorCode::invalid_model, "tensor {}: {} {} of data where its shape {} needs {}",
       tensor.name, have, unit, Shape(tensor.dims).to_string(), want);
}

// Reading a bool whose byte is neither 0 nor 1 is undefined in C++.
bool has_odd_bool(std::string_view bytes) {
  return std::any_of(bytes.begin(), bytes.end(), [](char c) { return (c & ~1) != 0; });
}

Tensor from_bytes(const TensorWire& tensor, DType dtype, const Shape& shape, std::string_view bytes,
                  const std::shared_ptr<const void>& owner) {
  const uint64_t want = byte_size(dtype, static_cast<uint64_t>(shape.count()));
  if (bytes.size() != want) wrong_size(tensor, bytes.size(), want, "bytes");
  if (dtype == DType::boolean && has_odd_bool(bytes)) {
    Tensor out = Tensor::allocate(dtype, shape);
    std::transform(bytes.begin(), bytes.end(), out.mutable_data(),
                   [](char c) { return std::byte{c != 0}; });
    return out;
  }
  const int bits = info(dtype).bits;
  // A complex number is aligned as its parts are.
  const size_t width = static_cast<size_t>(std::clamp(bits / 8, 1, 8));
  if (reinterpret_cast<uintptr_t>(bytes.data()) % width == 0 && !bytes.empty()) {
    return Tensor::borrow(dtype, shape, bytes.data(), owner);
  }
  // Only what is being read shall be in memory; small copies are worth keeping.
  constexpr size_t kSmall = size_t{1} << 16;
  const auto raw = std::as_bytes(std::span(bytes));
  if (bytes.size() > kSmall) return Tensor::copied_late(dtype, shape, raw, owner);
  Tensor out = Tensor::allocate(dtype, shape);
  if (!bytes.empty()) std::memcpy(out.mutable_data(), bytes.data(), bytes.size());
  drop_mapped_pages(raw);
  return out;
}

// Sub-byte types: one packed byte an int32 (onnx.helper writes these) or four (the checker's
// reading of onnx.proto); both are found in files.
Tensor from_packed_entries(const TensorWire& tensor, DType dtype, const Shape& shape,
                           uint64_t entries) {
  const uint64_t bytes = byte_size(dtype, static_cast<uint64_t>(shape.count()));
  const uint64_t wide = (bytes + 3) / 4;
  if (entries != bytes && entries != wide) wrong_size(tensor, entries, bytes, "numbers");
  const size_t step = entries == bytes ? 1 : 4;
  Tensor out = Tensor::allocate(dtype, shape);
  std::byte* to = out.mutable_data();
  uint64_t at = 0;
  for_each_entry(tensor, [&](uint64_t value) {
    for (size_t i = 0; i < step && at < bytes; ++i) {
      to[at++] = static_cast<std::byte>(value >> (8 * i) & 0xFF);
    }
  });
  return out;
}

Tensor from_entries(const TensorWire& tensor, DType dtype, const Shape& shape) {
  const uint64_t count = static_cast<uint64_t>(shape.count());
  if (tensor.data_field != 0 && tensor.data_field != field_of(dtype)) {
    fail(ErrorCode::invalid_model, "tensor {}: {} values are kept in field {}", tensor.name,
         info(dtype).name, tensor.data_field);
  }
  if (dtype == DType::string) {
    if (tensor.strings.size() != count) {
      wrong_size(tensor, tensor.strings.size(), count, "strings");
    }
    return Tensor::strings(shape, {tensor.strings.begin(), tensor.strings.end()});
  }
  const uint64_t entries = entry_count(tensor);
  if (is_sub_byte(dtype)) return from_packed_entries(tensor, dtype, shape, entries);
  const bool is_complex = dtype == DType::complex64 || dtype == DType::complex128;
  const uint64_t want = byte_size(dtype, count) == 0 ? 0 : is_complex ? 2 * count : count;
  if (entries != want) wrong_size(tensor, entries, want, "numbers");
  Tensor out = Tensor::allocate(dtype, shape);
  const size_t width = static_cast<size_t>(info(dtype).bits / (is_complex ? 16 : 8));
  std::byte* to = out.mutable_data();
  for_each_entry(tensor, [&](uint64_t value) {
    if (dtype == DType::boolean) value = value != 0;
    std::memcpy(to, &value, width);
    to += width;
  });
  return out;
}

void scan_data(TensorWire& tensor, const WireField& f) {
  if (tensor.data_field != 0 && tensor.data_field != f.number) {
    fail(ErrorCode::invalid_model, "tensor {}: it has two data fields", tensor.name);
  }
  if (f.type != WireType::bytes) {
    tensor.data_field = f.number;
    tensor.loose.push_back(f.value);
  } else if (!f.bytes.empty() || f.number == field::string_data) {
    tensor.data_field = f.number;
    (f.number == field::string_data ? tensor.strings : tensor.packed).push_back(f.bytes);
  }
}

}  // namespace

const std::shared_ptr<const MappedFile>& TensorSource::external(const std::string& location) {
  auto file = files_.find(location);
  if (file != files_.end()) return file->second;
  const auto substitute = substitutes_.find(location);
  if (substitute == substitutes_.end() && !has_folder_) {
    fail(ErrorCode::unsupported, "external data \"{}\" of a model that is not in a file", location);
  }
  auto mapped = substitute != substitutes_.end() ? MappedFile::open(substitute->second)
                                                 : MappedFile::open_beneath(folder_, location);
  return files_.emplace(location, std::move(mapped)).first->second;
}

uint64_t TensorSource::external_bytes() const {
  uint64_t total = 0;
  for (const auto& [location, file] : files_) total += file->bytes().size();
  return total;
}

TensorWire scan_tensor(std::string_view wire) {
  TensorWire tensor;
  WireReader reader(wire);
  for (WireField f; reader.next(f);) {
    switch (f.number) {
      case field::dims:
        append_ints(f, tensor.dims);
        break;
      case field::data_type:
        tensor.data_type = static_cast<int32_t>(f.int64());
        break;
      case field::name:
        tensor.name = f.string();
        break;
      case field::segment:
        fail(ErrorCode::unsupported, "tensor {}: it is stored in segments", tensor.name);
      case field::raw_data:
        tensor.raw = f.text();
        tensor.has_raw = true;
        break;
      case field::float_data:
      case field::int32_data:
      case field::string_data:
      case field::int64_data:
      case field::double_data:
      case field::uint64_data:
        scan_data(tensor, f);
        break;
      case field::external_data:
        tensor.external_data.push_back(scan_entry(f.text()));
        break;
      case field::data_location:
        if (f.int64() != 0 && f.int64() != 1) {
          fail(ErrorCode::invalid_model, "tensor {}: data location {}", tensor.name, f.int64());
        }
        tensor.external = f.int64() == 1;
        break;
      default:
        break;
    }
  }
  // An empty raw_data beside typed data is what some exporters write.
  if (tensor.has_raw && !tensor.raw.empty() && tensor.data_field != 0) {
    fail(ErrorCode::invalid_model, "tensor {}: it has two data fields", tensor.name);
  }
  if (tensor.external && (!tensor.raw.empty() || tensor.data_field != 0)) {
    fail(ErrorCode::invalid_model, "tensor {}: it has data both in the model and outside",
         tensor.name);
  }
  return tensor;
}

std::string_view external_bytes(const TensorWire& tensor, TensorSource& source) {
  std::string location;
  uint64_t offset = 0;
  uint64_t length = 0;
  bool has_length = false;
  std::vector<std::string> seen;
  for (const auto& [key, value] : tensor.external_data) {
    if (std::find(seen.begin(), seen.end(), key) != seen.end()) {
      fail(ErrorCode::invalid_model, "tensor {}: external data has two {}s", tensor.name, key);
    }
    seen.push_back(key);
    if (key == "location") {
      location = value;
    } else if (key == "offset") {
      offset = decimal(value, tensor, key);
    } else if (key == "length") {
      length = decimal(value, tensor, key);
      has_length = true;
    } else if (key != "checksum" && key != "basepath") {
      fail(ErrorCode::invalid_model, "tensor {}: external data has the unknown key \"{}\"",
           tensor.name, key);
    }
  }
  if (location.empty()) {
    fail(ErrorCode::invalid_model, "tensor {}: external data without a location", tensor.name);
  }
  const std::string_view file = in_context([&] { return "tensor " + tensor.name; },
                                           [&] { return source.external(location)->text(); });
  if (offset > file.size() || (has_length && length > file.size() - offset)) {
    fail(ErrorCode::invalid_model,
         "tensor {}: external data [{}, +{}) lies outside \"{}\" of {} bytes", tensor.name, offset,
         length, location, file.size());
  }
  return file.substr(offset, has_length ? length : file.size() - offset);
}

namespace {

const std::string* external_key(const TensorWire& tensor, std::string_view key) {
  for (const auto& [name, value] : tensor.external_data) {
    if (name == key) return &value;
  }
  return nullptr;
}

Tensor read_external(const TensorWire& tensor, DType dtype, const Shape& shape,
                     TensorSource& source) {
  if (dtype == DType::string) fail(ErrorCode::invalid_model, "strings cannot be external data");
  const std::string* location = external_key(tensor, "location");
  if (location != nullptr) {
    if (const Tensor* held = source.held(*location)) return *held;
  }
  const uint64_t want = byte_size(dtype, static_cast<uint64_t>(shape.count()));
  std::string_view bytes = external_bytes(tensor, source);
  // Without a length the data is what the shape needs; other tensors may follow.
  if (external_key(tensor, "length") == nullptr) {
    bytes = bytes.substr(0, std::min<uint64_t>(want, bytes.size()));
  }
  return from_bytes(tensor, dtype, shape, bytes, source.external(*location));
}

}  // namespace

Tensor read_tensor(const TensorWire& tensor, TensorSource& source) {
  const DType dtype = known_type(tensor);
  return in_context([&] { return "tensor " + tensor.name; },
                    [&] {
                      const Shape shape = checked_shape(tensor);
                      if (tensor.external) return read_external(tensor, dtype, shape, source);
                      if (tensor.has_raw && tensor.data_field == 0) {
                        if (dtype == DType::string)
                          fail(ErrorCode::invalid_model, "strings cannot be raw data");
                        return from_bytes(tensor, dtype, shape, tensor.raw, source.owner());
                      }
                      return from_entries(tensor, dtype, shape);
                    });
}

namespace {

// Element index of each stored value: linear, or one row of coordinates a value.
std::vector<uint64_t> sparse_positions(const Tensor& indices, const Shape& shape, int64_t count) {
  const std::vector<int64_t> numbers = indices.to_ints();
  const int rank = indices.shape().rank();
  const bool linear = rank == 1;
  const int64_t width = linear ? 1 : shape.rank();
  if ((rank != 1 && rank != 2) || indices.shape()[0] != count ||
      (rank == 2 && indices.shape()[1] != width)) {
    fail(ErrorCode::invalid_model, "the indices of a sparse tensor have shape {}",
         indices.shape().to_string());
  }
  std::vector<uint64_t> positions;
  for (int64_t i = 0; i < count; ++i) {
    int64_t position = 0;
    for (int64_t k = 0; k < width; ++k) {
      const int64_t index = numbers[static_cast<size_t>(i * width + k)];
      const int64_t limit = linear ? shape.count() : shape[static_cast<int>(k)];
      if (index < 0 || index >= limit) {
        fail(ErrorCode::invalid_model, "a sparse tensor has the index {} of {}", index, limit);
      }
      position = position * limit + index;
    }
    positions.push_back(static_cast<uint64_t>(position));
    if (i > 0 && positions[positions.size() - 2] >= positions.back()) {
      fail(ErrorCode::invalid_model, "the indices of a sparse tensor do not ascend");
    }
  }
  return positions;
}

}  // namespace

NamedTensor read_sparse_tensor(std::string_view wire, TensorSource& source) {
  TensorWire values;
  TensorWire indices;
  TensorWire dense;
  bool has_indices = false;
  WireReader reader(wire);
  for (WireField f; reader.next(f);) {
    if (f.number == onnx_field::sparse::values) values = scan_tensor(f.text());
    if (f.number == onnx_field::sparse::indices) {
      indices = scan_tensor(f.text());
      has_indices = true;
    }
    if (f.number == onnx_field::sparse::dims) append_ints(f, dense.dims);
  }
  dense.name = values.name;
  return in_context(
      [&] { return "sparse tensor " + dense.name; },
      [&] {
        const Tensor stored = read_tensor(values, source);
        const Shape shape = checked_shape(dense);
        const uint64_t bytes = byte_size(stored.dtype(), static_cast<uint64_t>(shape.count()));
        if (stored.shape().rank() != 1 || is_sub_byte(stored.dtype())) {
          fail(ErrorCode::invalid_model, "its values have type {} and shape {}",
               info(stored.dtype()).name, stored.shape().to_string());
        }
        if (bytes > static_cast<uint64_t>(kMaxSparseBytes)) {
          fail(ErrorCode::unsupported, "made dense it would take {} bytes", bytes);
        }
        std::vector<uint64_t> positions;
        if (has_indices) {
          positions = sparse_positions(read_tensor(indices, source), shape, stored.count());
        } else if (stored.count() != 0) {
          fail(ErrorCode::invalid_model, "it has no indices");
        }
        Tensor out = Tensor::zeros(stored.dtype(), shape);
        const TensorData data = stored.read();
        const size_t width = static_cast<size_t>(info(stored.dtype()).bits / 8);
        for (size_t i = 0; i < positions.size(); ++i) {
          std::memcpy(out.mutable_data() + positions[i] * width, data.bytes().data() + i * width,
                      width);
        }
        return NamedTensor{dense.name, out};
      });
}

}  // namespace compress
