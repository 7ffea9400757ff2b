// Reductions over axes. Sums are kept in float64 (float32 and float64) or 64-bit integers and run
// in index order, so that results depend neither on threads nor on the layout of the loops.
#include <algorithm>
#include <cmath>
#include <limits>

#include "compress/ops/families.h"
#include "compress/ops/moves.h"
#include "compress/ops/support.h"

namespace compress {
namespace {

using namespace ops;

// --- Which axes ----------------------------------------------------------------------------------

}  // namespace

std::optional<std::vector<int>> reduced_axes(const NodeContext& context) {
  const auto given = context.ints("axes", 1);
  if (!given) return std::nullopt;
  const int rank = context.shape(0).rank();
  if (given->empty() && context.node().int_or("noop_with_empty_axes", 0) == 0) {
    std::vector<int> all;
    for (int i = 0; i < rank; ++i) all.push_back(i);
    return all;
  }
  return axes_of(context, *given, rank);
}

namespace {

void infer_reduce(NodeContext& context) {
  require_inputs(context, 1, 2);
  const TypeInfo& in = context.in(0);
  const bool keep = context.node().int_or("keepdims", 1) != 0;
  if (!in.has_shape) return context.set_output(0, in.dtype);
  const auto axes = reduced_axes(context);
  if (!axes) {
    if (keep) return context.set_output(0, in.dtype, unknown_shape(in.shape.rank()));
    return context.set_output(0, in.dtype);
  }
  Shape out;
  for (int i = 0; i < in.shape.rank(); ++i) {
    const bool reduced = std::find(axes->begin(), axes->end(), i) != axes->end();
    if (!reduced) out.push_back(in.shape[i]);
    if (reduced && keep) out.push_back(1);
  }
  context.set_output(0, in.dtype, out);
}

// Neighbouring dimensions of one kind joined: kept ones and reduced ones with their strides.
struct ReducePlan {
  std::vector<int64_t> kept, kept_strides, reduced, reduced_strides;
  int64_t inner = 1;     // kept elements that lie side by side at the end
  int64_t outputs = 1;   // of the outer kept dimensions
  int64_t elements = 1;  // that go into one output
};

ReducePlan plan_reduce(const Shape& shape, const std::vector<int>& axes) {
  ReducePlan plan;
  const Shape strides = strides_of(shape);
  const auto add = [](std::vector<int64_t>& dims, std::vector<int64_t>& steps, int64_t dim,
                      int64_t step) {
    if (dim == 1) return;
    if (!dims.empty() && steps.back() == dim * step) {
      dims.back() *= dim;
      steps.back() = step;
    } else {
      dims.push_back(dim);
      steps.push_back(step);
    }
  };
  for (int i = 0; i < shape.rank(); ++i) {
    const bool reduced = std::find(axes.begin(), axes.end(), i) != axes.end();
    if (reduced) add(plan.reduced, plan.reduced_strides, shape[i], strides[i]);
    if (!reduced) add(plan.kept, plan.kept_strides, shape[i], strides[i]);
  }
  for (const int64_t dim : plan.reduced) plan.elements *= dim;
  if (!plan.kept.empty() && plan.kept_strides.back() == 1) {
    plan.inner = plan.kept.back();
    plan.kept.pop_back();
    plan.kept_strides.pop_back();
  }
  for (const int64_t dim : plan.kept) plan.outputs *= dim;
  return plan;
}

// --- The loops -----------------------------------------------------------------------------------

// R has: State, start(), add(state, x), finish(state, elements).
template <class T, class R>
void reduce_contiguous(const ReducePlan& plan, const T* in, T* out) {
  const int64_t row = plan.reduced.empty() ? 1 : plan.reduced.back();
  const int64_t step = plan.reduced.empty() ? 1 : plan.reduced_strides.back();
  const std::span<const int64_t> dims(plan.reduced.data(),
                                      plan.reduced.size() - (plan.reduced.empty() ? 0 : 1));
  const std::span<const int64_t> strides(plan.reduced_strides.data(), dims.size());
  const int64_t rows = row == 0 ? 0 : plan.elements / row;
  const int64_t grain = kGrain / std::max<int64_t>(plan.elements, 1) + 1;
  parallel_for(0, plan.outputs, grain, [&](int64_t begin, int64_t end) {
    for_each_offset(plan.kept, plan.kept_strides, begin, end, [&](int64_t o, int64_t base) {
      typename R::State state = R::start();
      for_each_offset(dims, strides, 0, rows, [&](int64_t, int64_t offset) {
        const T* from = in + base + offset;
        for (int64_t i = 0; i < row; ++i) R::add(state, from[i * step]);
      });
      out[o] = R::finish(state, plan.elements);
    });
  });
}

// Kept elements lie side by side: a block of them is reduced together.
template <class T, class R>
void reduce_columns(const ReducePlan& plan, const T* in, T* out) {
  constexpr int64_t kBlock = 128;
  const int64_t blocks = (plan.inner + kBlock - 1) / kBlock;
  const int64_t grain = kGrain / std::max<int64_t>(plan.elements * kBlock, 1) + 1;
  parallel_for(0, plan.outputs * blocks, grain, [&](int64_t begin, int64_t end) {
    std::array<typename R::State, kBlock> states;
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t o = unit / blocks;
      const int64_t first = unit % blocks * kBlock;
      const int64_t n = std::min(kBlock, plan.inner - first);
      std::fill_n(states.begin(), n, R::start());
      for_each_offset(plan.kept, plan.kept_strides, o, o + 1, [&](int64_t, int64_t base) {
        const int64_t elements = plan.elements;
        for_each_offset(plan.reduced, plan.reduced_strides, 0, elements, [&](int64_t, int64_t at) {
          const T* from = in + base + at + first;
          for (int64_t i = 0; i < n; ++i) R::add(states[static_cast<size_t>(i)], from[i]);
        });
      });
      for (int64_t i = 0; i < n; ++i) {
        out[o * plan.inner + first + i] = R::finish(states[static_cast<size_t>(i)], plan.elements);
      }
    }
  });
}

template <class T, class R>
Kernel reduce_kernel(const NodeContext& context, const std::vector<int>& axes) {
  return {"", [plan = plan_reduce(context.shape(0), axes)](const KernelArgs& args) {
            const T* in = static_cast<const T*>(args.inputs[0].data);
            T* out = static_cast<T*>(args.outputs[0].data);
            if (plan.inner == 1) return reduce_contiguous<T, R>(plan, in, out);
            reduce_columns<T, R>(plan, in, out);
          }};
}

// --- What is computed ----------------------------------------------------------------------------

template <class T>
using Wide = std::conditional_t<std::is_floating_point_v<T>, double,
                                std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>>;

template <class T>
struct AddUp {
  using State = Wide<T>;
  static State start() { return 0; }
  static void add(State& state, T x) {
    state = wrapping<State>(state, static_cast<State>(x), std::plus<>());
  }
  static T finish(State state, int64_t) { return static_cast<T>(state); }
};
template <class T>
struct Average : AddUp<T> {
  using State = Wide<T>;
  static T finish(State state, int64_t n) {
    if constexpr (std::is_integral_v<T>) {
      return n == 0 ? T(0) : static_cast<T>(state / static_cast<State>(n));
    } else {
      return static_cast<T>(state / static_cast<State>(n));
    }
  }
};
template <class T>
struct Product {
  using State = Wide<T>;
  static State start() { return 1; }
  static void add(State& state, T x) {
    state = wrapping<State>(state, static_cast<State>(x), std::multiplies<>());
  }
  static T finish(State state, int64_t) { return static_cast<T>(state); }
};
template <class T>
struct AbsoluteSum : AddUp<T> {
  using State = Wide<T>;
  static void add(State& state, T x) {
    const State wide = static_cast<State>(x);
    if constexpr (std::is_signed_v<T>) {
      state = x < 0 ? wrapping<State>(state, wide, std::minus<>())
                    : wrapping<State>(state, wide, std::plus<>());
    } else {
      state += wide;
    }
  }
};
template <class T>
struct SquareSum : AddUp<T> {
  using State = Wide<T>;
  static void add(State& state, T x) {
    const State wide = static_cast<State>(x);
    state = wrapping<State>(state, wrapping<State>(wide, wide, std::multiplies<>()), std::plus<>());
  }
};
template <class T>
struct EuclideanNorm : SquareSum<T> {
  static T finish(Wide<T> state, int64_t) {
    return static_cast<T>(std::sqrt(static_cast<double>(state)));
  }
};
template <class T>
struct LogOfSum : AddUp<T> {
  static T finish(Wide<T> state, int64_t) {
    return static_cast<T>(std::log(static_cast<double>(state)));
  }
};
// log(sum(exp(x))) with the largest x taken out, in one pass.
template <class T>
struct LogOfExpSum {
  struct State {
    double largest, sum;  // sum of exp(x - largest)
  };
  static constexpr double kInfinity = std::numeric_limits<double>::infinity();
  static State start() { return {-kInfinity, 0}; }
  static void add(State& state, T x) {
    const auto wide = static_cast<double>(x);
    if (wide == -kInfinity) return;
    if (wide > state.largest) {
      state.sum = state.sum * std::exp(state.largest - wide) + 1;
      state.largest = wide;
    } else if (wide == state.largest) {  // infinity - infinity is no number
      state.sum += 1;
    } else {
      state.sum += std::exp(wide - state.largest);
    }
  }
  static T finish(State state, int64_t) {
    return static_cast<T>(state.largest + std::log(state.sum));
  }
};
template <class T>
struct Largest {
  using State = T;
  static State start() {
    using Limits = std::numeric_limits<T>;
    return Limits::has_infinity ? static_cast<T>(-Limits::infinity()) : Limits::lowest();
  }
  static void add(State& state, T x) { state = x > state || x != x ? x : state; }
  static T finish(State state, int64_t) { return state; }
};
template <class T>
struct Smallest {
  using State = T;
  static State start() {
    using Limits = std::numeric_limits<T>;
    return Limits::has_infinity ? Limits::infinity() : Limits::max();
  }
  static void add(State& state, T x) { state = x < state || x != x ? x : state; }
  static T finish(State state, int64_t) { return state; }
};

using ReduceTypes = NumericTypes;
using OrderedTypes = Types<bool, float, double, int8_t, int16_t, int32_t, int64_t, uint8_t,
                           uint16_t, uint32_t, uint64_t>;

template <template <class> class R, class TypeList = ReduceTypes>
Kernel prepare_reduce(const NodeContext& context) {
  const auto axes = reduced_axes(context);
  if (!axes) return prepare_at_run(context);
  return dispatch(TypeList(), context, context.dtype(0), [&](auto tag) {
    using T = decltype(tag);
    return reduce_kernel<T, R<T>>(context, *axes);
  });
}

constexpr OpDef kRows[] = {
    row("ReduceSum", 1, infer_reduce, prepare_reduce<AddUp>),
    row("ReduceMean", 1, infer_reduce, prepare_reduce<Average>),
    row("ReduceProd", 1, infer_reduce, prepare_reduce<Product>),
    row("ReduceL1", 1, infer_reduce, prepare_reduce<AbsoluteSum>),
    row("ReduceL2", 1, infer_reduce, prepare_reduce<EuclideanNorm>),
    row("ReduceSumSquare", 1, infer_reduce, prepare_reduce<SquareSum>),
    row("ReduceLogSum", 1, infer_reduce, prepare_reduce<LogOfSum>),
    row("ReduceLogSumExp", 1, infer_reduce, prepare_reduce<LogOfExpSum>),
    row("ReduceMax", 1, infer_reduce, prepare_reduce<Largest, OrderedTypes>),
    row("ReduceMin", 1, infer_reduce, prepare_reduce<Smallest, OrderedTypes>),
};

}  // namespace

constinit const std::span<const OpDef> kReduceOps = kRows;

}  // namespace compress
