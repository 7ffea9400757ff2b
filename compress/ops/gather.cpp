// Operators that read or write elements at indices which other tensors hold.
#include <algorithm>
#include <functional>

#include "compress/ops/families.h"
#include "compress/ops/support.h"

namespace compress {
namespace {

using namespace ops;

using IndexTypes = Types<int32_t, int64_t>;

// An index into `dim` elements, counted from the end where negative.
int64_t checked_index(int64_t index, int64_t dim, const std::string& where) {
  if (index < -dim || index >= dim) {
    fail(ErrorCode::invalid_model, "{}: index {} is outside {} elements", where, index, dim);
  }
  return index < 0 ? index + dim : index;
}

// --- Gather --------------------------------------------------------------------------------------

void infer_gather(NodeContext& context) {
  require_inputs(context, 2, 2);
  if (!all_shapes_known(context)) return context.set_output(0, context.dtype(0));
  const Shape& data = context.shape(0);
  const int axis = axis_of(context, context.node().int_or("axis", 0), data.rank());
  Shape out;
  for (int i = 0; i < axis; ++i) out.push_back(data[i]);
  for (const int64_t dim : context.shape(1)) out.push_back(dim);
  for (int i = axis + 1; i < data.rank(); ++i) out.push_back(data[i]);
  context.set_output(0, context.dtype(0), out);
}

Kernel prepare_gather(const NodeContext& context) {
  const Shape& data = context.shape(0);
  const int axis = axis_of(context, context.node().int_or("axis", 0), data.rank());
  const int64_t outer = data.count(0, axis);
  const int64_t dim = data[axis];
  const int64_t indices = context.shape(1).count();
  return dispatch(IndexTypes(), context, context.dtype(1), [&](auto index_tag) {
    using Index = decltype(index_tag);
    return dispatch_size(context, context.dtype(0), [&](auto tag) -> Kernel {
      const auto bytes = static_cast<int64_t>(sizeof(tag));
      const int64_t inner = data.count(axis + 1, data.rank()) * bytes;
      return {"", [=, where = label(context)](const KernelArgs& args) {
                const auto* from = static_cast<const std::byte*>(args.inputs[0].data);
                const auto* index = static_cast<const Index*>(args.inputs[1].data);
                auto* to = static_cast<std::byte*>(args.outputs[0].data);
                if (inner == 0) return;
                parallel_for(
                    0, outer * indices, kGrain / inner + 1, [&](int64_t begin, int64_t end) {
                      for (int64_t i = begin; i < end; ++i) {
                        const int64_t at = checked_index(index[i % indices], dim, where);
                        std::memcpy(to + i * inner, from + (i / indices * dim + at) * inner,
                                    static_cast<size_t>(inner));
                      }
                    });
              }};
    });
  });
}

// --- GatherElements ------------------------------------------------------------------------------

// Steps in the data of a walk over the indices that leaves the axis out.
std::vector<int64_t> strides_without(const Shape& data, int axis) {
  const Shape strides = strides_of(data);
  std::vector<int64_t> steps(strides.begin(), strides.end());
  steps[static_cast<size_t>(axis)] = 0;
  return steps;
}

void require_inside(const NodeContext& context, const Shape& data, const Shape& indices, int axis) {
  if (data.rank() != indices.rank()) context.invalid("indices and data differ in rank");
  for (int i = 0; i < data.rank(); ++i) {
    if (i != axis && known(data[i]) && known(indices[i]) && indices[i] > data[i]) {
      context.invalid(fmt::format("indices reach beyond the data in dimension {}", i));
    }
  }
}

void infer_gather_elements(NodeContext& context) {
  require_inputs(context, 2, 2);
  if (!context.in(1).has_shape) return context.set_output(0, context.dtype(0));
  if (context.in(0).has_shape) {
    const int axis = axis_of(context, context.node().int_or("axis", 0), context.shape(0).rank());
    require_inside(context, context.shape(0), context.shape(1), axis);
  }
  context.set_output(0, context.dtype(0), context.shape(1));
}

Kernel prepare_gather_elements(const NodeContext& context) {
  const Shape& data = context.shape(0);
  const Shape indices = context.shape(1);
  const int axis = axis_of(context, context.node().int_or("axis", 0), data.rank());
  const int64_t dim = data[axis];
  const int64_t step = strides_of(data)[axis];
  return dispatch(IndexTypes(), context, context.dtype(1), [&](auto index_tag) {
    using Index = decltype(index_tag);
    return dispatch_size(context, context.dtype(0), [&](auto tag) -> Kernel {
      using T = decltype(tag);
      return {
          "",
          [=, steps = strides_without(data, axis), where = label(context)](const KernelArgs& args) {
            const T* from = static_cast<const T*>(args.inputs[0].data);
            const auto* index = static_cast<const Index*>(args.inputs[1].data);
            T* to = static_cast<T*>(args.outputs[0].data);
            parallel_for(0, indices.count(), kGrain, [&](int64_t begin, int64_t end) {
              for_each_offset(indices.dims(), steps, begin, end, [&](int64_t i, int64_t offset) {
                to[i] = from[offset + checked_index(index[i], dim, where) * step];
              });
            });
          }};
    });
  });
}

// --- GatherND, ScatterND: tuples of indices ------------------------------------------------------

// How a tensor of index tuples addresses slices of the data.
struct Tuples {
  int64_t batches;                     // leading dimensions that both have
  int64_t per_batch;                   // tuples in each
  int64_t slice;                       // elements that a tuple addresses
  int64_t batch_step;                  // elements of the data in a batch
  std::vector<int64_t> dims, strides;  // that a tuple indexes

  // Of a slice, from the beginning of the data.
  template <class Index>
  int64_t offset(const Index* tuple, int64_t batch, const std::string& where) const {
    int64_t at = batch * batch_step;
    for (size_t k = 0; k < dims.size(); ++k) {
      at += checked_index(tuple[k], dims[k], where) * strides[k];
    }
    return at;
  }
};

Tuples tuples_of(const Shape& data, const Shape& indices, int batch_dims) {
  const int last = indices.rank() - 1;
  const auto width = static_cast<int>(indices[last]);
  Tuples tuples{indices.count(0, batch_dims),
                indices.count(batch_dims, last),
                data.count(batch_dims + width, data.rank()),
                data.count(batch_dims, data.rank()),
                {},
                {}};
  const Shape strides = strides_of(data);
  for (int k = 0; k < width; ++k) {
    tuples.dims.push_back(data[batch_dims + k]);
    tuples.strides.push_back(strides[batch_dims + k]);
  }
  return tuples;
}

void check_tuples(const NodeContext& context, const Shape& data, const Shape& indices,
                  int64_t batch) {
  if (indices.rank() < 1 || data.rank() < 1) context.invalid("data and indices need a dimension");
  if (batch < 0 || batch >= std::min(data.rank(), indices.rank())) {
    context.invalid(fmt::format("batch_dims is {}", batch));
  }
  const int64_t width = indices[indices.rank() - 1];
  if (known(width) && width > data.rank() - batch)
    context.invalid("tuples are longer than the rank");
  for (int i = 0; i < batch; ++i) {
    if (known(data[i]) && known(indices[i]) && data[i] != indices[i]) {
      context.invalid("data and indices differ in a batch dimension");
    }
  }
}

void infer_gather_nd(NodeContext& context) {
  require_inputs(context, 2, 2);
  if (!all_shapes_known(context)) return context.set_output(0, context.dtype(0));
  const Shape& data = context.shape(0);
  const Shape& indices = context.shape(1);
  const int64_t batch = context.node().int_or("batch_dims", 0);
  check_tuples(context, data, indices, batch);
  const int64_t width = indices[indices.rank() - 1];
  if (!known(width)) return context.set_output(0, context.dtype(0));
  Shape out;
  for (int i = 0; i + 1 < indices.rank(); ++i) out.push_back(indices[i]);
  for (int i = static_cast<int>(batch + width); i < data.rank(); ++i) out.push_back(data[i]);
  context.set_output(0, context.dtype(0), out);
}

Kernel prepare_gather_nd(const NodeContext& context) {
  const auto batch = static_cast<int>(context.node().int_or("batch_dims", 0));
  const Tuples tuples = tuples_of(context.shape(0), context.shape(1), batch);
  return dispatch(Types<int64_t, int32_t>(), context, context.dtype(1), [&](auto index_tag) {
    using Index = decltype(index_tag);
    return dispatch_size(context, context.dtype(0), [&](auto tag) -> Kernel {
      using T = decltype(tag);
      return {"", [tuples, where = label(context)](const KernelArgs& args) {
                const T* from = static_cast<const T*>(args.inputs[0].data);
                const auto* index = static_cast<const Index*>(args.inputs[1].data);
                T* to = static_cast<T*>(args.outputs[0].data);
                const auto width = static_cast<int64_t>(tuples.dims.size());
                if (tuples.slice == 0) return;
                for (int64_t i = 0; i < tuples.batches * tuples.per_batch; ++i) {
                  const int64_t at = tuples.offset(index + i * width, i / tuples.per_batch, where);
                  std::memcpy(to + i * tuples.slice, from + at,
                              static_cast<size_t>(tuples.slice) * sizeof(T));
                }
              }};
    });
  });
}

// --- Scatters ------------------------------------------------------------------------------------

// Calls make(combine) with the function that joins the old element and the update.
template <class T, class Make>
Kernel with_reduction(const NodeContext& context, Make make) {
  const std::string name = context.node().string_or("reduction", "none");
  if (name == "none") return make([](T, T update) { return update; });
  if constexpr (!std::is_same_v<T, bool>) {
    if (name == "add") return make([](T a, T b) { return wrapping(a, b, std::plus<>()); });
    if (name == "mul") return make([](T a, T b) { return wrapping(a, b, std::multiplies<>()); });
    if (name == "min") return make([](T a, T b) { return b < a ? b : a; });
    if (name == "max") return make([](T a, T b) { return b > a ? b : a; });
  }
  context.invalid(fmt::format("reduction '{}'", printable(name)));
}

using ScatterTypes = Types<bool, float, double, int8_t, int16_t, int32_t, int64_t, uint8_t,
                           uint16_t, uint32_t, uint64_t>;

template <class T>
void copy_data(const KernelArgs& args, int64_t count) {
  if (count == 0 || args.outputs[0].data == args.inputs[0].data) return;
  std::memcpy(args.outputs[0].data, args.inputs[0].data, static_cast<size_t>(count) * sizeof(T));
}

void infer_scatter_elements(NodeContext& context) {
  require_inputs(context, 3, 3);
  infer_same(context);
  if (!all_shapes_known(context)) return;
  const int axis = axis_of(context, context.node().int_or("axis", 0), context.shape(0).rank());
  require_inside(context, context.shape(0), context.shape(1), axis);
  if (context.shape(2).is_concrete() && context.shape(1).is_concrete() &&
      !(context.shape(2) == context.shape(1))) {
    context.invalid("indices and updates differ in shape");
  }
}

Kernel prepare_scatter_elements(const NodeContext& context) {
  const Shape& data = context.shape(0);
  const Shape indices = context.shape(1);
  const int axis = axis_of(context, context.node().int_or("axis", 0), data.rank());
  const int64_t dim = data[axis], step = strides_of(data)[axis], count = data.count();
  require_same_dtype(context, 2, 3);
  if (context.dtype(0) != context.dtype(2)) context.invalid("data and updates differ in type");
  return dispatch(IndexTypes(), context, context.dtype(1), [&](auto index_tag) {
    using Index = decltype(index_tag);
    return dispatch(ScatterTypes(), context, context.dtype(0), [&](auto tag) {
      using T = decltype(tag);
      return with_reduction<T>(context, [&](auto combine) -> Kernel {
        return {"", [=, steps = strides_without(data, axis),
                     where = label(context)](const KernelArgs& args) {
                  copy_data<T>(args, count);
                  const auto* index = static_cast<const Index*>(args.inputs[1].data);
                  const T* update = static_cast<const T*>(args.inputs[2].data);
                  T* to = static_cast<T*>(args.outputs[0].data);
                  // In order: where indices repeat, the last update wins.
                  for_each_offset(
                      indices.dims(), steps, 0, indices.count(), [&](int64_t i, int64_t offset) {
                        T& target = to[offset + checked_index(index[i], dim, where) * step];
                        target = combine(target, update[i]);
                      });
                }};
      });
    });
  });
}

void infer_scatter_nd(NodeContext& context) {
  require_inputs(context, 3, 3);
  infer_same(context);
  if (!all_shapes_known(context)) return;
  const Shape& data = context.shape(0);
  const Shape& indices = context.shape(1);
  check_tuples(context, data, indices, 0);
  if (!data.is_concrete() || !indices.is_concrete() || !context.shape(2).is_concrete()) return;
  const Tuples tuples = tuples_of(data, indices, 0);
  if (context.shape(2).count() != tuples.per_batch * tuples.slice) {
    context.invalid("updates do not fit data and indices");
  }
}

Kernel prepare_scatter_nd(const NodeContext& context) {
  const Tuples tuples = tuples_of(context.shape(0), context.shape(1), 0);
  const int64_t count = context.shape(0).count();
  if (context.dtype(0) != context.dtype(2)) context.invalid("data and updates differ in type");
  return dispatch(Types<int64_t, int32_t>(), context, context.dtype(1), [&](auto index_tag) {
    using Index = decltype(index_tag);
    return dispatch(ScatterTypes(), context, context.dtype(0), [&](auto tag) {
      using T = decltype(tag);
      return with_reduction<T>(context, [&](auto combine) -> Kernel {
        return {"", [=, where = label(context)](const KernelArgs& args) {
                  copy_data<T>(args, count);
                  const auto* index = static_cast<const Index*>(args.inputs[1].data);
                  const T* update = static_cast<const T*>(args.inputs[2].data);
                  T* to = static_cast<T*>(args.outputs[0].data);
                  const auto width = static_cast<int64_t>(tuples.dims.size());
                  for (int64_t i = 0; i < tuples.per_batch; ++i) {
                    T* target = to + tuples.offset(index + i * width, 0, where);
                    for (int64_t k = 0; k < tuples.slice; ++k) {
                      target[k] = combine(target[k], update[i * tuples.slice + k]);
                    }
                  }
                }};
      });
    });
  });
}

// --- Compress ------------------------------------------------------------------------------------

// Positions of the true elements.
std::vector<int64_t> selected(const Tensor& condition) {
  std::vector<int64_t> positions;
  const std::vector<int64_t> flags = condition.to_ints();
  for (size_t i = 0; i < flags.size(); ++i) {
    if (flags[i] != 0) positions.push_back(static_cast<int64_t>(i));
  }
  return positions;
}

struct CompressSpec {
  int64_t outer, dim, inner;
};
CompressSpec compress_of(const NodeContext& context) {
  const Shape& in = context.shape(0);
  if (context.node().attribute("axis") == nullptr) return {1, in.count(), 1};
  const int axis = axis_of(context, context.node().int_or("axis", 0), in.rank());
  return {in.count(0, axis), in[axis], in.count(axis + 1, in.rank())};
}

void infer_compress(NodeContext& context) {
  require_inputs(context, 2, 2);
  const TypeInfo& in = context.in(0);
  const Tensor* condition = context.constant(1);
  int64_t taken = kUnknownDim;
  if (condition != nullptr && in.is_concrete()) {
    const std::vector<int64_t> positions = selected(*condition);
    const int64_t dim = compress_of(context).dim;
    if (!positions.empty() && positions.back() >= dim) context.invalid("the condition is too long");
    taken = static_cast<int64_t>(positions.size());
  }
  if (context.node().attribute("axis") == nullptr) return context.set_output(0, in.dtype, {taken});
  if (!in.has_shape) return context.set_output(0, in.dtype);
  Shape out = in.shape;
  out[axis_of(context, context.node().int_or("axis", 0), out.rank())] = taken;
  context.set_output(0, in.dtype, out);
}

Kernel prepare_compress(const NodeContext& context) {
  const Tensor* condition = context.constant(1);
  if (condition == nullptr) return prepare_at_run(context);
  const CompressSpec spec = compress_of(context);
  return dispatch_size(context, context.dtype(0), [&](auto tag) -> Kernel {
    using T = decltype(tag);
    return {"", [spec, positions = selected(*condition)](const KernelArgs& args) {
              const T* from = static_cast<const T*>(args.inputs[0].data);
              T* to = static_cast<T*>(args.outputs[0].data);
              for (int64_t o = 0; o < spec.outer; ++o) {
                for (const int64_t at : positions) {
                  to = std::copy_n(from + (o * spec.dim + at) * spec.inner, spec.inner, to);
                }
              }
            }};
  });
}

constexpr OpDef kRows[] = {
    moving_row("Gather", 1, infer_gather, prepare_gather),
    moving_row("GatherElements", 11, infer_gather_elements, prepare_gather_elements),
    moving_row("GatherND", 11, infer_gather_nd, prepare_gather_nd),
    row("Scatter", 9, infer_scatter_elements, prepare_scatter_elements),
    row("ScatterElements", 11, infer_scatter_elements, prepare_scatter_elements),
    row("ScatterND", 11, infer_scatter_nd, prepare_scatter_nd),
    moving_row("Compress", 9, infer_compress, prepare_compress),
};

}  // namespace

constinit const std::span<const OpDef> kGatherOps = kRows;

}  // namespace compress
