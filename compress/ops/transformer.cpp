// com.microsoft's fused pieces of transformers: embeddings and residuals with a norm, Gelu
// variants, rotary embeddings (ai.onnx's as well).
#include <cmath>
#include <numbers>
#include <vector>

#include "compress/core/parallel.h"
#include "compress/ops/attention_loops.h"
#include "compress/ops/compute_families.h"
#include "compress/ops/typed.h"

namespace compress {
namespace {

// y = (x - mean) / sqrt(variance + epsilon) * gamma + beta for one row; centred false: mean is 0.
template <class T>
struct RowNorm {
  const T* gamma;
  const T* beta;  // may be null
  T epsilon;
  bool centred;

  void apply(const T* x, int64_t n, T* y, T* mean_out, T* inverse_out) const {
    T mean = 0;
    if (centred) {
      for (int64_t i = 0; i < n; ++i) mean += x[i];
      mean /= static_cast<T>(n);
    }
    T variance = 0;
    for (int64_t i = 0; i < n; ++i) variance += (x[i] - mean) * (x[i] - mean);
    const T inverse = T{1} / std::sqrt(variance / static_cast<T>(n) + epsilon);
    for (int64_t i = 0; i < n; ++i) {
      const T normal = (x[i] - mean) * inverse * gamma[i];
      y[i] = beta ? normal + beta[i] : normal;
    }
    if (mean_out) *mean_out = mean;
    if (inverse_out) *inverse_out = inverse;
  }
};

// --- SkipLayerNormalization: input, skip, gamma, beta, bias --------------------------------------
// SkipSimplifiedLayerNormalization has no beta: input, skip, gamma, bias.

void infer_skip_norm(NodeContext& c) {
  require_inputs(c, 3);
  infer_like_first(c);
  const bool known = c.in(0).has_shape;
  Shape row = known ? c.shape(0) : Shape();
  if (known && row.rank() < 2) c.invalid(fmt::format("the input has shape {}", row.to_string()));
  if (known) row[row.rank() - 1] = 1;
  for (const int i : {1, 2, 3}) {
    if (!c.has_output(i)) continue;
    const DType dtype = i == 3 || c.dtype(0) == DType::float64 ? c.dtype(0) : DType::float32;
    if (known) {
      c.set_output(i, dtype, i == 3 ? c.shape(0) : row);
    } else {
      c.set_output(i, dtype);
    }
  }
}

Kernel prepare_skip(const NodeContext& c, bool centred, int beta_slot, int bias_slot) {
  const Shape& shape = c.shape(0);
  const int64_t n = shape[shape.rank() - 1];
  const int64_t rows = shape.count(0, shape.rank() - 1);
  // skip may leave out the batch, or have 1 there.
  const int64_t skip_count = c.shape(1).count();
  if (c.shape(1) != shape && (shape.rank() != 3 || skip_count != shape[1] * n)) {
    c.invalid(
        fmt::format("skip has shape {}, the input {}", c.shape(1).to_string(), shape.to_string()));
  }
  for (const int i : {2, beta_slot, bias_slot}) require_count(c, i, n);
  const float epsilon = c.node().float_or("epsilon", 1e-12f);
  const bool has[4] = {true, c.has_output(1), c.has_output(2), c.has_output(3)};
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    return Kernel{
        "skip_layer_norm_ref", [=](const KernelArgs& args) {
          const auto slot = [&](int i) {
            return i < 0 ? nullptr : data_or_null<T>(args, static_cast<size_t>(i));
          };
          const auto output = [&](size_t i) { return has[i] ? args.outputs[i].as<T>() : nullptr; };
          const T* x = args.inputs[0].as<const T>();
          const T* skip = args.inputs[1].as<const T>();
          const T* bias = slot(bias_slot);
          const RowNorm<T> norm{slot(2), slot(beta_slot), static_cast<T>(epsilon), centred};
          T *y = output(0), *means = output(1), *inverses = output(2), *sums = output(3);
          parallel_for(0, rows, 8, [&](int64_t from, int64_t to) {
            std::vector<T> sum(static_cast<size_t>(n));
            for (int64_t r = from; r < to; ++r) {
              for (int64_t i = 0; i < n; ++i) {
                T value = x[r * n + i] + skip[(r * n + i) % skip_count];
                if (bias) value += bias[i];
                sum[static_cast<size_t>(i)] = value;
              }
              norm.apply(sum.data(), n, y + r * n, means ? means + r : nullptr,
                         inverses ? inverses + r : nullptr);
              if (sums) std::copy(sum.begin(), sum.end(), sums + r * n);
            }
          });
        }};
  });
}

Kernel prepare_skip_layer_norm(const NodeContext& c) { return prepare_skip(c, true, 3, 4); }
Kernel prepare_skip_rms_norm(const NodeContext& c) { return prepare_skip(c, false, -1, 3); }

// --- EmbedLayerNormalization ---------------------------------------------------------------------
// input_ids, segment_ids, word, position, segment embeddings, gamma, beta, mask, position_ids.

enum EmbedSlot { kIds, kSegments, kWord, kPosition, kSegment, kGamma, kBeta, kMask, kPositionIds };

void infer_embed(NodeContext& c) {
  for (const int i : {kIds, kWord, kPosition, kGamma, kBeta}) {
    if (!c.has_input(i)) c.invalid(fmt::format("input {} is missing", i));
  }
  const DType dtype = c.dtype(kWord);
  Shape out{kUnknownDim, kUnknownDim, kUnknownDim};
  if (known_rank(c, kIds, 2)) {
    out[0] = c.shape(kIds)[0];
    out[1] = c.shape(kIds)[1];
  }
  if (known_rank(c, kWord, 2)) out[2] = c.shape(kWord)[1];
  c.set_output(0, dtype, out);
  if (c.has_output(1)) c.set_output(1, DType::int32, Shape{out[0]});
  if (c.has_output(2)) c.set_output(2, dtype, out);
}

struct Embed {
  int64_t batch, steps, n;
  int64_t words, positions, segments;
  int64_t position_rows;  // of position_ids: 0, 1 or batch
  std::string node;
};

Embed read_embed(const NodeContext& c) {
  if (!known_rank(c, kIds, 2) || !known_rank(c, kWord, 2) || !known_rank(c, kPosition, 2)) {
    c.invalid("shapes are not known");
  }
  Embed e{};
  e.batch = c.shape(kIds)[0];
  e.steps = c.shape(kIds)[1];
  e.words = c.shape(kWord)[0];
  e.n = c.shape(kWord)[1];
  e.positions = c.shape(kPosition)[0];
  e.node = c.node().name;
  require_shape(c, kPosition, {e.positions, e.n});
  if (c.has_input(kSegments) != c.has_input(kSegment)) c.invalid("segments without embeddings");
  if (c.has_input(kSegment)) {
    known_rank(c, kSegment, 2);
    e.segments = c.shape(kSegment)[0];
    require_shape(c, kSegment, {e.segments, e.n});
    require_shape(c, kSegments, {e.batch, e.steps});
  }
  for (const int i : {kGamma, kBeta}) require_count(c, i, e.n);
  require_shape(c, kMask, {e.batch, e.steps});
  for (const int i : {static_cast<int>(kIds), static_cast<int>(kSegments), static_cast<int>(kMask),
                      static_cast<int>(kPositionIds)}) {
    if (c.has_input(i) && c.dtype(i) != DType::int32) c.unsupported("ids that are not int32");
  }
  if (c.has_input(kPositionIds)) {
    e.position_rows = known_rank(c, kPositionIds, 2) ? c.shape(kPositionIds)[0] : 0;
    if (e.position_rows != 1) e.position_rows = e.batch;
    require_shape(c, kPositionIds, {e.position_rows, e.steps});
  }
  return e;
}

template <class T>
const T* row_of(const T* table, int64_t index, int64_t rows, const Embed& e) {
  if (index < 0 || index >= rows) {
    fail(ErrorCode::invalid_model, "EmbedLayerNormalization '{}': index {} of {} rows",
         printable(e.node), index, rows);
  }
  return table + index * e.n;
}

template <class T>
void embed(const Embed& e, const KernelArgs& args, float epsilon, T* sums) {
  const int32_t* ids = args.inputs[kIds].as<const int32_t>();
  const int32_t* segments = data_or_null<int32_t>(args, kSegments);
  const int32_t* position_ids = data_or_null<int32_t>(args, kPositionIds);
  const T* word = args.inputs[kWord].as<const T>();
  const T* position = args.inputs[kPosition].as<const T>();
  const T* segment = data_or_null<T>(args, kSegment);
  const RowNorm<T> norm{args.inputs[kGamma].as<const T>(), args.inputs[kBeta].as<const T>(),
                        static_cast<T>(epsilon), true};
  T* y = args.outputs[0].as<T>();
  parallel_for(0, e.batch * e.steps, 8, [&](int64_t from, int64_t to) {
    std::vector<T> sum(static_cast<size_t>(e.n));
    for (int64_t r = from; r < to; ++r) {
      int64_t at = r % e.steps;
      if (position_ids) at = position_ids[e.position_rows == 1 ? at : r];
      const T* w = row_of(word, ids[r], e.words, e);
      const T* p = row_of(position, at, e.positions, e);
      const T* s = segment ? row_of(segment, segments[r], e.segments, e) : nullptr;
      for (int64_t i = 0; i < e.n; ++i) {
        sum[static_cast<size_t>(i)] = w[i] + p[i] + (s ? s[i] : T{0});
      }
      norm.apply(sum.data(), e.n, y + r * e.n, nullptr, nullptr);
      if (sums) std::copy(sum.begin(), sum.end(), sums + r * e.n);
    }
  });
}

Kernel prepare_embed(const NodeContext& c) {
  const Embed e = read_embed(c);
  const float epsilon = c.node().float_or("epsilon", 1e-12f);
  const bool has_lengths = c.has_output(1);
  const bool has_sums = c.has_output(2);
  return by_float(c, c.dtype(kWord), [&]<class T>(T) {
    return Kernel{"embed_layer_norm_ref", [=](const KernelArgs& args) {
                    embed<T>(e, args, epsilon, has_sums ? args.outputs[2].as<T>() : nullptr);
                    if (!has_lengths) return;
                    // The number of ones in each row of the mask; 0 without a mask, as ONNX Runtime
                    // has it.
                    const int32_t* mask = data_or_null<int32_t>(args, kMask);
                    int32_t* lengths = args.outputs[1].as<int32_t>();
                    for (int64_t b = 0; b < e.batch; ++b) {
                      lengths[b] = 0;
                      for (int64_t s = 0; mask && s < e.steps; ++s)
                        lengths[b] += mask[b * e.steps + s] == 1;
                    }
                  }};
  });
}

// --- Gelu variants -------------------------------------------------------------------------------

template <class T>
T fast_gelu(T x) {
  const T inner =
      x * (static_cast<T>(0.7978845608028654) + static_cast<T>(0.035677408136300125) * x * x);
  return static_cast<T>(0.5) * x * (T{1} + std::tanh(inner));
}
template <class T>
T exact_gelu(T x) {
  return static_cast<T>(0.5) * x * (T{1} + std::erf(x / std::numbers::sqrt2_v<T>));
}

// f(x + bias), the bias (input 1, optional) along the last axis.
template <class F>
Kernel prepare_biased(const NodeContext& c, const char* name, F f) {
  const Shape& shape = c.shape(0);
  const int64_t n = shape.rank() == 0 ? 1 : shape[shape.rank() - 1];
  const int64_t count = shape.count();
  require_count(c, 1, n);
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    return Kernel{name, [=](const KernelArgs& args) {
                    const T* x = args.inputs[0].as<const T>();
                    const T* bias = data_or_null<T>(args, 1);
                    T* y = args.outputs[0].as<T>();
                    parallel_for(0, count, 4096, [&](int64_t from, int64_t to) {
                      for (int64_t i = from; i < to; ++i)
                        y[i] = f(bias ? x[i] + bias[i % n] : x[i]);
                    });
                  }};
  });
}

Kernel prepare_fast_gelu(const NodeContext& c) {
  return prepare_biased(c, "fast_gelu_ref", [](auto x) { return fast_gelu(x); });
}
Kernel prepare_gelu(const NodeContext& c) {
  return prepare_biased(c, "gelu_ref", [](auto x) { return exact_gelu(x); });
}
Kernel prepare_quick_gelu(const NodeContext& c) {
  const float alpha = c.node().float_or("alpha", 1.702f);
  return prepare_biased(c, "quick_gelu_ref", [alpha]<class T>(T x) {
    return x / (T{1} + std::exp(-static_cast<T>(alpha) * x));
  });
}

// --- RotaryEmbedding -----------------------------------------------------------------------------
// com.microsoft: x, position_ids, cos, sin. ai.onnx-23: x, cos, sin, position_ids (optional;
// without it cos and sin are [batch, steps, half]).

struct Rotary {
  int64_t batch, heads, steps, size;
  int64_t half;          // pairs that are turned
  int64_t positions;     // rows of cos and sin
  bool heads_first;      // x is [batch, heads, steps, size]
  bool interleaved;      // pairs are neighbours, else a half apart
  int64_t id_count = 0;  // of position_ids: 0, 1 (an offset) or batch * steps
  int id_slot, cos_slot;
  std::string node;

  int64_t row(int64_t b, int64_t h, int64_t s) const {
    return heads_first ? ((b * heads + h) * steps + s) * size
                       : ((b * steps + s) * heads + h) * size;
  }
};

Rotary read_rotary(const NodeContext& c, int cos_slot, int id_slot, bool standard) {
  const Shape& x = c.shape(0);
  Rotary r{};
  r.cos_slot = cos_slot;
  r.id_slot = id_slot;
  r.interleaved = c.node().int_or("interleaved", 0) != 0;
  r.node = c.node().name;
  const Shape& cos = c.shape(cos_slot);
  require_shape(c, cos_slot + 1, cos);
  const bool has_ids = c.has_input(id_slot);
  if (cos.rank() != (has_ids ? 2 : 3)) c.invalid("cos has another rank");
  r.half = cos[cos.rank() - 1];
  int64_t heads = c.node().int_or("num_heads", 0);
  const int64_t turned = c.node().int_or("rotary_embedding_dim", 0);
  if (turned != 0 && turned != 2 * r.half) c.invalid("rotary_embedding_dim does not fit cos");
  r.heads_first = x.rank() == 4;
  if (x.rank() == 4) {
    r.batch = x[0], r.heads = x[1], r.steps = x[2], r.size = x[3];
  } else if (x.rank() == 3) {
    // Without num_heads every head is turned whole.
    if (heads == 0 && !standard && turned == 0 && r.half > 0) heads = x[2] / (2 * r.half);
    if (heads < 1 || x[2] % heads != 0) c.invalid(fmt::format("num_heads is {}", heads));
    r.batch = x[0], r.heads = heads, r.steps = x[1], r.size = x[2] / heads;
  } else {
    c.invalid(fmt::format("the input has shape {}", x.to_string()));
  }
  if (2 * r.half > r.size) c.invalid("cos is wider than a head");
  r.positions = has_ids ? cos[0] : r.batch * r.steps;
  if (!has_ids && (cos[0] != r.batch || cos[1] != r.steps)) c.invalid("cos does not fit the input");
  if (!has_ids) return r;
  if (c.dtype(id_slot) != DType::int64) c.invalid("position_ids are not int64");
  r.id_count = c.shape(id_slot).count();
  if (r.id_count != 1 || standard) require_count(c, id_slot, r.batch * r.steps);
  if (c.shape(id_slot).rank() != 1 && r.batch * r.steps == 1) r.id_count = r.batch * r.steps;
  return r;
}

int64_t position_of(const Rotary& r, const int64_t* ids, int64_t b, int64_t s) {
  int64_t at = b * r.steps + s;
  if (ids) at = r.id_count == 1 ? ids[0] + s : ids[at];
  if (at < 0 || at >= r.positions) {
    fail(ErrorCode::invalid_model, "RotaryEmbedding '{}': position {} of {}", printable(r.node), at,
         r.positions);
  }
  return at;
}

template <class T>
void rotate(const Rotary& r, const KernelArgs& args) {
  const T* x = args.inputs[0].as<const T>();
  const auto slot = static_cast<size_t>(r.cos_slot);
  const T* cos = args.inputs[slot].as<const T>();
  const T* sin = args.inputs[slot + 1].as<const T>();
  const int64_t* ids = data_or_null<int64_t>(args, static_cast<size_t>(r.id_slot));
  T* y = args.outputs[0].as<T>();
  parallel_for(0, r.batch * r.steps, 4, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      const int64_t at = position_of(r, ids, i / r.steps, i % r.steps) * r.half;
      for (int64_t h = 0; h < r.heads; ++h) {
        const int64_t row = r.row(i / r.steps, h, i % r.steps);
        rotate_pairs(x + row, y + row, cos + at, sin + at, r.half, r.interleaved);
        std::copy(x + row + 2 * r.half, x + row + r.size, y + row + 2 * r.half);
      }
    }
  });
}

Kernel rotary_kernel(const NodeContext& c, const Rotary& r) {
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    return Kernel{"rotary_embedding_ref", [r](const KernelArgs& args) { rotate<T>(r, args); }};
  });
}

Kernel prepare_rotary(const NodeContext& c) {
  require_inputs(c, 4);
  const float scale = c.node().float_or("scale", 1);
  if (scale != 1 || c.node().int_or("is_packed_batching", 0) != 0) {
    c.unsupported("scale or is_packed_batching");
  }
  return rotary_kernel(c, read_rotary(c, 2, 1, false));
}
Kernel prepare_standard_rotary(const NodeContext& c) {
  require_inputs(c, 3);
  return rotary_kernel(c, read_rotary(c, 1, 3, true));
}

constexpr std::string_view kDomain = "com.microsoft";
constexpr OpDef kRows[] = {
    {kDomain, "SkipLayerNormalization", 1, infer_skip_norm, prepare_skip_layer_norm},
    {kDomain, "SkipSimplifiedLayerNormalization", 1, infer_skip_norm, prepare_skip_rms_norm},
    {kDomain, "EmbedLayerNormalization", 1, infer_embed, prepare_embed},
    {kDomain, "FastGelu", 1, infer_like_first, prepare_fast_gelu},
    {kDomain, "Gelu", 1, infer_like_first, prepare_gelu},
    {kDomain, "BiasGelu", 1, infer_like_first, prepare_gelu},
    {kDomain, "QuickGelu", 1, infer_like_first, prepare_quick_gelu},
    {kDomain, "RotaryEmbedding", 1, infer_like_first, prepare_rotary},
    {"", "RotaryEmbedding", 23, infer_like_first, prepare_standard_rotary},
};

}  // namespace

const std::span<const OpDef> kTransformerOps = kRows;

}  // namespace compress
