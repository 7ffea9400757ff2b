#include "compress/kernels/gemm_s8/gemm_s8.h"

#include "compress/kernels/gemm_s8/gemm_s8_driver.h"
#include "compress/kernels/gemm_s8/gemm_s8_entries.h"
#include "compress/kernels/gemm_s8/saturation.h"
#include "compress/kernels/s8_finish.h"

namespace compress::kernels {
namespace {

constexpr const GemmS8Kernel* kKernels[] = {&kGemmS8Avx512Vnni, &kGemmS8Avx2, &kGemmS8Ref};

// Below this many multiplications (some 35 us) a second thread costs more than it brings: waking it
// takes 10 to 20 us where it sleeps between calls. Few rows take as long as two more would: reading
// the weights is then what takes the time.
constexpr int64_t kParallelWork = 1 << 21;
constexpr int64_t kRowsOfReading = 2;

// Pairs of bytes take 0.87 of the time of 16-bit values where K is long. Rows have to be arranged
// for them, which many columns repay.
constexpr int64_t kEntriesLeastK = 64;
constexpr int64_t kEntriesLeastN = 40;
constexpr int64_t kEntriesMostK = 4 * 65535;  // an index has 16 bits

int32_t weight_at(const GemmS8Weights& w, int64_t k, int64_t n) {
  const int64_t at = w.transposed ? n * w.ld + k : k * w.ld + n;
  // As s8: u8 values and their zero points both lose 128.
  return w.is_signed ? static_cast<const int8_t*>(w.data)[at]
                     : static_cast<const uint8_t*>(w.data)[at] - 128;
}

int32_t zero_point_at(const GemmS8Weights& w, int64_t n) {
  const int64_t at = w.zero_point_per_column ? n : 0;
  if (w.is_signed) return w.zero_point ? static_cast<const int8_t*>(w.zero_point)[at] : 0;
  return (w.zero_point ? static_cast<const uint8_t*>(w.zero_point)[at] : 0) - 128;
}

}  // namespace

std::span<const GemmS8Kernel* const> gemm_s8_kernels() noexcept { return kKernels; }

const GemmS8Kernel& best_gemm_s8() noexcept {
  for (const GemmS8Kernel* kernel : kKernels) {
    if (kernel->isa <= active_isa()) return *kernel;
  }
  return kGemmS8Ref;
}

size_t PackedGemmS8::bytes() const {
  const int64_t tables = padded_n() * (b_zero ? 8 : 4);
  const int64_t values = starts ? entries * (4 * kernel->entry_columns + 2)
                                : padded_n() / kS8PanelColumns * panel_bytes();
  return static_cast<size_t>(values + tables);
}

PackedGemmS8 pack_gemm_s8(const GemmS8Weights& weights, const GemmS8Kernel& kernel) {
  PackedGemmS8 packed;
  packed.kernel = &kernel;
  packed.k = weights.k;
  packed.n = weights.n;
  packed.panels = make_aligned<int8_t>(packed.padded_n() / kS8PanelColumns * packed.panel_bytes());
  packed.column_sum = make_aligned<int32_t>(packed.padded_n());
  packed.b_zero = make_aligned<int32_t>(packed.padded_n());

  const int64_t group = kernel.k_group;
  bool any_zero_point = false;
  for (int64_t first = 0; first < weights.n; first += kS8PanelColumns) {
    int8_t* panel = packed.panels.get() + first / kS8PanelColumns * packed.panel_bytes();
    const int64_t width = std::min(kS8PanelColumns, weights.n - first);
    uint32_t sums[kS8PanelColumns] = {};
    for (int64_t k = 0; k < weights.k; ++k) {
      int8_t* to = panel + k / group * (group * kS8PanelColumns) + k % group;
      for (int64_t c = 0; c < width; ++c) {
        const int32_t value = weight_at(weights, k, first + c);
        to[c * group] = static_cast<int8_t>(value);
        sums[c] += static_cast<uint32_t>(value);
      }
    }
    for (int64_t c = 0; c < width; ++c) {
      const int32_t zero = zero_point_at(weights, first + c);
      packed.b_zero[first + c] = zero;
      packed.column_sum[first + c] = static_cast<int32_t>(
          sums[c] - static_cast<uint32_t>(weights.k) * static_cast<uint32_t>(zero));
      any_zero_point = any_zero_point || zero != 0;
    }
  }
  if (!any_zero_point) packed.b_zero.reset();
  if (kernel.in_pairs) {
    gemm_s8_detail::make_pairs(packed);
  } else if (kernel.entry_columns != 0) {
    gemm_s8_detail::leave_out_zeros(packed);
  }
  return packed;
}

bool prefers_entries(int64_t rows) noexcept { return rows >= kS8TileRows; }

PackedGemmS8 pack_gemm_s8_for(const GemmS8Weights& weights, int64_t rows) {
  if (simulates_saturation() && weights.is_signed) return pack_gemm_s8(weights, kGemmS8Saturating);
  const GemmS8Kernel& best = best_gemm_s8();
  const GemmS8Kernel* of_entries = best.of_entries;
  const bool large =
      weights.k >= kEntriesLeastK && weights.k <= kEntriesMostK && weights.n >= kEntriesLeastN;
  if (of_entries != nullptr && prefers_entries(rows) && large) {
    PackedGemmS8 packed = pack_gemm_s8(weights, *of_entries);
    const int64_t units = packed.groups() * divide_up(weights.n, of_entries->entry_columns);
    if (packed.entries * 100 <= units * of_entries->most_percent) return packed;
  }
  return pack_gemm_s8(weights, best);
}

namespace gemm_s8_detail {

Plan make_plan(const PackedGemmS8& weights, int64_t m, int64_t extra_bytes) noexcept {
  Plan plan;
  // An odd number of cache lines: rows that start in the same L1 set would evict one another.
  const int64_t values = weights.groups() * weights.kernel->k_group;
  int64_t lines = divide_up(values * weights.kernel->a_bytes, int64_t{kAlignment});
  if (lines % 2 == 0) ++lines;
  plan.row_bytes = lines * static_cast<int64_t>(kAlignment);
  const bool arranged = weights.kernel->arrange != nullptr;
  plan.row_multiple = arranged ? kS8TileRows : kRowMultiple;
  const int64_t row_cost = arranged ? weights.copies * pair_units(weights.k) * 4 : plan.row_bytes;
  const int64_t room = (arranged ? kArrangedBytes : kBlockBytes) / std::max<int64_t>(row_cost, 1);
  plan.block_rows =
      std::clamp(room / plan.row_multiple * plan.row_multiple, plan.row_multiple, kMaxBlockRows);
  const int64_t panels = weights.padded_n() / kS8PanelColumns;
  const int64_t row_units = divide_up(m, plan.row_multiple);
  const bool small = (m + kRowsOfReading) * weights.n * weights.k < kParallelWork;
  const int64_t threads = small ? 1 : std::max(1, thread_count());
  plan.split_rows = row_units >= 2 * threads || row_units >= panels;
  plan.slots = std::max<int64_t>(1, std::min(threads, plan.split_rows ? row_units : panels));
  plan.block_rows = std::min(plan.block_rows, round_up(std::max<int64_t>(m, 1), plan.row_multiple));
  if (arranged) {
    plan.tile_bytes = weights.copies * pair_units(weights.k) * 4 * kS8TileRows;
    // Tiles of fewer rows than they have places for are more of them.
    plan.tiles_bytes = divide_up(plan.block_rows, kS8TileRows) * plan.tile_bytes;
  }
  plan.table_bytes = s8_finish_bytes(weights.n);
  plan.extra_bytes = round_up(extra_bytes, kAlignment);
  plan.slot_bytes = round_up(plan.block_rows * 4, kAlignment) + plan.extra_bytes +
                    plan.block_rows * plan.row_bytes + plan.tiles_bytes;
  return plan;
}

GemmS8Block prepare_block(const PackedGemmS8& weights, const S8Epilogue& epilogue,
                          int32_t zero_point, void* tables) noexcept {
  GemmS8Block block{};
  block.b = weights.panels.get();
  block.panel_bytes = weights.panel_bytes();
  block.groups = weights.groups();
  block.b_zero = weights.b_zero.get();
  block.index = weights.index.get();
  block.starts = weights.starts.get();
  block.finish = make_s8_finish(epilogue, weights.n, weights.column_sum.get(), zero_point, tables);
  return block;
}

}  // namespace gemm_s8_detail

size_t gemm_s8_workspace_bytes(const PackedGemmS8& weights, int64_t m) noexcept {
  return gemm_s8_detail::workspace_bytes(gemm_s8_detail::make_plan(weights, m));
}

void gemm_s8(const PackedGemmS8& weights, const GemmS8Args& args) noexcept {
  if (args.m <= 0 || weights.n <= 0) return;
  const uint8_t flip = args.a_signed ? 0x80 : 0;  // s8 + 128 is a u8
  const int32_t zero_point = args.a_zero_point + (args.a_signed ? 128 : 0);
  const uint8_t* a = static_cast<const uint8_t*>(args.a);
  gemm_s8_detail::run(weights, gemm_s8_detail::make_plan(weights, args.m), args.m, args.epilogue,
                      zero_point, args.out, args.ldc, args.workspace,
                      [&](int64_t row, GemmS8Rows rows, uint8_t*) {
                        rows.source = a + row * args.lda;
                        rows.source_stride = args.lda;
                        rows.flip = flip;
                        weights.kernel->pack_rows(rows);
                      });
}

}  // namespace compress::kernels
