// Pointers to rows of equal distance, three rows a pointer: x86 addresses base + {0, 1, 2} *
// distance, so that twelve rows need four registers and the distance. Anonymous namespace: each
// file keeps its own copy.
#pragma once

#include <cstdint>

namespace compress::kernels {
namespace {

template <class T, int kRows>
struct RowPointers {
  static constexpr int kPointers = (kRows + 2) / 3;
  const T* first[kPointers];
  int64_t distance;  // elements

  RowPointers(const T* rows, int64_t between) noexcept : distance(between) {
#pragma GCC unroll 4
    for (int i = 0; i < kPointers; ++i) {
      first[i] = rows + 3 * i * between;
      // Else gcc makes one register and an offset a row of them, which it then has no room for.
      __asm__("" : "+r"(first[i]));
    }
  }

  const T* operator[](int row) const noexcept { return first[row / 3] + row % 3 * distance; }

  void advance(int64_t count) noexcept {
#pragma GCC unroll 4
    for (int i = 0; i < kPointers; ++i) first[i] += count;
  }
};

}  // namespace
}  // namespace compress::kernels
