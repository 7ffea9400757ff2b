#include "compress/core/tensor.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>

#include "compress/core/int4.h"
#include "compress/core/mapped_pages.h"
#include "compress/core/small_float.h"
#include "compress/error.h"

namespace compress {
namespace {

constexpr size_t kAlignment = 64;  // a cache line, and the widest vector register

std::shared_ptr<void> aligned_memory(uint64_t bytes) {
  const size_t rounded = (static_cast<size_t>(bytes) + kAlignment) / kAlignment * kAlignment;
  void* memory = std::aligned_alloc(kAlignment, rounded);
  if (memory == nullptr) throw std::bad_alloc();
  return {memory, [](void* p) { std::free(p); }};
}

// Calls visit(type tag) with the C++ type that stores `dtype`.
template <class Visit>
bool visit_stored(DType dtype, Visit&& visit) {
  switch (dtype) {
    case DType::float32:
      visit(float{});
      return true;
    case DType::float64:
      visit(double{});
      return true;
    case DType::uint8:
      visit(uint8_t{});
      return true;
    case DType::int8:
      visit(int8_t{});
      return true;
    case DType::uint16:
      visit(uint16_t{});
      return true;
    case DType::int16:
      visit(int16_t{});
      return true;
    case DType::uint32:
      visit(uint32_t{});
      return true;
    case DType::int32:
      visit(int32_t{});
      return true;
    case DType::uint64:
      visit(uint64_t{});
      return true;
    case DType::int64:
      visit(int64_t{});
      return true;
    case DType::boolean:
      visit(bool{});
      return true;
    case DType::float16:
      visit(Half{});
      return true;
    case DType::bfloat16:
      visit(BFloat16{});
      return true;
    default:
      return false;
  }
}

template <class T>
auto widen(T value) {
  if constexpr (std::is_same_v<T, Half> || std::is_same_v<T, BFloat16>) {
    return to_float(value);
  } else {
    return value;
  }
}

template <class To, class From>
To cast_element(From stored) {
  const auto value = widen(stored);
  using Value = decltype(value);
  if constexpr (std::is_same_v<To, Half>) {
    return to_half(static_cast<float>(value));
  } else if constexpr (std::is_same_v<To, BFloat16>) {
    return to_bfloat16(static_cast<float>(value));
  } else if constexpr (std::is_same_v<To, bool>) {
    return value != Value{};
  } else if constexpr (std::is_floating_point_v<std::remove_const_t<Value>> &&
                       std::is_integral_v<To>) {
    const double wide = static_cast<double>(value);
    if (std::isnan(wide)) return 0;
    if (wide <= static_cast<double>(std::numeric_limits<To>::min())) {
      return std::numeric_limits<To>::min();
    }
    if (wide >= static_cast<double>(std::numeric_limits<To>::max())) {
      return std::numeric_limits<To>::max();
    }
    return static_cast<To>(wide);
  } else {
    return static_cast<To>(value);
  }
}

// An int8 tensor with the values of a packed sub-byte integer tensor.
Tensor unpacked(const Tensor& packed) {
  const DTypeInfo& row = info(packed.dtype());
  const TensorData data = packed.read();
  Tensor out = Tensor::allocate(row.is_signed ? DType::int8 : DType::uint8, packed.shape());
  std::byte* to = out.mutable_data();
  const auto* from = reinterpret_cast<const uint8_t*>(data.bytes().data());
  for (int64_t i = 0; i < packed.count(); ++i) {
    to[i] = static_cast<std::byte>(get_packed(from, i, row.bits, row.is_signed));
  }
  return out;
}

// A float32 tensor with the values of one of 8 bits or fewer.
Tensor widened_floats(const Tensor& small) {
  const TensorData data = small.read();
  const auto* from = reinterpret_cast<const uint8_t*>(data.bytes().data());
  const auto& values = small_float_values(small.dtype());
  const int bits = info(small.dtype()).bits;
  Tensor out = Tensor::allocate(DType::float32, small.shape());
  const auto to = out.mutable_as<float>();
  for (size_t i = 0; i < to.size(); ++i) {
    const auto index = static_cast<int64_t>(i);
    to[i] = values[static_cast<size_t>(bits == 8 ? from[i] : get_packed(from, index, bits, false))];
  }
  return out;
}

Tensor narrowed_floats(const Tensor& wide, DType dtype) {
  const std::vector<double> values = wide.to_doubles();
  Tensor out = Tensor::zeros(dtype, wide.shape());
  auto* to = reinterpret_cast<uint8_t*>(out.mutable_data());
  const int bits = info(dtype).bits;
  for (size_t i = 0; i < values.size(); ++i) {
    const uint8_t code = to_small_float(dtype, values[i]);
    if (bits == 8) {
      to[i] = code;
    } else {
      set_packed(to, static_cast<int64_t>(i), bits, code);
    }
  }
  return out;
}

}  // namespace

void fail_element_type(DType is, DType wanted) {
  fail(ErrorCode::invalid_model, "a tensor of {} stands where one of {} must", info(is).name,
       info(wanted).name);
}

std::shared_ptr<const DeferredGroup::Contents> DeferredGroup::materialize() {
  const std::lock_guard lock(guard_);
  if (auto contents = alive_.lock()) return contents;
  auto contents = std::make_shared<Contents>();
  for (const Tensor& tensor : make_()) contents->push_back(tensor.read());
  alive_ = contents;
  return contents;
}

Tensor Tensor::allocate(DType dtype, const Shape& shape) {
  Tensor tensor;
  tensor.dtype_ = dtype;
  tensor.shape_ = shape;
  std::shared_ptr<void> memory = aligned_memory(tensor.bytes());
  tensor.data_ = memory.get();
  tensor.keep_ = std::move(memory);
  return tensor;
}

Tensor Tensor::zeros(DType dtype, const Shape& shape) {
  Tensor tensor = allocate(dtype, shape);
  std::memset(tensor.mutable_data(), 0, static_cast<size_t>(tensor.bytes()));
  return tensor;
}

Tensor Tensor::borrow(DType dtype, const Shape& shape, const void* data,
                      std::shared_ptr<const void> keep) {
  Tensor tensor;
  tensor.dtype_ = dtype;
  tensor.shape_ = shape;
  tensor.data_ = data;
  tensor.keep_ = std::move(keep);
  return tensor;
}

Tensor Tensor::copied_late(DType dtype, const Shape& shape, std::span<const std::byte> bytes,
                           std::shared_ptr<const void> keep) {
  auto group = std::make_shared<DeferredGroup>([dtype, shape, bytes, keep = std::move(keep)] {
    constexpr size_t kSlice = size_t{4} << 20;  // never twice in memory as a whole
    Tensor copy = allocate(dtype, shape);
    std::byte* to = copy.mutable_data();
    for (size_t at = 0; at < bytes.size(); at += kSlice) {
      const auto slice = bytes.subspan(at, std::min(kSlice, bytes.size() - at));
      std::memcpy(to + at, slice.data(), slice.size());
      drop_mapped_pages(slice);
    }
    return std::vector<Tensor>{std::move(copy)};
  });
  Tensor tensor = deferred(dtype, shape, std::move(group), 0);
  tensor.data_ = bytes.data();
  return tensor;
}

Tensor Tensor::deferred(DType dtype, const Shape& shape, std::shared_ptr<DeferredGroup> group,
                        size_t index) {
  Tensor tensor;
  tensor.dtype_ = dtype;
  tensor.shape_ = shape;
  tensor.group_ = std::move(group);
  tensor.group_index_ = index;
  return tensor;
}

Tensor Tensor::strings(const Shape& shape, std::vector<std::string> values) {
  assert(static_cast<size_t>(shape.count()) == values.size());
  auto owned = std::make_shared<const std::vector<std::string>>(std::move(values));
  const void* data = owned.get();
  return borrow(DType::string, shape, data, std::move(owned));
}

const std::vector<std::string>& Tensor::string_values() const {
  assert(dtype_ == DType::string);
  return *static_cast<const std::vector<std::string>*>(data_);
}

TensorData Tensor::read() const {
  // Views are typed mutable for kernels' outputs; a TensorData hands out const access only.
  if (group_ == nullptr) return {keep_, {dtype_, shape_, const_cast<void*>(data_)}};
  auto contents = group_->materialize();
  const TensorView& content = (*contents)[group_index_].view();
  assert(content.bytes() == bytes());
  void* const data = content.data;
  return {std::move(contents), {dtype_, shape_, data}};
}

std::byte* Tensor::mutable_data() {
  assert(group_ == nullptr);
  return static_cast<std::byte*>(const_cast<void*>(data_));
}

Tensor Tensor::reshaped(const Shape& shape) const {
  assert(shape.count() == count());
  Tensor tensor = *this;
  tensor.shape_ = shape;
  return tensor;
}

std::vector<int64_t> Tensor::to_ints() const {
  if (!is_integer(dtype_) && dtype_ != DType::boolean) {
    fail(ErrorCode::invalid_model, "a tensor of type {} stands where integers must",
         info(dtype_).name);
  }
  const Tensor wide = convert(*this, DType::int64);
  const TensorData data = wide.read();
  const auto values = data.as<int64_t>();
  return {values.begin(), values.end()};
}

std::vector<double> Tensor::to_doubles() const {
  const Tensor wide = convert(*this, DType::float64);
  const TensorData data = wide.read();
  const auto values = data.as<double>();
  return {values.begin(), values.end()};
}

int64_t Tensor::to_int() const {
  const std::vector<int64_t> values = to_ints();
  if (values.size() != 1) {
    fail(ErrorCode::invalid_model, "a tensor of shape {} stands where one integer must",
         shape_.to_string());
  }
  return values[0];
}

double Tensor::to_double() const {
  const std::vector<double> values = to_doubles();
  if (values.size() != 1) {
    fail(ErrorCode::invalid_model, "a tensor of shape {} stands where one number must",
         shape_.to_string());
  }
  return values[0];
}

Tensor convert(const Tensor& tensor, DType dtype) {
  if (tensor.dtype() == dtype) return tensor;
  if (is_sub_byte(tensor.dtype()) && is_integer(tensor.dtype())) {
    return convert(unpacked(tensor), dtype);
  }
  if (is_small_float(tensor.dtype())) return convert(widened_floats(tensor), dtype);
  if (is_small_float(dtype)) return narrowed_floats(tensor, dtype);
  Tensor out = Tensor::allocate(dtype, tensor.shape());
  const TensorData data = tensor.read();
  const size_t count = static_cast<size_t>(tensor.count());
  const bool known = visit_stored(tensor.dtype(), [&](auto from_tag) {
    using From = decltype(from_tag);
    const From* from = static_cast<const From*>(data.view().data);
    const bool to_known = visit_stored(dtype, [&](auto to_tag) {
      using To = decltype(to_tag);
      To* to = reinterpret_cast<To*>(out.mutable_data());
      for (size_t i = 0; i < count; ++i) to[i] = cast_element<To>(from[i]);
    });
    if (!to_known) fail(ErrorCode::unsupported, "conversion to {}", info(dtype).name);
  });
  if (!known) fail(ErrorCode::unsupported, "conversion from {}", info(tensor.dtype()).name);
  return out;
}

bool same_content(const Tensor& a, const Tensor& b) {
  if (a.dtype() != b.dtype() || !(a.shape() == b.shape())) return false;
  if (!a) return true;
  if (a.dtype() == DType::string) return a.string_values() == b.string_values();
  const auto bytes_of = [](const Tensor& tensor, TensorData& held) {
    if (!tensor.is_deferred()) return tensor.stored_bytes();
    held = tensor.read();
    return held.bytes();
  };
  TensorData held_a, held_b;
  const auto left = bytes_of(a, held_a), right = bytes_of(b, held_b);
  return left.empty() || std::memcmp(left.data(), right.data(), left.size()) == 0;
}

}  // namespace compress
