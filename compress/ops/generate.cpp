// Operators that make tensors from few numbers, and choices between elements.
#include <algorithm>
#include <cmath>

#include "compress/ops/families.h"
#include "compress/ops/support.h"

namespace compress {
namespace {

using namespace ops;

// --- Where ---------------------------------------------------------------------------------------

void infer_where(NodeContext& context) {
  require_inputs(context, 3, 3);
  require_same_dtype(context, 1, 3);
  if (!all_shapes_known(context)) return context.set_output(0, context.dtype(1));
  const Shape choices = broadcast_of(context, context.shape(1), context.shape(2));
  context.set_output(0, context.dtype(1), broadcast_of(context, context.shape(0), choices));
}

Kernel prepare_where(const NodeContext& context) {
  if (context.dtype(0) != DType::boolean) context.invalid("the condition is not boolean");
  const std::array<Shape, 3> shapes = {context.shape(0), context.shape(1), context.shape(2)};
  BroadcastPlan plan = plan_broadcast(context.output_types[0].shape, shapes);
  return dispatch_size(context, context.dtype(1), [&](auto tag) -> Kernel {
    using T = decltype(tag);
    return {"", [plan = std::move(plan)](const KernelArgs& args) {
              const bool* flag = static_cast<const bool*>(args.inputs[0].data);
              const T* yes = static_cast<const T*>(args.inputs[1].data);
              const T* no = static_cast<const T*>(args.inputs[2].data);
              T* out = static_cast<T*>(args.outputs[0].data);
              const auto [by_flag, by_yes, by_no] = plan.row_strides();
              for_each_row(plan, [&, by_flag = by_flag, by_yes = by_yes, by_no = by_no](
                                     int64_t at, const auto& from, int64_t n) {
                for (int64_t i = 0; i < n; ++i) {
                  out[at + i] = flag[from[0] + i * by_flag] ? yes[from[1] + i * by_yes]
                                                            : no[from[2] + i * by_no];
                }
              });
            }};
  });
}

// --- Range ---------------------------------------------------------------------------------------

using RangeTypes = Types<float, double, int16_t, int32_t, int64_t>;

int64_t range_count(const NodeContext& context) {
  if (is_float(context.dtype(0))) {
    const double start = *double_input(context, 0), limit = *double_input(context, 1);
    const double delta = *double_input(context, 2);
    if (delta == 0 || delta != delta) context.invalid("delta is 0");
    const double count = std::ceil((limit - start) / delta);
    if (!(count < 1e15)) context.invalid("the range does not end");
    return count > 0 ? static_cast<int64_t>(count) : 0;
  }
  const int64_t start = *int_input(context, 0), limit = *int_input(context, 1);
  const int64_t delta = *int_input(context, 2);
  if (delta == 0) context.invalid("delta is 0");
  if (delta > 0 ? limit <= start : limit >= start) return 0;
  // Unsigned, so that neither the distance nor -delta overflows.
  const uint64_t distance = delta > 0 ? static_cast<uint64_t>(limit) - static_cast<uint64_t>(start)
                                      : static_cast<uint64_t>(start) - static_cast<uint64_t>(limit);
  const uint64_t step = delta > 0 ? static_cast<uint64_t>(delta) : -static_cast<uint64_t>(delta);
  const uint64_t count = 1 + (distance - 1) / step;
  if (count > static_cast<uint64_t>(1e15)) context.invalid("the range is too long");
  return static_cast<int64_t>(count);
}

void infer_range(NodeContext& context) {
  require_inputs(context, 3, 3);
  require_same_dtype(context, 0, 3);
  const DType dtype = context.dtype(0);
  for (int i = 0; i < 3; ++i) {
    if (context.constant(i) == nullptr) return context.set_output(0, dtype, {kUnknownDim});
  }
  context.set_output(0, dtype, {range_count(context)});
}

Kernel prepare_range(const NodeContext& context) {
  const int64_t count = context.output_types[0].shape.count();
  return dispatch(RangeTypes(), context, context.dtype(0), [&](auto tag) -> Kernel {
    using T = decltype(tag);
    return {"", [count](const KernelArgs& args) {
              const T start = *static_cast<const T*>(args.inputs[0].data);
              const T delta = *static_cast<const T*>(args.inputs[2].data);
              T* out = static_cast<T*>(args.outputs[0].data);
              for (int64_t i = 0; i < count; ++i) {
                out[i] = static_cast<T>(start + static_cast<T>(i) * delta);
              }
            }};
  });
}

// --- OneHot --------------------------------------------------------------------------------------

void infer_one_hot(NodeContext& context) {
  require_inputs(context, 3, 3);
  if (!context.in(0).has_shape) return context.set_output(0, context.dtype(2));
  const Shape& indices = context.shape(0);
  const int axis = axis_of(context, context.node().int_or("axis", -1), indices.rank() + 1);
  int64_t depth = kUnknownDim;
  if (const Tensor* given = context.constant(1)) {
    if (given->count() != 1) context.invalid("depth must hold one number");
    const double value = given->to_double();
    if (!(value >= 0 && value < 1e15)) context.invalid("depth is negative or too large");
    depth = static_cast<int64_t>(value);
  }
  Shape out;
  for (int i = 0; i <= indices.rank(); ++i) {
    if (i == axis) {
      out.push_back(depth);
    } else {
      out.push_back(indices[i < axis ? i : i - 1]);
    }
  }
  context.set_output(0, context.dtype(2), out);
}

Kernel prepare_one_hot(const NodeContext& context) {
  const Shape out = context.output_types[0].shape;
  const int axis = axis_of(context, context.node().int_or("axis", -1), out.rank());
  const int64_t outer = out.count(0, axis), depth = out[axis];
  const int64_t inner = out.count(axis + 1, out.rank());
  if (context.shape(2).count() != 2) context.invalid("values must be [off, on]");
  return dispatch(NumericTypes(), context, context.dtype(0), [&](auto index_tag) {
    using Index = decltype(index_tag);
    return dispatch_size(context, context.dtype(2), [&](auto tag) -> Kernel {
      using T = decltype(tag);
      return {"", [=](const KernelArgs& args) {
                const auto* index = static_cast<const Index*>(args.inputs[0].data);
                const T* values = static_cast<const T*>(args.inputs[2].data);
                T* to = static_cast<T*>(args.outputs[0].data);
                std::fill_n(to, outer * depth * inner, values[0]);
                for (int64_t o = 0; o < outer; ++o) {
                  for (int64_t i = 0; i < inner; ++i) {
                    const auto wide = static_cast<double>(index[o * inner + i]);
                    if (!(std::fabs(wide) <= static_cast<double>(depth))) continue;  // all off
                    const auto at = static_cast<int64_t>(wide);
                    const int64_t hot = at < 0 ? at + depth : at;
                    if (hot < depth) to[(o * depth + hot) * inner + i] = values[1];
                  }
                }
              }};
    });
  });
}

// --- NonZero -------------------------------------------------------------------------------------

using NonZeroTypes = Types<bool, float, double, int8_t, int16_t, int32_t, int64_t, uint8_t,
                           uint16_t, uint32_t, uint64_t>;

void infer_non_zero(NodeContext& context) {
  require_inputs(context, 1, 1);
  if (!context.in(0).has_shape) {
    return context.set_output(0, DType::int64, {kUnknownDim, kUnknownDim});
  }
  int64_t count = kUnknownDim;
  if (const Tensor* values = context.constant(0)) {
    const std::vector<double> wide = values->to_doubles();
    count = static_cast<int64_t>(wide.size()) - std::count(wide.begin(), wide.end(), 0.0);
  }
  context.set_output(0, DType::int64, {std::max(context.shape(0).rank(), 1), count});
}

Kernel prepare_non_zero(const NodeContext& context) {
  const Shape shape = context.shape(0);
  const int64_t found = context.output_types[0].shape[1];
  return dispatch(NonZeroTypes(), context, context.dtype(0), [&](auto tag) -> Kernel {
    using T = decltype(tag);
    return {"", [shape, found](const KernelArgs& args) {
              const T* in = static_cast<const T*>(args.inputs[0].data);
              auto* out = static_cast<int64_t*>(args.outputs[0].data);
              int64_t column = 0;
              for (int64_t i = 0; i < shape.count() && column < found; ++i) {
                if (in[i] == T(0)) continue;
                int64_t rest = i;
                for (int d = shape.rank() - 1; d >= 0; --d) {
                  out[d * found + column] = rest % shape[d];
                  rest /= shape[d];
                }
                if (shape.rank() == 0) out[column] = 0;
                ++column;
              }
            }};
  });
}

// --- Trilu, EyeLike ------------------------------------------------------------------------------

void infer_trilu(NodeContext& context) {
  require_inputs(context, 1, 2);
  if (context.in(0).has_shape && context.shape(0).rank() < 2) context.invalid("needs a matrix");
  infer_same(context);
}

Kernel prepare_trilu(const NodeContext& context) {
  if (context.has_input(1) && context.constant(1) == nullptr) return prepare_at_run(context);
  const int64_t k = context.has_input(1) ? *int_input(context, 1) : 0;
  const bool upper = context.node().int_or("upper", 1) != 0;
  const Shape& shape = context.shape(0);
  const int64_t rows = shape[shape.rank() - 2], columns = shape[shape.rank() - 1];
  const int64_t matrices = shape.count(0, shape.rank() - 2);
  return dispatch_size(context, context.dtype(0), [&](auto tag) -> Kernel {
    using T = decltype(tag);
    return {"", [=](const KernelArgs& args) {
              const T* in = static_cast<const T*>(args.inputs[0].data);
              T* out = static_cast<T*>(args.outputs[0].data);
              for (int64_t r = 0; r < matrices * rows; ++r) {
                // Where the diagonal k cuts this row; saturated, since k may be anything.
                int64_t cut;
                if (__builtin_add_overflow(r % rows, k, &cut)) cut = k > 0 ? columns : 0;
                cut = std::clamp<int64_t>(upper ? cut : cut + (cut < columns), 0, columns);
                const T* from = in + r * columns;
                T* to = out + r * columns;
                if (upper) {
                  std::copy(from + cut, from + columns, std::fill_n(to, cut, T{}));
                } else {
                  std::fill(std::copy(from, from + cut, to), to + columns, T{});
                }
              }
            }};
  });
}

void infer_eye_like(NodeContext& context) {
  require_inputs(context, 1, 1);
  const int64_t given = context.node().int_or("dtype", static_cast<int64_t>(context.dtype(0)));
  const DType dtype = info(static_cast<DType>(given & 0xFF)).dtype;
  if (given < 0 || given > 255) context.invalid("dtype is unknown");
  if (!context.in(0).has_shape) return context.set_output(0, dtype, unknown_shape(2));
  if (context.shape(0).rank() != 2) context.invalid("needs a matrix");
  context.set_output(0, dtype, context.shape(0));
}

Kernel prepare_eye_like(const NodeContext& context) {
  const int64_t rows = context.shape(0)[0], columns = context.shape(0)[1];
  const int64_t k = context.node().int_or("k", 0);
  using EyeTypes = Types<float, double, int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t,
                         uint32_t, uint64_t, bool>;
  return dispatch(EyeTypes(), context, context.output_types[0].dtype, [&](auto tag) -> Kernel {
    using T = decltype(tag);
    return {"", [=](const KernelArgs& args) {
              T* out = static_cast<T*>(args.outputs[0].data);
              std::fill_n(out, rows * columns, T(0));
              if (k >= columns || k <= -rows) return;
              for (int64_t r = std::max<int64_t>(0, -k); r < rows && r + k < columns; ++r) {
                out[r * columns + r + k] = T(1);
              }
            }};
  });
}

constexpr OpDef kRows[] = {
    moving_row("Where", 9, infer_where, prepare_where),
    row("Range", 11, infer_range, prepare_range),
    any_row("OneHot", 9, infer_one_hot, prepare_one_hot),
    row("NonZero", 9, infer_non_zero, prepare_non_zero),
    moving_row("Trilu", 14, infer_trilu, prepare_trilu),
    row("EyeLike", 9, infer_eye_like, prepare_eye_like),
};

}  // namespace

constinit const std::span<const OpDef> kGenerateOps = kRows;

}  // namespace compress
