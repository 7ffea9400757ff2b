#include "compress/ops/support.h"

#include <algorithm>

namespace compress::ops {

std::string label(const NodeContext& context) {
  const Node& node = context.node();
  if (node.name.empty()) return printable(node.op_type);
  return fmt::format("{} '{}'", printable(node.op_type), printable(node.name));
}

void unsupported_type(const NodeContext& context, DType dtype) {
  context.unsupported(fmt::format("does not run on {}", info(dtype).name));
}

void require_inputs(const NodeContext& context, int least, int most) {
  if (context.input_count() > most) {
    context.invalid(fmt::format("{} inputs where at most {} belong", context.input_count(), most));
  }
  for (int i = 0; i < least; ++i) {
    if (!context.has_input(i)) context.invalid(fmt::format("input {} is missing", i));
  }
}

void require_same_dtype(const NodeContext& context, int first, int last) {
  const DType* seen = nullptr;
  for (int i = first; i < std::min(last, context.input_count()); ++i) {
    if (!context.has_input(i) || context.dtype(i) == DType::undefined) continue;
    if (seen != nullptr && *seen != context.dtype(i)) {
      context.invalid(fmt::format("inputs of types {} and {} where one type must stand",
                                  info(*seen).name, info(context.dtype(i)).name));
    }
    seen = &context.in(i).dtype;
  }
}

int axis_of(const NodeContext& context, int64_t axis, int rank) {
  if (axis < -rank || axis >= rank) {
    context.invalid(fmt::format("axis {} is outside a tensor of {} dimensions", axis, rank));
  }
  return static_cast<int>(axis < 0 ? axis + rank : axis);
}

std::vector<int> axes_of(const NodeContext& context, std::span<const int64_t> axes, int rank) {
  std::vector<int> result;
  for (const int64_t axis : axes) {
    const int normal = axis_of(context, axis, rank);
    if (std::find(result.begin(), result.end(), normal) != result.end()) {
      context.invalid(fmt::format("axis {} is given twice", axis));
    }
    result.push_back(normal);
  }
  return result;
}

Shape unknown_shape(int rank) {
  Shape shape;
  for (int i = 0; i < rank; ++i) shape.push_back(kUnknownDim);
  return shape;
}

Shape shape_from(const NodeContext& context, std::span<const int64_t> dims) {
  for (const int64_t dim : dims) {
    if (dim < 0) context.invalid(fmt::format("a dimension of {}", dim));
  }
  return Shape(dims);
}

std::optional<int64_t> int_input(const NodeContext& context, int i) {
  const Tensor* tensor = context.constant(i);
  if (tensor == nullptr) return std::nullopt;
  if (tensor->count() != 1) context.invalid(fmt::format("input {} must hold one integer", i));
  return tensor->to_int();
}

std::optional<double> double_input(const NodeContext& context, int i) {
  const Tensor* tensor = context.constant(i);
  if (tensor == nullptr) return std::nullopt;
  if (tensor->count() != 1) context.invalid(fmt::format("input {} must hold one number", i));
  return tensor->to_double();
}

bool all_shapes_known(const NodeContext& context) {
  for (int i = 0; i < context.input_count(); ++i) {
    if (context.has_input(i) && !context.in(i).has_shape) return false;
  }
  return true;
}

Shape broadcast_of(const NodeContext& context, const Shape& a, const Shape& b) {
  return in_context([&] { return label(context); }, [&] { return broadcast(a, b); });
}

void infer_same(NodeContext& context) {
  require_inputs(context, 1, context.input_count());
  if (!context.in(0).has_shape) return context.set_output(0, context.dtype(0));
  context.set_output(0, context.dtype(0), context.shape(0));
}

namespace {

void infer_broadcast_as(NodeContext& context, DType dtype) {
  if (!all_shapes_known(context)) return context.set_output(0, dtype);
  Shape shape = context.shape(0);
  for (int i = 1; i < context.input_count(); ++i) {
    if (context.has_input(i)) shape = broadcast_of(context, shape, context.shape(i));
  }
  context.set_output(0, dtype, shape);
}

}  // namespace

void infer_broadcast(NodeContext& context) {
  require_inputs(context, std::max(1, context.input_count()), context.input_count());
  require_same_dtype(context, 0, context.input_count());
  infer_broadcast_as(context, context.dtype(0));
}

void infer_broadcast_bool(NodeContext& context) {
  require_inputs(context, 2, 2);
  require_same_dtype(context, 0, 2);
  infer_broadcast_as(context, DType::boolean);
}

BroadcastPlan plan_broadcast(const Shape& out, std::span<const Shape> operands) {
  using Strides = std::array<int64_t, kMaxOperands>;
  BroadcastPlan plan;
  for (int d = 0; d < out.rank(); ++d) {
    if (out[d] == 1) continue;
    Strides strides{};
    for (size_t k = 0; k < operands.size(); ++k) {
      const Shape& shape = operands[k];
      const int own = d - (out.rank() - shape.rank());
      if (own >= 0 && shape[own] != 1) strides[k] = shape.count(own + 1, shape.rank());
    }
    bool joins = !plan.dims.empty();
    for (size_t k = 0; joins && k < operands.size(); ++k) {
      joins = plan.strides.back()[k] == strides[k] * out[d];
    }
    if (joins) {
      plan.dims.back() *= out[d];
      plan.strides.back() = strides;
    } else {
      plan.dims.push_back(out[d]);
      plan.strides.push_back(strides);
    }
  }
  if (plan.dims.empty()) {
    plan.dims.push_back(1);
    plan.strides.push_back({1, 1, 1});
  }
  plan.row = plan.dims.back();
  for (size_t i = 0; i + 1 < plan.dims.size(); ++i) plan.rows *= plan.dims[i];
  return plan;
}

CopyPlan plan_copy(std::span<const int64_t> dims, std::span<const int64_t> strides, int64_t base) {
  CopyPlan plan;
  plan.base = base;
  for (size_t d = 0; d < dims.size(); ++d) {
    if (dims[d] == 1) continue;
    if (!plan.dims.empty() && plan.strides.back() == strides[d] * dims[d]) {
      plan.dims.back() *= dims[d];
      plan.strides.back() = strides[d];
    } else {
      plan.dims.push_back(dims[d]);
      plan.strides.push_back(strides[d]);
    }
  }
  if (plan.dims.empty()) {
    plan.dims.push_back(1);
    plan.strides.push_back(1);
  }
  return plan;
}

namespace {

template <class T>
void copy_row(T* out, const T* in, int64_t stride, int64_t n) {
  if (stride == 1) {
    std::memcpy(out, in, static_cast<size_t>(n) * sizeof(T));
  } else if (stride == 0) {
    std::fill(out, out + n, *in);
  } else {
    for (int64_t i = 0; i < n; ++i) out[i] = in[i * stride];
  }
}

// Where the last output dimension is strided in the input and the one before it is contiguous
// there, tiles keep both sides within few cache lines.
template <class T>
void copy_transposed(T* out, const T* in, int64_t rows, int64_t columns, int64_t row_stride,
                     int64_t column_stride) {
  constexpr int64_t kTile = 16;
  for (int64_t r0 = 0; r0 < rows; r0 += kTile) {
    const int64_t r1 = std::min(rows, r0 + kTile);
    for (int64_t c0 = 0; c0 < columns; c0 += kTile) {
      const int64_t c1 = std::min(columns, c0 + kTile);
      for (int64_t r = r0; r < r1; ++r) {
        for (int64_t c = c0; c < c1; ++c) {
          out[r * columns + c] = in[r * row_stride + c * column_stride];
        }
      }
    }
  }
}

template <class T>
void run_copy_typed(const CopyPlan& plan, const T* in, T* out) {
  const size_t rank = plan.dims.size();
  const bool tiled = rank >= 2 && plan.strides[rank - 1] != 1 && plan.strides[rank - 1] != 0;
  const size_t outer = rank - (tiled ? 2 : 1);
  int64_t chunks = 1;
  for (size_t d = 0; d < outer; ++d) chunks *= plan.dims[d];
  int64_t chunk = 1;
  for (size_t d = outer; d < rank; ++d) chunk *= plan.dims[d];
  if (chunks == 0 || chunk == 0) return;
  // One chunk: split its own first dimension, so that a single big transpose uses all threads.
  const int64_t units = outer == 0 ? plan.dims[0] : chunks;
  const int64_t unit = outer == 0 ? chunk / plan.dims[0] : chunk;
  parallel_for(0, units, kGrain / unit + 1, [&](int64_t begin, int64_t end) {
    if (outer == 0) {
      const T* from = in + plan.base + begin * plan.strides[0];
      T* to = out + begin * unit;
      if (tiled) {
        copy_transposed(to, from, end - begin, plan.dims[1], plan.strides[0], plan.strides[1]);
      } else {
        copy_row(to, from, plan.strides[0], end - begin);
      }
      return;
    }
    std::vector<int64_t> counter(outer);
    int64_t offset = plan.base;
    int64_t rest = begin;
    for (size_t d = outer; d-- > 0;) {
      counter[d] = rest % plan.dims[d];
      rest /= plan.dims[d];
      offset += counter[d] * plan.strides[d];
    }
    for (int64_t u = begin; u < end; ++u) {
      if (tiled) {
        copy_transposed(out + u * chunk, in + offset, plan.dims[rank - 2], plan.dims[rank - 1],
                        plan.strides[rank - 2], plan.strides[rank - 1]);
      } else {
        copy_row(out + u * chunk, in + offset, plan.strides[rank - 1], chunk);
      }
      for (size_t d = outer; d-- > 0;) {
        offset += plan.strides[d];
        if (++counter[d] < plan.dims[d]) break;
        offset -= plan.strides[d] * plan.dims[d];
        counter[d] = 0;
      }
    }
  });
}

}  // namespace

void run_copy(const CopyPlan& plan, size_t element_bytes, const void* in, void* out) {
  const auto run = [&](auto tag) {
    using T = decltype(tag);
    run_copy_typed(plan, static_cast<const T*>(in), static_cast<T*>(out));
  };
  switch (element_bytes) {
    case 1:
      return run(uint8_t{});
    case 2:
      return run(uint16_t{});
    case 4:
      return run(uint32_t{});
    case 8:
      return run(uint64_t{});
    case 16:
      return run(Bytes16{});
    default:
      fail(ErrorCode::internal, "elements of {} bytes", element_bytes);
  }
}

Kernel copy_kernel(const NodeContext& context, CopyPlan plan) {
  const DType dtype = context.output_types[0].dtype;
  return dispatch_size(context, dtype, [&](auto tag) -> Kernel {
    return {"", [plan = std::move(plan), size = sizeof(tag)](const KernelArgs& args) {
              run_copy(plan, size, args.inputs[0].data, args.outputs[0].data);
            }};
  });
}

Kernel copy_all_kernel(const NodeContext& context) {
  if (info(context.dtype(0)).bits == 0) unsupported_type(context, context.dtype(0));
  if (context.output_types[0].shape.count() != context.shape(0).count()) {
    context.invalid(fmt::format("an output of {} for an input of {}",
                                context.output_types[0].shape.to_string(),
                                context.shape(0).to_string()));
  }
  const uint64_t bytes =
      byte_size(context.dtype(0), static_cast<uint64_t>(context.shape(0).count()));
  return {"", [bytes](const KernelArgs& args) {
            if (bytes > 0 && args.outputs[0].data != args.inputs[0].data) {
              std::memcpy(args.outputs[0].data, args.inputs[0].data, static_cast<size_t>(bytes));
            }
          }};
}

}  // namespace compress::ops
