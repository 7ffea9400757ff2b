// Slopes of element-wise functions of one value, and the sum that undoes broadcasting.
#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "compress/ops/gradient_families.h"
#include "compress/ops/support.h"
#include "compress/ops/typed.h"

namespace compress {

bool infer_shape_operand(NodeContext& c, int i, int rank) {
  const auto dims = c.ints("", i);
  if (!c.has_input(i) || !dims) {
    if (c.has_input(i) && c.in(i).is_concrete() && c.shape(i).rank() == 1) {
      rank = static_cast<int>(c.shape(i)[0]);  // as many as there are dimensions
    }
    if (rank >= 0) {
      c.set_output(0, c.dtype(0), ops::unknown_shape(rank));
    } else {
      c.set_output(0, c.dtype(0));
    }
    return false;
  }
  c.set_output(0, c.dtype(0), Shape(std::span<const int64_t>(*dims)));
  return true;
}

namespace {

// p and q are the operator's parameters, with its defaults.
struct Slope {
  std::string_view op;
  SlopeOf of;
  const char* p_name = "";
  float p = 0;
  const char* q_name = "";
  float q = 0;
};

// An output serves where it can: the next operator keeps it in memory anyway, and whatever is fused
// into the operator before needs no store of its input.
constexpr Slope kSlopes[] = {
    {"Relu", SlopeOf::output},
    {"LeakyRelu", SlopeOf::input, "alpha", 0.01f},
    {"Elu", SlopeOf::input, "alpha", 1.0f},
    {"Selu", SlopeOf::input, "alpha", 1.67326319f, "gamma", 1.05070102f},
    {"Celu", SlopeOf::input, "alpha", 1.0f},
    {"Sigmoid", SlopeOf::output},
    {"Tanh", SlopeOf::output},
    {"HardSigmoid", SlopeOf::input, "alpha", 0.2f, "beta", 0.5f},
    {"HardSwish", SlopeOf::input},
    {"Softplus", SlopeOf::input},
    {"Softsign", SlopeOf::input},
    {"Mish", SlopeOf::input},
    {"Gelu", SlopeOf::input},
    {"Gelu/tanh", SlopeOf::input},
    {"QuickGelu", SlopeOf::input, "alpha", 1.702f},
    {"Erf", SlopeOf::input},
    {"Exp", SlopeOf::output},
    {"Log", SlopeOf::input},
    {"Sqrt", SlopeOf::output},
    {"Reciprocal", SlopeOf::output},
    {"Abs", SlopeOf::input},
    {"Sin", SlopeOf::input},
    {"Cos", SlopeOf::input},
    {"Clip", SlopeOf::output, "lo", 0.0f, "hi", 0.0f},
};

const Slope* find_slope(std::string_view op) {
  const auto row =
      std::find_if(std::begin(kSlopes), std::end(kSlopes), [&](auto& s) { return s.op == op; });
  return row == std::end(kSlopes) ? nullptr : row;
}

template <class T>
T gelu_tanh_slope(T x) {
  const T k = std::sqrt(T{2} / std::numbers::pi_v<T>);
  const T c = static_cast<T>(0.044715);
  const T t = std::tanh(k * (x + c * x * x * x));
  return (T{1} + t) / 2 + x / 2 * (T{1} - t * t) * k * (T{1} + 3 * c * x * x);
}

// Calls visit(f) with f(v) the slope.
template <class T, class Visit>
Kernel with_slope(const Slope& slope, T p, T q, Visit&& visit) {
  const auto sigmoid = [](T v) { return T{1} / (T{1} + std::exp(-v)); };
  const std::string_view op = slope.op;
  if (op == "Relu") return visit([](T y) { return y > 0 ? T{1} : T{0}; });
  if (op == "Clip") return visit([p, q](T y) { return y > p && y < q ? T{1} : T{0}; });
  if (op == "LeakyRelu") return visit([p](T x) { return x >= 0 ? T{1} : p; });
  if (op == "Elu") return visit([p](T x) { return x >= 0 ? T{1} : p * std::exp(x); });
  if (op == "Selu") return visit([p, q](T x) { return x > 0 ? q : q * p * std::exp(x); });
  if (op == "Celu") return visit([p](T x) { return x >= 0 ? T{1} : std::exp(x / p); });
  if (op == "Sigmoid") return visit([](T y) { return y * (T{1} - y); });
  if (op == "Tanh") return visit([](T y) { return T{1} - y * y; });
  if (op == "HardSigmoid") {
    return visit([p, q](T x) { return p * x + q > 0 && p * x + q < 1 ? p : T{0}; });
  }
  if (op == "HardSwish") {
    return visit([](T x) { return x <= -3 ? T{0} : x >= 3 ? T{1} : x / 3 + T{0.5}; });
  }
  if (op == "Softplus") return visit(sigmoid);
  if (op == "Softsign") {
    return visit([](T x) { return T{1} / ((T{1} + std::abs(x)) * (T{1} + std::abs(x))); });
  }
  if (op == "Mish") {
    return visit([sigmoid](T x) {
      const T t = std::tanh(x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)));
      return t + x * (T{1} - t * t) * sigmoid(x);
    });
  }
  if (op == "Gelu") {
    return visit([](T x) {
      const T root = std::numbers::sqrt2_v<T>;
      const T density = std::exp(-x * x / 2) * std::numbers::inv_sqrtpi_v<T> / root;
      return (T{1} + std::erf(x / root)) / 2 + x * density;
    });
  }
  if (op == "Gelu/tanh") return visit([](T x) { return gelu_tanh_slope(x); });
  if (op == "QuickGelu") {
    return visit([p, sigmoid](T x) {
      const T s = sigmoid(p * x);
      return s + p * x * s * (T{1} - s);
    });
  }
  if (op == "Erf") {
    return visit([](T x) { return 2 * std::numbers::inv_sqrtpi_v<T> * std::exp(-x * x); });
  }
  if (op == "Exp") return visit([](T y) { return y; });
  if (op == "Log") return visit([](T x) { return T{1} / x; });
  if (op == "Sqrt") return visit([](T y) { return T{1} / (2 * y); });
  if (op == "Reciprocal") return visit([](T y) { return -y * y; });
  if (op == "Sin") return visit([](T x) { return std::cos(x); });
  if (op == "Cos") return visit([](T x) { return -std::sin(x); });
  // Abs
  return visit([](T x) { return x > 0 ? T{1} : x < 0 ? T{-1} : T{0}; });
}

Kernel prepare_element(const NodeContext& c) {
  const std::string of = c.node().string_or("of", "");
  const Slope* slope = find_slope(of);
  if (slope == nullptr) c.unsupported("no slope of " + of);
  require_inputs(c, 2);
  ops::require_same_dtype(c, 0, 2);
  if (!(c.shape(0) == c.shape(1))) c.invalid("a gradient of another shape");
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    const auto p = static_cast<T>(c.node().float_or(slope->p_name, slope->p));
    const auto q = static_cast<T>(c.node().float_or(slope->q_name, slope->q));
    return with_slope<T>(*slope, p, q, [&](auto f) {
      return Kernel{"element_gradient_ref", [f](const KernelArgs& args) {
                      const T* dy = args.inputs[0].as<const T>();
                      const T* v = args.inputs[1].as<const T>();
                      T* dx = args.outputs[0].as<T>();
                      parallel_for(0, args.outputs[0].count(), ops::kGrain,
                                   [&](int64_t from, int64_t to) {
                                     for (int64_t i = from; i < to; ++i) dx[i] = dy[i] * f(v[i]);
                                   });
                    }};
    });
  });
}

void infer_sum_to(NodeContext& c) { infer_shape_operand(c, 1); }

// ReduceSum over the axes that broadcasting made or repeated.
Kernel prepare_sum_to(const NodeContext& c) {
  const Shape& from = c.shape(0);
  const Shape& to = c.output_types[0].shape;
  if (from.count() == to.count()) return ops::copy_all_kernel(c);
  std::vector<int64_t> axes;
  const int missing = from.rank() - to.rank();
  for (int i = 0; i < from.rank(); ++i) {
    if (i < missing || to[i - missing] != from[i]) axes.push_back(i);
  }
  Node reduce;
  reduce.name = c.node().name;
  reduce.op_type = "ReduceSum";
  reduce.inputs = {c.node().inputs[0]};
  reduce.outputs = c.node().outputs;
  reduce.attributes = {{"axes", axes, ""}, {"keepdims", int64_t{0}, ""}};
  NodeContext context(reduce, 11);
  context.input_types = {c.in(0)};
  context.constants = {nullptr};
  const OpDef& row = *find_op("", "ReduceSum", 11);
  row.infer(context);
  if (context.output_types[0].shape.count() != to.count()) c.invalid("cannot sum to this shape");
  return row.prepare(context);
}

constexpr OpDef kRows[] = {
    gradient_row("ElementGradient", infer_like_first, prepare_element),
    gradient_row("SumTo", infer_sum_to, prepare_sum_to),
};

}  // namespace

SlopeOf element_slope(std::string_view op) {
  const Slope* slope = find_slope(op);
  return slope == nullptr ? SlopeOf::none : slope->of;
}

const std::span<const OpDef> kElementGradients = kRows;

}  // namespace compress
