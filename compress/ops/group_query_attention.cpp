// com.microsoft's GroupQueryAttention: what exporters of language models write for attention over a
// cache. Inputs: query (or query, key and value in one), key, value, past key, past value,
// seqlens_k (keys of each sequence, less one), total_sequence_length, cos, sin, position_ids,
// attention bias.
#include <algorithm>
#include <limits>
#include <type_traits>
#include <vector>

#include "compress/kernels/aligned.h"
#include "compress/kernels/attention_f32/attention_f32.h"
#include "compress/ops/attention_loops.h"
#include "compress/ops/compute_families.h"
#include "compress/ops/typed.h"

namespace compress {
namespace {

// Elements that end where a cache line does.
int64_t whole_lines(int64_t count) { return kernels::round_up(count, kernels::kAlignment); }

enum Slot {
  kQuery,
  kKey,
  kValue,
  kPastKey,
  kPastValue,
  kLengths,
  kTotal,
  kCos,
  kSin,
  kPositions,
  kBias,
  kSlots
};

struct GroupQuery {
  int64_t heads = 1, kv_heads = 1;
  int64_t batch = kUnknownDim, queries = kUnknownDim, size = kUnknownDim;
  int64_t past = 0;             // positions that the past has room for
  int64_t total = kUnknownDim;  // of the longest sequence, with what is new
  bool packed = false;          // key and value follow the query in its rows

  // Positions of the cache that comes out.
  int64_t present() const { return past < 0 || total < 0 ? kUnknownDim : std::max(past, total); }
  // All sequences begin here; shorter ones are padded on the right.
  bool is_prompt() const { return queries == total; }
  int64_t row() const { return (heads + (packed ? 2 * kv_heads : 0)) * size; }
};

GroupQuery read_group_query(const NodeContext& c) {
  GroupQuery g;
  const auto count = [&](const char* name) {
    const int64_t heads = c.node().int_or(name, 0);
    if (heads < 1 || heads > (int64_t{1} << 20)) c.invalid(fmt::format("{} is {}", name, heads));
    return heads;
  };
  g.heads = count("num_heads");
  g.kv_heads = count("kv_num_heads");
  if (g.heads % g.kv_heads != 0) {
    c.invalid(fmt::format("{} heads do not share {} keys evenly", g.heads, g.kv_heads));
  }
  if (c.has_input(kKey) != c.has_input(kValue)) c.invalid("key without value");
  if (c.has_input(kPastKey) != c.has_input(kPastValue)) c.invalid("past key without past value");
  g.packed = !c.has_input(kKey);
  if (known_rank(c, kQuery, 3)) {
    g.batch = c.shape(kQuery)[0];
    g.queries = c.shape(kQuery)[1];
    const int64_t hidden = c.shape(kQuery)[2];
    const int64_t parts = g.heads + (g.packed ? 2 * g.kv_heads : 0);
    if (hidden >= 0 && hidden % parts != 0) {
      c.invalid(fmt::format("rows of {} for {} heads", hidden, parts));
    }
    if (hidden >= 0) g.size = hidden / parts;
  }
  if (c.has_input(kPastKey)) {
    g.past = known_rank(c, kPastKey, 4) ? c.shape(kPastKey)[2] : kUnknownDim;
  }
  if (const Tensor* total = c.constant(kTotal)) {
    if (total->count() != 1) c.invalid("total_sequence_length is no single number");
    g.total = total->to_int();
    if (g.total < 0 || g.total > std::numeric_limits<int32_t>::max()) {
      c.invalid(fmt::format("total_sequence_length is {}", g.total));
    }
  }
  return g;
}

void infer_group_query(NodeContext& c) {
  require_inputs(c, 1);
  const GroupQuery g = read_group_query(c);
  const int64_t hidden = g.size < 0 ? kUnknownDim : g.size * g.heads;
  c.set_output(0, c.dtype(kQuery), Shape{g.batch, g.queries, hidden});
  for (const int i : {1, 2}) {
    if (c.has_output(i)) {
      c.set_output(i, c.dtype(kQuery), Shape{g.batch, g.kv_heads, g.present(), g.size});
    }
  }
}

template <class T>
struct GroupQueryKernel {
  GroupQuery g;
  int64_t half = 0;       // pairs that are turned
  int64_t positions = 0;  // rows of cos and sin
  bool interleaved = false, has_bias = false;
  int64_t bias_batch = 0, bias_head = 0;
  T scale, softcap;
  int64_t window;
  std::string node;

  int64_t cache_count() const { return g.batch * g.kv_heads * g.present() * g.size; }
  int64_t query_count() const { return g.batch * g.queries * g.heads * g.size; }
  int64_t workspace_count() const { return whole_lines(query_count() + 2 * cache_count()); }
  bool is_fast() const { return std::is_same_v<T, float> && softcap == 0 && !has_bias; }

  int64_t past_of(int32_t last) const;
  void turn(const KernelArgs& args, T* row, int64_t position) const;
  void run(const KernelArgs& args) const;
};

// --- On the vectorized kernel --------------------------------------------------------------------

constexpr int64_t kQueriesAtOnce = 64;  // they share a mask, and read no keys behind the last's

int64_t queries_at_once(const GroupQuery& g) { return std::min(g.queries, kQueriesAtOnce); }

// Of one sequence; query heads of a group are rows of one product where there is one query, heads
// that read the same keys elsewhere.
kernels::AttentionF32 fast_plan(const GroupQuery& g, int64_t queries, int64_t keys, float scale) {
  kernels::AttentionF32 plan;
  const int64_t group = g.heads / g.kv_heads, cache = g.present() * g.size;
  const int64_t hidden = g.heads * g.size;
  plan.keys = keys;
  plan.size = plan.value_size = g.size;
  plan.scale = scale;
  if (g.queries == 1) {
    plan.heads = g.kv_heads;
    plan.queries = group;
    plan.q = plan.out = {0, group * g.size, g.size};
    plan.k = plan.v = {0, cache, g.size};
  } else {
    plan.batch = g.kv_heads;
    plan.heads = group;
    plan.queries = queries;
    plan.q = plan.out = {group * g.size, g.size, hidden};
    plan.k = plan.v = {cache, 0, g.size};
    plan.mask = {0, 0, keys};
  }
  return plan;
}

size_t fast_workspace_bytes(const GroupQuery& g) {
  const int64_t mask = whole_lines(queries_at_once(g) * g.present());
  return static_cast<size_t>(mask) * sizeof(float) +
         kernels::attention_f32_workspace_bytes(
             fast_plan(g, queries_at_once(g), g.present(), 1.0f));
}

// `position` is that of the first query, `counts` how many keys there are.
void attend_fast(const GroupQuery& g, int64_t position, int64_t counts, int64_t window, float scale,
                 const float* q, const float* k, const float* v, float* out, std::byte* workspace) {
  auto* mask = reinterpret_cast<float*>(workspace);
  const int64_t hidden = g.heads * g.size;
  void* inner = mask + whole_lines(queries_at_once(g) * g.present());
  for (int64_t first = 0; first < g.queries; first += kQueriesAtOnce) {
    const int64_t queries = std::min(g.queries - first, kQueriesAtOnce);
    const auto end_of = [&](int64_t i) { return std::min(position + first + i + 1, counts); };
    const auto begin_of = [&](int64_t i) {
      return window >= 0 ? std::max<int64_t>(0, end_of(i) - window) : 0;
    };
    const int64_t begin = begin_of(0), keys = end_of(queries - 1) - begin;
    for (int64_t i = 0; i < queries; ++i) {
      constexpr float kHidden = std::numeric_limits<float>::lowest() / 2;
      std::fill_n(mask + i * keys, keys, kHidden);
      std::fill(mask + i * keys + begin_of(i) - begin, mask + i * keys + end_of(i) - begin, 0.0f);
    }
    kernels::attention_f32(fast_plan(g, queries, keys, scale), q + first * hidden,
                           k + begin * g.size, v + begin * g.size, g.queries == 1 ? nullptr : mask,
                           out + first * hidden, inner);
  }
}

// Keys of a sequence that come from the past, by its entry of seqlens_k.
template <class T>
int64_t GroupQueryKernel<T>::past_of(int32_t last) const {
  const int64_t keys = int64_t{last} + 1;
  const int64_t past = g.is_prompt() ? 0 : keys - g.queries;
  if (keys < 1 || keys > g.total || past < 0 || past > g.past || past + g.queries > g.present()) {
    fail(ErrorCode::invalid_model,
         "GroupQueryAttention '{}': a sequence of {} keys with {} new ones, of {}, and room for {}",
         printable(node), keys, g.queries, g.total, g.past);
  }
  return past;
}

template <class T>
void GroupQueryKernel<T>::turn(const KernelArgs& args, T* row, int64_t position) const {
  if (half == 0) return;
  if (position < 0 || position >= positions) {
    fail(ErrorCode::invalid_model, "GroupQueryAttention '{}': position {} of {}", printable(node),
         position, positions);
  }
  const T* cos = args.inputs[kCos].as<const T>() + position * half;
  const T* sin = args.inputs[kSin].as<const T>() + position * half;
  rotate_pairs(row, row, cos, sin, half, interleaved);
}

template <class T>
void GroupQueryKernel<T>::run(const KernelArgs& args) const {
  const auto* lengths = args.inputs[kLengths].as<const int32_t>();
  const auto* ids = data_or_null<int64_t>(args, kPositions);
  const int64_t present = g.present(), cache_row = present * g.size;
  T* query = reinterpret_cast<T*>(args.workspace);
  const auto cache = [&](size_t i) {
    const bool wanted = i < args.outputs.size() && args.outputs[i].data != nullptr;
    return wanted ? args.outputs[i].as<T>()
                  : query + query_count() + static_cast<int64_t>(i - 1) * cache_count();
  };
  T* caches[] = {cache(1), cache(2)};
  std::vector<int32_t> keys(static_cast<size_t>(g.batch));
  std::vector<int64_t> pasts(keys.size());
  for (size_t b = 0; b < keys.size(); ++b) {
    keys[b] = lengths[b] + 1;
    pasts[b] = past_of(lengths[b]);
  }
  // The exporter's runtime gives positions of the padding this number.
  const auto position = [&](int64_t b, int64_t s) {
    const auto at = static_cast<size_t>(b);
    if (ids != nullptr) return ids[b * g.queries + s];
    return pasts[at] + s < keys[at] ? pasts[at] + s : int64_t{1};
  };
  const auto* rows = args.inputs[kQuery].as<const T>();
  parallel_for(0, g.batch * g.heads, 1, [&](int64_t from, int64_t to) {
    for (int64_t task = from; task < to; ++task) {
      const int64_t b = task / g.heads, h = task % g.heads;
      for (int64_t s = 0; s < g.queries; ++s) {
        T* out = query + ((b * g.queries + s) * g.heads + h) * g.size;
        std::copy_n(rows + (b * g.queries + s) * g.row() + h * g.size, g.size, out);
        turn(args, out, position(b, s));
      }
    }
  });
  parallel_for(0, g.batch * g.kv_heads, 1, [&](int64_t from, int64_t to) {
    for (int64_t task = from; task < to; ++task) {
      const int64_t b = task / g.kv_heads, h = task % g.kv_heads;
      const int64_t past = pasts[static_cast<size_t>(b)];
      for (const size_t i : {size_t{0}, size_t{1}}) {
        T* to_cache = caches[i] + task * cache_row;
        if (const T* before = data_or_null<T>(args, kPastKey + i)) {
          std::copy_n(before + task * g.past * g.size, past * g.size, to_cache);
        }
        const T* fresh = g.packed ? rows + (g.heads + static_cast<int64_t>(i) * g.kv_heads) * g.size
                                  : args.inputs[kKey + i].as<const T>();
        const int64_t width = g.packed ? g.row() : g.kv_heads * g.size;
        for (int64_t s = 0; s < g.queries; ++s) {
          T* out = to_cache + (past + s) * g.size;
          std::copy_n(fresh + (b * g.queries + s) * width + h * g.size, g.size, out);
          if (i == 0) turn(args, out, position(b, s));
        }
        std::fill(to_cache + (past + g.queries) * g.size, to_cache + cache_row, T{0});
      }
    }
  });
  const int64_t hidden = g.heads * g.size;
  if constexpr (std::is_same_v<T, float>) {
    if (is_fast()) {
      auto* inner = args.workspace + workspace_count() * static_cast<int64_t>(sizeof(T));
      for (int64_t b = 0; b < g.batch; ++b) {
        const int64_t at = b * g.queries * hidden, cached = b * g.kv_heads * cache_row;
        attend_fast(g, pasts[static_cast<size_t>(b)], keys[static_cast<size_t>(b)], window, scale,
                    query + at, caches[0] + cached, caches[1] + cached,
                    args.outputs[0].as<T>() + at, inner);
      }
      return;
    }
  }
  AttentionTask<T> t{};
  t.batch = g.batch;
  t.heads = g.heads;
  t.kv_heads = g.kv_heads;
  t.queries = g.queries;
  t.keys = present;
  t.qk_size = t.v_size = g.size;
  t.scale = scale;
  t.softcap = softcap;
  t.causal = true;
  t.window = window;
  t.key_counts = keys.data();
  t.from_start = g.is_prompt();
  t.q = {query, g.queries * hidden, g.size, hidden};
  t.k = {caches[0], g.kv_heads * cache_row, cache_row, g.size};
  t.v = {caches[1], g.kv_heads * cache_row, cache_row, g.size};
  t.out = {args.outputs[0].as<T>(), g.queries * hidden, g.size, hidden};
  if (has_bias) t.bias = {args.inputs[kBias].as<const T>(), bias_batch, bias_head, g.total};
  attend(t);
}

void refuse_what_is_not_here(const NodeContext& c) {
  for (int i = kSlots; i < static_cast<int>(c.node().inputs.size()); ++i) {
    if (c.has_input(i)) c.unsupported("a sink or a quantized cache");
  }
  if (c.has_output(3)) c.unsupported("the output of scores");
  if (c.node().int_or("smooth_softmax", 0) == 1) c.unsupported("smooth_softmax");
}

Kernel prepare_group_query(const NodeContext& c) {
  for (const int i : {kLengths, kTotal}) {
    if (!c.has_input(i)) c.invalid(fmt::format("input {} is missing", i));
    if (c.dtype(i) != DType::int32) c.invalid(fmt::format("input {} is not int32", i));
  }
  refuse_what_is_not_here(c);
  const GroupQuery g = read_group_query(c);
  require_count(c, kLengths, g.batch);
  for (const int i : {kKey, kValue}) {
    require_shape(c, i, {g.batch, g.queries, g.kv_heads * g.size});
    require_shape(c, i + 2, {g.batch, g.kv_heads, g.past, g.size});
  }
  const bool rotary = c.node().int_or("do_rotary", 0) != 0;
  if (rotary && (!c.has_input(kCos) || !c.has_input(kSin)))
    c.invalid("do_rotary without cos and sin");
  return by_float(c, c.dtype(kQuery), [&]<class T>(T) {
    GroupQueryKernel<T> k{};
    k.g = g;
    k.node = c.node().name;
    if (rotary) {
      const Shape& cos = c.shape(kCos);
      require_shape(c, kSin, cos);
      if (cos.rank() != 2 || cos[1] < 1 || 2 * cos[1] > g.size) {
        c.invalid(fmt::format("cos of shape {} for heads of {}", cos.to_string(), g.size));
      }
      k.positions = cos[0];
      k.half = cos[1];
      k.interleaved = c.node().int_or("rotary_interleaved", 0) != 0;
      if (c.has_input(kPositions)) {
        if (c.dtype(kPositions) != DType::int64) c.invalid("position_ids are not int64");
        require_count(c, kPositions, g.batch * g.queries);
      }
    }
    if (c.has_input(kBias)) {
      const Shape& s = c.shape(kBias);
      if (s.rank() != 4 || (s[0] != 1 && s[0] != g.batch) || (s[1] != 1 && s[1] != g.heads) ||
          s[2] != g.queries || s[3] != g.total) {
        c.invalid(fmt::format("an attention bias of shape {}", s.to_string()));
      }
      k.has_bias = true;
      k.bias_head = s[1] == 1 ? 0 : s[2] * s[3];
      k.bias_batch = s[0] == 1 ? 0 : s[1] * s[2] * s[3];
    }
    k.scale = read_scale<T>(c, g.size);
    k.softcap = static_cast<T>(c.node().float_or("softcap", 0));
    k.window = c.node().int_or("local_window_size", -1);
    Kernel kernel;
    kernel.name = k.is_fast() ? "group_query_attention/attention_f32" : "group_query_attention_ref";
    kernel.workspace_bytes = static_cast<size_t>(
        byte_size(dtype_of<T>(), static_cast<uint64_t>(Shape{k.workspace_count()}.count())));
    if (k.is_fast()) kernel.workspace_bytes += fast_workspace_bytes(g);
    kernel.run = [k](const KernelArgs& args) { k.run(args); };
    return kernel;
  });
}

constexpr OpDef kRows[] = {
    {"com.microsoft", "GroupQueryAttention", 1, infer_group_query, prepare_group_query},
};

}  // namespace

const std::span<const OpDef> kGroupQueryOps = kRows;

}  // namespace compress
