// int8 matrix product with weights packed once. Exact in int32 on every instruction set: all
// variants give the same bits.
//
//   acc[m][n] = bias[n] + sum over k of (A[m][k] - a_zero_point) * (B[k][n] - b_zero_point[n])
//
// followed by S8Epilogue. A and B are u8 or s8 in any combination, all at the same speed. Sums are
// modulo 2^32; they cannot overflow while K <= 66,000.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "compress/kernels/aligned.h"
#include "compress/kernels/gemm_s8/gemm_s8_kernel.h"

namespace compress::kernels {

// Best first. `best_gemm_s8()` is the first row that active_isa() allows.
std::span<const GemmS8Kernel* const> gemm_s8_kernels() noexcept;
const GemmS8Kernel& best_gemm_s8() noexcept;

struct GemmS8Weights {
  const void* data = nullptr;
  bool is_signed = true;
  bool transposed = false;  // [N, K] rather than [K, N]
  int64_t k = 0;
  int64_t n = 0;
  int64_t ld = 0;                    // elements between rows of `data`
  const void* zero_point = nullptr;  // of the type of data; null means 0
  bool zero_point_per_column = false;
};

// Packed weights, bound to the kernel that they were packed for.
struct PackedGemmS8 {
  const GemmS8Kernel* kernel = nullptr;
  int64_t k = 0, n = 0;
  AlignedArray<int8_t> panels;
  AlignedArray<int32_t> column_sum;  // sum of (b - zero point), padded to panels
  AlignedArray<int32_t> b_zero;      // padded to panels; null where every zero point is 0
  // Kernels of entries alone; panels then holds those.
  AlignedArray<uint16_t> index;
  AlignedArray<int32_t> starts;
  int64_t entries = 0;
  int copies = 0;  // of rows in tiles

  int64_t padded_n() const { return round_up(n, kS8PanelColumns); }
  int64_t groups() const { return divide_up(k, kernel->k_group); }
  int64_t panel_bytes() const { return groups() * kernel->k_group * kS8PanelColumns; }
  size_t bytes() const;
};

PackedGemmS8 pack_gemm_s8(const GemmS8Weights& weights,
                          const GemmS8Kernel& kernel = best_gemm_s8());

// For products of that many rows: where the weights suit it, with best_gemm_s8()'s faster variant
// for such weights. Depends on `rows` by prefers_entries() alone.
PackedGemmS8 pack_gemm_s8_for(const GemmS8Weights& weights, int64_t rows);
bool prefers_entries(int64_t rows) noexcept;

struct GemmS8Args {
  int64_t m = 0;
  const void* a = nullptr;  // [M, K], rows lda elements apart
  int64_t lda = 0;
  bool a_signed = false;
  int32_t a_zero_point = 0;
  void* out = nullptr;  // [M, N], rows ldc elements apart
  int64_t ldc = 0;
  S8Epilogue epilogue;
  void* workspace = nullptr;  // gemm_s8_workspace_bytes(), aligned to kAlignment
};

// Depends on thread_count(), so ask again after changing it.
size_t gemm_s8_workspace_bytes(const PackedGemmS8& weights, int64_t m) noexcept;

// Splits rows, or columns where there are few rows, over the threads. Allocates nothing.
void gemm_s8(const PackedGemmS8& weights, const GemmS8Args& args) noexcept;

}  // namespace compress::kernels
