// Processes that train one model together. Work is cut into numbered parts; which process computes
// a part never shows in what is made of all of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "compress/core/tensor.h"

namespace compress::train {

// All ranks call the same in the same order. A member returns when it is done; what it does where
// another rank has died is up to whoever made it.
struct Ranks {
  int rank = 0;
  int size = 1;
  std::function<void(int to, std::span<const std::byte> bytes)> send;
  std::function<void(int from, std::span<std::byte> bytes)> receive;
  // What `from` has goes to all.
  std::function<void(int from, std::span<std::byte> bytes)> broadcast;

  bool first() const { return rank == 0; }
  bool several() const { return size > 1; }
};

// Of `parts`, those that a rank computes are [first_part(..., rank), first_part(..., rank + 1)).
// Rank 0 has one at least, and no rank has more than one beyond another's.
int64_t first_part(const Ranks& ranks, int64_t parts, int rank);

// Calls body(part) for each part of this rank, in order.
void for_own_parts(const Ranks& ranks, int64_t parts, const std::function<void(int64_t)>& body);

// `values` holds as many numbers for each part: afterwards all ranks have those of all parts.
void share_parts(const Ranks& ranks, int64_t parts, std::span<double> values);
// The same for tensors, a list a part.
void share_parts(const Ranks& ranks, std::vector<std::vector<NamedTensor>>& parts);
// The same for `bytes`, of which each part has `part_bytes`, the last one what is left.
void share_bytes(const Ranks& ranks, int64_t parts, size_t part_bytes, std::span<std::byte> bytes);

// What `from` has, on all of them.
void share_tensors(const Ranks& ranks, int from, std::vector<NamedTensor>& tensors);

// Fails (usage) with the reason where a rank's number is not rank 0's.
void require_same(const Ranks& ranks, uint64_t number, std::string_view reason);

}  // namespace compress::train
