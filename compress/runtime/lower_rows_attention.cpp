// The attention row of the internal domain: q, k, v, [mask]. Permutations give the source axis of
// each of [batch, head, row, element], and of the output the axis of those that stands there.
#include <array>

#include "compress/kernels/attention_f32/attention_f32.h"
#include "compress/runtime/lower.h"
#include "compress/runtime/lower_internal.h"
#include "compress/runtime/lower_params.h"

namespace compress::runtime {
namespace {

constexpr int kRank = 4;
using Perm = std::array<int, kRank>;

Perm perm_of(const NodeContext& context, const char* name) {
  const std::vector<int64_t> given = context.node().ints_or(name, {0, 1, 2, 3});
  Perm perm;
  for (size_t i = 0; i < kRank; ++i) perm[i] = static_cast<int>(given[i]);
  return perm;
}

// An operand's sizes and strides as [batch, head, row, element].
struct Operand {
  std::array<int64_t, kRank> dims, strides;

  Operand(const Shape& shape, const Perm& perm) {
    for (size_t i = 0; i < kRank; ++i) {
      dims[i] = shape[perm[i]];
      strides[i] = shape.count(perm[i] + 1, kRank);
    }
  }
  // An axis of 1 is repeated where others are longer.
  kernels::AttentionStrides steps() const {
    return {dims[0] == 1 ? 0 : strides[0], dims[1] == 1 ? 0 : strides[1], strides[2]};
  }
};

int64_t broadcast_dim(const NodeContext& context, int64_t a, int64_t b) {
  if (a != b && a != 1 && b != 1) context.invalid("its operands do not fit each other");
  return a == 1 ? b : a;
}

// [batch, head, query, element] of the result.
std::array<int64_t, kRank> result_of(const NodeContext& context, const Operand& q, const Operand& k,
                                     const Operand& v) {
  if (q.dims[3] != k.dims[3] || k.dims[2] != v.dims[2]) {
    context.invalid("its operands do not fit each other");
  }
  std::array<int64_t, kRank> out = {0, 0, q.dims[2], v.dims[3]};
  for (size_t i = 0; i < 2; ++i) {
    out[i] = broadcast_dim(context, broadcast_dim(context, q.dims[i], k.dims[i]), v.dims[i]);
  }
  return out;
}

void infer_attention(NodeContext& context) {
  for (int i = 0; i < context.input_count(); ++i) {
    if (!context.in(i).is_concrete()) return context.set_output(0, DType::float32);
  }
  for (int i = 0; i < 3; ++i) {
    if (context.shape(i).rank() != kRank) context.invalid("an operand has not four axes");
  }
  const auto dims = result_of(context, Operand(context.shape(0), perm_of(context, kQueryPerm)),
                              Operand(context.shape(1), perm_of(context, kKeyPerm)),
                              Operand(context.shape(2), perm_of(context, kValuePerm)));
  Shape out;
  for (const int axis : perm_of(context, kOutPerm)) out.push_back(dims[static_cast<size_t>(axis)]);
  context.set_output(0, DType::float32, out);
}

// Sizes and steps of the mask, whose axes broadcast against [batch, head, query, key].
void set_mask(const NodeContext& context, kernels::AttentionF32& plan) {
  const Shape& mask = context.shape(3);
  const std::array<int64_t, kRank> scores = {plan.batch, plan.heads, plan.queries, plan.keys};
  std::array<int64_t, kRank> steps{};
  int64_t stride = 1;
  for (int i = kRank - 1, from = mask.rank() - 1; from >= 0; --i, --from) {
    if (mask[from] != 1 && mask[from] != scores[static_cast<size_t>(i)]) {
      context.invalid("its mask does not fit its scores");
    }
    steps[static_cast<size_t>(i)] = mask[from] == 1 ? 0 : stride;
    stride *= mask[from];
  }
  plan.mask = {steps[0], steps[1], steps[2]};
  plan.mask_repeats = steps[3] == 0;
}

}  // namespace

kernels::AttentionF32 attention_plan(const NodeContext& context) {
  const Operand q(context.shape(0), perm_of(context, kQueryPerm));
  const Operand k(context.shape(1), perm_of(context, kKeyPerm));
  const Operand v(context.shape(2), perm_of(context, kValuePerm));
  const auto dims = result_of(context, q, k, v);
  kernels::AttentionF32 plan;
  plan.batch = dims[0];
  plan.heads = dims[1];
  plan.queries = dims[2];
  plan.keys = k.dims[2];
  plan.size = q.dims[3];
  plan.value_size = v.dims[3];
  plan.scale = context.node().float_or(kAlpha, 1.0f);
  plan.q = q.steps();
  plan.k = k.steps();
  plan.v = v.steps();
  // The output's axes hold the result's by its permutation: the inverse says where each one is.
  Perm inverse{};
  const Perm perm = perm_of(context, kOutPerm);
  for (size_t i = 0; i < kRank; ++i) inverse[static_cast<size_t>(perm[i])] = static_cast<int>(i);
  const Operand out(context.output_types[0].shape, inverse);
  plan.out = {out.strides[0], out.strides[1], out.strides[2]};
  if (context.has_input(3)) set_mask(context, plan);
  return plan;
}

namespace {

Kernel prepare_attention(const NodeContext& context) {
  const kernels::AttentionF32 plan = attention_plan(context);
  const bool masked = context.has_input(3);
  Kernel kernel;
  kernel.name = "attention_f32/gemm:avx2";
  kernel.workspace_bytes = kernels::attention_f32_workspace_bytes(plan);
  kernel.run = [plan, masked](const KernelArgs& args) {
    const auto floats = [&](size_t i) { return static_cast<const float*>(args.inputs[i].data); };
    kernels::attention_f32(plan, floats(0), floats(1), floats(2), masked ? floats(3) : nullptr,
                           static_cast<float*>(args.outputs[0].data), args.workspace);
  };
  return kernel;
}

const std::array<OpDef, 1> kRows = {
    internal_row("Attention", infer_attention, prepare_attention),
};

}  // namespace

const std::span<const OpDef> kAttentionRows = kRows;

}  // namespace compress::runtime
