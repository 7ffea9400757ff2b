// A byte sequence in pieces: text, and tensors whose bytes are fetched only when it is streamed. So
// the length of a protobuf message is known before its payloads are.
#pragma once

#include <cstdint>
#include <functional>
#include <future>
#include <string>
#include <string_view>
#include <vector>

#include "compress/core/function_ref.h"
#include "compress/core/tensor.h"

namespace compress {

class Rope {
 public:
  // Without what is appended late.
  uint64_t size() const { return size_; }

  void append(std::string_view text);
  void append(const Tensor& payload);
  void append(Rope&& other);
  // Text that is asked for when all before it has been streamed. REQUIRES that no message holds it:
  // its length would be needed before.
  void append_late(std::function<std::string()> text);
  // A length-delimited protobuf field that holds `message`.
  void append_message(uint32_t number, Rope&& message);

  using Sink = FunctionRef<void(std::span<const std::byte>)>;
  // Hands every byte to `sink`, in order; the payloads as a TensorStream does.
  void stream(Sink sink) const;

 private:
  struct Piece {
    std::string text;
    // Where there is one of these, it follows the text and ends the piece.
    Tensor payload;
    std::function<std::string()> late;
    bool is_open() const { return !payload && !late; }
  };
  Piece& open_piece();
  std::vector<Piece> pieces_;
  uint64_t size_ = 0;
};

// The bytes of tensors, one tensor after the other. A deferred group is computed once where its
// tensors stand together, the next one while the bytes of this one go to the sink (with one thread
// afterwards), and pages of mapped tensors are given back behind the sink.
class TensorStream {
 public:
  explicit TensorStream(std::vector<Tensor> tensors) : tensors_(std::move(tensors)) {}

  // Streams the next tensor. REQUIRES that there is one.
  void next(Rope::Sink sink);

 private:
  std::span<const std::byte> take(const Tensor& tensor);
  void look_ahead();

  std::vector<Tensor> tensors_;
  size_t at_ = 0;
  const void* group_ = nullptr;  // of the last tensor that was streamed
  TensorData kept_;              // keeps that group's content
  const void* ahead_ = nullptr;  // the group that is being computed
  std::future<TensorData> future_;
};

}  // namespace compress
