#include "compress/runtime/memory.h"

#include <unistd.h>

#include <algorithm>
#include <limits>
#include <new>
#include <utility>

#include "compress/error.h"

namespace compress::runtime {
namespace {

uint64_t aligned(uint64_t bytes) {
  if (bytes > std::numeric_limits<uint64_t>::max() / 2) {
    fail(ErrorCode::unsupported, "a run would need {} bytes", bytes);
  }
  return std::max(bytes + kArenaAlignment - 1, kArenaAlignment) / kArenaAlignment * kArenaAlignment;
}

// Of 17 real models at batch 1, the values that live at a time take at most 7 times the file (small
// detectors) and 35 times what is fed (keyword spotting); long texts and batches come with feeds.
constexpr uint64_t kFreeBytes = uint64_t{256} << 20;
constexpr uint64_t kPerFileByte = 64;
constexpr uint64_t kPerFedByte = 256;

uint64_t machine_limit() {
  const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  if (pages <= 0 || page <= 0) return std::numeric_limits<uint64_t>::max();
  return static_cast<uint64_t>(pages) * static_cast<uint64_t>(page) / 4 * 3;
}

uint64_t saturating_product(uint64_t a, uint64_t b) {
  uint64_t product = 0;
  return __builtin_mul_overflow(a, b, &product) ? std::numeric_limits<uint64_t>::max() : product;
}

uint64_t saturating_sum(uint64_t a, uint64_t b) {
  uint64_t sum = 0;
  return __builtin_add_overflow(a, b, &sum) ? std::numeric_limits<uint64_t>::max() : sum;
}

}  // namespace

uint64_t default_memory_limit(uint64_t file_bytes, uint64_t fed_bytes) {
  static const uint64_t machine = machine_limit();
  if (file_bytes == 0) return machine;
  const uint64_t proportion = saturating_sum(saturating_product(file_bytes, kPerFileByte),
                                             saturating_product(fed_bytes, kPerFedByte));
  return std::min(machine, saturating_sum(proportion, kFreeBytes));
}

void MemoryBudget::take(uint64_t bytes) {
  if (limit != 0 && (used > limit || bytes > limit - used)) {
    fail(ErrorCode::unsupported,
         "running the model needs {} bytes for activations and the limit is {}; raise --max-memory "
         "or use a smaller batch",
         used + bytes, limit);
  }
  used += bytes;
}

Block::Block(Block&& other) noexcept
    : budget_(other.budget_),
      data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)) {}

Block::~Block() {
  if (data_ == nullptr) return;
  ::operator delete[](data_, std::align_val_t{kArenaAlignment});
  budget_->give(bytes_);
}

void Block::reserve(uint64_t bytes) {
  bytes = aligned(bytes);
  if (bytes <= bytes_) return;
  if (data_ != nullptr) {
    ::operator delete[](data_, std::align_val_t{kArenaAlignment});
    budget_->give(bytes_);
    data_ = nullptr;
    bytes_ = 0;
  }
  budget_->take(bytes);
  data_ = static_cast<std::byte*>(
      ::operator new[](bytes, std::align_val_t{kArenaAlignment}, std::nothrow));
  if (data_ == nullptr) {
    budget_->give(bytes);
    fail(ErrorCode::unsupported, "running the model needs {} bytes more than there are", bytes);
  }
  bytes_ = bytes;
}

uint64_t ArenaLayout::allocate(uint64_t bytes) {
  bytes = aligned(bytes);
  auto best = free_.end();
  for (auto gap = free_.begin(); gap != free_.end(); ++gap) {
    if (gap->bytes >= bytes && (best == free_.end() || gap->bytes < best->bytes)) best = gap;
  }
  uint64_t offset;
  if (best != free_.end()) {
    offset = best->offset;
    best->offset += bytes;
    best->bytes -= bytes;
    if (best->bytes == 0) free_.erase(best);
  } else if (!free_.empty() && free_.back().offset + free_.back().bytes == end_) {
    // The last gap touches the end: grow it instead of leaving it behind.
    offset = free_.back().offset;
    end_ = offset + bytes;
    free_.pop_back();
  } else {
    offset = end_;
    end_ += bytes;
  }
  if (end_ > std::numeric_limits<uint64_t>::max() / 4) {
    fail(ErrorCode::unsupported, "a run would need more than {} bytes", end_);
  }
  peak_ = std::max(peak_, end_);
  taken_.insert(std::lower_bound(taken_.begin(), taken_.end(), offset,
                                 [](const Range& r, uint64_t o) { return r.offset < o; }),
                {offset, bytes});
  return offset;
}

void ArenaLayout::release(uint64_t offset) {
  const auto row = std::lower_bound(taken_.begin(), taken_.end(), offset,
                                    [](const Range& r, uint64_t o) { return r.offset < o; });
  Range range = *row;
  taken_.erase(row);
  auto next = std::lower_bound(free_.begin(), free_.end(), range.offset,
                               [](const Range& r, uint64_t o) { return r.offset < o; });
  if (next != free_.end() && range.offset + range.bytes == next->offset) {
    range.bytes += next->bytes;
    next = free_.erase(next);
  }
  if (next != free_.begin() && (next - 1)->offset + (next - 1)->bytes == range.offset) {
    (next - 1)->bytes += range.bytes;
  } else {
    free_.insert(next, range);
  }
}

int Pool::acquire(uint64_t bytes) {
  int best = -1;
  int spare = -1;  // the largest free block, to be grown where none is large enough
  for (int i = 0; i < static_cast<int>(blocks_.size()); ++i) {
    const Entry& entry = blocks_[static_cast<size_t>(i)];
    if (entry.busy) continue;
    const uint64_t size = entry.memory.bytes();
    if (size >= bytes && (best < 0 || size < blocks_[static_cast<size_t>(best)].memory.bytes())) {
      best = i;
    }
    if (spare < 0 || size > blocks_[static_cast<size_t>(spare)].memory.bytes()) spare = i;
  }
  if (best < 0) best = spare;
  if (best < 0) {
    blocks_.push_back({Block(budget_), false});
    best = static_cast<int>(blocks_.size()) - 1;
  }
  Entry& entry = blocks_[static_cast<size_t>(best)];
  entry.memory.reserve(bytes);
  entry.busy = true;
  return best;
}

void Pool::release_all() {
  for (Entry& entry : blocks_) entry.busy = false;
}

uint64_t Pool::bytes() const {
  uint64_t sum = 0;
  for (const Entry& entry : blocks_) sum += entry.memory.bytes();
  return sum;
}

}  // namespace compress::runtime
