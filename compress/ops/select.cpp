// Order along an axis: ArgMax, ArgMin, TopK; and sums along one: CumSum.
#include <algorithm>
#include <functional>
#include <numeric>

#include "compress/ops/families.h"
#include "compress/ops/support.h"

namespace compress {
namespace {

using namespace ops;

// A tensor seen as [outer, dim, inner] around an axis.
struct AxisView {
  int64_t outer, dim, inner;
};
AxisView view_of(const Shape& shape, int axis) {
  return {shape.count(0, axis), shape[axis], shape.count(axis + 1, shape.rank())};
}

// --- ArgMax, ArgMin ------------------------------------------------------------------------------

void infer_arg(NodeContext& context) {
  require_inputs(context, 1, 1);
  const TypeInfo& in = context.in(0);
  if (!in.has_shape) return context.set_output(0, DType::int64);
  const int axis = axis_of(context, context.node().int_or("axis", 0), in.shape.rank());
  if (in.shape[axis] == 0) context.invalid("an empty axis");
  Shape out;
  for (int i = 0; i < in.shape.rank(); ++i) {
    if (i != axis) out.push_back(in.shape[i]);
    if (i == axis && context.node().int_or("keepdims", 1) != 0) out.push_back(1);
  }
  context.set_output(0, DType::int64, out);
}

template <class Before>
Kernel prepare_arg(const NodeContext& context) {
  const int axis = axis_of(context, context.node().int_or("axis", 0), context.shape(0).rank());
  const AxisView view = view_of(context.shape(0), axis);
  const bool last = context.node().int_or("select_last_index", 0) != 0;
  return dispatch(NumericTypes(), context, context.dtype(0), [&](auto tag) -> Kernel {
    using T = decltype(tag);
    return {"", [view, last](const KernelArgs& args) {
              const T* in = static_cast<const T*>(args.inputs[0].data);
              auto* out = static_cast<int64_t*>(args.outputs[0].data);
              parallel_for(0, view.outer * view.inner, kGrain / view.dim + 1,
                           [&](int64_t begin, int64_t end) {
                             for (int64_t o = begin; o < end; ++o) {
                               const T* column =
                                   in + o / view.inner * view.dim * view.inner + o % view.inner;
                               int64_t best = 0;
                               for (int64_t i = 1; i < view.dim; ++i) {
                                 const T x = column[i * view.inner], y = column[best * view.inner];
                                 if (Before()(x, y) || (last && x == y)) best = i;
                               }
                               out[o] = best;
                             }
                           });
            }};
  });
}

// --- TopK: k is an attribute at opset 1, an input since 10
// ----------------------------------------

std::optional<int64_t> k_of(const NodeContext& context) {
  if (!context.has_input(1)) return context.node().int_or("k", -1);
  return int_input(context, 1);
}

void infer_top_k(NodeContext& context) {
  require_inputs(context, 1, 2);
  const TypeInfo& in = context.in(0);
  if (!in.has_shape) {
    context.set_output(0, in.dtype);
    return context.set_output(1, DType::int64);
  }
  const int axis = axis_of(context, context.node().int_or("axis", -1), in.shape.rank());
  const auto k = k_of(context);
  if (k && (*k < 0 || (known(in.shape[axis]) && *k > in.shape[axis]))) {
    context.invalid(fmt::format("k is {}", *k));
  }
  Shape out = in.shape;
  out[axis] = k ? *k : kUnknownDim;
  context.set_output(0, in.dtype, out);
  context.set_output(1, DType::int64, out);
}

// A total order, with NaN behind all numbers, so that sorting is defined for any input.
template <class T, class Before>
bool ranks_before(T a, T b) {
  if (Before()(a, b)) return true;
  return a == a && b != b;
}

template <class T, class Before>
Kernel top_k_kernel(const NodeContext& context) {
  const Shape& in = context.shape(0);
  const int axis = axis_of(context, context.node().int_or("axis", -1), in.rank());
  const AxisView view = view_of(in, axis);
  const Shape& out = context.output_types[context.has_output(0) ? 0 : 1].shape;
  const int64_t k = out[axis];
  const bool values_wanted = context.has_output(0), indices_wanted = context.has_output(1);
  return {"", [=](const KernelArgs& args) {
            const T* from = static_cast<const T*>(args.inputs[0].data);
            T* values = values_wanted ? static_cast<T*>(args.outputs[0].data) : nullptr;
            auto* indices = indices_wanted ? static_cast<int64_t*>(args.outputs[1].data) : nullptr;
            parallel_for(0, view.outer * view.inner, kGrain / std::max<int64_t>(view.dim, 1) + 1,
                         [&](int64_t begin, int64_t end) {
                           std::vector<int64_t> order(static_cast<size_t>(view.dim));
                           for (int64_t u = begin; u < end; ++u) {
                             const int64_t o = u / view.inner, i = u % view.inner;
                             const T* column = from + o * view.dim * view.inner + i;
                             std::iota(order.begin(), order.end(), 0);
                             std::partial_sort(order.begin(), order.begin() + k, order.end(),
                                               [&](int64_t a, int64_t b) {
                                                 const T x = column[a * view.inner],
                                                         y = column[b * view.inner];
                                                 if (ranks_before<T, Before>(x, y)) return true;
                                                 if (ranks_before<T, Before>(y, x)) return false;
                                                 return a < b;
                                               });
                             for (int64_t j = 0; j < k; ++j) {
                               const int64_t at = order[static_cast<size_t>(j)];
                               const int64_t to = (o * k + j) * view.inner + i;
                               if (values != nullptr) values[to] = column[at * view.inner];
                               if (indices != nullptr) indices[to] = at;
                             }
                           }
                         });
          }};
}

// Always sorted, which `sorted` = 0 allows.
Kernel prepare_top_k(const NodeContext& context) {
  if (!k_of(context)) return prepare_at_run(context);
  const bool largest = context.node().int_or("largest", 1) != 0;
  return dispatch(NumericTypes(), context, context.dtype(0), [&](auto tag) {
    using T = decltype(tag);
    return largest ? top_k_kernel<T, std::greater<T>>(context)
                   : top_k_kernel<T, std::less<T>>(context);
  });
}

// --- CumSum, CumProd -----------------------------------------------------------------------------

void infer_cumulative(NodeContext& context) {
  require_inputs(context, 2, 2);
  infer_same(context);
}

template <class Join>
Kernel prepare_cumulative(const NodeContext& context) {
  const auto given = int_input(context, 1);
  if (!given) return prepare_at_run(context);
  const int axis = axis_of(context, *given, context.shape(0).rank());
  const AxisView view = view_of(context.shape(0), axis);
  const bool exclusive = context.node().int_or("exclusive", 0) != 0;
  const bool reverse = context.node().int_or("reverse", 0) != 0;
  return dispatch(NumericTypes(), context, context.dtype(0), [&](auto tag) -> Kernel {
    using T = decltype(tag);
    return {"", [=](const KernelArgs& args) {
              const T* in = static_cast<const T*>(args.inputs[0].data);
              T* out = static_cast<T*>(args.outputs[0].data);
              const T empty = std::is_same_v<Join, std::multiplies<>> ? T(1) : T(0);
              for (int64_t u = 0; u < view.outer * view.inner; ++u) {
                const int64_t base = u / view.inner * view.dim * view.inner + u % view.inner;
                T total = empty;
                for (int64_t i = 0; i < view.dim; ++i) {
                  const int64_t at = base + (reverse ? view.dim - 1 - i : i) * view.inner;
                  const T next = wrapping<T>(total, in[at], Join());
                  out[at] = exclusive ? total : next;
                  total = next;
                }
              }
            }};
  });
}

constexpr OpDef kRows[] = {
    row("ArgMax", 1, infer_arg, prepare_arg<std::greater<>>),
    row("ArgMin", 1, infer_arg, prepare_arg<std::less<>>),
    row("TopK", 1, infer_top_k, prepare_top_k),
    row("CumSum", 11, infer_cumulative, prepare_cumulative<std::plus<>>),
    row("CumProd", 26, infer_cumulative, prepare_cumulative<std::multiplies<>>),
};

}  // namespace

constinit const std::span<const OpDef> kSelectOps = kRows;

}  // namespace compress
