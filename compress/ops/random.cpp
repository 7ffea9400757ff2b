// Operators that draw at random. Draw i of a node is a function of the node's seed and i, so that
// every run and every number of threads gives the same values.
#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>

#include "compress/ops/special_families.h"
#include "compress/ops/support.h"
#include "compress/ops/typed.h"

namespace compress {
namespace {

using ops::dispatch;
using ops::kGrain;
using ops::row;
using ops::Types;

// SplitMix64's finalizer (Steele, Lea, Flood 2014): each step of a counter gives 64 random bits.
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

struct Draws {
  uint64_t seed;

  // In [0, 1), of 53 bits.
  double uniform(int64_t i) const {
    const uint64_t step = static_cast<uint64_t>(i) + 1;
    return static_cast<double>(mix(seed + step * 0x9E3779B97F4A7C15u) >> 11) * 0x1p-53;
  }
  // Of mean 0 and variance 1 (Box and Muller).
  double normal(int64_t i) const {
    const double radius = std::sqrt(-2 * std::log(1 - uniform(2 * i)));
    return radius * std::cos(2 * std::numbers::pi * uniform(2 * i + 1));
  }
};

// Attribute `seed`; else the place in the graph, so that nodes without one differ.
Draws draws_of(const NodeContext& c) {
  const AttributeValue* given = c.node().attribute("seed");
  uint64_t seed = 0;
  if (given == nullptr) {
    seed = static_cast<uint64_t>(c.has_output(0) ? c.node().outputs[0] : 0) << 1 | 1;
  } else if (std::holds_alternative<int64_t>(*given)) {
    seed = static_cast<uint64_t>(c.node().int_or("seed", 0)) << 1;
  } else {
    seed = uint64_t{std::bit_cast<uint32_t>(c.node().float_or("seed", 0))} << 1;
  }
  return {mix(seed)};
}

DType dtype_attribute(const NodeContext& c, DType fallback) {
  const int64_t given = c.node().int_or("dtype", static_cast<int64_t>(fallback));
  if (given < 1 || given > 255 || info(static_cast<DType>(given)).dtype == DType::undefined) {
    c.invalid(fmt::format("dtype {}", given));
  }
  return static_cast<DType>(given);
}

// --- RandomUniform, RandomNormal, and those that copy the shape of an input ----------------------

void infer_random(NodeContext& c) {
  ops::require_inputs(c, 0, 0);
  const Shape shape = ops::shape_from(c, c.node().ints_or("shape", {}));
  c.set_output(0, dtype_attribute(c, DType::float32), shape);
}

void infer_random_like(NodeContext& c) {
  ops::require_inputs(c, 1, 1);
  const DType like = is_float(c.dtype(0)) ? c.dtype(0) : DType::float32;
  const DType dtype = dtype_attribute(c, like);
  if (!c.in(0).has_shape) return c.set_output(0, dtype);
  c.set_output(0, dtype, c.shape(0));
}

// y[i] = draw(i)
template <class Draw>
Kernel draw_kernel(const NodeContext& c, Draw draw) {
  const int64_t count = c.output_types[0].shape.count();
  return by_float(c, c.output_types[0].dtype, [&]<class T>(T) {
    return Kernel{"", [=](const KernelArgs& args) {
                    T* y = args.outputs[0].as<T>();
                    parallel_for(0, count, kGrain, [&](int64_t begin, int64_t end) {
                      for (int64_t i = begin; i < end; ++i) y[i] = static_cast<T>(draw(i));
                    });
                  }};
  });
}

Kernel prepare_uniform(const NodeContext& c) {
  const double low = static_cast<double>(c.node().float_or("low", 0));
  const double high = static_cast<double>(c.node().float_or("high", 1));
  return draw_kernel(
      c, [=, draws = draws_of(c)](int64_t i) { return low + (high - low) * draws.uniform(i); });
}

Kernel prepare_normal(const NodeContext& c) {
  const double mean = static_cast<double>(c.node().float_or("mean", 0));
  const double scale = static_cast<double>(c.node().float_or("scale", 1));
  return draw_kernel(
      c, [=, draws = draws_of(c)](int64_t i) { return mean + scale * draws.normal(i); });
}

// --- Multinomial: classes drawn by unnormalized log-probabilities --------------------------------

void infer_multinomial(NodeContext& c) {
  ops::require_inputs(c, 1, 1);
  const int64_t samples = c.node().int_or("sample_size", 1);
  if (samples < 0) c.invalid(fmt::format("sample_size is {}", samples));
  const bool known = known_rank(c, 0, 2);
  c.set_output(0, dtype_attribute(c, DType::int32), {known ? c.shape(0)[0] : kUnknownDim, samples});
}

// The class of each sample by the running sums of the probabilities.
template <class T, class Out>
void draw_classes(const T* logits, int64_t classes, const Draws& draws, int64_t first,
                  int64_t samples, Out* out) {
  std::vector<double> sums(static_cast<size_t>(classes));
  const double top = static_cast<double>(*std::max_element(logits, logits + classes));
  double total = 0;
  for (int64_t k = 0; k < classes; ++k) {
    total += std::exp(static_cast<double>(logits[k]) - top);
    sums[static_cast<size_t>(k)] = total;
  }
  for (int64_t s = 0; s < samples; ++s) {
    const double at = draws.uniform(first + s) * total;
    const auto found = std::upper_bound(sums.begin(), sums.end(), at);
    out[s] = static_cast<Out>(std::min<int64_t>(found - sums.begin(), classes - 1));
  }
}

Kernel prepare_multinomial(const NodeContext& c) {
  const int64_t batch = c.shape(0)[0], classes = c.shape(0)[1];
  const int64_t samples = c.output_types[0].shape[1];
  if (classes < 1 && batch * samples > 0) c.invalid("there are no classes to draw");
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    return dispatch(Types<int32_t, int64_t>(), c, c.output_types[0].dtype, [&](auto tag) -> Kernel {
      using Out = decltype(tag);
      return {"", [=, draws = draws_of(c)](const KernelArgs& args) {
                const T* logits = args.inputs[0].as<const T>();
                auto* out = static_cast<Out*>(args.outputs[0].data);
                for (int64_t b = 0; b < batch && samples > 0; ++b) {
                  draw_classes(logits + b * classes, classes, draws, b * samples, samples,
                               out + b * samples);
                }
              }};
    });
  });
}

// --- Dropout -------------------------------------------------------------------------------------

// The mask is of the input's type before opset 10.
DType mask_type(const NodeContext& c) { return c.opset() >= 10 ? DType::boolean : c.dtype(0); }

void infer_dropout(NodeContext& c) {
  ops::require_inputs(c, 1, 3);
  ops::infer_same(c);
  if (!c.in(0).has_shape) return c.set_output(1, mask_type(c));
  c.set_output(1, mask_type(c), c.shape(0));
}

// Nothing is dropped: the output is the input, the mask is all ones.
Kernel prepare_identity_dropout(const NodeContext& c) {
  Kernel copy = ops::copy_all_kernel(c);
  if (!c.has_output(1)) return copy;
  const auto count = static_cast<size_t>(c.shape(0).count());
  return dispatch(Types<bool, float, double>(), c, mask_type(c), [&](auto tag) -> Kernel {
    using T = decltype(tag);
    return {"", [copy, count](const KernelArgs& args) {
              copy.run(args);
              std::fill_n(args.outputs[1].as<T>(), count, T(1));
            }};
  });
}

// Elements stay with probability 1 - ratio, scaled up so that the mean stays.
Kernel prepare_dropout(const NodeContext& c) {
  const Tensor* training = c.constant(2);
  if (c.has_input(2) && training == nullptr) return ops::prepare_at_run(c);
  if (training == nullptr || training->to_int() == 0) return prepare_identity_dropout(c);
  const std::optional<double> given = c.has_input(1) ? ops::double_input(c, 1) : 0.5;
  if (!given) return ops::prepare_at_run(c);
  const double ratio = *given;
  if (ratio == 0) return prepare_identity_dropout(c);
  if (!(ratio > 0 && ratio < 1)) c.invalid(fmt::format("ratio is {}", ratio));
  const int64_t count = c.shape(0).count();
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    return Kernel{"", [=, draws = draws_of(c), masked = c.has_output(1)](const KernelArgs& args) {
                    const T* x = args.inputs[0].as<const T>();
                    T* y = args.outputs[0].as<T>();
                    bool* mask = masked ? args.outputs[1].as<bool>() : nullptr;
                    const T scale = static_cast<T>(1 / (1 - ratio));
                    parallel_for(0, count, kGrain, [&](int64_t begin, int64_t end) {
                      for (int64_t i = begin; i < end; ++i) {
                        const bool stays = draws.uniform(i) >= ratio;
                        y[i] = stays ? x[i] * scale : T(0);
                        if (mask != nullptr) mask[i] = stays;
                      }
                    });
                  }};
  });
}

constexpr OpDef kRows[] = {
    row("RandomUniformLike", 1, infer_random_like, prepare_uniform),
    row("RandomUniform", 1, infer_random, prepare_uniform),
    row("RandomNormalLike", 1, infer_random_like, prepare_normal),
    row("RandomNormal", 1, infer_random, prepare_normal),
    row("Multinomial", 7, infer_multinomial, prepare_multinomial),
    row("Dropout", 7, infer_dropout, prepare_dropout),
};

}  // namespace

constinit const std::span<const OpDef> kRandomOps = kRows;

}  // namespace compress
