// Scaled dot-product attention over strided heads, shared by the attention operators.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "compress/core/parallel.h"
#include "compress/ops/matmul_loops.h"
#include "compress/ops/op.h"

namespace compress {

// Element (batch b, head h, position s, d) is data[b * batch + h * head + s * step + d].
template <class T>
struct Heads {
  T* data;
  int64_t batch;
  int64_t head;
  int64_t step;
  T* at(int64_t b, int64_t h, int64_t s) const { return data + b * batch + h * head + s * step; }
};

// An additive term for the scores (b, h, i, j), broadcast where a stride is 0.
template <class T>
struct ScoreBias {
  const T* data = nullptr;
  int64_t batch = 0;
  int64_t head = 0;
  int64_t row = 0;
};

template <class T>
struct AttentionTask {
  int64_t batch, heads, kv_heads;
  int64_t queries, keys;
  int64_t qk_size, v_size;
  T scale;
  T softcap = 0;        // 0: none
  bool causal = false;  // query i sees keys up to i + past
  int64_t past = 0;
  int64_t window = -1;                  // with causal: only the last `window` keys; -1: all
  const int32_t* key_counts = nullptr;  // keys of batch b that exist; the last query sees the last
  bool from_start = false;              // with key_counts: query i is at key i all the same
  Heads<const T> q, k, v;
  Heads<T> out;
  ScoreBias<T> mask, bias;
};

namespace attention_loops {

template <class T>
void softmax(T* row, int64_t begin, int64_t end) {
  T top = std::numeric_limits<T>::lowest();
  for (int64_t j = begin; j < end; ++j) top = std::max(top, row[j]);
  T sum = 0;
  for (int64_t j = begin; j < end; ++j) {
    row[j] = std::exp(row[j] - top);
    sum += row[j];
  }
  for (int64_t j = begin; j < end; ++j) row[j] /= sum;
}

template <class T>
void one_query(const AttentionTask<T>& t, int64_t b, int64_t h, int64_t i, T* scores) {
  const int64_t kv = h / (t.heads / t.kv_heads);
  const int64_t keys = t.key_counts ? t.key_counts[b] : t.keys;
  const int64_t past = t.key_counts && !t.from_start ? keys - t.queries : t.past;
  const int64_t end = t.causal ? std::clamp<int64_t>(i + past + 1, 0, keys) : keys;
  const int64_t begin = t.window >= 0 ? std::max<int64_t>(0, end - t.window) : 0;
  const T* q = t.q.at(b, h, i);
  for (int64_t j = begin; j < end; ++j) {
    T score = matmul_loops::dot<T>(t.qk_size, q, 1, t.k.at(b, kv, j), 1) * t.scale;
    if (t.softcap > 0) score = t.softcap * std::tanh(score / t.softcap);
    if (t.bias.data) {
      score += t.bias.data[b * t.bias.batch + h * t.bias.head + i * t.bias.row + j];
    }
    if (t.mask.data) score += t.mask.data[b * t.mask.batch + h * t.mask.head + i * t.mask.row + j];
    scores[j] = score;
  }
  softmax(scores, begin, end);
  T* out = t.out.at(b, h, i);
  std::fill(out, out + t.v_size, T{0});
  for (int64_t j = begin; j < end; ++j) {
    const T weight = scores[j];
    const T* v = t.v.at(b, kv, j);
    for (int64_t d = 0; d < t.v_size; ++d) out[d] += weight * v[d];
  }
}

}  // namespace attention_loops

template <class T>
void attend(const AttentionTask<T>& t) {
  parallel_for(0, t.batch * t.heads, 1, [&](int64_t from, int64_t to) {
    std::vector<T> scores(static_cast<size_t>(t.keys));
    for (int64_t task = from; task < to; ++task) {
      for (int64_t i = 0; i < t.queries; ++i) {
        attention_loops::one_query(t, task / t.heads, task % t.heads, i, scores.data());
      }
    }
  });
}

// Rotary embedding of one head's row: its first 2 * half elements turn pair by pair, the rest
// stays. Pairs are neighbours where interleaved, else a half apart. `y` may be `x`.
template <class T>
void rotate_pairs(const T* x, T* y, const T* cos, const T* sin, int64_t half, bool interleaved) {
  const int64_t step = interleaved ? 2 : 1, second = interleaved ? 1 : half;
  for (int64_t p = 0; p < half; ++p) {
    const T a = x[p * step], b = x[p * step + second];
    y[p * step] = a * cos[p] - b * sin[p];
    y[p * step + second] = b * cos[p] + a * sin[p];
  }
}

// Attribute `scale` of com.microsoft's operators, by default 1 / sqrt(head_size).
template <class T>
T read_scale(const NodeContext& c, int64_t head_size) {
  const float given = c.node().float_or("scale", 0);
  return given != 0 ? static_cast<T>(given) : T{1} / std::sqrt(static_cast<T>(head_size));
}

// Copies `count` positions of all heads into a tensor [batch, heads, total, size] at position `at`.
template <class T>
void copy_heads(Heads<const T> from, int64_t batch, int64_t heads, int64_t count, int64_t size,
                T* to, int64_t total, int64_t at) {
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t s = 0; s < count; ++s) {
        const T* row = from.at(b, h, s);
        std::copy(row, row + size, to + ((b * heads + h) * total + at + s) * size);
      }
    }
  }
}

}  // namespace compress
