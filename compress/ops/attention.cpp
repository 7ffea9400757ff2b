// com.microsoft's Attention and MultiHeadAttention.
#include <vector>

#include "compress/ops/attention_loops.h"
#include "compress/ops/compute_families.h"
#include "compress/ops/matmul_loops.h"
#include "compress/ops/typed.h"

namespace compress {
namespace {

int64_t read_heads(const NodeContext& c) {
  const int64_t heads = c.node().int_or("num_heads", 0);
  if (heads < 1 || heads > (int64_t{1} << 20)) c.invalid(fmt::format("num_heads is {}", heads));
  return heads;
}

template <class T>
size_t bytes_of(const Shape& shape) {
  return static_cast<size_t>(byte_size(dtype_of<T>(), static_cast<uint64_t>(shape.count())));
}

// --- Masks ---------------------------------------------------------------------------------------

// How mask_index says which keys count.
enum class MaskKind { none, ones, lengths, ends_and_starts, keys, queries_and_keys };

MaskKind read_mask(const NodeContext& c, int slot, int64_t batch, int64_t queries, int64_t keys) {
  if (!c.has_input(slot)) return MaskKind::none;
  if (c.dtype(slot) != DType::int32) c.unsupported("a mask that is not int32");
  const Shape& m = c.shape(slot);
  if (m == Shape{batch}) return MaskKind::lengths;
  if (m == Shape{2 * batch}) return MaskKind::ends_and_starts;
  if (m == Shape{batch, keys}) return MaskKind::keys;
  if (m == Shape{batch, 1} || m == Shape{1, 1}) return MaskKind::ones;
  if (m == Shape{batch, queries, keys}) return MaskKind::queries_and_keys;
  c.unsupported(
      fmt::format("a mask of shape {} for {} queries and {} keys", m.to_string(), queries, keys));
}

int64_t mask_rows(MaskKind kind, int64_t queries) {
  return kind == MaskKind::queries_and_keys ? queries : 1;
}

// Fills [batch, rows, keys] with 0 for keys that count and `filter` for others.
template <class T>
ScoreBias<T> expand_mask(MaskKind kind, const int32_t* m, int64_t batch, int64_t queries,
                         int64_t keys, T filter, T* out) {
  if (kind == MaskKind::none || kind == MaskKind::ones) return {};
  const int64_t rows = mask_rows(kind, queries);
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t r = 0; r < rows * keys; ++r) {
      bool counts = false;
      if (kind == MaskKind::lengths) counts = r < m[b];
      if (kind == MaskKind::ends_and_starts) counts = r < m[b] && r >= m[batch + b];
      if (kind == MaskKind::keys || kind == MaskKind::queries_and_keys) {
        counts = m[b * rows * keys + r] > 0;
      }
      out[b * rows * keys + r] = counts ? T{0} : filter;
    }
  }
  return {out, rows * keys, 0, rows > 1 ? keys : 0};
}

// [batch or 1, heads or 1, queries, keys].
struct BiasStrides {
  int64_t batch = 0, head = 0, row = 0;
};

BiasStrides read_bias(const NodeContext& c, int slot, int64_t batch, int64_t heads, int64_t queries,
                      int64_t keys) {
  if (!c.has_input(slot)) return {};
  const Shape& s = c.shape(slot);
  if (s.rank() != 4 || (s[0] != batch && s[0] != 1) || (s[1] != heads && s[1] != 1) ||
      s[2] != queries || s[3] != keys) {
    c.invalid(fmt::format("an attention bias of shape {}", s.to_string()));
  }
  return {s[0] == 1 ? 0 : s[1] * queries * keys, s[1] == 1 ? 0 : queries * keys, keys};
}

template <class T>
ScoreBias<T> bind_bias(const KernelArgs& args, size_t slot, BiasStrides s) {
  return {data_or_null<T>(args, slot), s.batch, s.head, s.row};
}

// --- Attention: input, weights, bias, mask, past, attention bias ---------------------------------

struct AttentionSizes {
  int64_t hidden[3];  // of q, k and v
  int64_t heads;
  int64_t batch = kUnknownDim, queries = kUnknownDim, past = 0, keys = kUnknownDim;
  int64_t total() const { return hidden[0] + hidden[1] + hidden[2]; }
  int64_t size(int i) const { return hidden[i] / heads; }
};

AttentionSizes read_attention(const NodeContext& c) {
  AttentionSizes s;
  s.heads = read_heads(c);
  const std::vector<int64_t> sizes = c.node().ints_or("qkv_hidden_sizes", {});
  if (!sizes.empty()) {
    if (sizes.size() != 3) c.invalid("qkv_hidden_sizes needs three values");
    std::copy(sizes.begin(), sizes.end(), s.hidden);
  } else {
    if (!known_rank(c, 1, 2) || c.shape(1)[1] < 0) c.unsupported("weights of unknown shape");
    std::fill(s.hidden, s.hidden + 3, c.shape(1)[1] / 3);
  }
  for (const int64_t hidden : s.hidden) {
    if (hidden < 1 || hidden > (int64_t{1} << 30) || hidden % s.heads != 0) {
      c.invalid(fmt::format("a hidden size of {} for {} heads", hidden, s.heads));
    }
  }
  if (s.hidden[0] != s.hidden[1]) c.invalid("the hidden sizes of q and k differ");
  if (known_rank(c, 0, 3)) {
    s.batch = c.shape(0)[0];
    s.queries = c.shape(0)[1];
  }
  if (c.has_input(4)) s.past = known_rank(c, 4, 5) ? c.shape(4)[3] : kUnknownDim;
  if (s.past >= 0 && s.queries >= 0) s.keys = s.past + s.queries;
  return s;
}

void infer_attention(NodeContext& c) {
  require_inputs(c, 2);
  const AttentionSizes s = read_attention(c);
  c.set_output(0, c.dtype(0), Shape{s.batch, s.queries, s.hidden[2]});
  if (c.has_output(1)) {
    c.set_output(1, c.dtype(0), Shape{2, s.batch, s.heads, s.keys, s.size(1)});
  }
}

template <class T>
struct AttentionKernel {
  AttentionSizes s;
  int64_t input;
  MaskKind mask;
  BiasStrides bias;
  bool causal, has_past, has_present;
  T scale, filter;

  int64_t qkv_count() const { return s.batch * s.queries * s.total(); }
  int64_t state_count(int i) const { return s.batch * s.heads * s.keys * s.size(i); }
  int64_t mask_count() const { return s.batch * mask_rows(mask, s.queries) * s.keys; }
  int64_t count() const { return qkv_count() + state_count(1) + state_count(2) + mask_count(); }
  void run(const KernelArgs& args) const;
};

template <class T>
void AttentionKernel<T>::run(const KernelArgs& args) const {
  T* qkv = reinterpret_cast<T*>(args.workspace);
  T* keys = qkv + qkv_count();
  T* values = keys + state_count(1);
  T* masks = values + state_count(2);
  const int64_t rows = s.batch * s.queries;
  const int64_t total = s.total();
  multiply<T>(rows, total, input, {args.inputs[0].as<const T>(), input, 1},
              {args.inputs[1].as<const T>(), total, 1}, qkv);
  if (const T* b = data_or_null<T>(args, 2)) {
    for (int64_t i = 0; i < rows * total; ++i) qkv[i] += b[i % total];
  }
  const auto heads_of = [&](int64_t first, int64_t size) {
    return Heads<const T>{qkv + first, s.queries * total, size, total};
  };
  const T* past = has_past ? args.inputs[4].as<const T>() : nullptr;
  const auto join = [&](int i, int64_t first, T* to) {
    const int64_t size = s.size(i);
    if (past) {
      const T* from = past + (i == 1 ? 0 : s.batch * s.heads * s.past * size);
      copy_heads<T>({from, s.heads * s.past * size, s.past * size, size}, s.batch, s.heads, s.past,
                    size, to, s.keys, 0);
    }
    copy_heads<T>(heads_of(first, size), s.batch, s.heads, s.queries, size, to, s.keys, s.past);
  };
  join(1, s.hidden[0], keys);
  join(2, s.hidden[0] + s.hidden[1], values);
  if (has_present) {
    T* present = args.outputs[1].as<T>();
    std::copy(keys, keys + state_count(1), present);
    std::copy(values, values + state_count(2), present + state_count(1));
  }
  AttentionTask<T> t{};
  t.batch = s.batch;
  t.heads = t.kv_heads = s.heads;
  t.queries = s.queries;
  t.keys = s.keys;
  t.qk_size = s.size(1);
  t.v_size = s.size(2);
  t.scale = scale;
  t.causal = causal;
  t.past = s.past;
  t.window = -1;
  t.q = heads_of(0, s.size(0));
  t.k = {keys, s.heads * s.keys * s.size(1), s.keys * s.size(1), s.size(1)};
  t.v = {values, s.heads * s.keys * s.size(2), s.keys * s.size(2), s.size(2)};
  t.out = {args.outputs[0].as<T>(), s.queries * s.hidden[2], s.size(2), s.hidden[2]};
  t.mask = expand_mask<T>(mask, data_or_null<int32_t>(args, 3), s.batch, s.queries, s.keys, filter,
                          masks);
  t.bias = bind_bias<T>(args, 5, bias);
  attend(t);
}

Kernel prepare_attention(const NodeContext& c) {
  const AttentionSizes s = read_attention(c);
  const int64_t input = c.shape(0)[2];
  if (c.shape(1) != Shape{input, s.total()}) {
    c.invalid(fmt::format("weights of shape {}", c.shape(1).to_string()));
  }
  require_shape(c, 2, {s.total()});
  if (c.node().int_or("do_rotary", 0) != 0) c.unsupported("do_rotary");
  if (c.node().int_or("past_present_share_buffer", 0) != 0 || c.has_input(6)) {
    c.unsupported("past_present_share_buffer");
  }
  const bool uses_state = c.has_input(4) || c.has_output(1);
  if (uses_state && s.hidden[1] != s.hidden[2]) c.invalid("a state with k and v of other sizes");
  require_shape(c, 4, {2, s.batch, s.heads, s.past, s.size(1)});
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    AttentionKernel<T> k{};
    k.s = s;
    k.input = input;
    k.mask = read_mask(c, 3, s.batch, s.queries, s.keys);
    k.bias = read_bias(c, 5, s.batch, s.heads, s.queries, s.keys);
    k.causal = c.node().int_or("unidirectional", 0) != 0;
    k.has_past = c.has_input(4);
    k.has_present = c.has_output(1);
    k.scale = read_scale<T>(c, s.size(0));
    k.filter = static_cast<T>(c.node().float_or("mask_filter_value", -10000.0f));
    return Kernel{"attention_ref", [k](const KernelArgs& args) { k.run(args); },
                  bytes_of<T>(Shape{k.count()})};
  });
}

// --- MultiHeadAttention: query, key, value, bias, key padding mask, attention bias, past k, past v

struct MultiHead {
  int64_t batch = kUnknownDim, queries = kUnknownDim, heads, size = kUnknownDim,
          v_size = kUnknownDim, past = 0, fresh = kUnknownDim;
  bool heads_first = false;  // key and value are [batch, heads, keys, size] (cross attention)
  int64_t keys() const { return past < 0 || fresh < 0 ? kUnknownDim : past + fresh; }
};

MultiHead read_multi_head(const NodeContext& c) {
  MultiHead m;
  m.heads = read_heads(c);
  if (!c.has_input(1) || !c.has_input(2)) c.unsupported("packed query, key and value");
  if (c.in(0).has_shape && c.shape(0).rank() != 3) c.unsupported("a packed query");
  const auto split = [&](int64_t hidden) {
    if (hidden >= 0 && hidden % m.heads != 0) {
      c.invalid(fmt::format("a hidden size of {} for {} heads", hidden, m.heads));
    }
    return hidden < 0 ? kUnknownDim : hidden / m.heads;
  };
  if (known_rank(c, 0, 3)) {
    m.batch = c.shape(0)[0];
    m.queries = c.shape(0)[1];
    m.size = split(c.shape(0)[2]);
  }
  if (c.in(1).has_shape && c.in(2).has_shape) {
    m.heads_first = c.shape(1).rank() == 4;
    const int rank = m.heads_first ? 4 : 3;
    known_rank(c, 1, rank);
    known_rank(c, 2, rank);
    m.fresh = c.shape(1)[m.heads_first ? 2 : 1];
    m.v_size = m.heads_first ? c.shape(2)[3] : split(c.shape(2)[2]);
  }
  if (c.has_input(6)) m.past = known_rank(c, 6, 4) ? c.shape(6)[2] : kUnknownDim;
  return m;
}

void infer_multi_head(NodeContext& c) {
  require_inputs(c, 1);
  const MultiHead m = read_multi_head(c);
  int64_t hidden = kUnknownDim;
  if (m.v_size >= 0 && __builtin_mul_overflow(m.v_size, m.heads, &hidden)) c.invalid("too wide");
  c.set_output(0, c.dtype(0), Shape{m.batch, m.queries, hidden});
  if (c.has_output(1)) c.set_output(1, c.dtype(0), Shape{m.batch, m.heads, m.keys(), m.size});
  if (c.has_output(2)) c.set_output(2, c.dtype(0), Shape{m.batch, m.heads, m.keys(), m.v_size});
}

template <class T>
struct MultiHeadKernel {
  MultiHead m;
  MaskKind mask;
  BiasStrides bias;
  bool causal, has_past;
  T scale, filter;

  int64_t q_count() const { return m.batch * m.queries * m.heads * m.size; }
  int64_t k_count() const { return m.batch * m.heads * m.keys() * m.size; }
  int64_t v_count() const { return m.batch * m.heads * m.keys() * m.v_size; }
  int64_t mask_count() const { return m.batch * mask_rows(mask, m.queries) * m.keys(); }
  void run(const KernelArgs& args) const;
};

// `from` plus a bias of one value a channel, as [batch, heads, total, size] at position `at`.
template <class T>
void place(const MultiHead& m, const T* from, bool heads_first, const T* bias, int64_t count,
           int64_t size, T* to, int64_t total, int64_t at) {
  const int64_t hidden = m.heads * size;
  const Heads<const T> source = heads_first
                                    ? Heads<const T>{from, hidden * count, count * size, size}
                                    : Heads<const T>{from, hidden * count, size, hidden};
  copy_heads<T>(source, m.batch, m.heads, count, size, to, total, at);
  if (bias == nullptr) return;
  for (int64_t row = 0; row < m.batch * m.heads; ++row) {
    for (int64_t i = 0; i < count * size; ++i) {
      to[(row * total + at) * size + i] += bias[row % m.heads * size + i % size];
    }
  }
}

template <class T>
void MultiHeadKernel<T>::run(const KernelArgs& args) const {
  const int64_t total = m.keys();
  T* q = reinterpret_cast<T*>(args.workspace);
  T* k = q + q_count();
  T* v = k + k_count();
  T* masks = v + v_count();
  const T* b = data_or_null<T>(args, 3);
  const int64_t hidden = m.heads * m.size;
  place<T>(m, args.inputs[0].as<const T>(), false, b, m.queries, m.size, q, m.queries, 0);
  if (has_past) {
    place<T>(m, args.inputs[6].as<const T>(), true, nullptr, m.past, m.size, k, total, 0);
    place<T>(m, args.inputs[7].as<const T>(), true, nullptr, m.past, m.v_size, v, total, 0);
  }
  // A key and value with heads first come from a cache that holds the bias already.
  const T* fresh_bias = m.heads_first ? nullptr : b;
  place<T>(m, args.inputs[1].as<const T>(), m.heads_first,
           fresh_bias ? fresh_bias + hidden : nullptr, m.fresh, m.size, k, total, m.past);
  place<T>(m, args.inputs[2].as<const T>(), m.heads_first,
           fresh_bias ? fresh_bias + 2 * hidden : nullptr, m.fresh, m.v_size, v, total, m.past);
  const auto copy_out = [&](size_t i, const T* from, int64_t count) {
    if (i >= args.outputs.size() || args.outputs[i].data == nullptr) return;
    std::copy(from, from + count, args.outputs[i].as<T>());
  };
  copy_out(1, k, k_count());
  copy_out(2, v, v_count());
  AttentionTask<T> t{};
  t.batch = m.batch;
  t.heads = t.kv_heads = m.heads;
  t.queries = m.queries;
  t.keys = total;
  t.qk_size = m.size;
  t.v_size = m.v_size;
  t.scale = scale;
  t.causal = causal;
  t.past = m.past;
  t.window = -1;
  t.q = {q, hidden * m.queries, m.queries * m.size, m.size};
  t.k = {k, hidden * total, total * m.size, m.size};
  t.v = {v, m.heads * m.v_size * total, total * m.v_size, m.v_size};
  const int64_t out_hidden = m.heads * m.v_size;
  t.out = {args.outputs[0].as<T>(), m.queries * out_hidden, m.v_size, out_hidden};
  t.mask = expand_mask<T>(mask, data_or_null<int32_t>(args, 4), m.batch, m.queries, total, filter,
                          masks);
  t.bias = bind_bias<T>(args, 5, bias);
  attend(t);
}

Kernel prepare_multi_head(const NodeContext& c) {
  const MultiHead m = read_multi_head(c);
  for (const int i : {1, 2}) {
    const int64_t size = i == 1 ? m.size : m.v_size;
    require_shape(c, i,
                  m.heads_first ? Shape{m.batch, m.heads, m.fresh, size}
                                : Shape{m.batch, m.fresh, m.heads * size});
  }
  require_shape(c, 3, {m.heads * (2 * m.size + m.v_size)});
  require_shape(c, 6, {m.batch, m.heads, m.past, m.size});
  require_shape(c, 7, {m.batch, m.heads, m.past, m.v_size});
  if (c.has_input(6) != c.has_input(7)) c.invalid("past key without past value");
  if (c.has_input(8) || c.has_input(9) || c.has_output(3)) {
    c.unsupported("a shared cache or the output of scores");
  }
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    MultiHeadKernel<T> k{};
    k.m = m;
    k.mask = read_mask(c, 4, m.batch, m.queries, m.keys());
    k.bias = read_bias(c, 5, m.batch, m.heads, m.queries, m.keys());
    k.causal = c.node().int_or("unidirectional", 0) != 0;
    k.has_past = c.has_input(6);
    k.scale = read_scale<T>(c, m.size);
    k.filter = static_cast<T>(c.node().float_or("mask_filter_value", -10000.0f));
    const int64_t count = k.q_count() + k.k_count() + k.v_count() + k.mask_count();
    return Kernel{"multi_head_attention_ref", [k](const KernelArgs& args) { k.run(args); },
                  bytes_of<T>(Shape{count})};
  });
}

constexpr OpDef kRows[] = {
    {"com.microsoft",
     "Attention",
     1,
     infer_attention,
     prepare_attention,
     {.weight_input = 1, .bias_input = 2, .channel_axis = 1}},
    {"com.microsoft", "MultiHeadAttention", 1, infer_multi_head, prepare_multi_head},
};

}  // namespace

const std::span<const OpDef> kAttentionOps = kRows;

}  // namespace compress
