// Gradient of RNN, GRU and LSTM: the sequence is run again, its gates are kept, and their gradients
// go back through time. Products over all steps come last, one a weight.
#include <algorithm>
#include <string>
#include <vector>

#include "compress/ops/gradient_families.h"
#include "compress/ops/matmul_loops.h"
#include "compress/ops/recurrent_loops.h"
#include "compress/ops/support.h"
#include "compress/ops/typed.h"

namespace compress {
namespace recurrent {
namespace {

// Inputs behind those of the operator; each may be left out.
enum GradientSlot { kDY = 8, kDH, kDC };

template <class T>
T slope(const Activation& activation, T y) {
  switch (activation.kind) {
    case ActivationKind::sigmoid:
      return y * (T{1} - y);
    case ActivationKind::tanh:
      return T{1} - y * y;
    case ActivationKind::relu:
      return y > 0 ? T{1} : T{0};
    default:
      return T{1};
  }
}

// What one direction keeps. Rows are those of X; rows behind a sequence's end stay zero.
template <class T>
struct Tape {
  T* gates;   // [rows, gates], activated
  T* from_x;  // [rows, gates]: gradients of what X W' gives
  T* from_h;  // [rows, gates]: of what H R' gives; `from_x` but for GRU's third gate
  T* h;       // [rows, hidden]: the state before the step
  T* c;       // [rows, hidden], of LSTM
  T* reset;   // [rows, hidden], of GRU: r * h, or H Rh' + Rbh that r scales
  T* to_x;    // [rows, input]
  T* step;    // [batch, gates]
  T* state;   // [batch, hidden], and the following
  T* cell;
  T* product;
  T* dh;
  T* dc;
};

int64_t tape_count(const Recurrence& r) {
  return Shape{r.steps, r.batch, 3 * r.gates() + 3 * r.hidden + r.input}.count() +
         Shape{r.batch, r.gates() + 5 * r.hidden}.count();
}

template <class T>
Tape<T> carve(const Recurrence& r, std::byte* workspace) {
  T* next = reinterpret_cast<T*>(workspace);
  std::fill_n(next, tape_count(r), T{0});
  const auto take = [&](int64_t count) {
    T* at = next;
    next += count;
    return at;
  };
  const int64_t rows = r.steps * r.batch, states = r.batch * r.hidden;
  Tape<T> tape{};
  tape.gates = take(rows * r.gates());
  tape.from_x = take(rows * r.gates());
  tape.from_h = take(rows * r.gates());
  for (T** part : {&tape.h, &tape.c, &tape.reset}) *part = take(rows * r.hidden);
  tape.to_x = take(rows * r.input);
  tape.step = take(r.batch * r.gates());
  for (T** part : {&tape.state, &tape.cell, &tape.product, &tape.dh, &tape.dc}) {
    *part = take(states);
  }
  return tape;
}

template <class T>
class BackThroughTime {
 public:
  BackThroughTime(const Recurrence& r, const KernelArgs& args, int64_t d)
      : r_(r), args_(args), d_(d), n_(r.hidden), f_(r.activations_of(d)) {
    x_ = input(kX);
    w_ = input(kW) + d * r.gates() * r.input;
    rec_ = input(kR) + d * r.gates() * n_;
    b_ = input(kB);
    if (b_ != nullptr) b_ += d * 2 * r.gates();
    if (args.inputs[kLengths].data != nullptr) {
      lengths_ = args.inputs[kLengths].as<const int32_t>();
    }
    tape_ = carve<T>(r, args.workspace);
    times_.resize(static_cast<size_t>(r.batch));
  }

  void run() {
    forward();
    load_state(r_, d_, input(kDH), tape_.dh);
    if (r_.cell == Cell::lstm) load_state(r_, d_, input(kDC), tape_.dc);
    for (int64_t s = r_.steps - 1; s >= 0; --s) back(s);
    finish();
  }

 private:
  const T* input(size_t slot) const {
    return slot < args_.inputs.size() ? static_cast<const T*>(args_.inputs[slot].data) : nullptr;
  }
  T* output(size_t i) const { return args_.outputs[i].as<T>(); }

  // The rows of X that step `s` is at; -1 behind a sequence's end.
  void set_times(int64_t s) {
    for (int64_t b = 0; b < r_.batch; ++b) {
      const int64_t length = lengths_ ? std::clamp<int64_t>(lengths_[b], 0, r_.steps) : r_.steps;
      const bool backward = d_ == 1 || r_.reverse;
      times_[static_cast<size_t>(b)] = s >= length ? -1 : backward ? length - 1 - s : s;
    }
  }

  template <class Body>
  void for_each_row(Body&& body) {
    for (int64_t b = 0; b < r_.batch; ++b) {
      const int64_t t = times_[static_cast<size_t>(b)];
      if (t >= 0) body(b, t, r_.row(t, b));
    }
  }

  // --- Forward -----------------------------------------------------------------------------------

  void forward() {
    const int64_t rows = r_.steps * r_.batch, g = r_.gates();
    multiply<T>(rows, g, r_.input, {x_, r_.input, 1}, {w_, 1, r_.input}, tape_.gates);
    add_biases(r_, b_, tape_.gates);
    load_state(r_, d_, input(kInitialH), tape_.state);
    if (r_.cell == Cell::lstm) load_state(r_, d_, input(kInitialC), tape_.cell);
    for (int64_t s = 0; s < r_.steps; ++s) {
      set_times(s);
      multiply<T>(r_.batch, g, n_, {tape_.state, n_, 1}, {rec_, 1, n_}, tape_.step);
      if (r_.cell == Cell::gru) prepare_reset();
      for_each_row([&](int64_t b, int64_t, int64_t row) {
        T* h = tape_.state + b * n_;
        std::copy_n(h, n_, tape_.h + row * n_);
        step(tape_.gates + row * g, tape_.step + b * g, h, tape_.cell + b * n_, row);
      });
    }
    if (lengths_ != nullptr) clear_unused_rows();
  }

  // GRU's r, and what the third gate reads.
  void prepare_reset() {
    const int64_t g = r_.gates();
    for_each_row([&](int64_t b, int64_t, int64_t row) {
      T* gates = tape_.gates + row * g + n_;
      T* reset = tape_.reset + row * n_;
      const T* rec = tape_.step + b * g;
      for (int64_t j = 0; j < n_; ++j) {
        gates[j] = f_[0].apply(gates[j] + rec[n_ + j]);
        if (r_.linear_before_reset) {
          reset[j] = rec[2 * n_ + j] + (b_ ? b_[5 * n_ + j] : T{0});
        } else {
          reset[j] = gates[j] * tape_.state[b * n_ + j];
        }
      }
      std::copy_n(reset, n_, tape_.product + b * n_);
    });
    if (r_.linear_before_reset) return;
    for (int64_t b = 0; b < r_.batch; ++b) {
      multiply<T>(1, n_, n_, {tape_.product + b * n_, n_, 1}, {rec_ + 2 * n_ * n_, 1, n_},
                  tape_.step + b * g + 2 * n_);
    }
  }

  void step(T* gates, const T* rec, T* h, T* c, int64_t row) {
    for (int64_t j = 0; j < n_; ++j) {
      if (r_.cell == Cell::rnn) {
        h[j] = gates[j] = f_[0].apply(gates[j] + rec[j]);
      } else if (r_.cell == Cell::gru) {
        const T update = gates[j] = f_[0].apply(gates[j] + rec[j]);
        const T more =
            r_.linear_before_reset ? gates[n_ + j] * tape_.reset[row * n_ + j] : rec[2 * n_ + j];
        const T candidate = gates[2 * n_ + j] = f_[1].apply(gates[2 * n_ + j] + more);
        h[j] = (T{1} - update) * candidate + update * h[j];
      } else {
        const auto gate = [&](int64_t k, const Activation& f) {
          return gates[k * n_ + j] = f.apply(gates[k * n_ + j] + rec[k * n_ + j]);
        };
        const T in = gate(0, f_[0]), out = gate(1, f_[0]), forget = gate(2, f_[0]);
        const T fresh = gate(3, f_[1]);
        tape_.c[row * n_ + j] = c[j];
        c[j] = forget * c[j] + in * fresh;
        h[j] = out * f_[2].apply(c[j]);
      }
    }
  }

  void clear_unused_rows() {
    for (int64_t b = 0; b < r_.batch; ++b) {
      for (int64_t t = std::clamp<int64_t>(lengths_[b], 0, r_.steps); t < r_.steps; ++t) {
        std::fill_n(tape_.gates + r_.row(t, b) * r_.gates(), r_.gates(), T{0});
      }
    }
  }

  // --- Backward ----------------------------------------------------------------------------------

  void back(int64_t s) {
    set_times(s);
    const int64_t g = r_.gates();
    const T* dy = input(kDY);
    std::fill_n(tape_.step, r_.batch * g, T{0});
    for_each_row([&](int64_t b, int64_t t, int64_t row) {
      T* dh = tape_.dh + b * n_;
      if (dy != nullptr) {
        for (int64_t j = 0; j < n_; ++j) dh[j] += dy[r_.y_at(t, d_, b) + j];
      }
      back_step(row, tape_.step + b * g, dh, tape_.dc + b * n_);
    });
    int64_t projected = g;  // gates that read the state itself
    if (r_.cell == Cell::gru && !r_.linear_before_reset) {
      projected = 2 * n_;
      back_reset();
    }
    for_each_row([&](int64_t b, int64_t, int64_t row) {
      const T* step = tape_.step + b * g;
      std::copy_n(step, g, tape_.from_h + row * g);
      T* from_x = tape_.from_x + row * g;
      // With linear_before_reset the third gate's was stored by back_step().
      std::copy_n(step, r_.cell == Cell::gru && r_.linear_before_reset ? 2 * n_ : g, from_x);
    });
    multiply<T>(r_.batch, n_, projected, {tape_.step, g, 1}, {rec_, n_, 1}, tape_.product);
    for (int64_t i = 0; i < r_.batch * n_; ++i) tape_.dh[i] += tape_.product[i];
  }

  // Gradients of the gates before their activations; in dh and dc stays what does not go through
  // them.
  void back_step(int64_t row, T* step, T* dh, T* dc) {
    const T* gates = tape_.gates + row * r_.gates();
    for (int64_t j = 0; j < n_; ++j) {
      if (r_.cell == Cell::rnn) {
        step[j] = dh[j] * slope(f_[0], gates[j]);
        dh[j] = 0;
      } else if (r_.cell == Cell::gru) {
        back_gru(row, gates, step, dh, j);
      } else {
        back_lstm(row, gates, step, dh, dc, j);
      }
    }
  }

  void back_gru(int64_t row, const T* gates, T* step, T* dh, int64_t j) {
    const T update = gates[j], reset = gates[n_ + j], candidate = gates[2 * n_ + j];
    step[j] = dh[j] * (tape_.h[row * n_ + j] - candidate) * slope(f_[0], update);
    const T third = dh[j] * (T{1} - update) * slope(f_[1], candidate);
    dh[j] *= update;
    step[2 * n_ + j] = third;
    if (!r_.linear_before_reset) return;
    tape_.from_x[row * r_.gates() + 2 * n_ + j] = third;
    step[n_ + j] = third * tape_.reset[row * n_ + j] * slope(f_[0], reset);
    step[2 * n_ + j] = third * reset;
  }

  // The third gate reads r * h.
  void back_reset() {
    const int64_t g = r_.gates();
    multiply<T>(r_.batch, n_, n_, {tape_.step + 2 * n_, g, 1}, {rec_ + 2 * n_ * n_, n_, 1},
                tape_.product);
    for_each_row([&](int64_t b, int64_t, int64_t row) {
      for (int64_t j = 0; j < n_; ++j) {
        const T reset = tape_.gates[row * g + n_ + j], d = tape_.product[b * n_ + j];
        tape_.step[b * g + n_ + j] = d * tape_.h[row * n_ + j] * slope(f_[0], reset);
        tape_.dh[b * n_ + j] += d * reset;
      }
    });
  }

  void back_lstm(int64_t row, const T* gates, T* step, T* dh, T* dc, int64_t j) {
    const T in = gates[j], out = gates[n_ + j], forget = gates[2 * n_ + j];
    const T fresh = gates[3 * n_ + j], before = tape_.c[row * n_ + j];
    const T squashed = f_[2].apply(forget * before + in * fresh);
    const T d = dc[j] + dh[j] * out * slope(f_[2], squashed);
    step[j] = d * fresh * slope(f_[0], in);
    step[n_ + j] = dh[j] * squashed * slope(f_[0], out);
    step[2 * n_ + j] = d * before * slope(f_[0], forget);
    step[3 * n_ + j] = d * in * slope(f_[1], fresh);
    dc[j] = d * forget;
    dh[j] = 0;
  }

  // --- Sums over all steps -----------------------------------------------------------------------

  void finish() {
    const int64_t rows = r_.steps * r_.batch, g = r_.gates(), k = r_.input;
    multiply<T>(rows, k, g, {tape_.from_x, g, 1}, {w_, k, 1}, tape_.to_x);
    T* dx = output(0);
    for (int64_t i = 0; i < rows * k; ++i) dx[i] = (d_ > 0 ? dx[i] : T{0}) + tape_.to_x[i];
    multiply<T>(g, k, rows, {tape_.from_x, 1, g}, {x_, k, 1}, output(1) + d_ * g * k);
    T* dr = output(2) + d_ * g * n_;
    const bool apart = r_.cell == Cell::gru && !r_.linear_before_reset;
    const int64_t direct = apart ? 2 * n_ : g;
    multiply<T>(direct, n_, rows, {tape_.from_h, 1, g}, {tape_.h, n_, 1}, dr);
    if (apart) {
      multiply<T>(n_, n_, rows, {tape_.from_h + 2 * n_, 1, g}, {tape_.reset, n_, 1},
                  dr + 2 * n_ * n_);
    }
    T* db = output(3) + d_ * 2 * g;
    std::fill_n(db, 2 * g, T{0});
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < g; ++j) {
        db[j] += tape_.from_x[i * g + j];
        db[g + j] += tape_.from_h[i * g + j];
      }
    }
    store_state(r_, d_, tape_.dh, output(4));
    if (r_.cell == Cell::lstm) store_state(r_, d_, tape_.dc, output(5));
  }

  const Recurrence& r_;
  const KernelArgs& args_;
  int64_t d_, n_;
  const Activation* f_;
  const T *x_, *w_, *rec_, *b_;
  const int32_t* lengths_ = nullptr;
  Tape<T> tape_;
  std::vector<int64_t> times_;  // of each sequence
};

Cell cell_of(const NodeContext& c) {
  const std::string of = c.node().string_or("of", "");
  return of == "RNN" ? Cell::rnn : of == "GRU" ? Cell::gru : Cell::lstm;
}

void infer(NodeContext& c) {
  require_inputs(c, 3);
  const DType dtype = c.dtype(kX);
  const auto as_input = [&](int output, int slot) {
    if (c.in(slot).has_shape) return c.set_output(output, dtype, c.shape(slot));
    c.set_output(output, dtype);
  };
  as_input(0, kX);
  as_input(1, kW);
  as_input(2, kR);
  const bool known = c.in(kR).has_shape && c.in(kX).has_shape && c.shape(kR).rank() == 3 &&
                     c.shape(kX).rank() == 3;
  const int states = cell_of(c) == Cell::lstm ? 2 : 1;
  for (int i = 3; i < 4 + states; ++i) c.set_output(i, dtype);
  if (!known) return;
  const bool batch_major = c.node().int_or("layout", 0) != 0;
  const int64_t directions = c.shape(kR)[0], hidden = c.shape(kR)[2];
  const int64_t batch = c.shape(kX)[batch_major ? 0 : 1], gates = c.shape(kR)[1];
  c.set_output(3, dtype, {directions, gates < 0 ? kUnknownDim : 2 * gates});
  for (int i = 4; i < 4 + states; ++i) {
    c.set_output(i, dtype,
                 batch_major ? Shape{batch, directions, hidden} : Shape{directions, batch, hidden});
  }
}

Kernel prepare(const NodeContext& c) {
  const Recurrence r = read_recurrence(c, cell_of(c), WeightLayout::rows);
  const Shape state = r.batch_major ? Shape{r.batch, r.directions, r.hidden}
                                    : Shape{r.directions, r.batch, r.hidden};
  require_shape(c, kDY,
                r.batch_major ? Shape{r.batch, r.steps, r.directions, r.hidden}
                              : Shape{r.steps, r.directions, r.batch, r.hidden});
  require_shape(c, kDH, state);
  require_shape(c, kDC, state);
  return by_float(c, c.dtype(kX), [&]<class T>(T) {
    Kernel kernel{"recurrent_gradient_ref", [r](const KernelArgs& args) {
                    for (int64_t d = 0; d < r.directions; ++d) BackThroughTime<T>(r, args, d).run();
                  }};
    const auto count = static_cast<uint64_t>(tape_count(r));
    kernel.workspace_bytes = static_cast<size_t>(byte_size(dtype_of<T>(), count));
    return kernel;
  });
}

constexpr OpDef kRows[] = {gradient_row("RecurrentGradient", infer, prepare)};

}  // namespace
}  // namespace recurrent

const std::span<const OpDef> kRecurrentGradients = recurrent::kRows;

}  // namespace compress
