// softmax(scale * Q K' + mask) V, head by head: scores of a few dozen queries stay in the cache,
// and operands are read where they lie, in any order of their axes but the last.
#pragma once

#include <cstddef>
#include <cstdint>

namespace compress::kernels {

// Elements between neighbours; 0 repeats. The elements of a row are neighbours.
struct AttentionStrides {
  int64_t batch = 0, head = 0, row = 0;
};

struct AttentionF32 {
  int64_t batch = 1, heads = 1, queries = 0, keys = 0;
  int64_t size = 0;        // of a row of Q and K
  int64_t value_size = 0;  // of V and the output
  float scale = 1.0f;
  AttentionStrides q, k, v, out;
  AttentionStrides mask;      // rows are queries
  bool mask_repeats = false;  // one number a row, for all its keys
};

// Depends on thread_count(), so ask again after changing it.
size_t attention_f32_workspace_bytes(const AttentionF32& plan) noexcept;

// `mask` may be null. Splits heads over the threads; each output is the same for any number.
void attention_f32(const AttentionF32& plan, const float* q, const float* k, const float* v,
                   const float* mask, float* out, void* workspace) noexcept;

}  // namespace compress::kernels
