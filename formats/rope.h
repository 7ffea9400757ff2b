// A byte sequence in pieces: text, and tensors whose bytes are fetched only when it is streamed. So
// the length of a protobuf message is known before its payloads are.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "compress/core/function_ref.h"
#include "compress/core/tensor.h"

namespace compress {

class Rope {
 public:
  uint64_t size() const { return size_; }

  void append(std::string_view text);
  void append(const Tensor& payload);
  void append(Rope&& other);
  // A length-delimited protobuf field that holds `message`.
  void append_message(uint32_t number, Rope&& message);

  using Sink = FunctionRef<void(std::span<const std::byte>)>;
  // Hands every byte to `sink`, in order. A deferred group is computed once where its tensors stand
  // together, and pages of mapped tensors are given back behind it.
  void stream(Sink sink) const;

 private:
  struct Piece {
    std::string text;
    Tensor payload;  // after the text, where there is one
  };
  std::vector<Piece> pieces_;
  uint64_t size_ = 0;
};

// Streams one tensor's bytes; `kept` holds the last deferred group between calls.
void stream_tensor(const Tensor& tensor, Rope::Sink sink, TensorData& kept, const void*& group);

}  // namespace compress
