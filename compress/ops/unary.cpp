// Elementwise functions of one operand.
#include <cmath>
#include <limits>

#include "compress/ops/families.h"
#include "compress/ops/support.h"

namespace compress {
namespace {

using namespace ops;

void infer_unary(NodeContext& context) {
  require_inputs(context, 1, 1);
  infer_same(context);
}

void infer_predicate(NodeContext& context) {
  require_inputs(context, 1, 1);
  if (!context.in(0).has_shape) return context.set_output(0, DType::boolean);
  context.set_output(0, DType::boolean, context.shape(0));
}

// The stateless functions, as templates over the element type.
// clang-format off
struct Abs { template <class T> T operator()(T x) const {
  if constexpr (std::is_unsigned_v<T>) return x;
  else if constexpr (std::is_integral_v<T>) return x < 0 ? wrapping(T(0), x, std::minus<>()) : x;
  else return std::fabs(x); } };
struct Neg { template <class T> T operator()(T x) const {
  if constexpr (std::is_integral_v<T>) return wrapping(T(0), x, std::minus<>());
  else return -x; } };
struct Sign { template <class T> T operator()(T x) const {
  return x > 0 ? T(1) : x < 0 ? T(-1) : x; } };
struct Relu { template <class T> T operator()(T x) const { return x < 0 ? T(0) : x; } };
struct Exp { template <class T> T operator()(T x) const { return std::exp(x); } };
struct Log { template <class T> T operator()(T x) const { return std::log(x); } };
struct Sqrt { template <class T> T operator()(T x) const { return std::sqrt(x); } };
struct Reciprocal { template <class T> T operator()(T x) const { return T(1) / x; } };
struct Erf { template <class T> T operator()(T x) const { return std::erf(x); } };
struct Tanh { template <class T> T operator()(T x) const { return std::tanh(x); } };
// exp of a non-positive argument alone, so that nothing overflows.
struct Sigmoid { template <class T> T operator()(T x) const {
  const T e = std::exp(-std::fabs(x));
  return (x < 0 ? e : T(1)) / (T(1) + e); } };
struct Softplus { template <class T> T operator()(T x) const {
  return (x > 0 ? x : T(0)) + std::log1p(std::exp(-std::fabs(x))); } };
struct Softsign { template <class T> T operator()(T x) const { return x / (T(1) + std::fabs(x)); } };
struct Mish { template <class T> T operator()(T x) const { return x * std::tanh(Softplus()(x)); } };
struct HardSwish { template <class T> T operator()(T x) const {
  const T gate = x * T(1.0 / 6) + T(0.5);
  return x * (gate < 0 ? T(0) : gate > 1 ? T(1) : gate); } };
struct Floor { template <class T> T operator()(T x) const { return std::floor(x); } };
struct Ceil { template <class T> T operator()(T x) const { return std::ceil(x); } };
struct Round { template <class T> T operator()(T x) const { return std::nearbyint(x); } };
struct Sin { template <class T> T operator()(T x) const { return std::sin(x); } };
struct Cos { template <class T> T operator()(T x) const { return std::cos(x); } };
struct Tan { template <class T> T operator()(T x) const { return std::tan(x); } };
struct Asin { template <class T> T operator()(T x) const { return std::asin(x); } };
struct Acos { template <class T> T operator()(T x) const { return std::acos(x); } };
struct Atan { template <class T> T operator()(T x) const { return std::atan(x); } };
struct Sinh { template <class T> T operator()(T x) const { return std::sinh(x); } };
struct Cosh { template <class T> T operator()(T x) const { return std::cosh(x); } };
struct Asinh { template <class T> T operator()(T x) const { return std::asinh(x); } };
struct Acosh { template <class T> T operator()(T x) const { return std::acosh(x); } };
struct Atanh { template <class T> T operator()(T x) const { return std::atanh(x); } };
// clang-format on

template <class F, class TypeList = FloatTypes>
Kernel prepare_unary(const NodeContext& context) {
  return dispatch(TypeList(), context, context.dtype(0), [&](auto tag) {
    using T = decltype(tag);
    return unary_kernel<T, T>(context, F());
  });
}

Kernel prepare_is_nan(const NodeContext& context) {
  return dispatch(FloatTypes(), context, context.dtype(0), [&](auto tag) {
    using T = decltype(tag);
    return unary_kernel<bool, T>(context, [](T x) { return std::isnan(x); });
  });
}

Kernel prepare_is_inf(const NodeContext& context) {
  const bool negative = context.node().int_or("detect_negative", 1) != 0;
  const bool positive = context.node().int_or("detect_positive", 1) != 0;
  return dispatch(FloatTypes(), context, context.dtype(0), [&](auto tag) {
    using T = decltype(tag);
    return unary_kernel<bool, T>(
        context, [=](T x) { return std::isinf(x) && (x < 0 ? negative : positive); });
  });
}

// --- With attributes -----------------------------------------------------------------------------

// make(node, T{}) gives the function for element type T.
template <class TypeList = FloatTypes, class Make>
Kernel prepare_with(const NodeContext& context, Make make) {
  return dispatch(TypeList(), context, context.dtype(0), [&](auto tag) {
    using T = decltype(tag);
    return unary_kernel<T, T>(context, make(context.node(), tag));
  });
}

Kernel prepare_leaky_relu(const NodeContext& context) {
  return prepare_with(context, [](const Node& node, auto tag) {
    using T = decltype(tag);
    const T alpha = node.float_or("alpha", 0.01f);
    return [alpha](T x) { return x < 0 ? alpha * x : x; };
  });
}

Kernel prepare_elu(const NodeContext& context) {
  return prepare_with(context, [](const Node& node, auto tag) {
    using T = decltype(tag);
    const T alpha = node.float_or("alpha", 1.0f);
    return [alpha](T x) { return x < 0 ? alpha * std::expm1(x) : x; };
  });
}

Kernel prepare_selu(const NodeContext& context) {
  return prepare_with(context, [](const Node& node, auto tag) {
    using T = decltype(tag);
    // The defaults are those of the ONNX schema.
    const T alpha = node.float_or("alpha", 1.67326319217681884765625f);
    const T gamma = node.float_or("gamma", 1.05070102214813232421875f);
    return [=](T x) { return gamma * (x > 0 ? x : alpha * std::expm1(x)); };
  });
}

Kernel prepare_celu(const NodeContext& context) {
  return prepare_with(context, [](const Node& node, auto tag) {
    using T = decltype(tag);
    const T alpha = node.float_or("alpha", 1.0f);
    return [alpha](T x) { return x > 0 ? x : alpha * std::expm1(x / alpha); };
  });
}

Kernel prepare_thresholded_relu(const NodeContext& context) {
  return prepare_with(context, [](const Node& node, auto tag) {
    using T = decltype(tag);
    const T alpha = node.float_or("alpha", 1.0f);
    return [alpha](T x) { return x > alpha ? x : T(0); };
  });
}

Kernel prepare_hard_sigmoid(const NodeContext& context) {
  return prepare_with(context, [](const Node& node, auto tag) {
    using T = decltype(tag);
    const T alpha = node.float_or("alpha", 0.2f);
    const T beta = node.float_or("beta", 0.5f);
    return [=](T x) {
      const T y = alpha * x + beta;
      return y < 0 ? T(0) : y > 1 ? T(1) : y;
    };
  });
}

Kernel prepare_shrink(const NodeContext& context) {
  return prepare_with<NumericTypes>(context, [](const Node& node, auto tag) {
    using T = decltype(tag);
    const double bias = node.float_or("bias", 0.0f);
    const double lambd = node.float_or("lambd", 0.5f);
    return [=](T x) {
      const auto value = static_cast<double>(x);
      return static_cast<T>(value < -lambd ? value + bias : value > lambd ? value - bias : 0.0);
    };
  });
}

Kernel prepare_swish(const NodeContext& context) {
  return prepare_with(context, [](const Node& node, auto tag) {
    using T = decltype(tag);
    const T alpha = node.float_or("alpha", 1.0f);
    return [alpha](T x) { return x * Sigmoid()(alpha * x); };
  });
}

Kernel prepare_gelu(const NodeContext& context) {
  const std::string approximate = context.node().string_or("approximate", "none");
  if (approximate == "tanh") {
    return prepare_with(context, [](const Node&, auto tag) {
      using T = decltype(tag);
      return [](T x) {
        const T inner = T(0.7978845608028654) * (x + T(0.044715) * x * x * x);  // sqrt(2 / pi)
        return T(0.5) * x * (T(1) + std::tanh(inner));
      };
    });
  }
  if (approximate != "none") context.invalid("approximate must be none or tanh");
  return prepare_with(context, [](const Node&, auto tag) {
    using T = decltype(tag);
    return [](T x) { return T(0.5) * x * (T(1) + std::erf(x * T(0.7071067811865476))); };
  });
}

// --- Clip: bounds are attributes up to opset 6, inputs since 11
// -----------------------------------

void infer_clip(NodeContext& context) {
  require_inputs(context, 1, 3);
  require_same_dtype(context, 0, 3);
  infer_same(context);
}

Kernel prepare_clip(const NodeContext& context) {
  return dispatch(NumericTypes(), context, context.dtype(0), [&](auto tag) -> Kernel {
    using T = decltype(tag);
    using Limits = std::numeric_limits<T>;
    T low = Limits::has_infinity ? -Limits::infinity() : Limits::lowest();
    T high = Limits::has_infinity ? Limits::infinity() : Limits::max();
    if constexpr (std::is_floating_point_v<T>) {
      const Node& node = context.node();
      if (node.attribute("min") != nullptr) low = node.float_or("min", 0);
      if (node.attribute("max") != nullptr) high = node.float_or("max", 0);
    }
    for (int i = 1; i <= 2; ++i) {
      if (context.has_input(i) && context.shape(i).count() != 1)
        context.invalid("bounds are scalars");
    }
    const bool low_given = context.has_input(1);
    const bool high_given = context.has_input(2);
    const int64_t count = context.shape(0).count();
    return {"", [=](const KernelArgs& args) {
              const T least = low_given ? *static_cast<const T*>(args.inputs[1].data) : low;
              const T most = high_given ? *static_cast<const T*>(args.inputs[2].data) : high;
              const T* in = static_cast<const T*>(args.inputs[0].data);
              T* out = static_cast<T*>(args.outputs[0].data);
              parallel_for(0, count, kGrain, [&](int64_t begin, int64_t end) {
                for (int64_t i = begin; i < end; ++i) {
                  const T raised = in[i] < least ? least : in[i];
                  out[i] = raised > most ? most : raised;
                }
              });
            }};
  });
}

constexpr OpDef kRows[] = {
    row("Abs", 6, infer_unary, prepare_unary<Abs, NumericTypes>),
    row("Neg", 6, infer_unary, prepare_unary<Neg, SignedTypes>),
    row("Sign", 9, infer_unary, prepare_unary<Sign, NumericTypes>),
    row("Exp", 6, infer_unary, prepare_unary<Exp>),
    row("Log", 6, infer_unary, prepare_unary<Log>),
    row("Sqrt", 6, infer_unary, prepare_unary<Sqrt>),
    row("Reciprocal", 6, infer_unary, prepare_unary<Reciprocal>),
    row("Erf", 9, infer_unary, prepare_unary<Erf>),
    row("Sigmoid", 6, infer_unary, prepare_unary<Sigmoid>),
    row("Tanh", 6, infer_unary, prepare_unary<Tanh>),
    row("Relu", 6, infer_unary, prepare_unary<Relu, SignedTypes>),
    row("LeakyRelu", 6, infer_unary, prepare_leaky_relu),
    row("Elu", 6, infer_unary, prepare_elu),
    row("Selu", 6, infer_unary, prepare_selu),
    row("Celu", 12, infer_unary, prepare_celu),
    row("ThresholdedRelu", 10, infer_unary, prepare_thresholded_relu),
    row("HardSigmoid", 6, infer_unary, prepare_hard_sigmoid),
    row("HardSwish", 14, infer_unary, prepare_unary<HardSwish>),
    row("Softplus", 1, infer_unary, prepare_unary<Softplus>),
    row("Softsign", 1, infer_unary, prepare_unary<Softsign>),
    row("Mish", 18, infer_unary, prepare_unary<Mish>),
    row("Gelu", 20, infer_unary, prepare_gelu),
    row("Swish", 24, infer_unary, prepare_swish),
    row("Shrink", 9, infer_unary, prepare_shrink),
    row("Floor", 6, infer_unary, prepare_unary<Floor>),
    row("Ceil", 6, infer_unary, prepare_unary<Ceil>),
    row("Round", 11, infer_unary, prepare_unary<Round>),
    row("Sin", 7, infer_unary, prepare_unary<Sin>),
    row("Cos", 7, infer_unary, prepare_unary<Cos>),
    row("Tan", 7, infer_unary, prepare_unary<Tan>),
    row("Asin", 7, infer_unary, prepare_unary<Asin>),
    row("Acos", 7, infer_unary, prepare_unary<Acos>),
    row("Atan", 7, infer_unary, prepare_unary<Atan>),
    row("Sinh", 9, infer_unary, prepare_unary<Sinh>),
    row("Cosh", 9, infer_unary, prepare_unary<Cosh>),
    row("Asinh", 9, infer_unary, prepare_unary<Asinh>),
    row("Acosh", 9, infer_unary, prepare_unary<Acosh>),
    row("Atanh", 9, infer_unary, prepare_unary<Atanh>),
    row("IsNaN", 9, infer_predicate, prepare_is_nan),
    row("IsInf", 10, infer_predicate, prepare_is_inf),
    row("Clip", 6, infer_clip, prepare_clip),
};

}  // namespace

constinit const std::span<const OpDef> kUnaryOps = kRows;

}  // namespace compress
