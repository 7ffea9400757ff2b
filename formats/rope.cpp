#include "formats/rope.h"

#include <algorithm>
#include <iterator>

#include "compress/core/mapped_pages.h"
#include "compress/core/parallel.h"
#include "formats/file.h"
#include "formats/wire.h"

namespace compress {

Rope::Piece& Rope::open_piece() {
  if (pieces_.empty() || !pieces_.back().is_open()) pieces_.emplace_back();
  return pieces_.back();
}

void Rope::append(std::string_view text) {
  if (text.empty()) return;
  open_piece().text += text;
  size_ += text.size();
}

void Rope::append(const Tensor& payload) {
  open_piece().payload = payload;
  size_ += payload.bytes();
}

void Rope::append_late(std::function<std::string()> text) { open_piece().late = std::move(text); }

void Rope::append(Rope&& other) {
  if (other.pieces_.empty()) return;
  auto first = other.pieces_.begin();
  if (!pieces_.empty() && pieces_.back().is_open()) {
    pieces_.back().text += first->text;
    pieces_.back().payload = std::move(first->payload);
    pieces_.back().late = std::move(first->late);
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

std::span<const std::byte> TensorStream::take(const Tensor& tensor) {
  if (tensor.group_identity() != group_) kept_ = TensorData();
  group_ = tensor.group_identity();
  if (!tensor.is_deferred()) return tensor.stored_bytes();
  if (group_ == ahead_) {
    ahead_ = nullptr;
    kept_ = future_.get();
  }
  // The content lives as long as a handle to it: the one before goes only now.
  kept_ = tensor.read();
  return kept_.bytes();
}

void TensorStream::look_ahead() {
  constexpr uint64_t kLargest = uint64_t{32} << 20;  // two groups are in memory then
  if (ahead_ != nullptr || thread_count() == 1) return;
  for (size_t i = at_; i < tensors_.size(); ++i) {
    const Tensor& tensor = tensors_[i];
    if (tensor.is_deferred() && tensor.group_identity() == group_) continue;
    if (!tensor.is_deferred() || tensor.bytes() > kLargest) return;
    ahead_ = tensor.group_identity();
    future_ = std::async(std::launch::async, [tensor] { return tensor.read(); });
    return;
  }
}

void TensorStream::next(Rope::Sink sink) {
  constexpr size_t kStep = size_t{16} << 20;  // what stays resident of a mapped tensor
  const auto bytes = take(tensors_[at_++]);
  look_ahead();
  for (size_t at = 0; at < bytes.size(); at += kStep) {
    const auto part = bytes.subspan(at, std::min(kStep, bytes.size() - at));
    sink(part);
    drop_mapped_pages(part);
  }
}

void Rope::stream(Sink sink) const {
  std::vector<Tensor> payloads;
  for (const Piece& piece : pieces_) {
    if (piece.payload) payloads.push_back(piece.payload);
  }
  TensorStream tensors(std::move(payloads));
  for (const Piece& piece : pieces_) {
    if (!piece.text.empty()) sink(std::as_bytes(std::span(piece.text)));
    if (piece.payload) tensors.next(sink);
    if (piece.late) sink(std::as_bytes(std::span<const char>(piece.late())));
  }
}

}  // namespace compress
