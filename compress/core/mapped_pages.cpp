#include "compress/core/mapped_pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <map>
#include <mutex>

namespace compress {
namespace {

// Mapped ranges by their first address: MADV_DONTNEED on anything else would zero it.
std::mutex ranges_guard;
std::map<const std::byte*, size_t>& ranges() {
  static std::map<const std::byte*, size_t> table;
  return table;
}

}  // namespace

void register_mapping(std::span<const std::byte> bytes) {
  const std::lock_guard lock(ranges_guard);
  ranges()[bytes.data()] = bytes.size();
}

void forget_mapping(std::span<const std::byte> bytes) {
  const std::lock_guard lock(ranges_guard);
  ranges().erase(bytes.data());
}

void drop_mapped_pages(std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  const std::lock_guard lock(ranges_guard);
  auto range = ranges().upper_bound(bytes.data());
  if (range == ranges().begin()) return;
  --range;
  if (bytes.data() + bytes.size() > range->first + range->second) return;
  const uintptr_t page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(bytes.data()) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(bytes.data()) + bytes.size()) / page * page;
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

void PagesBehind::reached(const std::byte* at) {
  constexpr ptrdiff_t kStep = ptrdiff_t{4} << 20;
  if (at - from_ < kStep) return;
  drop_mapped_pages({from_, at});
  from_ = at;
}

}  // namespace compress
