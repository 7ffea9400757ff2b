// Where values live while a plan runs: offsets in one arena, and a pool for what is sized late.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace compress::runtime {

inline constexpr uint64_t kArenaAlignment = 64;

// Memory that a session has taken, against its limit (SessionOptions::max_memory).
struct MemoryBudget {
  uint64_t limit = 0;  // 0: none
  uint64_t used = 0;
  // Fails (unsupported) with both figures, before anything is allocated.
  void take(uint64_t bytes);
  void give(uint64_t bytes) { used -= bytes; }
};

// What a run may take where nobody says: in proportion to the model's file and to what it is fed,
// so that a few bytes cannot ask for gigabytes, and never most of the machine's memory. A model
// that was built in memory (file_bytes 0) is trusted up to that.
uint64_t default_memory_limit(uint64_t file_bytes, uint64_t fed_bytes);

// A 64-byte aligned block that only grows.
class Block {
 public:
  explicit Block(MemoryBudget* budget) : budget_(budget) {}
  Block(Block&& other) noexcept;
  Block& operator=(Block&&) = delete;
  ~Block();
  // Content is lost where the block grows.
  void reserve(uint64_t bytes);
  std::byte* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }

 private:
  MemoryBudget* budget_;
  std::byte* data_ = nullptr;
  uint64_t bytes_ = 0;
};

// Assigns arena offsets in the order of a run: best fit among the gaps that values left behind.
class ArenaLayout {
 public:
  uint64_t allocate(uint64_t bytes);
  void release(uint64_t offset);
  uint64_t peak() const { return peak_; }

 private:
  struct Range {
    uint64_t offset, bytes;
  };
  std::vector<Range> free_;  // by offset, neighbours merged
  std::vector<Range> taken_;
  uint64_t end_ = 0;
  uint64_t peak_ = 0;
};

// Blocks for values whose size is known only when they are produced; kept for later runs.
class Pool {
 public:
  explicit Pool(MemoryBudget* budget) : budget_(budget) {}
  // A block's number; block(n) is valid until release(n).
  int acquire(uint64_t bytes);
  std::byte* data(int block) const { return blocks_[static_cast<size_t>(block)].memory.data(); }
  void release(int block) { blocks_[static_cast<size_t>(block)].busy = false; }
  void release_all();
  uint64_t bytes() const;

 private:
  struct Entry {
    Block memory;
    bool busy;
  };
  MemoryBudget* budget_;
  std::vector<Entry> blocks_;
};

}  // namespace compress::runtime
