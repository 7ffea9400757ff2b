// The loop around the block kernels, shared by gemm_s8 and conv_s8: they differ in where a row of A
// comes from. Not part of the public interface.
#pragma once

#include <algorithm>
#include <cstdint>

#include "compress/core/parallel.h"
#include "compress/kernels/gemm_s8/gemm_s8.h"
#include "compress/kernels/gemm_s8/gemm_s8_entries.h"

namespace compress::kernels::gemm_s8_detail {

// Rows packed together stay in the L2 cache while every panel passes them.
inline constexpr int64_t kBlockBytes = 192 << 10;
inline constexpr int64_t kArrangedBytes = 256 << 10;  // in up to three copies
inline constexpr int64_t kRowMultiple = 6;
inline constexpr int64_t kMaxBlockRows = 96;

struct Plan {
  int64_t row_bytes = 0;   // of a packed row
  int64_t block_rows = 0;  // packed at a time
  int64_t slots = 1;       // threads
  bool split_rows = true;
  int64_t table_bytes = 0;  // column tables, one set for all threads
  int64_t extra_bytes = 0;  // for packing, a thread
  int64_t row_multiple = kRowMultiple;
  int64_t tile_bytes = 0;   // of kernels that arrange rows
  int64_t tiles_bytes = 0;  // of a block
  int64_t slot_bytes = 0;
};

// Rows of a block's tiles: about the same number in each, and even.
inline int64_t tile_rows(int64_t rows) {
  const int64_t tiles = divide_up(rows, kS8TileRows);
  return round_up(divide_up(rows, tiles), int64_t{2});
}

Plan make_plan(const PackedGemmS8& weights, int64_t m, int64_t extra_bytes = 0) noexcept;
inline size_t workspace_bytes(const Plan& plan) noexcept {
  return static_cast<size_t>(plan.table_bytes + plan.slots * plan.slot_bytes);
}

// Fills everything of a block but its rows, its columns and its output.
GemmS8Block prepare_block(const PackedGemmS8& weights, const S8Epilogue& epilogue,
                          int32_t zero_point, void* tables) noexcept;

inline int64_t output_bytes(S8Output output) { return output == S8Output::quantized ? 1 : 4; }

// pack(first, rows, extra) packs rows of A from `first` on: `rows` says how many and where to;
// `extra` is the thread's own memory. `zero_point` is that of the packed values.
template <class Pack>
void run(const PackedGemmS8& weights, const Plan& plan, int64_t m, const S8Epilogue& epilogue,
         int32_t zero_point, void* out, int64_t ldc, void* workspace, const Pack& pack) noexcept {
  uint8_t* memory = static_cast<uint8_t*>(workspace);
  const GemmS8Block whole = prepare_block(weights, epilogue, zero_point, memory);
  const int64_t element = output_bytes(epilogue.output);
  const int64_t panels = weights.padded_n() / kS8PanelColumns;
  const int64_t row_units = divide_up(m, plan.row_multiple);

  auto work = [&](int64_t slot) {
    int64_t row_begin = 0, row_end = m, panel_begin = 0, panel_end = panels;
    if (plan.split_rows) {
      row_begin = std::min(m, row_units * slot / plan.slots * plan.row_multiple);
      row_end = std::min(m, row_units * (slot + 1) / plan.slots * plan.row_multiple);
    } else {
      panel_begin = panels * slot / plan.slots;
      panel_end = panels * (slot + 1) / plan.slots;
    }
    if (row_begin >= row_end || panel_begin >= panel_end) return;
    uint8_t* scratch = memory + plan.table_bytes + slot * plan.slot_bytes;
    int32_t* sums = reinterpret_cast<int32_t*>(scratch);
    uint8_t* extra = scratch + round_up(plan.block_rows * 4, kAlignment);
    uint8_t* packed = extra + plan.extra_bytes;
    uint8_t* tiles = packed + plan.block_rows * plan.row_bytes;
    const bool arranged = weights.kernel->arrange != nullptr;

    const int64_t column = panel_begin * kS8PanelColumns;
    GemmS8Block block = whole;
    block.a = arranged ? tiles : packed;
    block.a_stride = arranged ? plan.tile_bytes : plan.row_bytes;
    if (arranged) {
      block.starts += column / weights.kernel->entry_columns;
    } else {
      block.b += panel_begin * block.panel_bytes;
    }
    block.columns = std::min(weights.n, panel_end * kS8PanelColumns) - column;
    if (block.b_zero != nullptr) block.b_zero += column;
    block.finish.offset += column;
    block.finish.scale += column;
    block.finish.float_bias += column;
    block.row_sum = sums;
    block.ldc = ldc;
    for (int64_t row = row_begin; row < row_end; row += plan.block_rows) {
      block.rows = std::min(plan.block_rows, row_end - row);
      std::fill_n(sums, block.rows, 0);
      pack(row,
           GemmS8Rows{nullptr, 0, block.rows, weights.k, 0, packed, plan.row_bytes,
                      block.b_zero != nullptr ? sums : nullptr},
           extra);
      if (arranged) {
        block.tile_rows = tile_rows(block.rows);
        weights.kernel->arrange({packed, plan.row_bytes, block.rows, block.tile_rows,
                                 pair_units(weights.k), weights.copies, tiles, plan.tile_bytes});
      }
      block.out = static_cast<uint8_t*>(out) + (row * ldc + column) * element;
      weights.kernel->block(block);
    }
  };
  if (plan.slots == 1) return work(0);
  parallel_for(0, plan.slots, 1, [&](int64_t begin, int64_t end) {
    for (int64_t slot = begin; slot < end; ++slot) work(slot);
  });
}

}  // namespace compress::kernels::gemm_s8_detail
