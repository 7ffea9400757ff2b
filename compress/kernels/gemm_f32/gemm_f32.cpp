#include "compress/kernels/gemm_f32/gemm_f32.h"

#include <algorithm>
#include <cstring>

#include "compress/core/parallel.h"

namespace compress::kernels {
namespace {

constexpr const GemmF32Kernel* kKernels[] = {&kGemmF32Avx512, &kGemmF32Avx2, &kGemmF32Ref};

constexpr int64_t kChunk = 384;  // of k: a panel's chunk is 16 KB, half of the first cache
constexpr int64_t kBlockRows = 16 * kGemmF32Rows;
constexpr int64_t kBlockPanels = 4;
constexpr int64_t kThreadWork = 1 << 20;  // multiply-adds that repay waking a thread

// A tile of fewer than 16 columns goes through a buffer of whole ones.
void edge_tile(const GemmF32Tile& t, int64_t columns, const GemmF32Kernel& kernel) noexcept {
  constexpr int64_t kWidth = kGemmF32Columns;
  alignas(64) float c[kGemmF32Rows * kWidth];
  alignas(64) float residual[kGemmF32Rows * kWidth];
  alignas(64) float bias[kWidth];
  GemmF32Tile edge = t;
  edge.c = c;
  edge.ldc = kWidth;
  std::memset(c, 0, sizeof(c));
  for (int64_t r = 0; !t.first && r < t.rows; ++r) {
    std::copy_n(t.c + r * t.ldc, columns, c + r * kWidth);
  }
  if (t.bias != nullptr) {
    std::memset(bias, 0, sizeof(bias));
    std::copy_n(t.bias, columns, bias);
    edge.bias = bias;
  }
  if (t.residual != nullptr) {
    std::memset(residual, 0, sizeof(residual));
    for (int64_t r = 0; r < t.rows; ++r) {
      std::copy_n(t.residual + r * t.ldc, columns, residual + r * kWidth);
    }
    edge.residual = residual;
  }
  kernel.tile(edge);
  for (int64_t r = 0; r < t.rows; ++r) std::copy_n(c + r * kWidth, columns, t.c + r * t.ldc);
}

// Rows [row, row + rows) of panels [panel, last).
void block(const GemmF32Args& args, const GemmF32Kernel& kernel, int64_t row, int64_t rows,
           int64_t panel, int64_t last_panel) noexcept {
  const int64_t stride = args.k * kGemmF32Columns;
  const int64_t chunks = std::max<int64_t>(1, divide_up(args.k, kChunk));
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const int64_t from = chunk * kChunk;
    GemmF32Tile tile{};
    tile.lda = args.lda;
    tile.k = std::min(kChunk, args.k - from);
    tile.ldc = args.ldc;
    tile.first = chunk == 0;
    tile.last = chunk == chunks - 1;
    tile.alpha = args.alpha;
    tile.lo = args.lo;
    tile.hi = args.hi;
    for (int64_t p = panel; p < last_panel; ++p) {
      const int64_t column = p * kGemmF32Columns;
      const int64_t columns = std::min(kGemmF32Columns, args.n - column);
      tile.b = args.panels + p * stride + from * kGemmF32Columns;
      tile.bias = args.bias != nullptr ? args.bias + column : nullptr;
      const bool pair =
          kernel.pair != nullptr && p + 2 <= last_panel && column + 2 * kGemmF32Columns <= args.n;
      const int64_t width = pair ? 2 : 1;
      // Read next: the panel beside these, the first panel's next chunk, the block beside this.
      const float* next = tile.b;
      if (p + width < last_panel) {
        next += width * stride;
      } else if (!tile.last) {
        next = args.panels + panel * stride + (from + kChunk) * kGemmF32Columns;
      } else if (last_panel < divide_up(args.n, kGemmF32Columns)) {
        next = args.panels + last_panel * stride;
      }
      const auto at_row = [&](int64_t r) {
        tile.a = args.a + r * args.lda + from;
        tile.c = args.out + r * args.ldc + column;
        tile.residual = args.residual != nullptr ? args.residual + r * args.ldc + column : nullptr;
      };
      if (rows == 1 && p + 4 <= last_panel && column + 4 * kGemmF32Columns <= args.n) {
        at_row(row);
        tile.rows = 1;
        kernel.row(tile, stride);
        p += 3;
        continue;
      }
      for (int64_t r = 0; r < rows; r += kGemmF32Rows) {
        at_row(row + r);
        tile.rows = std::min(kGemmF32Rows, rows - r);
        tile.next = r == 0 ? next : tile.b;
        if (pair) {
          kernel.pair(tile, stride);
        } else if (columns == kGemmF32Columns) {
          kernel.tile(tile);
        } else {
          edge_tile(tile, columns, kernel);
        }
      }
      p += width - 1;
    }
  }
  if (args.activate == nullptr) return;
  const int64_t column = panel * kGemmF32Columns;
  const int64_t columns = std::min(last_panel * kGemmF32Columns, args.n) - column;
  for (int64_t r = row; r < row + rows; ++r) {
    args.activate(args.activate_state, args.out + r * args.ldc + column, columns);
  }
}

}  // namespace

std::span<const GemmF32Kernel* const> gemm_f32_kernels() noexcept { return kKernels; }

const GemmF32Kernel& best_gemm_f32() noexcept {
  for (const GemmF32Kernel* kernel : kKernels) {
    if (kernel->isa <= active_isa()) return *kernel;
  }
  return kGemmF32Ref;
}

int64_t packed_gemm_f32_floats(int64_t k, int64_t n) noexcept {
  return round_up(n, kGemmF32Columns) * k;
}

void pack_gemm_f32(const MatrixF32& b, float* panels) noexcept {
  for (int64_t column = 0; column < b.n; column += kGemmF32Columns) {
    const int64_t columns = std::min(kGemmF32Columns, b.n - column);
    float* to = panels + column * b.k;
    if (columns < kGemmF32Columns) std::fill_n(to, kGemmF32Columns * b.k, 0.0f);
    const float* from = b.data + column * b.stride_n;
    if (b.stride_n == 1) {
      for (int64_t i = 0; i < b.k; ++i) {
        std::copy_n(from + i * b.stride_k, columns, to + i * kGemmF32Columns);
      }
      continue;
    }
    for (int64_t i = 0; i < b.k; ++i) {
      for (int64_t j = 0; j < columns; ++j) {
        to[i * kGemmF32Columns + j] = from[i * b.stride_k + j * b.stride_n];
      }
    }
  }
}

PackedGemmF32 pack_gemm_f32(const MatrixF32& b) {
  PackedGemmF32 packed;
  packed.k = b.k;
  packed.n = b.n;
  packed.panels = make_aligned<float>(packed_gemm_f32_floats(b.k, b.n));
  pack_gemm_f32(b, packed.panels.get());
  return packed;
}

void gemm_f32(const GemmF32Args& args, const GemmF32Kernel& kernel) noexcept {
  const int64_t panels = divide_up(args.n, kGemmF32Columns);
  // Even blocks of whole tiles.
  const int64_t row_blocks = std::max<int64_t>(1, divide_up(args.m, kBlockRows));
  const int64_t block_rows = round_up(divide_up(args.m, row_blocks), kGemmF32Rows);
  const int64_t column_blocks = divide_up(panels, kBlockPanels);
  const int64_t work = std::max<int64_t>(1, block_rows * kBlockPanels * kGemmF32Columns * args.k);
  parallel_for(0, row_blocks * column_blocks, divide_up(kThreadWork, work),
               [&](int64_t begin, int64_t end) {
                 for (int64_t i = begin; i < end; ++i) {
                   const int64_t row = i / column_blocks * block_rows;
                   const int64_t panel = i % column_blocks * kBlockPanels;
                   block(args, kernel, row, std::clamp<int64_t>(args.m - row, 0, block_rows), panel,
                         std::min(panel + kBlockPanels, panels));
                 }
               });
}

}  // namespace compress::kernels
