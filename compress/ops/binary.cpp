// Elementwise arithmetic on two or more broadcast operands. Integers wrap; nothing traps.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "compress/ops/families.h"
#include "compress/ops/support.h"

namespace compress {
namespace {

using namespace ops;

struct Plus {
  template <class T>
  T operator()(T a, T b) const {
    return wrapping(a, b, std::plus<>());
  }
};
struct Minus {
  template <class T>
  T operator()(T a, T b) const {
    return wrapping(a, b, std::minus<>());
  }
};
struct Times {
  template <class T>
  T operator()(T a, T b) const {
    return wrapping(a, b, std::multiplies<>());
  }
};
struct Divide {  // integers: truncated; x / 0 is 0 (ONNX leaves it open)
  template <class T>
  T operator()(T a, T b) const {
    if constexpr (std::is_integral_v<T>) {
      if (b == 0) return 0;
      if constexpr (std::is_signed_v<T>) {
        if (b == T(-1)) return Minus()(T(0), a);
      }
      return static_cast<T>(a / b);
    } else {
      return a / b;
    }
  }
};
struct FloorMod {  // Python's %: the sign of the divisor
  template <class T>
  T operator()(T a, T b) const {
    T rest;
    if constexpr (std::is_integral_v<T>) {
      if (b == 0 || b == T(-1)) return 0;
      rest = static_cast<T>(a % b);
    } else {
      rest = std::fmod(a, b);
      if (rest == 0) return std::copysign(rest, b);
    }
    return rest != 0 && (rest < 0) != (b < 0) ? static_cast<T>(rest + b) : rest;
  }
};
struct TruncatedMod {  // C's fmod and %: the sign of the dividend
  template <class T>
  T operator()(T a, T b) const {
    if constexpr (std::is_integral_v<T>) {
      return b == 0 || b == T(-1) ? T(0) : static_cast<T>(a % b);
    } else {
      return std::fmod(a, b);
    }
  }
};
struct Smaller {  // NaN if either is
  template <class T>
  T operator()(T a, T b) const {
    return a < b || a != a ? a : b;
  }
};
struct Larger {
  template <class T>
  T operator()(T a, T b) const {
    return a > b || a != a ? a : b;
  }
};

template <class F>
Kernel prepare_arithmetic(const NodeContext& context) {
  require_inputs(context, 2, 2);
  return dispatch(NumericTypes(), context, context.dtype(0), [&](auto tag) {
    using T = decltype(tag);
    return binary_kernel<T, T, T>(context, F());
  });
}

Kernel prepare_mod(const NodeContext& context) {
  require_inputs(context, 2, 2);
  const bool truncates = context.node().int_or("fmod", 0) != 0;
  return dispatch(NumericTypes(), context, context.dtype(0), [&](auto tag) {
    using T = decltype(tag);
    if (!truncates) return binary_kernel<T, T, T>(context, FloorMod());
    return binary_kernel<T, T, T>(context, TruncatedMod());
  });
}

// --- Pow: the exponent has a type of its own -----------------------------------------------------

void infer_pow(NodeContext& context) {
  require_inputs(context, 2, 2);
  if (!all_shapes_known(context)) return context.set_output(0, context.dtype(0));
  context.set_output(0, context.dtype(0),
                     broadcast_of(context, context.shape(0), context.shape(1)));
}

template <class T, class E>
T power(T base, E exponent) {
  if constexpr (std::is_same_v<T, float> && std::is_same_v<E, float>) {
    if (exponent == 2) return base * base;
    return std::pow(base, exponent);
  } else if constexpr (std::is_floating_point_v<T>) {
    return static_cast<T>(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  } else {
    const double value = std::pow(static_cast<double>(base), static_cast<double>(exponent));
    if (!(value > static_cast<double>(std::numeric_limits<T>::min()))) {
      return value != value ? T(0) : std::numeric_limits<T>::min();
    }
    if (value >= static_cast<double>(std::numeric_limits<T>::max())) {
      return std::numeric_limits<T>::max();
    }
    return static_cast<T>(value);
  }
}

Kernel prepare_pow(const NodeContext& context) {
  using Bases = Types<float, double, int32_t, int64_t>;
  using Exponents = Types<float, double, int32_t, int64_t, uint32_t, uint64_t>;
  return dispatch(Bases(), context, context.dtype(0), [&](auto base) {
    return dispatch(Exponents(), context, context.dtype(1), [&](auto exponent) {
      using T = decltype(base);
      using E = decltype(exponent);
      return binary_kernel<T, T, E>(context, power<T, E>);
    });
  });
}

// --- PRelu: the slope broadcasts to x, not both ways ---------------------------------------------

struct LeakySlope {
  template <class T>
  T operator()(T x, T slope) const {
    return x < 0 ? Times()(x, slope) : x;
  }
};

void infer_prelu(NodeContext& context) {
  require_inputs(context, 2, 2);
  require_same_dtype(context, 0, 2);
  infer_same(context);
  if (!all_shapes_known(context)) return;
  const Shape both = broadcast_of(context, context.shape(0), context.shape(1));
  if (both.rank() != context.shape(0).rank()) context.invalid("the slope has too many dimensions");
  if (both.is_concrete() && context.shape(0).is_concrete() && !(both == context.shape(0))) {
    context.invalid("the slope does not broadcast to the input");
  }
}

Kernel prepare_prelu(const NodeContext& context) {
  return dispatch(Types<float, double, int32_t, int64_t, uint32_t, uint64_t>(), context,
                  context.dtype(0), [&](auto tag) {
                    using T = decltype(tag);
                    return binary_kernel<T, T, T>(context, LeakySlope());
                  });
}

// --- Sum, Mean, Min, Max: any number of operands -------------------------------------------------

// Folds the operands into the output from the left, as a chain of the binary operator would.
template <class T, class F, class Finish>
Kernel variadic_kernel(const NodeContext& context, F f, Finish finish) {
  const Shape out = context.output_types[0].shape;
  std::vector<BroadcastPlan> plans;
  for (int i = 0; i < context.input_count(); ++i) {
    const std::array<Shape, 2> shapes = {out, context.shape(i)};
    plans.push_back(plan_broadcast(out, shapes));
  }
  const int64_t count = out.count();
  return {"", [plans = std::move(plans), count, f, finish](const KernelArgs& args) {
            T* to = static_cast<T*>(args.outputs[0].data);
            for (size_t i = 0; i < plans.size(); ++i) {
              const T* from = static_cast<const T*>(args.inputs[i].data);
              const auto& strides = plans[i].row_strides();
              for_each_row(plans[i], [&](int64_t at, const auto& offsets, int64_t n) {
                if (i == 0) {
                  const auto second = [](T, T b) { return b; };
                  map_row(to + at, to + at, 1, from + offsets[1], strides[1], n, second);
                } else {
                  map_row(to + at, to + at, 1, from + offsets[1], strides[1], n, f);
                }
              });
            }
            finish(to, count, static_cast<T>(plans.size()));
          }};
}

template <class F, class TypeList>
Kernel prepare_variadic(const NodeContext& context) {
  return dispatch(TypeList(), context, context.dtype(0), [&](auto tag) {
    using T = decltype(tag);
    return variadic_kernel<T>(context, F(), [](T*, int64_t, T) {});
  });
}

Kernel prepare_mean(const NodeContext& context) {
  return dispatch(FloatTypes(), context, context.dtype(0), [&](auto tag) {
    using T = decltype(tag);
    return variadic_kernel<T>(context, Plus(), [](T* out, int64_t count, T operands) {
      for (int64_t i = 0; i < count; ++i) out[i] /= operands;
    });
  });
}

constexpr OpDef kRows[] = {
    row("Add", 7, infer_broadcast, prepare_arithmetic<Plus>),
    row("Sub", 7, infer_broadcast, prepare_arithmetic<Minus>),
    row("Mul", 7, infer_broadcast, prepare_arithmetic<Times>),
    row("Div", 7, infer_broadcast, prepare_arithmetic<Divide>),
    row("Mod", 10, infer_broadcast, prepare_mod),
    row("Pow", 7, infer_pow, prepare_pow),
    row("PRelu", 7, infer_prelu, prepare_prelu),
    row("Sum", 6, infer_broadcast, prepare_variadic<Plus, FloatTypes>),
    row("Mean", 6, infer_broadcast, prepare_mean),
    row("Min", 6, infer_broadcast, prepare_variadic<Smaller, NumericTypes>),
    row("Max", 6, infer_broadcast, prepare_variadic<Larger, NumericTypes>),
};

}  // namespace

constinit const std::span<const OpDef> kBinaryOps = kRows;

}  // namespace compress
