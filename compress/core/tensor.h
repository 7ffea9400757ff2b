// Tensor: dtype, shape and a shared immutable buffer. TensorView: the same over borrowed memory.
//
// A buffer is owned, mapped from a file, or deferred: dtype and shape are known and the content is
// a pure function of its sources, computed when asked for and dropped with the last handle. So a
// quantized model larger than memory is written tensor by tensor. Mapped at an odd address, a
// buffer is copied as a deferred one is computed.
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "compress/core/dtype.h"
#include "compress/core/half.h"
#include "compress/core/shape.h"

namespace compress {

// Fails (invalid_model): a tensor of one element type is read as another. Checked in every build:
// a model file decides the types, and a wider type would read past the end.
[[noreturn]] void fail_element_type(DType is, DType wanted);

// Borrowed memory with a type; what kernels see. `data` may be null for an empty tensor.
struct TensorView {
  DType dtype = DType::undefined;
  Shape shape;
  void* data = nullptr;

  template <class T>
  T* as() const {
    constexpr DType wanted = dtype_of<std::remove_const_t<T>>();
    if (dtype != wanted && data != nullptr) fail_element_type(dtype, wanted);
    return static_cast<T*>(data);
  }
  int64_t count() const { return shape.count(); }
  size_t bytes() const {
    return static_cast<size_t>(byte_size(dtype, static_cast<uint64_t>(count())));
  }
};

// Read access to a tensor's bytes; keeps owned and mapped buffers alive and frees a deferred one.
class TensorData {
 public:
  TensorData() = default;
  TensorData(std::shared_ptr<const void> keep, TensorView view)
      : keep_(std::move(keep)), view_(std::move(view)) {}

  const TensorView& view() const { return view_; }
  template <class T>
  std::span<const T> as() const {
    return {view_.as<T>(), static_cast<size_t>(view_.count())};
  }
  std::span<const std::byte> bytes() const {
    return {static_cast<const std::byte*>(view_.data), view_.bytes()};
  }

 private:
  std::shared_ptr<const void> keep_;
  TensorView view_;
};

class Tensor;

// One computation that gives several tensors (packed weights, scales, zero points) in one pass. The
// result is shared while any handle to it is alive and computed again afterwards.
class DeferredGroup {
 public:
  // The tensors of the group, in order; a pure function.
  using Make = std::function<std::vector<Tensor>()>;
  explicit DeferredGroup(Make make) : make_(std::move(make)) {}
  using Contents = std::vector<TensorData>;
  std::shared_ptr<const Contents> materialize();

 private:
  Make make_;
  std::mutex guard_;
  std::weak_ptr<const Contents> alive_;
};

class Tensor {
 public:
  Tensor() = default;  // dtype undefined: "no tensor"

  // Uninitialized memory of the tensor's own, 64-byte aligned; fill it through mutable_data()
  // before the tensor is shared. Fails (unsupported) for strings.
  static Tensor allocate(DType dtype, const Shape& shape);
  static Tensor zeros(DType dtype, const Shape& shape);
  template <class T>
  static Tensor from(const Shape& shape, std::span<const T> values);
  template <class T>
  static Tensor from(const Shape& shape, std::initializer_list<T> values) {
    return from<T>(shape, std::span<const T>(values.begin(), values.size()));
  }
  template <class T>
  static Tensor scalar(T value) {
    return from<T>(Shape(), {value});
  }
  // Borrows `data`, which `keep` keeps alive (a mapping, another tensor's buffer).
  static Tensor borrow(DType dtype, const Shape& shape, const void* data,
                       std::shared_ptr<const void> keep);
  // The same where elements cannot be read from that address: read() copies. The pages of a mapped
  // file go once they are copied.
  static Tensor copied_late(DType dtype, const Shape& shape, std::span<const std::byte> bytes,
                            std::shared_ptr<const void> keep);
  // Tensor number `index` of what `group` gives.
  static Tensor deferred(DType dtype, const Shape& shape, std::shared_ptr<DeferredGroup> group,
                         size_t index);
  static Tensor strings(const Shape& shape, std::vector<std::string> values);

  explicit operator bool() const { return dtype_ != DType::undefined; }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  int64_t count() const { return shape_.count(); }
  uint64_t bytes() const { return byte_size(dtype_, static_cast<uint64_t>(count())); }
  bool is_deferred() const { return group_ != nullptr && data_ == nullptr; }
  // What is computed together with it, for comparing; null where it is not deferred.
  const void* group_identity() const { return group_.get(); }
  size_t group_index() const { return group_index_; }

  // Access to the content. For a deferred tensor this computes it, for one of copied_late() it
  // copies it: keep the handle while reading.
  TensorData read() const;
  // The bytes' address, for telling shared buffers apart and not for reading; null for deferred
  // ones.
  const void* identity() const { return data_; }
  // The bytes where they lie, for as long as the tensor lives: at any address, so elements are not
  // to be read in place. Empty for deferred tensors.
  std::span<const std::byte> stored_bytes() const {
    return {static_cast<const std::byte*>(data_), data_ == nullptr ? 0 : bytes()};
  }
  // REQUIRES: allocated by allocate() or zeros(), not shared yet.
  std::byte* mutable_data();
  template <class T>
  std::span<T> mutable_as() {
    assert(dtype_ == dtype_of<T>());
    return {reinterpret_cast<T*>(mutable_data()), static_cast<size_t>(count())};
  }
  TensorView mutable_view() { return {dtype_, shape_, mutable_data()}; }
  const std::vector<std::string>& string_values() const;

  // The same elements under another shape of the same count; shares the buffer.
  Tensor reshaped(const Shape& shape) const;

  // Small conveniences for attributes and shape arithmetic. Values of an integer tensor (any
  // integer or bool type) as int64, or of a float tensor as double. Fail (invalid_model) on other
  // types.
  std::vector<int64_t> to_ints() const;
  std::vector<double> to_doubles() const;
  int64_t to_int() const;    // REQUIRES one element
  double to_double() const;  // REQUIRES one element

 private:
  DType dtype_ = DType::undefined;
  Shape shape_;
  const void* data_ = nullptr;
  std::shared_ptr<const void> keep_;
  std::shared_ptr<DeferredGroup> group_;
  size_t group_index_ = 0;
};

// Converts element by element between any two of the float, integer and bool types; float to
// integer truncates as a C cast does after clamping to the type's range (NaN becomes 0).
Tensor convert(const Tensor& tensor, DType dtype);

// True where dtype, shape and bytes are equal.
bool same_content(const Tensor& a, const Tensor& b);

struct NamedTensor {
  std::string name;
  Tensor tensor;
};

template <class T>
Tensor Tensor::from(const Shape& shape, std::span<const T> values) {
  Tensor tensor = allocate(dtype_of<T>(), shape);
  assert(static_cast<size_t>(tensor.count()) == values.size());
  T* out = reinterpret_cast<T*>(tensor.mutable_data());
  for (size_t i = 0; i < values.size(); ++i) out[i] = values[i];
  return tensor;
}

}  // namespace compress
