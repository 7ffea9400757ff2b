// Memory of mapped files: pages count as resident once touched, and are read again when needed.
#pragma once

#include <cstddef>
#include <span>

namespace compress {

// Who maps a file says so, and says when it goes.
void register_mapping(std::span<const std::byte> bytes);
void forget_mapping(std::span<const std::byte> bytes);

// Gives back the memory of the whole pages of `bytes` where they lie in a mapped file; other
// addresses are left alone.
void drop_mapped_pages(std::span<const std::byte> bytes);

// Gives back the pages behind one that reads on, a few megabytes at a time.
class PagesBehind {
 public:
  explicit PagesBehind(const std::byte* from) : from_(from) {}
  // All before `at` has been read.
  void reached(const std::byte* at);

 private:
  const std::byte* from_;
};

}  // namespace compress
