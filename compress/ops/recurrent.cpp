// RNN, GRU and LSTM: all directions, peepholes, sequence lengths, initial states, both layouts. And
// com.microsoft's DynamicQuantizeLSTM: an LSTM with integer weights that quantizes inputs and
// states as DynamicQuantizeLinear does, the inputs of all steps at once, the states at each step.
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "compress/core/parallel.h"
#include "compress/ops/compute_families.h"
#include "compress/ops/integer_loops.h"
#include "compress/ops/matmul_loops.h"
#include "compress/ops/recurrent_loops.h"
#include "compress/ops/typed.h"

namespace compress {
namespace recurrent {
namespace {

int64_t read_directions(const NodeContext& c) {
  const std::string direction = c.node().string_or("direction", "forward");
  if (direction == "bidirectional") return 2;
  if (direction != "forward" && direction != "reverse") {
    c.invalid(fmt::format("direction {}", printable(direction)));
  }
  return 1;
}

void infer_recurrent(NodeContext& c, Cell cell, WeightLayout layout) {
  require_inputs(c, 3);
  int64_t hidden = c.node().int_or("hidden_size", kUnknownDim);
  if (known_rank(c, kR, 3)) {
    const int64_t width = c.shape(kR)[layout == WeightLayout::rows ? 2 : 1];
    if (width >= 0) hidden = width;
  }
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

}  // namespace

void infer_rnn(NodeContext& c) { infer_recurrent(c, Cell::rnn, WeightLayout::rows); }
void infer_gru(NodeContext& c) { infer_recurrent(c, Cell::gru, WeightLayout::rows); }
void infer_lstm(NodeContext& c) { infer_recurrent(c, Cell::lstm, WeightLayout::rows); }
void infer_quantized_lstm(NodeContext& c) { infer_recurrent(c, Cell::lstm, WeightLayout::columns); }

Recurrence read_recurrence(const NodeContext& c, Cell cell, WeightLayout layout) {
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
  const bool rows = layout == WeightLayout::rows;
  r.hidden = c.shape(kR)[rows ? 2 : 1];
  if (r.hidden > std::numeric_limits<int32_t>::max()) c.invalid("the hidden size is too large");
  if (c.node().int_or("hidden_size", r.hidden) != r.hidden) c.invalid("hidden_size does not fit R");
  check(kW,
        rows ? Shape{r.directions, r.gates(), r.input} : Shape{r.directions, r.input, r.gates()});
  check(kR,
        rows ? Shape{r.directions, r.gates(), r.hidden} : Shape{r.directions, r.hidden, r.gates()});
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

Recurrence read_quantized_lstm(const NodeContext& c) {
  Recurrence r = read_recurrence(c, Cell::lstm, WeightLayout::columns);
  if (c.dtype(kX) != DType::float32) {
    c.unsupported(fmt::format("element type {}", info(c.dtype(kX)).name));
  }
  for (const auto& [weights, scales, zeros] :
       {std::tuple(kW, kWScale, kWZeroPoint), std::tuple(kR, kRScale, kRZeroPoint)}) {
    if (c.dtype(weights) != DType::int8 && c.dtype(weights) != DType::uint8) {
      c.unsupported(fmt::format("weights of type {}", info(c.dtype(weights)).name));
    }
    for (const int slot : {scales, zeros}) {
      if (!c.has_input(slot)) {
        if (slot == scales) c.invalid(fmt::format("input {} is missing", slot));
        continue;
      }
      const int64_t count = c.shape(slot).count();
      if (count != r.directions && count != r.directions * r.gates()) {
        c.invalid(fmt::format("input {} has shape {}", slot, c.shape(slot).to_string()));
      }
      if (c.dtype(slot) != (slot == scales ? DType::float32 : c.dtype(weights))) {
        c.invalid(fmt::format("input {} has another type", slot));
      }
    }
  }
  return r;
}

namespace {

// --- Kernels -------------------------------------------------------------------------------------

template <class T>
struct PlainProducts {
  const Recurrence& r;
  const T* w;    // [gates, input]
  const T* rec;  // [gates, hidden]
  const T* b;

  void inputs(const T* x, T* out) const {
    const int64_t rows = r.steps * r.batch;
    multiply<T>(rows, r.gates(), r.input, {x, r.input, 1}, {w, 1, r.input}, out);
    add_biases(r, b, out);
  }
  void states(const T* h, int64_t first, int64_t count, T* out) const {
    // multiply() writes dense rows, so a part of the gates goes row by row.
    for (int64_t i = 0; i < r.batch; ++i) {
      multiply<T>(1, count, r.hidden, {h + i * r.hidden, r.hidden, 1},
                  {rec + first * r.hidden, 1, r.hidden}, out + i * r.gates() + first);
    }
  }
};

template <class T>
void run_plain(const Recurrence& r, const KernelArgs& args) {
  run_recurrence<T>(r, args, [&](int64_t d, const Buffers<T>& m) {
    const T* w = args.inputs[kW].as<const T>() + d * r.gates() * r.input;
    const T* rec = args.inputs[kR].as<const T>() + d * r.gates() * r.hidden;
    return std::pair(PlainProducts<T>{r, w, rec, m.b},
                     PlainGates<T>{r, r.activations_of(d), m.b, m.peepholes});
  });
}

template <Cell cell>
Kernel prepare_recurrent(const NodeContext& c) {
  const Recurrence r = read_recurrence(c, cell, WeightLayout::rows);
  return by_float(c, c.dtype(kX), [&]<class T>(T) {
    Kernel kernel{cell == Cell::rnn   ? "rnn_ref"
                  : cell == Cell::gru ? "gru_ref"
                                      : "lstm_ref",
                  [r](const KernelArgs& args) { run_plain<T>(r, args); }};
    kernel.workspace_bytes = static_cast<size_t>(byte_size(dtype_of<T>(), workspace_count(r)));
    return kernel;
  });
}

// A [rows, k] in floats times integers B [k, gates], A quantized as a whole.
struct IntegerProduct {
  const TensorView& weights;
  const TensorView& scales;
  const TensorView& zeros;
  int64_t d;  // the direction
  int64_t directions, gates, k;
  uint8_t* bytes;  // [rows, k]

  void run(const float* a, int64_t rows, float* out) const {
    const DynamicScale dynamic = dynamic_scale(a, rows * k);
    quantize_bytes(a, rows * k, dynamic, bytes);
    const auto slice = [&](const TensorView& of, int64_t gate) {
      return of.count() == directions ? d : d * gates + gate;
    };
    parallel_for(
        0, rows * gates, 1 + (1 << 14) / std::max<int64_t>(1, k), [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) {
            const int64_t row = i / gates, gate = i % gates;
            const int32_t zero = zeros.data == nullptr ? 0 : integer_at(zeros, slice(zeros, gate));
            uint32_t sum = 0;  // wraps as int32 does
            for (int64_t p = 0; p < k; ++p) {
              const int32_t left = bytes[row * k + p] - int32_t{dynamic.zero_point};
              const int32_t right = integer_at(weights, (d * k + p) * gates + gate) - zero;
              sum += static_cast<uint32_t>(left * right);
            }
            const float scale = dynamic.scale * scales.as<const float>()[slice(scales, gate)];
            out[i] = static_cast<float>(static_cast<int32_t>(sum)) * scale;
          }
        });
  }
};

struct IntegerProducts {
  const Recurrence& r;
  IntegerProduct w, rec;
  const float* b;

  void inputs(const float* x, float* out) const {
    w.run(x, r.steps * r.batch, out);
    add_biases(r, b, out);
  }
  void states(const float* h, int64_t, int64_t, float* out) const { rec.run(h, r.batch, out); }
};

Kernel prepare_quantized_lstm(const NodeContext& c) {
  const Recurrence r = read_quantized_lstm(c);
  Kernel kernel{
      "lstm_s8_ref", [r](const KernelArgs& args) {
        const TensorView none;
        const auto input = [&](size_t i) -> const TensorView& {
          return i < args.inputs.size() ? args.inputs[i] : none;
        };
        auto* bytes = reinterpret_cast<uint8_t*>(reinterpret_cast<float*>(args.workspace) +
                                                 workspace_count(r));
        run_recurrence<float>(r, args, [&](int64_t d, const Buffers<float>& m) {
          const auto product = [&](int weights, int scales, int zeros, int64_t k) {
            return IntegerProduct{input(static_cast<size_t>(weights)),
                                  input(static_cast<size_t>(scales)),
                                  input(static_cast<size_t>(zeros)),
                                  d,
                                  r.directions,
                                  r.gates(),
                                  k,
                                  bytes};
          };
          return std::pair(IntegerProducts{r, product(kW, kWScale, kWZeroPoint, r.input),
                                           product(kR, kRScale, kRZeroPoint, r.hidden), m.b},
                           PlainGates<float>{r, r.activations_of(d), m.b, m.peepholes});
        });
      }};
  kernel.workspace_bytes =
      static_cast<size_t>(workspace_count(r)) * sizeof(float) + quantized_bytes(r);
  return kernel;
}

constexpr QuantFacts kFacts{.weight_input = kW, .bias_input = kB, .channel_axis = 1};
constexpr OpDef kRows[] = {
    {"", "RNN", 7, infer_rnn, prepare_recurrent<Cell::rnn>, kFacts},
    {"", "GRU", 7, infer_gru, prepare_recurrent<Cell::gru>, kFacts},
    {"", "LSTM", 7, infer_lstm, prepare_recurrent<Cell::lstm>, kFacts},
    {"com.microsoft", "DynamicQuantizeLSTM", 1, infer_quantized_lstm, prepare_quantized_lstm},
};

}  // namespace
}  // namespace recurrent

const std::span<const OpDef> kRecurrentOps = recurrent::kRows;

}  // namespace compress
