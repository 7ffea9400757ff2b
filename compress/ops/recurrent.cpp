// RNN, GRU and LSTM: all directions, peepholes, sequence lengths, initial states, both layouts.
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "compress/core/parallel.h"
#include "compress/ops/activation.h"
#include "compress/ops/compute_families.h"
#include "compress/ops/matmul_loops.h"
#include "compress/ops/typed.h"

namespace compress {
namespace {

enum class Cell { rnn, gru, lstm };

// Gates of a cell in the order of W and R: RNN i; GRU z r h; LSTM i o f c.
int gate_count(Cell cell) { return cell == Cell::rnn ? 1 : cell == Cell::gru ? 3 : 4; }

// Slots of the inputs, common to the three operators.
enum Slot { kX, kW, kR, kB, kLengths, kInitialH, kInitialC, kPeepholes };

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
};

int64_t read_directions(const NodeContext& c) {
  const std::string direction = c.node().string_or("direction", "forward");
  if (direction == "bidirectional") return 2;
  if (direction != "forward" && direction != "reverse") {
    c.invalid(fmt::format("direction {}", printable(direction)));
  }
  return 1;
}

template <Cell cell>
void infer_recurrent(NodeContext& c) {
  require_inputs(c, 3);
  int64_t hidden = c.node().int_or("hidden_size", kUnknownDim);
  if (known_rank(c, kR, 3) && c.shape(kR)[2] >= 0) hidden = c.shape(kR)[2];
  if (hidden < 0) hidden = kUnknownDim;
  const int64_t directions = read_directions(c);
  const bool batch_major = c.node().int_or("layout", 0) != 0;
  int64_t steps = kUnknownDim;
  int64_t batch = kUnknownDim;
  if (known_rank(c, kX, 3)) {
    steps = c.shape(kX)[batch_major ? 1 : 0];
    batch = c.shape(kX)[batch_major ? 0 : 1];
  }
  const DType dtype = c.dtype(kX);
  const Shape state =
      batch_major ? Shape{batch, directions, hidden} : Shape{directions, batch, hidden};
  if (c.has_output(0)) {
    c.set_output(0, dtype,
                 batch_major ? Shape{batch, steps, directions, hidden}
                             : Shape{steps, directions, batch, hidden});
  }
  if (c.has_output(1)) c.set_output(1, dtype, state);
  if (cell == Cell::lstm && c.has_output(2)) c.set_output(2, dtype, state);
}

std::vector<Activation> read_activations(const NodeContext& c, Cell cell, int64_t directions) {
  std::vector<std::string> names;
  if (const AttributeValue* given = c.node().attribute("activations")) {
    if (const auto* list = std::get_if<std::vector<std::string>>(given)) names = *list;
  }
  const std::vector<std::string> defaults =
      cell == Cell::rnn   ? std::vector<std::string>{"Tanh"}
      : cell == Cell::gru ? std::vector<std::string>{"Sigmoid", "Tanh"}
                          : std::vector<std::string>{"Sigmoid", "Tanh", "Tanh"};
  if (names.empty()) {
    for (int64_t d = 0; d < directions; ++d) {
      names.insert(names.end(), defaults.begin(), defaults.end());
    }
  }
  if (names.size() != defaults.size() * static_cast<size_t>(directions)) {
    c.invalid(fmt::format("{} activations for {} directions", names.size(), directions));
  }
  // The lists of parameters hold values for those activations alone that take them.
  const std::vector<float> alphas = c.node().floats_or("activation_alpha", {});
  const std::vector<float> betas = c.node().floats_or("activation_beta", {});
  size_t next_alpha = 0;
  size_t next_beta = 0;
  std::vector<Activation> activations;
  for (const std::string& name : names) {
    Activation activation = find_activation(c, name, {});
    const int taken = parameter_count(activation.kind);
    if (taken >= 1 && next_alpha < alphas.size()) activation.alpha = alphas[next_alpha++];
    if (taken >= 2 && next_beta < betas.size()) activation.beta = betas[next_beta++];
    activations.push_back(activation);
  }
  return activations;
}

Recurrence read_recurrence(const NodeContext& c, Cell cell) {
  const auto check = [&](int slot, const Shape& wanted) { require_shape(c, slot, wanted); };
  Recurrence r;
  r.cell = cell;
  r.directions = read_directions(c);
  r.reverse = c.node().string_or("direction", "forward") == "reverse";
  r.batch_major = c.node().int_or("layout", 0) != 0;
  r.linear_before_reset = c.node().int_or("linear_before_reset", 0) != 0;
  r.input_forget = c.node().int_or("input_forget", 0) != 0;
  r.clip = c.node().float_or("clip", 0);
  if (!known_rank(c, kX, 3) || !known_rank(c, kR, 3)) c.invalid("shapes are not known");
  const Shape& x = c.shape(kX);
  r.steps = x[r.batch_major ? 1 : 0];
  r.batch = x[r.batch_major ? 0 : 1];
  r.input = x[2];
  r.hidden = c.shape(kR)[2];
  if (r.hidden > std::numeric_limits<int32_t>::max()) c.invalid("the hidden size is too large");
  if (c.node().int_or("hidden_size", r.hidden) != r.hidden) c.invalid("hidden_size does not fit R");
  check(kW, {r.directions, r.gates(), r.input});
  check(kR, {r.directions, r.gates(), r.hidden});
  check(kB, {r.directions, 2 * r.gates()});
  check(kLengths, {r.batch});
  if (c.has_input(kLengths) && c.dtype(kLengths) != DType::int32) {
    c.invalid("sequence_lens is not int32");
  }
  const Shape state = r.batch_major ? Shape{r.batch, r.directions, r.hidden}
                                    : Shape{r.directions, r.batch, r.hidden};
  check(kInitialH, state);
  if (cell == Cell::lstm) {
    check(kInitialC, state);
    check(kPeepholes, {r.directions, 3 * r.hidden});
  }
  r.activations = read_activations(c, cell, r.directions);
  return r;
}

// --- One direction -------------------------------------------------------------------------------

// Pointers of one run, those of weights moved to the direction.
template <class T>
struct Buffers {
  const T* x;
  const T* w;
  const T* r;
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

template <class T>
T clipped(const Recurrence& r, T value) {
  if (!(r.clip > 0)) return value;
  const T limit = static_cast<T>(r.clip);
  return std::min(std::max(value, -limit), limit);
}

// from_x = X W' + Wb + Rb; the recurrent bias of GRU's h gate stays out where it is scaled by r.
template <class T>
void project_inputs(const Recurrence& r, const Buffers<T>& m) {
  const int64_t rows = r.steps * r.batch;
  const int64_t gates = r.gates();
  multiply<T>(rows, gates, r.input, {m.x, r.input, 1}, {m.w, 1, r.input}, m.from_x);
  if (m.b == nullptr) return;
  const bool apart = r.cell == Cell::gru && r.linear_before_reset;
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t g = 0; g < gates; ++g) {
      const bool recurrent = !(apart && g >= 2 * r.hidden);
      m.from_x[i * gates + g] += m.b[g] + (recurrent ? m.b[gates + g] : T{0});
    }
  }
}

template <class T>
void rnn_step(const Recurrence& r, const Activation* f, const T* x, const T* rec, T* h) {
  for (int64_t j = 0; j < r.hidden; ++j) h[j] = f[0].apply(clipped(r, x[j] + rec[j]));
}

// z, r and, before the reset is known, r * h.
template <class T>
void gru_reset(const Recurrence& r, const Activation* f, const T* x, const T* rec, const T* h,
               T* reset) {
  for (int64_t j = 0; j < r.hidden; ++j) {
    const int64_t at = r.hidden + j;
    reset[j] = f[0].apply(clipped(r, x[at] + rec[at])) * h[j];
  }
}

template <class T>
void gru_step(const Recurrence& r, const Activation* f, const Buffers<T>& m, const T* x,
              const T* rec, T* h) {
  const int64_t n = r.hidden;
  for (int64_t j = 0; j < n; ++j) {
    const T update = f[0].apply(clipped(r, x[j] + rec[j]));
    T candidate = x[2 * n + j];
    if (r.linear_before_reset) {
      const T reset = f[0].apply(clipped(r, x[n + j] + rec[n + j]));
      const T bias = m.b ? m.b[3 * n + 2 * n + j] : T{0};
      candidate += reset * (rec[2 * n + j] + bias);
    } else {
      candidate += rec[2 * n + j];
    }
    h[j] = (T{1} - update) * f[1].apply(clipped(r, candidate)) + update * h[j];
  }
}

template <class T>
void lstm_step(const Recurrence& r, const Activation* f, const Buffers<T>& m, const T* x,
               const T* rec, T* h, T* c) {
  const int64_t n = r.hidden;
  const T* p = m.peepholes;  // i o f
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

// from_h = H R'; GRU's third gate reads r * h instead unless the reset comes after.
template <class T>
void project_state(const Recurrence& r, const Activation* f, const Buffers<T>& m,
                   const std::vector<int64_t>& times) {
  const int64_t n = r.hidden;
  const int64_t gates = r.gates();
  const auto project = [&](const T* state, int64_t first, int64_t count) {
    // multiply() writes dense rows, so a part of the gates goes row by row.
    for (int64_t b = 0; b < r.batch; ++b) {
      multiply<T>(1, count, n, {state + b * n, n, 1}, {m.r + first * n, 1, n},
                  m.from_h + b * gates + first);
    }
  };
  if (r.cell != Cell::gru || r.linear_before_reset) return project(m.h, 0, gates);
  project(m.h, 0, 2 * n);
  for (int64_t b = 0; b < r.batch; ++b) {
    const int64_t t = times[static_cast<size_t>(b)];
    if (t < 0) continue;
    gru_reset(r, f, m.from_x + r.row(t, b) * gates, m.from_h + b * gates, m.h + b * n,
              m.reset + b * n);
  }
  project(m.reset, 2 * n, n);
}

template <class T>
void run_direction(const Recurrence& r, int64_t d, const Buffers<T>& m, T* y) {
  const Activation* f =
      r.activations.data() +
      static_cast<size_t>(d) * (r.activations.size() / static_cast<size_t>(r.directions));
  const bool backward = d == 1 || r.reverse;
  const int64_t gates = r.gates();
  project_inputs(r, m);
  std::vector<int64_t> times(static_cast<size_t>(r.batch));
  for (int64_t s = 0; s < r.steps; ++s) {
    for (int64_t b = 0; b < r.batch; ++b) {
      const int64_t length = m.lengths ? std::clamp<int64_t>(m.lengths[b], 0, r.steps) : r.steps;
      times[static_cast<size_t>(b)] = s >= length ? -1 : backward ? length - 1 - s : s;
    }
    project_state(r, f, m, times);
    for (int64_t b = 0; b < r.batch; ++b) {
      const int64_t t = times[static_cast<size_t>(b)];
      if (t < 0) continue;
      const T* x = m.from_x + r.row(t, b) * gates;
      const T* rec = m.from_h + b * gates;
      T* h = m.h + b * r.hidden;
      if (r.cell == Cell::rnn) rnn_step(r, f, x, rec, h);
      if (r.cell == Cell::gru) gru_step(r, f, m, x, rec, h);
      if (r.cell == Cell::lstm) lstm_step(r, f, m, x, rec, h, m.c + b * r.hidden);
      if (y) std::copy(h, h + r.hidden, y + r.y_at(t, d, b));
    }
  }
}

template <class T>
Buffers<T> bind(const Recurrence& r, const KernelArgs& args, int64_t d) {
  Buffers<T> m{};
  m.x = args.inputs[kX].as<const T>();
  m.w = args.inputs[kW].as<const T>() + d * r.gates() * r.input;
  m.r = args.inputs[kR].as<const T>() + d * r.gates() * r.hidden;
  m.b = data_or_null<T>(args, kB);
  if (m.b) m.b += d * 2 * r.gates();
  if (r.cell == Cell::lstm) m.peepholes = data_or_null<T>(args, kPeepholes);
  if (m.peepholes) m.peepholes += d * 3 * r.hidden;
  m.lengths = data_or_null<int32_t>(args, kLengths);
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

template <class T>
void run_recurrence(const Recurrence& r, const KernelArgs& args) {
  const auto output = [&](size_t i) {
    return i < args.outputs.size() ? static_cast<T*>(args.outputs[i].data) : nullptr;
  };
  if (T* y = output(0)) std::fill(y, y + args.outputs[0].count(), T{0});
  for (int64_t d = 0; d < r.directions; ++d) {
    const Buffers<T> m = bind<T>(r, args, d);
    load_state(r, d, data_or_null<T>(args, kInitialH), m.h);
    if (r.cell == Cell::lstm) load_state(r, d, data_or_null<T>(args, kInitialC), m.c);
    run_direction(r, d, m, output(0));
    store_state(r, d, m.h, output(1));
    if (r.cell == Cell::lstm) store_state(r, d, m.c, output(2));
  }
}

template <Cell cell>
Kernel prepare_recurrent(const NodeContext& c) {
  const Recurrence r = read_recurrence(c, cell);
  return by_float(c, c.dtype(kX), [&]<class T>(T) {
    const Shape rows{r.steps, r.batch};
    const Shape from_x{rows.count(), r.gates()};
    const Shape state{r.batch, r.gates() + 3 * r.hidden};
    Kernel kernel{cell == Cell::rnn   ? "rnn_ref"
                  : cell == Cell::gru ? "gru_ref"
                                      : "lstm_ref",
                  [r](const KernelArgs& args) { run_recurrence<T>(r, args); }};
    kernel.workspace_bytes =
        static_cast<size_t>(byte_size(dtype_of<T>(), static_cast<uint64_t>(from_x.count()) +
                                                         static_cast<uint64_t>(state.count())));
    return kernel;
  });
}

constexpr QuantFacts kFacts{.weight_input = kW, .bias_input = kB, .channel_axis = 1};
constexpr OpDef kRows[] = {
    {"", "RNN", 7, infer_recurrent<Cell::rnn>, prepare_recurrent<Cell::rnn>, kFacts},
    {"", "GRU", 7, infer_recurrent<Cell::gru>, prepare_recurrent<Cell::gru>, kFacts},
    {"", "LSTM", 7, infer_recurrent<Cell::lstm>, prepare_recurrent<Cell::lstm>, kFacts},
};

}  // namespace

const std::span<const OpDef> kRecurrentOps = kRows;

}  // namespace compress
