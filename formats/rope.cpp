#include "formats/rope.h"

#include <algorithm>
#include <iterator>

#include "compress/core/mapped_pages.h"
#include "formats/file.h"
#include "formats/wire.h"

namespace compress {

void Rope::append(std::string_view text) {
  if (text.empty()) return;
  if (pieces_.empty() || pieces_.back().payload) pieces_.emplace_back();
  pieces_.back().text += text;
  size_ += text.size();
}

void Rope::append(const Tensor& payload) {
  if (pieces_.empty() || pieces_.back().payload) pieces_.emplace_back();
  pieces_.back().payload = payload;
  size_ += payload.bytes();
}

void Rope::append(Rope&& other) {
  if (other.pieces_.empty()) return;
  auto first = other.pieces_.begin();
  if (!pieces_.empty() && !pieces_.back().payload) {
    pieces_.back().text += first->text;
    pieces_.back().payload = std::move(first->payload);
    ++first;
  }
  pieces_.insert(pieces_.end(), std::make_move_iterator(first),
                 std::make_move_iterator(other.pieces_.end()));
  size_ += other.size_;
}

void Rope::append_message(uint32_t number, Rope&& message) {
  std::string head;
  put_tag(head, number, WireType::bytes);
  put_varint(head, message.size());
  append(head);
  append(std::move(message));
}

void stream_tensor(const Tensor& tensor, Rope::Sink sink, TensorData& kept, const void*& group) {
  constexpr size_t kStep = size_t{16} << 20;  // what stays resident of a mapped tensor
  const TensorData data = tensor.read();
  // The group's result lives as long as a handle to it: the one before goes only now.
  kept = tensor.is_deferred() ? data : TensorData();
  group = tensor.group_identity();
  const auto bytes = data.bytes();
  for (size_t at = 0; at < bytes.size(); at += kStep) {
    const auto part = bytes.subspan(at, std::min(kStep, bytes.size() - at));
    sink(part);
    drop_mapped_pages(part);
  }
}

void Rope::stream(Sink sink) const {
  TensorData kept;
  const void* group = nullptr;
  for (const Piece& piece : pieces_) {
    if (!piece.text.empty()) sink(std::as_bytes(std::span(piece.text)));
    if (!piece.payload) continue;
    if (piece.payload.group_identity() != group) kept = TensorData();
    stream_tensor(piece.payload, sink, kept, group);
  }
}

}  // namespace compress
