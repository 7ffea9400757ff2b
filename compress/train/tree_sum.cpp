#include "compress/train/tree_sum.h"

#include <bit>

#include "compress/core/parallel.h"

namespace compress::train {

struct TreeSum::Work {
  const Ranks& ranks;
  int64_t parts;
  FunctionRef<void(int64_t, std::span<float>)> fill;
  int64_t own_first, own_end;

  bool takes_part(int64_t first, int64_t end) const { return first < own_end && own_first < end; }
  // Who computes a part, and has the sum of a node that begins with it.
  int owner(int64_t part) const { return static_cast<int>(part * ranks.size / parts); }
};

std::span<float> TreeSum::buffer(size_t depth) {
  while (buffers_.size() <= depth) buffers_.emplace_back(buffers_[0].size());
  return buffers_[depth];
}

// The sum of [first, end), in the buffer of this depth of its owner. All ranks walk the tree in the
// same order, so that blocking messages meet.
void TreeSum::add(const Work& work, int64_t first, int64_t end, size_t depth) {
  if (!work.takes_part(first, end)) return;
  const std::span<float> sum = buffer(depth);
  if (end - first == 1) return work.fill(first, sum);
  const auto left = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(end - first - 1)));
  const int64_t middle = first + left;
  add(work, first, middle, depth);
  add(work, middle, end, depth + 1);
  const int here = work.owner(first), there = work.owner(middle), me = work.ranks.rank;
  if (me == there && me != here) {
    work.ranks.send(here, std::as_bytes(buffer(depth + 1)));
  }
  if (me != here) return;
  const std::span<float> other = buffer(depth + 1);
  if (here != there) work.ranks.receive(there, std::as_writable_bytes(other));
  constexpr int64_t kGrain = 1 << 14;
  parallel_for(0, static_cast<int64_t>(sum.size()), kGrain, [&](int64_t from, int64_t to) {
    for (auto i = static_cast<size_t>(from); i < static_cast<size_t>(to); ++i) sum[i] += other[i];
  });
}

void TreeSum::run(const Ranks& ranks, int64_t parts,
                  FunctionRef<void(int64_t part, std::span<float> out)> fill) {
  const Work work{ranks, parts, fill, first_part(ranks, parts, ranks.rank),
                  first_part(ranks, parts, ranks.rank + 1)};
  add(work, 0, parts, 0);
  if (ranks.several()) ranks.broadcast(0, std::as_writable_bytes(total()));
}

}  // namespace compress::train
