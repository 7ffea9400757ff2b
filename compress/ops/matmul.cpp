// MatMul, Gemm, MatMulInteger, and com.microsoft's FusedMatMul.
#include "compress/ops/matmul_plan.h"

#include <vector>

#include "compress/core/parallel.h"
#include "compress/ops/compute_families.h"
#include "compress/ops/integer_loops.h"
#include "compress/ops/typed.h"

namespace compress {
namespace {

// A matrix operand as [batch..., rows, columns].
struct Operand {
  Shape batch;
  int64_t rows;
  int64_t columns;
};

Operand read_operand(const NodeContext& c, const Shape& shape, bool is_left, bool transpose) {
  if (shape.rank() == 0) c.invalid("an operand is a scalar");
  if (shape.rank() == 1) {
    return is_left ? Operand{{}, 1, shape[0]} : Operand{{}, shape[0], 1};
  }
  const int last = shape.rank() - 1;
  Operand operand{Shape(shape.dims().first(static_cast<size_t>(last) - 1)), shape[last - 1],
                  shape[last]};
  if (transpose) std::swap(operand.rows, operand.columns);
  return operand;
}

// Offsets of the matrices that an operand of batch shape `own` gives to a batch of shape `all`.
std::vector<int64_t> batch_offsets(const Shape& own, const Shape& all, int64_t matrix) {
  std::vector<int64_t> offsets(static_cast<size_t>(all.count()));
  const Shape strides = strides_of(own);
  const int shift = all.rank() - own.rank();
  for (size_t i = 0; i < offsets.size(); ++i) {
    int64_t rest = static_cast<int64_t>(i);
    int64_t at = 0;
    for (int d = all.rank() - 1; d >= 0; --d) {
      const int64_t index = rest % all[d];
      rest /= all[d];
      if (d >= shift && own[d - shift] != 1) at += index * strides[d - shift];
    }
    offsets[i] = at * matrix;
  }
  return offsets;
}

}  // namespace

Shape matmul_output(const NodeContext& c, const Shape& a, const Shape& b, bool transpose_a,
                    bool transpose_b) {
  const Operand left = read_operand(c, a, true, transpose_a);
  const Operand right = read_operand(c, b, false, transpose_b);
  if (left.columns >= 0 && right.rows >= 0 && left.columns != right.rows) {
    c.invalid(fmt::format("a product of {} and {}", a.to_string(), b.to_string()));
  }
  Shape out = broadcast(left.batch, right.batch);
  if (a.rank() > 1) out.push_back(left.rows);
  if (b.rank() > 1) out.push_back(right.columns);
  return out;
}

MatMulPlan plan_matmul(const NodeContext& c, const Shape& a, const Shape& b, bool transpose_a,
                       bool transpose_b) {
  MatMulPlan plan;
  plan.out = matmul_output(c, a, b, transpose_a, transpose_b);
  const Operand left = read_operand(c, a, true, transpose_a);
  const Operand right = read_operand(c, b, false, transpose_b);
  plan.m = left.rows;
  plan.n = right.columns;
  plan.k = left.columns;
  const bool swap_a = transpose_a && a.rank() > 1;
  const bool swap_b = transpose_b && b.rank() > 1;
  plan.a_row = swap_a ? 1 : plan.k;
  plan.a_column = swap_a ? plan.m : 1;
  plan.b_row = swap_b ? 1 : plan.n;
  plan.b_column = swap_b ? plan.k : 1;
  // A single column is a row of dot products as well, which is the faster loop.
  if (plan.n == 1) plan.b_column = plan.k;
  if (plan.out.count() == 0) return plan;
  const Shape batch = broadcast(left.batch, right.batch);
  plan.a_offsets = batch_offsets(left.batch, batch, plan.m * plan.k);
  plan.b_offsets = batch_offsets(right.batch, batch, plan.k * plan.n);
  return plan;
}

size_t integer_matmul_workspace(const Shape& a, const Shape& b) {
  return static_cast<size_t>(
      byte_size(DType::int32, static_cast<uint64_t>(a.count()) + static_cast<uint64_t>(b.count())));
}

void check_integer_matmul(const NodeContext& c, const MatMulPlan& plan, int a, int a_zero, int b,
                          int b_zero) {
  for (const int i : {a, b}) by_byte(c, c.dtype(i), [](auto) {});
  const auto check = [&](int slot, int values, int64_t wanted, int axis) {
    if (slot < 0 || !c.has_input(slot)) return;
    if (c.dtype(slot) != c.dtype(values)) c.invalid("a zero point has another type");
    if (c.shape(slot).count() == 1) return;
    require_count(c, slot, wanted);
    // Per row or column alone; a zero point for each matrix of a batch would be another layout.
    const Shape& shape = c.shape(slot);
    if (shape.rank() > 1 && shape[shape.rank() - axis] != wanted) {
      c.unsupported("zero points that differ within a batch");
    }
  };
  check(a_zero, a, plan.m, 2);
  check(b_zero, b, plan.n, 1);
}

void integer_matmul(const MatMulPlan& plan, const TensorView& a, const TensorView& a_zero,
                    const TensorView& b, const TensorView& b_zero, std::byte* workspace,
                    uint32_t* acc) {
  const int64_t a_count = a.count();
  const int64_t b_count = b.count();
  auto* wide_a = reinterpret_cast<uint32_t*>(workspace);
  uint32_t* wide_b = wide_a + a_count;
  // Zero points are constant along one axis: the matrix row of `count / inner`, or its column.
  const auto widen_by = [](const TensorView& values, int64_t count, const TensorView& zero,
                           int64_t channels, int64_t step, uint32_t* out) {
    if (zero.data == nullptr || zero.count() == 1) {
      return widen(values, 0, count, zero_point_at(zero, 0), out);
    }
    for (int64_t i = 0; i < count; ++i) {
      const int32_t shifted = integer_at(values, i) - integer_at(zero, i / step % channels);
      out[i] = static_cast<uint32_t>(shifted);
    }
  };
  widen_by(a, a_count, a_zero, plan.m, plan.a_row, wide_a);
  widen_by(b, b_count, b_zero, plan.n, plan.b_column, wide_b);
  run_matmul<uint32_t>(plan, wide_a, wide_b, acc);
}

namespace {

// --- MatMul, FusedMatMul -------------------------------------------------------------------------

bool flag(const NodeContext& c, std::string_view name) { return c.node().int_or(name, 0) != 0; }

void infer_product(NodeContext& c, DType dtype, bool transpose_a, bool transpose_b) {
  require_inputs(c, 2);
  if (!c.in(0).has_shape || !c.in(1).has_shape) return c.set_output(0, dtype);
  c.set_output(0, dtype, matmul_output(c, c.shape(0), c.shape(1), transpose_a, transpose_b));
}

void infer_matmul(NodeContext& c) { infer_product(c, c.dtype(0), false, false); }
void infer_matmul_integer(NodeContext& c) { infer_product(c, DType::int32, false, false); }
void infer_fused_matmul(NodeContext& c) {
  infer_product(c, c.dtype(0), flag(c, "transA"), flag(c, "transB"));
}

template <class T>
Kernel matmul_kernel(MatMulPlan plan, float alpha) {
  return {"matmul_ref", [plan = std::move(plan), alpha](const KernelArgs& args) {
            T* y = static_cast<T*>(args.outputs[0].data);
            run_matmul<T>(plan, static_cast<const T*>(args.inputs[0].data),
                          static_cast<const T*>(args.inputs[1].data), y);
            if (alpha == 1) return;
            const int64_t count = args.outputs[0].count();
            for (int64_t i = 0; i < count; ++i) y[i] *= static_cast<T>(alpha);
          }};
}

Kernel prepare_matmul(const NodeContext& c) {
  if (c.dtype(0) != c.dtype(1)) c.invalid("operands have different types");
  MatMulPlan plan = plan_matmul(c, c.shape(0), c.shape(1));
  switch (c.dtype(0)) {  // unsigned: signed products wrap to the same bits
    case DType::int32:
    case DType::uint32:
      return matmul_kernel<uint32_t>(std::move(plan), 1);
    case DType::int64:
    case DType::uint64:
      return matmul_kernel<uint64_t>(std::move(plan), 1);
    default:
      break;
  }
  return by_float(c, c.dtype(0), [&]<class T>(T) { return matmul_kernel<T>(std::move(plan), 1); });
}

Kernel prepare_fused_matmul(const NodeContext& c) {
  if (c.dtype(0) != c.dtype(1)) c.invalid("operands have different types");
  if (flag(c, "transBatchA") || flag(c, "transBatchB")) c.unsupported("transBatchA, transBatchB");
  MatMulPlan plan = plan_matmul(c, c.shape(0), c.shape(1), flag(c, "transA"), flag(c, "transB"));
  const float alpha = c.node().float_or("alpha", 1);
  return by_float(c, c.dtype(0),
                  [&]<class T>(T) { return matmul_kernel<T>(std::move(plan), alpha); });
}

Kernel prepare_matmul_integer(const NodeContext& c) {
  MatMulPlan plan = plan_matmul(c, c.shape(0), c.shape(1));
  check_integer_matmul(c, plan, 0, 2, 1, 3);
  Kernel kernel{"matmul_integer_ref", nullptr};
  kernel.workspace_bytes = integer_matmul_workspace(c.shape(0), c.shape(1));
  kernel.run = [plan = std::move(plan)](const KernelArgs& args) {
    const TensorView none;
    integer_matmul(plan, args.inputs[0], args.inputs.size() > 2 ? args.inputs[2] : none,
                   args.inputs[1], args.inputs.size() > 3 ? args.inputs[3] : none, args.workspace,
                   static_cast<uint32_t*>(args.outputs[0].data));
  };
  return kernel;
}

// --- Gemm ----------------------------------------------------------------------------------------

void infer_gemm(NodeContext& c) {
  require_inputs(c, 2);
  if (!known_rank(c, 0, 2) || !known_rank(c, 1, 2)) return c.set_output(0, c.dtype(0));
  infer_product(c, c.dtype(0), flag(c, "transA"), flag(c, "transB"));
  check_gemm_bias(c, 2, c.output_types[0].shape);
}

}  // namespace

void check_gemm_bias(const NodeContext& c, int slot, const Shape& out) {
  if (!c.has_input(slot) || !c.in(slot).has_shape) return;
  const Shape& bias = c.shape(slot);
  bool fits = bias.rank() <= out.rank();
  for (int i = 1; fits && i <= bias.rank(); ++i) {
    const int64_t ours = bias[bias.rank() - i], theirs = out[out.rank() - i];
    fits = ours == 1 || ours < 0 || theirs < 0 || ours == theirs;
  }
  if (fits) return;
  c.invalid(fmt::format("C has shape {}, the result {}", bias.to_string(), out.to_string()));
}

namespace {

// Strides of C when it is broadcast to [m, n].
struct Bias {
  int64_t row = 0;
  int64_t column = 0;
};

Bias read_bias(const NodeContext& c, const Shape& out) {
  if (!c.has_input(2)) return {};
  check_gemm_bias(c, 2, out);
  const Shape& shape = c.shape(2);
  Bias bias;
  const int rank = shape.rank();
  if (rank >= 1 && shape[rank - 1] != 1) bias.column = 1;
  if (rank == 2 && shape[0] != 1) bias.row = shape[1];
  return bias;
}

template <class T>
Kernel gemm_kernel(const NodeContext& c, MatMulPlan plan) {
  const Bias bias = read_bias(c, plan.out);
  const T alpha = static_cast<T>(c.node().float_or("alpha", 1));
  const T beta = static_cast<T>(c.node().float_or("beta", 1));
  return {"gemm_ref", [=, plan = std::move(plan)](const KernelArgs& args) {
            T* y = args.outputs[0].as<T>();
            run_matmul<T>(plan, args.inputs[0].as<const T>(), args.inputs[1].as<const T>(), y);
            const T* add = data_or_null<T>(args, 2);
            if (add == nullptr && alpha == 1) return;
            for (int64_t i = 0; i < plan.m; ++i) {
              T* row = y + i * plan.n;
              for (int64_t j = 0; j < plan.n; ++j) {
                const T extra = add ? beta * add[i * bias.row + j * bias.column] : T{0};
                row[j] = alpha * row[j] + extra;
              }
            }
          }};
}

Kernel prepare_gemm(const NodeContext& c) {
  if (c.dtype(0) != c.dtype(1)) c.invalid("operands have different types");
  MatMulPlan plan = plan_matmul(c, c.shape(0), c.shape(1), flag(c, "transA"), flag(c, "transB"));
  return by_float(c, c.dtype(0), [&]<class T>(T) { return gemm_kernel<T>(c, std::move(plan)); });
}

// The channel axis of MatMul's weights is the last one, of Gemm's the first where transB is set.
constexpr OpDef kRows[] = {
    {"", "MatMul", 1, infer_matmul, prepare_matmul, {.weight_input = 1, .channel_axis = 1}},
    {"",
     "Gemm",
     1,
     infer_gemm,
     prepare_gemm,
     {.weight_input = 1, .bias_input = 2, .channel_axis = 1}},
    {"", "MatMulInteger", 10, infer_matmul_integer, prepare_matmul_integer},
    {"com.microsoft",
     "FusedMatMul",
     1,
     infer_fused_matmul,
     prepare_fused_matmul,
     {.weight_input = 1, .channel_axis = 1}},
};

}  // namespace

const std::span<const OpDef> kMatMulOps = kRows;

}  // namespace compress
