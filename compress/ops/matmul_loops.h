// The reference matrix product: rows of the result gather multiples of rows of B.
#pragma once

#include <algorithm>
#include <cstdint>

#include "compress/core/parallel.h"

namespace compress {

// Element (i, j) of a matrix is data[i * row + j * column].
template <class T>
struct MatrixRef {
  const T* data;
  int64_t row;
  int64_t column;
};

namespace matmul_loops {

inline constexpr int64_t kColumns = 512;

// Up to four rows of C, columns [begin, end), B's columns next to each other.
template <class T, int R>
void rows(int64_t k, MatrixRef<T> a, MatrixRef<T> b, T* c, int64_t ldc, int64_t begin,
          int64_t end) {
  for (int r = 0; r < R; ++r) std::fill(c + r * ldc + begin, c + r * ldc + end, T{0});
  for (int64_t p = 0; p < k; ++p) {
    const T* __restrict in = b.data + p * b.row;
    for (int r = 0; r < R; ++r) {
      const T factor = a.data[r * a.row + p * a.column];
      T* __restrict out = c + r * ldc;
      for (int64_t j = begin; j < end; ++j) out[j] += factor * in[j];
    }
  }
}

// The product of two strided rows in eight interleaved parts: a fixed order that vectorizes.
template <class T>
T dot(int64_t k, const T* a, int64_t a_step, const T* b, int64_t b_step) {
  T parts[8] = {};
  int64_t p = 0;
  if (a_step == 1 && b_step == 1) {
    for (; p + 8 <= k; p += 8) {
      for (int i = 0; i < 8; ++i) parts[i] += a[p + i] * b[p + i];
    }
  }
  for (; p < k; ++p) parts[p % 8] += a[p * a_step] * b[p * b_step];
  return ((parts[0] + parts[4]) + (parts[2] + parts[6])) +
         ((parts[1] + parts[5]) + (parts[3] + parts[7]));
}

}  // namespace matmul_loops

// Rows [i0, i1) and columns [j0, j1) of C = A B; C is [.., n] with row stride ldc. The bits of an
// element do not depend on how the caller cuts C.
template <class T>
void multiply_tile(int64_t k, MatrixRef<T> a, MatrixRef<T> b, T* c, int64_t ldc, int64_t i0,
                   int64_t i1, int64_t j0, int64_t j1) {
  if (b.column != 1) {
    for (int64_t i = i0; i < i1; ++i) {
      for (int64_t j = j0; j < j1; ++j) {
        c[i * ldc + j] =
            matmul_loops::dot(k, a.data + i * a.row, a.column, b.data + j * b.column, b.row);
      }
    }
    return;
  }
  for (int64_t begin = j0; begin < j1; begin += matmul_loops::kColumns) {
    const int64_t end = std::min(begin + matmul_loops::kColumns, j1);
    int64_t i = i0;
    for (; i + 4 <= i1; i += 4) {
      matmul_loops::rows<T, 4>(k, {a.data + i * a.row, a.row, a.column}, b, c + i * ldc, ldc, begin,
                               end);
    }
    for (; i < i1; ++i) {
      matmul_loops::rows<T, 1>(k, {a.data + i * a.row, a.row, a.column}, b, c + i * ldc, ldc, begin,
                               end);
    }
  }
}

// `batch` products; at(index) gives their operands as {a, b, c}. Parallel over batch, rows,
// columns.
template <class T, class At>
void multiply_all(int64_t batch, int64_t m, int64_t n, int64_t k, At&& at) {
  constexpr int64_t kRows = 32;
  constexpr int64_t kColumns = 256;
  if (batch == 0 || m == 0 || n == 0) return;
  const int64_t row_tiles = (m + kRows - 1) / kRows;
  const int64_t column_tiles = (n + kColumns - 1) / kColumns;
  const int64_t work = std::max<int64_t>(1, std::min(m, kRows) * std::min(n, kColumns) * k);
  parallel_for(
      0, batch * row_tiles * column_tiles, 1 + (1 << 16) / work, [&](int64_t from, int64_t to) {
        for (int64_t task = from; task < to; ++task) {
          const auto [a, b, c] = at(task / (row_tiles * column_tiles));
          const int64_t i = task / column_tiles % row_tiles * kRows;
          const int64_t j = task % column_tiles * kColumns;
          multiply_tile<T>(k, a, b, c, n, i, std::min(i + kRows, m), j, std::min(j + kColumns, n));
        }
      });
}

template <class T>
struct Product {
  MatrixRef<T> a;
  MatrixRef<T> b;
  T* c;
};

template <class T>
void multiply(int64_t m, int64_t n, int64_t k, MatrixRef<T> a, MatrixRef<T> b, T* c) {
  multiply_all<T>(1, m, n, k, [&](int64_t) { return Product<T>{a, b, c}; });
}

}  // namespace compress
