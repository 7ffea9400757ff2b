// What the families share: dispatch on element types, broadcasting, strided copies.
#pragma once

#include <array>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "compress/core/parallel.h"
#include "compress/error.h"
#include "compress/ops/op.h"

namespace compress {

// A node that stands for another version of its domain than the model imports (of an inlined body
// that does) carries that version in this attribute.
inline constexpr const char* kOpsetAttribute = "compress_opset";
// The version that the node's domain has for the node.
int opset_of(const Node& node, const Model& model);

namespace ops {

// "Conv '/conv1/Conv'", for messages of running kernels.
std::string label(const NodeContext& context);

// --- Types ---------------------------------------------------------------------------------------
template <class... Ts>
struct Types {};
using FloatTypes = Types<float, double>;
using SignedTypes = Types<float, double, int8_t, int16_t, int32_t, int64_t>;
using NumericTypes =
    Types<float, double, int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t>;
using IntegerTypes =
    Types<int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t>;

[[noreturn]] void unsupported_type(const NodeContext& context, DType dtype);

// visit(T{}) for the T that stores `dtype`; fails (unsupported) where it is none of Ts.
template <class... Ts, class Visit>
Kernel dispatch(Types<Ts...>, const NodeContext& context, DType dtype, Visit&& visit) {
  Kernel kernel;
  if (!((dtype == dtype_of<Ts>() ? (kernel = visit(Ts{}), true) : false) || ...)) {
    unsupported_type(context, dtype);
  }
  return kernel;
}

// visit(integer of the element's size), for kernels that move elements of any type. Fails
// (unsupported) for strings; sub-byte types were unpacked by prepare_kernel.
struct Bytes16 {
  uint64_t low, high;
};
template <class Visit>
Kernel dispatch_size(const NodeContext& context, DType dtype, Visit&& visit) {
  switch (info(dtype).bits) {
    case 8:
      return visit(uint8_t{});
    case 16:
      return visit(uint16_t{});
    case 32:
      return visit(uint32_t{});
    case 64:
      return visit(uint64_t{});
    case 128:
      return visit(Bytes16{});
    default:
      unsupported_type(context, dtype);
  }
}

// Arithmetic that wraps instead of overflowing (undefined for signed types in C++).
template <class T, class Op>
T wrapping(T a, T b, Op op) {
  if constexpr (std::is_integral_v<T>) {
    using U = std::conditional_t<sizeof(T) <= 4, uint32_t, uint64_t>;
    return static_cast<T>(op(static_cast<U>(a), static_cast<U>(b)));
  } else {
    return op(a, b);
  }
}

// --- Rows ----------------------------------------------------------------------------------------
constexpr OpDef row(std::string_view name, int since, InferFn infer, PrepareFn prepare) {
  return {.domain = "", .name = name, .since_version = since, .infer = infer, .prepare = prepare};
}
// An operator that takes elements of any type as they are stored.
constexpr OpDef any_row(std::string_view name, int since, InferFn infer, PrepareFn prepare) {
  return {.domain = "",
          .name = name,
          .since_version = since,
          .infer = infer,
          .prepare = prepare,
          .any_type = true};
}
// The same where the output's elements are the input's.
constexpr OpDef moving_row(std::string_view name, int since, InferFn infer, PrepareFn prepare) {
  return {.domain = "",
          .name = name,
          .since_version = since,
          .infer = infer,
          .prepare = prepare,
          .quant = {.shares_scale = true},
          .any_type = true};
}

// The same of an operator whose kernel sizes its outputs.
constexpr OpDef sizing_row(OpDef op) {
  op.sizes_outputs = true;
  return op;
}

// --- Checks of operands --------------------------------------------------------------------------
void require_inputs(const NodeContext& context, int least, int most);
// Fails (invalid_model) unless inputs [first, last) have one type, where given.
void require_same_dtype(const NodeContext& context, int first, int last);
// normalize_axis that names the node.
int axis_of(const NodeContext& context, int64_t axis, int rank);
// The only element of constant input i; nullopt where it is not known yet.
std::optional<int64_t> int_input(const NodeContext& context, int i);
std::optional<double> double_input(const NodeContext& context, int i);
bool all_shapes_known(const NodeContext& context);  // ranks of all inputs that are given
// Axes in [0, rank), in the order given; fails (invalid_model) where one repeats.
std::vector<int> axes_of(const NodeContext& context, std::span<const int64_t> axes, int rank);
inline bool known(int64_t dim) { return dim >= 0; }
Shape unknown_shape(int rank);  // fails (unsupported) beyond kMaxRank
// Dimensions from a file: fails (invalid_model) where one is negative.
Shape shape_from(const NodeContext& context, std::span<const int64_t> dims);
// broadcast() that names the node.
Shape broadcast_of(const NodeContext& context, const Shape& a, const Shape& b);

// --- Ready infer functions -----------------------------------------------------------------------
void infer_same(NodeContext& context);       // output 0 is like input 0
void infer_broadcast(NodeContext& context);  // all inputs broadcast; type of input 0
void infer_broadcast_bool(NodeContext& context);

// A kernel that, each time it runs, prepares the node anew with the contents of all inputs as
// constants: for operands (axes, sizes) that usually are constants but need not be.
Kernel prepare_at_run(const NodeContext& context);

// --- Broadcasting --------------------------------------------------------------------------------
inline constexpr int64_t kGrain = 1 << 14;  // elements that are worth a thread
inline constexpr int kMaxOperands = 3;
struct BroadcastPlan {
  // Dimensions joined where all operands allow it, outermost first; the last is the row.
  std::vector<int64_t> dims;
  std::vector<std::array<int64_t, kMaxOperands>> strides;
  int64_t rows = 1;
  int64_t row = 1;
  const std::array<int64_t, kMaxOperands>& row_strides() const { return strides.back(); }
};
BroadcastPlan plan_broadcast(const Shape& out, std::span<const Shape> operands);

// Calls body(offset in the output, offsets of the operands, elements) so that all of the output is
// covered, in parallel; operands advance by row_strides() (0 or 1 there).
template <class Body>
void for_each_row(const BroadcastPlan& plan, Body&& body) {
  using Offsets = std::array<int64_t, kMaxOperands>;
  if (plan.rows == 0 || plan.row == 0) return;
  if (plan.rows == 1) {
    parallel_for(0, plan.row, kGrain, [&](int64_t begin, int64_t end) {
      Offsets offsets{};
      for (size_t k = 0; k < kMaxOperands; ++k) offsets[k] = begin * plan.row_strides()[k];
      body(begin, offsets, end - begin);
    });
    return;
  }
  const int64_t grain = kGrain / plan.row + 1;
  parallel_for(0, plan.rows, grain, [&](int64_t begin, int64_t end) {
    const int outer = static_cast<int>(plan.dims.size()) - 1;
    std::array<int64_t, kMaxRank> counter{};
    Offsets offsets{};
    int64_t rest = begin;
    for (int d = outer - 1; d >= 0; --d) {
      const auto i = static_cast<size_t>(d);
      counter[i] = rest % plan.dims[i];
      rest /= plan.dims[i];
      for (size_t k = 0; k < kMaxOperands; ++k) offsets[k] += counter[i] * plan.strides[i][k];
    }
    for (int64_t r = begin; r < end; ++r) {
      body(r * plan.row, offsets, plan.row);
      for (int d = outer - 1; d >= 0; --d) {
        const auto i = static_cast<size_t>(d);
        for (size_t k = 0; k < kMaxOperands; ++k) offsets[k] += plan.strides[i][k];
        if (++counter[i] < plan.dims[i]) break;
        for (size_t k = 0; k < kMaxOperands; ++k) offsets[k] -= plan.strides[i][k] * plan.dims[i];
        counter[i] = 0;
      }
    }
  });
}

// out[i] = f(a[i * sa], b[i * sb]) with strides 0 or 1: loops that a compiler vectorizes.
template <class R, class A, class B, class F>
void map_row(R* out, const A* a, int64_t sa, const B* b, int64_t sb, int64_t n, const F& f) {
  if (sa != 0 && sb != 0) {
    for (int64_t i = 0; i < n; ++i) out[i] = f(a[i], b[i]);
  } else if (sa != 0) {
    const B fixed = b[0];
    for (int64_t i = 0; i < n; ++i) out[i] = f(a[i], fixed);
  } else if (sb != 0) {
    const A fixed = a[0];
    for (int64_t i = 0; i < n; ++i) out[i] = f(fixed, b[i]);
  } else {
    const R value = f(a[0], b[0]);
    for (int64_t i = 0; i < n; ++i) out[i] = value;
  }
}

// out = f(in 0, in 1), broadcast.
template <class R, class A, class B, class F>
Kernel binary_kernel(const NodeContext& context, F f) {
  const std::array<Shape, 2> shapes = {context.shape(0), context.shape(1)};
  BroadcastPlan plan = plan_broadcast(context.output_types[0].shape, shapes);
  return {"", [plan = std::move(plan), f](const KernelArgs& args) {
            R* out = static_cast<R*>(args.outputs[0].data);
            const A* a = static_cast<const A*>(args.inputs[0].data);
            const B* b = static_cast<const B*>(args.inputs[1].data);
            for_each_row(plan, [&](int64_t at, const auto& from, int64_t n) {
              map_row(out + at, a + from[0], plan.row_strides()[0], b + from[1],
                      plan.row_strides()[1], n, f);
            });
          }};
}

// out[i] = f(in[i]).
template <class R, class A, class F>
Kernel unary_kernel(const NodeContext& context, F f) {
  const int64_t count = context.shape(0).count();
  return {"", [count, f](const KernelArgs& args) {
            R* out = static_cast<R*>(args.outputs[0].data);
            const A* in = static_cast<const A*>(args.inputs[0].data);
            parallel_for(0, count, kGrain, [&](int64_t begin, int64_t end) {
              for (int64_t i = begin; i < end; ++i) out[i] = f(in[i]);
            });
          }};
}

// Calls visit(i, offset) for positions [begin, end) of a row-major walk over dims, where offset is
// the sum of index * stride; for loops without a common pattern.
template <class Visit>
void for_each_offset(std::span<const int64_t> dims, std::span<const int64_t> strides, int64_t begin,
                     int64_t end, Visit&& visit) {
  if (begin >= end) return;  // a dimension may be 0
  std::array<int64_t, 2 * kMaxRank> counter{};
  int64_t offset = 0;
  int64_t rest = begin;
  for (size_t d = dims.size(); d-- > 0;) {
    counter[d] = rest % dims[d];
    rest /= dims[d];
    offset += counter[d] * strides[d];
  }
  for (int64_t i = begin; i < end; ++i) {
    visit(i, offset);
    for (size_t d = dims.size(); d-- > 0;) {
      offset += strides[d];
      if (++counter[d] < dims[d]) break;
      offset -= strides[d] * dims[d];
      counter[d] = 0;
    }
  }
}

// --- Strided copies ------------------------------------------------------------------------------
// A contiguous output of `dims` whose element (i0, i1...) is the input's at base + sum i_d *
// strides_d, in elements; strides may be 0 or negative. Dimensions are joined where they can be.
struct CopyPlan {
  std::vector<int64_t> dims;
  std::vector<int64_t> strides;
  int64_t base = 0;
};
CopyPlan plan_copy(std::span<const int64_t> dims, std::span<const int64_t> strides, int64_t base);
// REQUIRES element size 1, 2, 4, 8 or 16.
void run_copy(const CopyPlan& plan, size_t element_bytes, const void* in, void* out);
// The kernel that copies input 0 to output 0 by a plan.
Kernel copy_kernel(const NodeContext& context, CopyPlan plan);
// The kernel that copies all bytes of input 0 to output 0.
Kernel copy_all_kernel(const NodeContext& context);

}  // namespace ops
}  // namespace compress
