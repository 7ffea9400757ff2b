#include "compress/train/ranks.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "compress/error.h"

namespace compress::train {
namespace {

template <class T>
void append(std::vector<std::byte>& out, const T* values, size_t count) {
  const auto* bytes = reinterpret_cast<const std::byte*>(values);
  out.insert(out.end(), bytes, bytes + count * sizeof(T));
}

void append_number(std::vector<std::byte>& out, int64_t value) { append(out, &value, 1); }

// Of one program's own making: sizes are what was written.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  int64_t number() {
    int64_t value = 0;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  std::span<const std::byte> take(size_t count) {
    if (count > bytes_.size()) fail(ErrorCode::internal, "tensors of another rank end early");
    const auto out = bytes_.first(count);
    bytes_ = bytes_.subspan(count);
    return out;
  }

 private:
  std::span<const std::byte> bytes_;
};

std::vector<std::byte> packed(const std::vector<NamedTensor>& tensors) {
  std::vector<std::byte> out;
  append_number(out, static_cast<int64_t>(tensors.size()));
  for (const NamedTensor& named : tensors) {
    const Shape& shape = named.tensor.shape();
    append_number(out, static_cast<int64_t>(named.name.size()));
    append(out, named.name.data(), named.name.size());
    append_number(out, static_cast<int64_t>(named.tensor.dtype()));
    append_number(out, shape.rank());
    for (int i = 0; i < shape.rank(); ++i) append_number(out, shape[i]);
    const TensorData data = named.tensor.read();
    append(out, data.bytes().data(), data.bytes().size());
  }
  return out;
}

std::vector<NamedTensor> unpacked(std::span<const std::byte> bytes) {
  Reader in(bytes);
  std::vector<NamedTensor> out(static_cast<size_t>(in.number()));
  for (NamedTensor& named : out) {
    const auto name = in.take(static_cast<size_t>(in.number()));
    named.name.assign(reinterpret_cast<const char*>(name.data()), name.size());
    const auto dtype = static_cast<DType>(in.number());
    std::vector<int64_t> dims(static_cast<size_t>(in.number()));
    for (int64_t& dim : dims) dim = in.number();
    named.tensor = Tensor::allocate(dtype, Shape(dims));
    const auto content = in.take(static_cast<size_t>(named.tensor.bytes()));
    std::copy(content.begin(), content.end(), named.tensor.mutable_data());
  }
  return out;
}

template <class T>
std::span<std::byte> bytes_of(T& value) {
  return std::as_writable_bytes(std::span<T, 1>(&value, 1));
}

}  // namespace

int64_t first_part(const Ranks& ranks, int64_t parts, int rank) {
  return (parts * rank + ranks.size - 1) / ranks.size;
}

void for_own_parts(const Ranks& ranks, int64_t parts, const std::function<void(int64_t)>& body) {
  const int64_t end = first_part(ranks, parts, ranks.rank + 1);
  for (int64_t part = first_part(ranks, parts, ranks.rank); part < end; ++part) body(part);
}

void share_bytes(const Ranks& ranks, int64_t parts, size_t part_bytes, std::span<std::byte> bytes) {
  if (!ranks.several()) return;
  for (int from = 0; from < ranks.size; ++from) {
    const auto at = [&](int rank) {
      return std::min(static_cast<size_t>(first_part(ranks, parts, rank)) * part_bytes,
                      bytes.size());
    };
    const size_t begin = at(from), end = at(from + 1);
    if (begin < end) ranks.broadcast(from, bytes.subspan(begin, end - begin));
  }
}

void share_parts(const Ranks& ranks, int64_t parts, std::span<double> values) {
  if (parts == 0) return;
  share_bytes(ranks, parts, values.size_bytes() / static_cast<size_t>(parts),
              std::as_writable_bytes(values));
}

void share_tensors(const Ranks& ranks, int from, std::vector<NamedTensor>& tensors) {
  if (!ranks.several()) return;
  std::vector<std::byte> bytes;
  if (ranks.rank == from) bytes = packed(tensors);
  uint64_t size = bytes.size();
  ranks.broadcast(from, bytes_of(size));
  bytes.resize(size);
  ranks.broadcast(from, bytes);
  if (ranks.rank != from) tensors = unpacked(bytes);
}

void share_parts(const Ranks& ranks, std::vector<std::vector<NamedTensor>>& parts) {
  const auto count = static_cast<int64_t>(parts.size());
  for (int from = 0; from < ranks.size; ++from) {
    const int64_t end = first_part(ranks, count, from + 1);
    for (int64_t part = first_part(ranks, count, from); part < end; ++part) {
      share_tensors(ranks, from, parts[static_cast<size_t>(part)]);
    }
  }
}

void require_same(const Ranks& ranks, uint64_t number, std::string_view reason) {
  if (!ranks.several()) return;
  uint64_t first = number;
  ranks.broadcast(0, bytes_of(first));
  if (first != number) fail(ErrorCode::usage, "rank {}: {}", ranks.rank, reason);
}

}  // namespace compress::train
