// One direction of RNN, GRU or LSTM, step by step: what the reference, the packed and the integer
// kernels share. They differ in their two products (with W and with R) and in how a step's gates
// are computed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "compress/ops/activation.h"
#include "compress/ops/op.h"

namespace compress::recurrent {

enum class Cell { rnn, gru, lstm };

// Gates of a cell in the order of W and R: RNN i; GRU z r h; LSTM i o f c.
inline int gate_count(Cell cell) { return cell == Cell::rnn ? 1 : cell == Cell::gru ? 3 : 4; }

// Slots of the inputs, common to the operators; the last four are DynamicQuantizeLSTM's.
enum Slot {
  kX,
  kW,
  kR,
  kB,
  kLengths,
  kInitialH,
  kInitialC,
  kPeepholes,
  kWScale,
  kWZeroPoint,
  kRScale,
  kRZeroPoint
};

// Of W and R in each direction: [gates, k], or [k, gates] (DynamicQuantizeLSTM).
enum class WeightLayout { rows, columns };

struct Recurrence {
  Cell cell;
  int64_t directions, steps, batch, input, hidden;
  bool reverse = false;      // of the only direction
  bool batch_major = false;  // layout 1
  bool linear_before_reset = false;
  bool input_forget = false;
  float clip = 0;  // 0: none
  // f, g and h of each direction, one after the other.
  std::vector<Activation> activations;

  int64_t gates() const { return gate_count(cell) * hidden; }
  // Offsets of a row of X or Y, and of a state.
  int64_t row(int64_t t, int64_t b) const { return batch_major ? b * steps + t : t * batch + b; }
  int64_t y_at(int64_t t, int64_t d, int64_t b) const {
    const int64_t rows =
        batch_major ? (b * steps + t) * directions + d : (t * directions + d) * batch + b;
    return rows * hidden;
  }
  int64_t state_at(int64_t d, int64_t b) const {
    return (batch_major ? b * directions + d : d * batch + b) * hidden;
  }
  const Activation* activations_of(int64_t d) const {
    return activations.data() +
           static_cast<size_t>(d) * (activations.size() / static_cast<size_t>(directions));
  }
};

void infer_rnn(NodeContext& context);
void infer_gru(NodeContext& context);
void infer_lstm(NodeContext& context);
void infer_quantized_lstm(NodeContext& context);

// Checks all operands. REQUIRES known shapes.
Recurrence read_recurrence(const NodeContext& context, Cell cell, WeightLayout layout);
// The same for DynamicQuantizeLSTM: types and counts of scales and zero points as well, which are
// one or one a gate in each direction.
Recurrence read_quantized_lstm(const NodeContext& context);

// Pointers of one run, those of constants moved to the direction.
template <class T>
struct Buffers {
  const T* x;
  const T* b;          // null: zero
  const T* peepholes;  // null: none
  const int32_t* lengths;
  // Workspace.
  T* from_x;  // [steps * batch, gates], biases included
  T* from_h;  // [batch, gates]
  T* h;       // [batch, hidden]
  T* c;       // [batch, hidden]
  T* reset;   // [batch, hidden]: GRU's r * h
};

// Elements of T in the workspace.
inline uint64_t workspace_count(const Recurrence& r) {
  return static_cast<uint64_t>(Shape{r.steps, r.batch, r.gates()}.count()) +
         static_cast<uint64_t>(Shape{r.batch, r.gates() + 3 * r.hidden}.count());
}

// Bytes of all inputs or of the states, quantized.
inline size_t quantized_bytes(const Recurrence& r) {
  return static_cast<size_t>(
      std::max(Shape{r.steps, r.batch, r.input}.count(), Shape{r.batch, r.hidden}.count()));
}

// --- The gates of one row, element by element ----------------------------------------------------

template <class T>
T clipped(const Recurrence& r, T value) {
  if (!(r.clip > 0)) return value;
  const T limit = static_cast<T>(r.clip);
  return std::min(std::max(value, -limit), limit);
}

template <class T>
struct PlainGates {
  const Recurrence& r;
  const Activation* f;  // of the direction
  const T* b;
  const T* peepholes;  // i o f

  // GRU's r * h, where it is needed before the third gate can be projected.
  void reset(const T* x, T* rec, const T* h, T* out) const {
    for (int64_t j = 0; j < r.hidden; ++j) {
      const int64_t at = r.hidden + j;
      out[j] = f[0].apply(clipped(r, x[at] + rec[at])) * h[j];
    }
  }

  // New state from the row's projections; may overwrite `rec`.
  void step(const T* x, T* rec, T* h, T* c) const {
    if (r.cell == Cell::rnn) rnn(x, rec, h);
    if (r.cell == Cell::gru) gru(x, rec, h);
    if (r.cell == Cell::lstm) lstm(x, rec, h, c);
  }

 private:
  void rnn(const T* x, const T* rec, T* h) const {
    for (int64_t j = 0; j < r.hidden; ++j) h[j] = f[0].apply(clipped(r, x[j] + rec[j]));
  }

  void gru(const T* x, const T* rec, T* h) const {
    const int64_t n = r.hidden;
    for (int64_t j = 0; j < n; ++j) {
      const T update = f[0].apply(clipped(r, x[j] + rec[j]));
      T candidate = x[2 * n + j];
      if (r.linear_before_reset) {
        const T reset = f[0].apply(clipped(r, x[n + j] + rec[n + j]));
        const T bias = b ? b[3 * n + 2 * n + j] : T{0};
        candidate += reset * (rec[2 * n + j] + bias);
      } else {
        candidate += rec[2 * n + j];
      }
      h[j] = (T{1} - update) * f[1].apply(clipped(r, candidate)) + update * h[j];
    }
  }

  void lstm(const T* x, const T* rec, T* h, T* c) const {
    const int64_t n = r.hidden;
    const T* p = peepholes;
    for (int64_t j = 0; j < n; ++j) {
      const auto sum = [&](int64_t gate) { return x[gate * n + j] + rec[gate * n + j]; };
      const T in = f[0].apply(clipped(r, sum(0) + (p ? p[j] * c[j] : T{0})));
      const T forget = r.input_forget
                           ? T{1} - in
                           : f[0].apply(clipped(r, sum(2) + (p ? p[2 * n + j] * c[j] : T{0})));
      c[j] = forget * c[j] + in * f[1].apply(clipped(r, sum(3)));
      const T out = f[0].apply(clipped(r, sum(1) + (p ? p[n + j] * c[j] : T{0})));
      h[j] = out * f[2].apply(c[j]);
    }
  }
};

// --- One direction -------------------------------------------------------------------------------

// What is added to every row of X W': Wb + Rb, but for the recurrent bias of GRU's h gate where the
// reset scales it.
template <class T>
T input_bias(const Recurrence& r, const T* b, int64_t gate) {
  const bool apart = r.cell == Cell::gru && r.linear_before_reset && gate >= 2 * r.hidden;
  return b[gate] + (apart ? T{0} : b[r.gates() + gate]);
}

// from_h = H R'; GRU's third gate reads r * h instead unless the reset comes after.
template <class T, class Products, class Gates>
void project_state(const Recurrence& r, const Buffers<T>& m, const Products& products,
                   const Gates& gates, const std::vector<int64_t>& times) {
  const int64_t n = r.hidden;
  if (r.cell != Cell::gru || r.linear_before_reset) {
    return products.states(m.h, 0, r.gates(), m.from_h);
  }
  products.states(m.h, 0, 2 * n, m.from_h);
  for (int64_t b = 0; b < r.batch; ++b) {
    const int64_t t = times[static_cast<size_t>(b)];
    if (t < 0) continue;
    gates.reset(m.from_x + r.row(t, b) * r.gates(), m.from_h + b * r.gates(), m.h + b * n,
                m.reset + b * n);
  }
  products.states(m.reset, 2 * n, n, m.from_h);
}

template <class T>
void add_biases(const Recurrence& r, const T* b, T* from_x) {
  if (b == nullptr) return;
  for (int64_t i = 0; i < r.steps * r.batch; ++i) {
    for (int64_t g = 0; g < r.gates(); ++g) from_x[i * r.gates() + g] += input_bias(r, b, g);
  }
}

// Products has inputs(x, out): [steps * batch, gates] with the biases, and states(h, first, count,
// out): `count` gates from `first` on of [batch, hidden] states, in rows of all gates.
template <class T, class Products, class Gates>
void run_direction(const Recurrence& r, int64_t d, const Buffers<T>& m, const Products& products,
                   const Gates& gates, T* y) {
  const bool backward = d == 1 || r.reverse;
  products.inputs(m.x, m.from_x);
  std::vector<int64_t> times(static_cast<size_t>(r.batch));
  for (int64_t s = 0; s < r.steps; ++s) {
    for (int64_t b = 0; b < r.batch; ++b) {
      const int64_t length = m.lengths ? std::clamp<int64_t>(m.lengths[b], 0, r.steps) : r.steps;
      times[static_cast<size_t>(b)] = s >= length ? -1 : backward ? length - 1 - s : s;
    }
    project_state(r, m, products, gates, times);
    for (int64_t b = 0; b < r.batch; ++b) {
      const int64_t t = times[static_cast<size_t>(b)];
      if (t < 0) continue;
      T* h = m.h + b * r.hidden;
      gates.step(m.from_x + r.row(t, b) * r.gates(), m.from_h + b * r.gates(), h,
                 m.c + b * r.hidden);
      if (y) std::copy(h, h + r.hidden, y + r.y_at(t, d, b));
    }
  }
}

template <class T>
Buffers<T> bind(const Recurrence& r, const KernelArgs& args, int64_t d) {
  const auto input = [&](size_t slot) {
    return slot < args.inputs.size() ? static_cast<const T*>(args.inputs[slot].data) : nullptr;
  };
  Buffers<T> m{};
  m.x = input(kX);
  m.b = input(kB);
  if (m.b) m.b += d * 2 * r.gates();
  if (r.cell == Cell::lstm) m.peepholes = input(kPeepholes);
  if (m.peepholes) m.peepholes += d * 3 * r.hidden;
  if (kLengths < args.inputs.size()) {
    m.lengths = static_cast<const int32_t*>(args.inputs[kLengths].data);
  }
  m.from_x = reinterpret_cast<T*>(args.workspace);
  m.from_h = m.from_x + r.steps * r.batch * r.gates();
  m.h = m.from_h + r.batch * r.gates();
  m.c = m.h + r.batch * r.hidden;
  m.reset = m.c + r.batch * r.hidden;
  return m;
}

// Workspace state [batch, hidden] from (or to) the operand's layout.
template <class T>
void load_state(const Recurrence& r, int64_t d, const T* from, T* to) {
  for (int64_t b = 0; b < r.batch; ++b) {
    for (int64_t j = 0; j < r.hidden; ++j) {
      to[b * r.hidden + j] = from ? from[r.state_at(d, b) + j] : T{0};
    }
  }
}
template <class T>
void store_state(const Recurrence& r, int64_t d, const T* from, T* to) {
  if (to == nullptr) return;
  for (int64_t b = 0; b < r.batch; ++b) {
    std::copy(from + b * r.hidden, from + (b + 1) * r.hidden, to + r.state_at(d, b));
  }
}

// All directions. make(d, buffers) gives the direction's products and gates as a pair.
template <class T, class Make>
void run_recurrence(const Recurrence& r, const KernelArgs& args, const Make& make) {
  const auto output = [&](size_t i) {
    return i < args.outputs.size() ? static_cast<T*>(args.outputs[i].data) : nullptr;
  };
  const auto state = [&](size_t slot) {
    return slot < args.inputs.size() ? static_cast<const T*>(args.inputs[slot].data) : nullptr;
  };
  if (T* y = output(0)) std::fill(y, y + args.outputs[0].count(), T{0});
  for (int64_t d = 0; d < r.directions; ++d) {
    const Buffers<T> m = bind<T>(r, args, d);
    load_state(r, d, state(kInitialH), m.h);
    if (r.cell == Cell::lstm) load_state(r, d, state(kInitialC), m.c);
    const auto [products, gates] = make(d, m);
    run_direction(r, d, m, products, gates, output(0));
    store_state(r, d, m.h, output(1));
    if (r.cell == Cell::lstm) store_state(r, d, m.c, output(2));
  }
}

}  // namespace compress::recurrent
