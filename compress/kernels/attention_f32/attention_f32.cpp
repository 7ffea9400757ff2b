#include "compress/kernels/attention_f32/attention_f32.h"

#include <algorithm>

#include "compress/core/parallel.h"
#include "compress/kernels/float_rows/rows_f32.h"
#include "compress/kernels/gemm_f32/gemm_f32.h"

namespace compress::kernels {
namespace {

constexpr int64_t kScoreFloats = 48 << 10;  // of a block of queries: they stay in the second cache
constexpr int64_t kThreadWork = 1 << 19;    // multiply-adds that repay waking a thread

struct Layout {
  int64_t rows = 0;  // queries at a time
  int64_t keys_floats = 0, values_floats = 0, score_floats = 0, mask_floats = 0;
  int64_t slots = 1;
  int64_t slot_floats() const { return keys_floats + values_floats + score_floats + mask_floats; }
};

Layout layout_of(const AttentionF32& p) noexcept {
  constexpr int64_t kLine = kAlignment / sizeof(float);
  Layout layout;
  const int64_t fit = kScoreFloats / std::max<int64_t>(1, p.keys) / kGemmF32Rows * kGemmF32Rows;
  layout.rows = std::clamp(fit, kGemmF32Rows, std::max(kGemmF32Rows, p.queries));
  layout.keys_floats = round_up(packed_gemm_f32_floats(p.size, p.keys), kLine);
  layout.values_floats = round_up(packed_gemm_f32_floats(p.keys, p.value_size), kLine);
  layout.score_floats = round_up(layout.rows * p.keys, kLine);
  layout.mask_floats = p.mask_repeats ? round_up(p.keys, kLine) : 0;
  const int64_t units = p.batch * p.heads;
  const int64_t work = p.queries * p.keys * (p.size + p.value_size);
  const int64_t grain = divide_up(kThreadWork, std::max<int64_t>(1, work));
  layout.slots = std::clamp<int64_t>(units / grain, 1, std::max(1, thread_count()));
  return layout;
}

int64_t offset(const AttentionStrides& strides, int64_t batch, int64_t head) {
  return batch * strides.batch + head * strides.head;
}

// One head of one sample.
void run_head(const AttentionF32& p, const Layout& layout, const float* q, const float* k,
              const float* v, const float* mask, float* out, float* memory) noexcept {
  float* keys = memory;
  float* values = keys + layout.keys_floats;
  float* scores = values + layout.values_floats;
  float* repeated = scores + layout.score_floats;
  pack_gemm_f32({k, p.size, p.keys, 1, p.k.row}, keys);
  pack_gemm_f32({v, p.keys, p.value_size, p.v.row, 1}, values);
  const RowsF32Kernel& rows_kernel = best_rows_f32();
  for (int64_t first = 0; first < p.queries; first += layout.rows) {
    const int64_t rows = std::min(layout.rows, p.queries - first);
    GemmF32Args product;
    product.a = q + first * p.q.row;
    product.m = rows;
    product.k = p.size;
    product.n = p.keys;
    product.lda = p.q.row;
    product.panels = keys;
    product.out = scores;
    product.ldc = p.keys;
    gemm_f32(product);
    for (int64_t row = 0; row < rows; ++row) {
      const float* add = mask != nullptr ? mask + (first + row) * p.mask.row : nullptr;
      if (add != nullptr && p.mask_repeats) {
        std::fill_n(repeated, p.keys, *add);
        add = repeated;
      }
      float* to = scores + row * p.keys;
      rows_kernel.softmax(to, add, p.scale, p.keys, to);
    }
    product.a = scores;
    product.k = p.keys;
    product.n = p.value_size;
    product.lda = p.keys;
    product.panels = values;
    product.out = out + first * p.out.row;
    product.ldc = p.out.row;
    gemm_f32(product);
  }
}

}  // namespace

size_t attention_f32_workspace_bytes(const AttentionF32& plan) noexcept {
  const Layout layout = layout_of(plan);
  return static_cast<size_t>(layout.slots * layout.slot_floats()) * sizeof(float);
}

void attention_f32(const AttentionF32& p, const float* q, const float* k, const float* v,
                   const float* mask, float* out, void* workspace) noexcept {
  const Layout layout = layout_of(p);
  const int64_t units = p.batch * p.heads;
  const auto work = [&](int64_t slot) {
    float* memory = static_cast<float*>(workspace) + slot * layout.slot_floats();
    const int64_t end = units * (slot + 1) / layout.slots;
    for (int64_t unit = units * slot / layout.slots; unit < end; ++unit) {
      const int64_t batch = unit / p.heads, head = unit % p.heads;
      run_head(p, layout, q + offset(p.q, batch, head), k + offset(p.k, batch, head),
               v + offset(p.v, batch, head),
               mask != nullptr ? mask + offset(p.mask, batch, head) : nullptr,
               out + offset(p.out, batch, head), memory);
    }
  };
  if (layout.slots == 1) return work(0);
  parallel_for(0, layout.slots, 1, [&](int64_t begin, int64_t end) {
    for (int64_t slot = begin; slot < end; ++slot) work(slot);
  });
}

}  // namespace compress::kernels
