// RNN, GRU and LSTM with constant weights: packed products, and gates by vectors of a whole row.
// DynamicQuantizeLSTM likewise, its products in integers.
#include <fmt/format.h>

#include <array>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "compress/error.h"
#include "compress/kernels/elementwise_s8/elementwise_s8.h"
#include "compress/kernels/float_rows/elementwise_f32.h"
#include "compress/kernels/gemm_f32/gemm_f32.h"
#include "compress/kernels/gemm_s8/gemm_s8.h"
#include "compress/ops/integer_loops.h"
#include "compress/ops/recurrent_loops.h"
#include "compress/runtime/lower.h"
#include "compress/runtime/lower_internal.h"

namespace compress::runtime {
namespace {

using kernels::ElementOp;
using recurrent::Buffers;
using recurrent::Cell;
using recurrent::Recurrence;

// --- Gates ---------------------------------------------------------------------------------------

struct ElementActivation {
  ElementOp op;
  float p = 0, q = 0;
};

ElementActivation element_activation(const NodeContext& context, const Activation& activation) {
  switch (activation.kind) {
    case ActivationKind::sigmoid:
      return {ElementOp::sigmoid};
    case ActivationKind::tanh:
      return {ElementOp::tangent_h};
    case ActivationKind::relu:
      return {ElementOp::clip, 0.0f, std::numeric_limits<float>::infinity()};
    default:
      context.unsupported("an activation that its lowering should have left alone");
  }
}

// As recurrent::PlainGates. Gates of one activation lie next to each other.
class VectorGates {
 public:
  VectorGates(const Recurrence& r, const ElementActivation* f, const float* b)
      : r_(r), f_(f), b_(b), apply_(kernels::best_elementwise_f32().apply) {}

  void reset(const float* x, float* rec, const float* h, float* out) const {
    const int64_t n = r_.hidden;
    binary(ElementOp::add, x, rec, rec, 2 * n);
    activate(0, rec, 2 * n);
    binary(ElementOp::multiply, rec + n, h, out, n);
  }

  void step(const float* x, float* rec, float* h, float* c) const {
    if (r_.cell == Cell::rnn) {
      binary(ElementOp::add, x, rec, h, r_.hidden);
      activate(0, h, r_.hidden);
    } else if (r_.cell == Cell::gru) {
      gru(x, rec, h);
    } else {
      lstm(x, rec, h, c);
    }
  }

 private:
  void binary(ElementOp op, const float* a, const float* b, float* out, int64_t count) const {
    apply_(op, 0, 0, a, b, out, count);
  }
  void activate(int which, float* values, int64_t count) const {
    apply_(f_[which].op, f_[which].p, f_[which].q, values, nullptr, values, count);
  }

  void gru(const float* x, float* rec, float* h) const {
    const int64_t n = r_.hidden;
    float* candidate = rec + 2 * n;
    if (r_.linear_before_reset) {
      binary(ElementOp::add, x, rec, rec, 2 * n);
      activate(0, rec, 2 * n);
      if (b_ != nullptr) binary(ElementOp::add, candidate, b_ + 5 * n, candidate, n);
      binary(ElementOp::multiply, rec + n, candidate, candidate, n);
    }
    binary(ElementOp::add, x + 2 * n, candidate, candidate, n);
    activate(1, candidate, n);
    // h = candidate + z (h - candidate)
    binary(ElementOp::subtract, h, candidate, h, n);
    binary(ElementOp::multiply, rec, h, h, n);
    binary(ElementOp::add, candidate, h, h, n);
  }

  void lstm(const float* x, float* rec, float* h, float* c) const {
    const int64_t n = r_.hidden;
    float *in = rec, *out = rec + n, *forget = rec + 2 * n, *candidate = rec + 3 * n;
    binary(ElementOp::add, x, rec, rec, 4 * n);
    activate(0, rec, 3 * n);
    activate(1, candidate, n);
    binary(ElementOp::multiply, forget, c, c, n);
    binary(ElementOp::multiply, in, candidate, candidate, n);
    binary(ElementOp::add, c, candidate, c, n);
    std::copy(c, c + n, candidate);
    activate(2, candidate, n);
    binary(ElementOp::multiply, out, candidate, h, n);
  }

  const Recurrence& r_;
  const ElementActivation* f_;  // of the direction
  const float* b_;
  decltype(kernels::ElementwiseF32Kernel::apply) apply_;
};

// What the kernels keep of a node.
struct Layer {
  Recurrence r;
  std::vector<ElementActivation> activations;
  std::vector<float> biases;  // [directions, gates], what every row of X W' gets; may be empty

  const ElementActivation* activations_of(int64_t d) const {
    return activations.data() + (r.activations_of(d) - r.activations.data());
  }
  const float* biases_of(int64_t d) const {
    return biases.empty() ? nullptr : biases.data() + d * r.gates();
  }
};

Layer read_layer(const NodeContext& context, Recurrence recurrence) {
  Layer layer{std::move(recurrence), {}, {}};
  for (const Activation& activation : layer.r.activations) {
    layer.activations.push_back(element_activation(context, activation));
  }
  if (const Tensor* bias = context.constant(recurrent::kB)) {
    const TensorData data = bias->read();
    for (int64_t d = 0; d < layer.r.directions; ++d) {
      const float* b = data.as<float>().data() + d * 2 * layer.r.gates();
      for (int64_t g = 0; g < layer.r.gates(); ++g) {
        layer.biases.push_back(recurrent::input_bias(layer.r, b, g));
      }
    }
  }
  return layer;
}

// --- Float products ------------------------------------------------------------------------------

struct FloatWeights {
  // `late` is GRU's third gate where the state is reset before its product; else all are in
  // `first`.
  std::shared_ptr<const kernels::PackedGemmF32> inputs, first, late;
};

struct FloatProducts {
  const Recurrence& r;
  const FloatWeights& weights;
  const float* biases;

  void inputs(const float* x, float* out) const {
    run(*weights.inputs, x, r.steps * r.batch, biases, out);
  }
  void states(const float* h, int64_t first, int64_t, float* out) const {
    run(first == 0 ? *weights.first : *weights.late, h, r.batch, nullptr, out + first);
  }

 private:
  void run(const kernels::PackedGemmF32& packed, const float* a, int64_t rows, const float* bias,
           float* out) const {
    kernels::GemmF32Args args;
    args.a = a;
    args.m = rows;
    args.k = args.lda = packed.k;
    args.n = packed.n;
    args.panels = packed.panels.get();
    args.out = out;
    args.ldc = r.gates();
    args.bias = bias;
    kernels::gemm_f32(args);
  }
};

// Gates [from, to) of a direction's [gates, k].
std::shared_ptr<const kernels::PackedGemmF32> pack_rows(const Tensor& weights, const Recurrence& r,
                                                        int64_t k, int64_t d, int64_t from,
                                                        int64_t to) {
  return packed_once<kernels::PackedGemmF32>(
      weights, fmt::format("rows{}-{}-{}", d, from, to), [&] {
        const TensorData data = weights.read();
        const float* first = data.as<float>().data() + (d * r.gates() + from) * k;
        return kernels::pack_gemm_f32({first, k, to - from, 1, k});
      });
}

template <Cell cell>
Kernel prepare_float(const NodeContext& context) {
  struct State {
    Layer layer;
    std::vector<FloatWeights> weights;  // by direction
  };
  auto state = std::make_shared<State>(State{
      read_layer(context, read_recurrence(context, cell, recurrent::WeightLayout::rows)), {}});
  const Recurrence& r = state->layer.r;
  const Tensor& w = *context.constant(recurrent::kW);
  const Tensor& rec = *context.constant(recurrent::kR);
  const int64_t late = cell == Cell::gru && !r.linear_before_reset ? 2 * r.hidden : r.gates();
  for (int64_t d = 0; d < r.directions; ++d) {
    FloatWeights packed{pack_rows(w, r, r.input, d, 0, r.gates()),
                        pack_rows(rec, r, r.hidden, d, 0, late), nullptr};
    if (late < r.gates()) packed.late = pack_rows(rec, r, r.hidden, d, late, r.gates());
    state->weights.push_back(std::move(packed));
  }
  Kernel kernel;
  kernel.name = fmt::format("{}_f32/{}",
                            cell == Cell::rnn   ? "rnn"
                            : cell == Cell::gru ? "gru"
                                                : "lstm",
                            kernels::best_gemm_f32().name);
  kernel.held_inputs = 1u << recurrent::kW | 1u << recurrent::kR;
  kernel.workspace_bytes = static_cast<size_t>(recurrent::workspace_count(r)) * sizeof(float);
  kernel.run = [state](const KernelArgs& args) {
    const Layer& layer = state->layer;
    recurrent::run_recurrence<float>(layer.r, args, [&](int64_t d, const Buffers<float>& m) {
      return std::pair(
          FloatProducts{layer.r, state->weights[static_cast<size_t>(d)], layer.biases_of(d)},
          VectorGates(layer.r, layer.activations_of(d), m.b));
    });
  };
  return kernel;
}

// --- Integer products ----------------------------------------------------------------------------

struct IntegerWeights {
  std::shared_ptr<const kernels::PackedGemmS8> packed;
  std::vector<float> scales;  // one a gate
};

struct IntegerProducts {
  const Recurrence& r;
  const IntegerWeights &w, &rec;
  const float* biases;
  uint8_t* bytes;
  void* workspace;

  void inputs(const float* x, float* out) const { run(w, x, r.steps * r.batch, biases, out); }
  void states(const float* h, int64_t, int64_t, float* out) const {
    run(rec, h, r.batch, nullptr, out);
  }

 private:
  void run(const IntegerWeights& weights, const float* a, int64_t rows, const float* bias,
           float* out) const {
    const int64_t k = weights.packed->k;
    const DynamicScale dynamic = dynamic_scale(a, rows * k);
    kernels::quantize_s8(a, rows * k, {dynamic.scale, int32_t{dynamic.zero_point}, false}, bytes);
    kernels::GemmS8Args args;
    args.m = rows;
    args.a = bytes;
    args.lda = k;
    args.a_zero_point = dynamic.zero_point;
    args.out = out;
    args.ldc = r.gates();
    args.epilogue.output = kernels::S8Output::float32;
    args.epilogue.scale = weights.scales.data();
    args.epilogue.scale_factor = dynamic.scale;
    args.epilogue.float_bias = bias;
    args.workspace = workspace;
    kernels::gemm_s8(*weights.packed, args);
  }
};

// Of [directions, k, gates], with scales and zero points of one or `gates` numbers a direction.
IntegerWeights pack_columns(const Tensor& weights, const Tensor& scales, const Tensor* zeros,
                            const Recurrence& r, int64_t k, int64_t d) {
  IntegerWeights out;
  out.packed = packed_once<kernels::PackedGemmS8>(weights, fmt::format("columns{}", d), [&] {
    const TensorData data = weights.read();
    const TensorData zero = zeros != nullptr ? zeros->read() : TensorData();
    kernels::GemmS8Weights source;
    source.data = static_cast<const uint8_t*>(data.view().data) + d * k * r.gates();
    source.is_signed = weights.dtype() == DType::int8;
    source.k = k;
    source.n = source.ld = r.gates();
    if (zeros != nullptr) {
      source.zero_point_per_column = zeros->count() > r.directions;
      source.zero_point = static_cast<const uint8_t*>(zero.view().data) +
                          d * (source.zero_point_per_column ? r.gates() : 1);
    }
    return kernels::pack_gemm_s8_for(source, 1);
  });
  const TensorData data = scales.read();
  const bool one = scales.count() == r.directions;
  for (int64_t g = 0; g < r.gates(); ++g) {
    out.scales.push_back(data.as<float>()[static_cast<size_t>(one ? d : d * r.gates() + g)]);
  }
  return out;
}

Kernel prepare_integer(const NodeContext& context) {
  struct State {
    Layer layer;
    std::vector<std::pair<IntegerWeights, IntegerWeights>> weights;  // W and R by direction
  };
  auto state = std::make_shared<State>(
      State{read_layer(context, recurrent::read_quantized_lstm(context)), {}});
  const Recurrence& r = state->layer.r;
  const auto pack = [&](int weights, int scales, int zeros, int64_t k, int64_t d) {
    return pack_columns(*context.constant(weights), *context.constant(scales),
                        context.has_input(zeros) ? context.constant(zeros) : nullptr, r, k, d);
  };
  for (int64_t d = 0; d < r.directions; ++d) {
    state->weights.emplace_back(
        pack(recurrent::kW, recurrent::kWScale, recurrent::kWZeroPoint, r.input, d),
        pack(recurrent::kR, recurrent::kRScale, recurrent::kRZeroPoint, r.hidden, d));
  }
  const auto& [w, rec] = state->weights[0];
  const size_t floats =
      kernels::round_up(recurrent::workspace_count(r) * sizeof(float), kernels::kAlignment);
  const size_t bytes = kernels::round_up(recurrent::quantized_bytes(r), kernels::kAlignment);
  Kernel kernel;
  kernel.name = fmt::format("lstm_s8/{}", w.packed->kernel->name);
  kernel.held_inputs = 1u << recurrent::kW | 1u << recurrent::kR;
  kernel.workspace_bytes = floats + bytes +
                           std::max(kernels::gemm_s8_workspace_bytes(*w.packed, r.steps * r.batch),
                                    kernels::gemm_s8_workspace_bytes(*rec.packed, r.batch));
  kernel.run = [state, floats, bytes](const KernelArgs& args) {
    const Layer& layer = state->layer;
    recurrent::run_recurrence<float>(layer.r, args, [&](int64_t d, const Buffers<float>& m) {
      const auto& [w, rec] = state->weights[static_cast<size_t>(d)];
      return std::pair(IntegerProducts{layer.r, w, rec, layer.biases_of(d),
                                       reinterpret_cast<uint8_t*>(args.workspace + floats),
                                       args.workspace + floats + bytes},
                       VectorGates(layer.r, layer.activations_of(d), m.b));
    });
  };
  return kernel;
}

const std::array<OpDef, 4> kRows = {
    internal_row("RNN", recurrent::infer_rnn, prepare_float<Cell::rnn>),
    internal_row("GRU", recurrent::infer_gru, prepare_float<Cell::gru>),
    internal_row("LSTM", recurrent::infer_lstm, prepare_float<Cell::lstm>),
    internal_row("DynamicQuantizeLSTM", recurrent::infer_quantized_lstm, prepare_integer),
};

}  // namespace

const std::span<const OpDef> kRecurrentRows = kRows;

}  // namespace compress::runtime
