// Float rows of the internal domain that work element by element or row by row, and transposes.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "compress/kernels/float_rows/elementwise_f32.h"
#include "compress/kernels/float_rows/rows_f32.h"
#include "compress/kernels/transpose/transpose.h"
#include "compress/runtime/lower.h"
#include "compress/runtime/lower_internal.h"
#include "compress/runtime/lower_params.h"

namespace compress::runtime {
namespace {

using kernels::ElementOp;
using kernels::ElementProgram;

const float* floats(const TensorView& view) { return static_cast<const float*>(view.data); }
float* floats(TensorView& view) { return static_cast<float*>(view.data); }

// --- Elements ------------------------------------------------------------------------------------

}  // namespace

ElementProgram element_program(const NodeContext& context) {
  const Node& node = context.node();
  const std::vector<int64_t> steps = node.ints_or(kSteps, {});
  const std::vector<float> numbers = node.floats_or(kNumbers, {});
  ElementProgram program;
  program.inputs = static_cast<int>(node.inputs.size());
  for (size_t i = 0; i + 4 <= steps.size(); i += 4) {
    kernels::ElementStep step;
    step.op = static_cast<ElementOp>(steps[i]);
    step.a = static_cast<int>(steps[i + 1]);
    step.b = static_cast<int>(steps[i + 2]);
    step.to = static_cast<int>(steps[i + 3]);
    step.p = numbers[i / 2];
    step.q = numbers[i / 2 + 1];
    program.steps.push_back(step);
  }
  return program;
}

namespace {

void infer_elements(NodeContext& context) {
  Shape out;
  for (int i = 0; i < context.input_count(); ++i) {
    if (!context.in(i).has_shape) return context.set_output(0, DType::float32);
    out = i == 0 ? context.shape(0) : broadcast(out, context.shape(i));
  }
  context.set_output(0, DType::float32, out);
}

Kernel prepare_elements(const NodeContext& context) {
  struct State {
    ElementProgram program;
    kernels::ElementLayout layout;
  };
  auto state = std::make_shared<State>();
  state->program = element_program(context);
  std::vector<std::vector<int64_t>> inputs;
  for (int i = 0; i < context.input_count(); ++i) {
    inputs.emplace_back(context.shape(i).begin(), context.shape(i).end());
  }
  state->layout = kernels::element_layout(context.output_types[0].shape.dims(), inputs);
  Kernel kernel;
  kernel.name = fmt::format("elements_f32/{}", kernels::best_elementwise_f32().name);
  kernel.run = [state](const KernelArgs& args) {
    std::array<const float*, ElementProgram::kMaxInputs> from{};
    for (size_t i = 0; i < args.inputs.size(); ++i) from[i] = floats(args.inputs[i]);
    kernels::run_elements(state->program, state->layout, from, floats(args.outputs[0]));
  };
  return kernel;
}

// --- Rows ----------------------------------------------------------------------------------------

struct Rows {
  int64_t rows, count;
  explicit Rows(const Shape& shape)
      : rows(shape.count(0, shape.rank() - 1)), count(shape[shape.rank() - 1]) {}
};

void infer_rows(NodeContext& context) {
  if (!context.in(0).has_shape) return context.set_output(0, DType::float32);
  if (context.shape(0).rank() < 1) context.invalid("works on rows of a scalar");
  context.set_output(0, DType::float32, context.shape(0));
}

// An operand of one number a column, or none.
void check_columns(const NodeContext& context, int slot) {
  if (!context.has_input(slot)) return;
  if (context.shape(slot).count() != Rows(context.shape(0)).count) {
    context.invalid("its parameters do not match its last axis");
  }
}

Kernel prepare_softmax(const NodeContext& context) {
  return {fmt::format("softmax_f32/{}", kernels::best_rows_f32().name),
          [rows = Rows(context.shape(0))](const KernelArgs& args) {
            kernels::softmax_f32(floats(args.inputs[0]), rows.rows, rows.count,
                                 floats(args.outputs[0]));
          }};
}

Kernel prepare_layer_norm(const NodeContext& context) {
  check_columns(context, 1);
  check_columns(context, 2);
  const float epsilon = context.node().float_or(kEpsilon, 1e-5f);
  return {fmt::format("layer_norm_f32/{}", kernels::best_rows_f32().name),
          [rows = Rows(context.shape(0)), epsilon](const KernelArgs& args) {
            const auto given = [&](size_t i) {
              return i < args.inputs.size() ? floats(args.inputs[i]) : nullptr;
            };
            kernels::layer_norm_f32(floats(args.inputs[0]), given(1), given(2), epsilon, rows.rows,
                                    rows.count, floats(args.outputs[0]));
          }};
}

Kernel prepare_rms_norm(const NodeContext& context) {
  check_columns(context, 1);
  const float epsilon = context.node().float_or(kEpsilon, 1e-5f);
  return {fmt::format("rms_norm_f32/{}", kernels::best_rows_f32().name),
          [rows = Rows(context.shape(0)), epsilon](const KernelArgs& args) {
            kernels::rms_norm_f32(floats(args.inputs[0]), floats(args.inputs[1]), epsilon,
                                  rows.rows, rows.count, floats(args.outputs[0]));
          }};
}

// --- Transpose -----------------------------------------------------------------------------------

std::vector<int64_t> perm_of(const NodeContext& context, int rank) {
  std::vector<int64_t> perm = context.node().ints_or("perm", {});
  if (perm.empty()) {
    for (int i = rank - 1; i >= 0; --i) perm.push_back(i);
  }
  std::vector<int64_t> sorted = perm;
  std::sort(sorted.begin(), sorted.end());
  for (size_t i = 0; i < sorted.size(); ++i) {
    if (sorted[i] != static_cast<int64_t>(i)) context.invalid("its perm is no permutation");
  }
  if (static_cast<int>(perm.size()) != rank) context.invalid("its perm does not match its rank");
  return perm;
}

void infer_transpose(NodeContext& context) {
  if (!context.in(0).has_shape) return context.set_output(0, context.dtype(0));
  Shape out;
  for (const int64_t axis : perm_of(context, context.shape(0).rank())) {
    out.push_back(context.shape(0)[static_cast<int>(axis)]);
  }
  context.set_output(0, context.dtype(0), out);
}

template <class T>
Kernel transpose_kernel(kernels::Transpose plan) {
  return {fmt::format("transpose_{}/{}", 8 * sizeof(T), kernels::best_transpose().name),
          [plan = std::move(plan)](const KernelArgs& args) {
            kernels::transpose(plan, static_cast<const T*>(args.inputs[0].data),
                               static_cast<T*>(args.outputs[0].data));
          }};
}

Kernel prepare_transpose(const NodeContext& context) {
  const Shape& shape = context.shape(0);
  kernels::Transpose plan = kernels::plan_transpose(shape.dims(), perm_of(context, shape.rank()));
  if (info(context.dtype(0)).bits == 8) return transpose_kernel<uint8_t>(std::move(plan));
  return transpose_kernel<uint32_t>(std::move(plan));
}

const std::array<OpDef, 5> kRows = {
    internal_row("Elements", infer_elements, prepare_elements),
    internal_row("Softmax", infer_rows, prepare_softmax),
    internal_row("LayerNorm", infer_rows, prepare_layer_norm),
    internal_row("RmsNorm", infer_rows, prepare_rms_norm),
    internal_row("Transpose", infer_transpose, prepare_transpose),
};

}  // namespace

const std::span<const OpDef> kElementRows = kRows;

}  // namespace compress::runtime
