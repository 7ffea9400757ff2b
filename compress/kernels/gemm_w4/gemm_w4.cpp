#include "compress/kernels/gemm_w4/gemm_w4.h"

#include <algorithm>
#include <cassert>

#include "compress/core/parallel.h"

namespace compress::kernels {
namespace {

constexpr const GemmW4FloatKernel* kFloatKernels[] = {&kGemmW4FloatAvx2, &kGemmW4FloatRef};
constexpr const GemmW4Int8Kernel* kInt8Kernels[] = {&kGemmW4Int8Avx512Vnni, &kGemmW4Int8Avx2,
                                                    &kGemmW4Int8Ref};

constexpr int64_t kFloatScratch = (kW4FloatChunk + kW4FloatRows) * kW4Columns * 4;  // bytes
constexpr int64_t kRowBytes = 128 << 10;  // quantized rows that stay in L2 past every panel
// As in gemm_s8.cpp.
constexpr int64_t kParallelWork = 1 << 21;
constexpr int64_t kRowsOfReading = 2;
constexpr int64_t kQuantizeWork = 1 << 14;  // activations a thread takes at least

int64_t thread_slots(const PackedGemmW4& w, int64_t m) noexcept {
  if ((m + kRowsOfReading) * w.n * w.k < kParallelWork) return 1;
  return std::max<int64_t>(1, std::min<int64_t>(thread_count(), w.panel_count()));
}

template <class Kernel>
const Kernel& best_of(std::span<const Kernel* const> kernels) noexcept {
  for (const Kernel* kernel : kernels) {
    if (kernel->isa <= active_isa()) return *kernel;
  }
  return *kernels.back();
}

GemmW4Panel panel_at(const PackedGemmW4& w, const GemmW4Args& args, int64_t panel) noexcept {
  const int64_t column = panel * kW4Columns, table = panel * w.blocks * kW4Columns;
  GemmW4Panel out{};
  out.weights = w.panels.get() + panel * w.panel_bytes();
  out.scales = w.scales.get() + table;
  out.zero_points = w.zero_points ? w.zero_points.get() + table : nullptr;
  out.default_zero = 1 << (w.bits - 1);
  out.bits = w.bits;
  out.block_size = w.block_size;
  out.blocks = w.blocks;
  out.columns = std::min(kW4Columns, w.n - column);
  out.bias = args.bias ? args.bias + column : nullptr;
  out.out = args.out + column;
  out.ldc = args.ldc;
  return out;
}

// Where gemm_w4_int8 keeps the quantized activations.
struct Int8Layout {
  int64_t stride = 0;  // bytes between rows
  int64_t scales = 0, sums = 0, total = 0;
};

Int8Layout int8_layout(const PackedGemmW4& w, int64_t m) noexcept {
  Int8Layout layout;
  // An odd number of cache lines, so that rows do not share an L1 set.
  const int64_t lines = divide_up(w.blocks * w.block_size, kAlignment);
  layout.stride = (lines | 1) * static_cast<int64_t>(kAlignment);
  layout.scales = m * layout.stride;
  layout.sums = layout.scales + round_up(m * w.blocks * 4, kAlignment);
  layout.total = layout.sums + round_up(m * w.blocks * 4, kAlignment);
  return layout;
}

uint8_t stored_zero_point(const GemmW4Weights& w, int64_t n, int64_t block, int64_t blocks) {
  if (w.zero_points == nullptr) return static_cast<uint8_t>(1 << (w.bits - 1));
  const uint8_t* row = w.zero_points + n * divide_up(blocks * w.bits, 8);
  if (w.bits == 8) return row[block];
  return block % 2 == 0 ? row[block / 2] & 15 : row[block / 2] >> 4;
}

}  // namespace

std::span<const GemmW4FloatKernel* const> gemm_w4_float_kernels() noexcept { return kFloatKernels; }
std::span<const GemmW4Int8Kernel* const> gemm_w4_int8_kernels() noexcept { return kInt8Kernels; }
const GemmW4FloatKernel& best_gemm_w4_float() noexcept { return best_of(gemm_w4_float_kernels()); }
const GemmW4Int8Kernel& best_gemm_w4_int8() noexcept { return best_of(gemm_w4_int8_kernels()); }

size_t PackedGemmW4::bytes() const {
  const int64_t tables = panel_count() * blocks * kW4Columns * (zero_points ? 5 : 4);
  return static_cast<size_t>(panel_count() * panel_bytes() + tables);
}

PackedGemmW4 pack_gemm_w4(const GemmW4Weights& w) {
  assert((w.bits == 4 || w.bits == 8) && w.block_size >= 16 && w.block_size <= 256);
  PackedGemmW4 packed;
  packed.k = w.k;
  packed.n = w.n;
  packed.block_size = w.block_size;
  packed.blocks = divide_up(w.k, w.block_size);
  packed.bits = w.bits;
  const int64_t entries = packed.panel_count() * packed.blocks * kW4Columns;
  packed.panels = make_aligned<uint8_t>(packed.panel_count() * packed.panel_bytes());
  packed.scales = make_aligned<float>(entries);
  packed.zero_points = make_aligned<uint8_t>(entries);
  const uint8_t usual = static_cast<uint8_t>(1 << (w.bits - 1));
  const int64_t row_bytes = packed.blocks * w.block_size * w.bits / 8;
  bool all_usual = true;
  for (int64_t n = 0; n < w.n; ++n) {
    const uint8_t* row = w.data + n * row_bytes;
    const int64_t lane = n % kW4Columns, panel = n / kW4Columns;
    uint8_t* to = packed.panels.get() + panel * packed.panel_bytes();
    for (int64_t k = 0; k < w.k; ++k) {
      if (w.bits == 8) {
        to[k / 4 * 64 + lane * 4 + k % 4] = row[k];
      } else {
        const uint8_t value = k % 2 == 0 ? row[k / 2] & 15 : row[k / 2] >> 4;
        uint8_t& byte = to[k / 8 * 64 + lane * 4 + k % 4];
        byte = static_cast<uint8_t>(byte | (k % 8 < 4 ? value : value << 4));
      }
    }
    for (int64_t block = 0; block < packed.blocks; ++block) {
      const int64_t at = (panel * packed.blocks + block) * kW4Columns + lane;
      packed.scales[at] = w.scales[n * packed.blocks + block];
      packed.zero_points[at] = stored_zero_point(w, n, block, packed.blocks);
      all_usual = all_usual && packed.zero_points[at] == usual;
    }
  }
  if (all_usual) packed.zero_points.reset();
  return packed;
}

size_t gemm_w4_float_workspace_bytes(const PackedGemmW4& weights, int64_t m) noexcept {
  return static_cast<size_t>(thread_slots(weights, m) * kFloatScratch);
}

size_t gemm_w4_int8_workspace_bytes(const PackedGemmW4& weights, int64_t m) noexcept {
  return static_cast<size_t>(int8_layout(weights, m).total);
}

void gemm_w4_float(const PackedGemmW4& w, const GemmW4Args& args,
                   const GemmW4FloatKernel& kernel) noexcept {
  const int64_t slots = thread_slots(w, args.m), panels = w.panel_count();
  parallel_for(0, slots, 1, [&](int64_t first, int64_t last) {
    for (int64_t slot = first; slot < last; ++slot) {
      float* scratch = static_cast<float*>(args.workspace) + slot * (kFloatScratch / 4);
      const int64_t end = panels * (slot + 1) / slots;
      for (int64_t i = panels * slot / slots; i < end; ++i) {
        GemmW4Panel panel = panel_at(w, args, i);
        for (int64_t row = 0; row < args.m; row += kW4FloatRows) {
          kernel.run(panel, {args.a + row * args.lda, args.lda,
                             std::min(kW4FloatRows, args.m - row), w.k, scratch});
          panel.out += kW4FloatRows * panel.ldc;
        }
      }
    }
  });
}

void gemm_w4_int8(const PackedGemmW4& w, const GemmW4Args& args,
                  const GemmW4Int8Kernel& kernel) noexcept {
  const Int8Layout layout = int8_layout(w, args.m);
  uint8_t* memory = static_cast<uint8_t*>(args.workspace);
  int8_t* values = reinterpret_cast<int8_t*>(memory);
  float* scales = reinterpret_cast<float*>(memory + layout.scales);
  int32_t* sums = reinterpret_cast<int32_t*>(memory + layout.sums);
  const int64_t slots = thread_slots(w, args.m), panels = w.panel_count();
  parallel_for(0, args.m, std::max<int64_t>(1, kQuantizeWork / std::max<int64_t>(w.k, 1)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t row = begin; row < end; ++row) {
                   kernel.quantize_row(args.a + row * args.lda, w.k, w.block_size,
                                       values + row * layout.stride, scales + row * w.blocks,
                                       sums + row * w.blocks);
                 }
               });
  const int64_t rows_at_once = std::max<int64_t>(8, kRowBytes / layout.stride / 8 * 8);
  parallel_for(0, slots, 1, [&](int64_t first, int64_t last) {
    const int64_t begin = panels * first / slots, end = panels * last / slots;
    for (int64_t row = 0; row < args.m; row += rows_at_once) {
      const GemmW4Int8Rows rows{values + row * layout.stride, layout.stride,
                                std::min(rows_at_once, args.m - row), scales + row * w.blocks,
                                sums + row * w.blocks};
      for (int64_t i = begin; i < end; ++i) {
        GemmW4Panel panel = panel_at(w, args, i);
        panel.out += row * args.ldc;
        kernel.run(panel, rows);
      }
    }
  });
}

}  // namespace compress::kernels
