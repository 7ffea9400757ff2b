// From a row to a kernel: late preparation of what depends on data, widening of stored types.
#include <algorithm>

#include "compress/core/int4.h"
#include "compress/error.h"
#include "compress/ops/fold.h"
#include "compress/ops/op.h"
#include "compress/ops/support.h"

namespace compress {
namespace {

constexpr size_t kAlignment = 64;
size_t aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

bool outputs_concrete(const NodeContext& context) {
  for (size_t i = 0; i < context.output_types.size(); ++i) {
    if (context.has_output(static_cast<int>(i)) && !context.output_types[i].is_concrete()) {
      return false;
    }
  }
  return true;
}

// --- Preparation when the contents are there -----------------------------------------------------

// A copy of a context that lives as long as the kernel.
struct LateNode {
  Node node;
  int opset;
  const OpDef* op;
  std::vector<TypeInfo> input_types;
  std::vector<TypeInfo> output_types;
};

void run_late(const LateNode& late, const KernelArgs& args) {
  NodeContext context(late.node, late.opset);
  context.input_types = late.input_types;
  std::vector<Tensor> contents(args.inputs.size());
  for (size_t i = 0; i < args.inputs.size(); ++i) {
    const TensorView& view = args.inputs[i];
    if (!context.has_input(static_cast<int>(i))) continue;
    contents[i] = Tensor::borrow(view.dtype, view.shape, view.data, nullptr);
  }
  for (const Tensor& tensor : contents) context.constants.push_back(tensor ? &tensor : nullptr);
  infer_node(*late.op, context);
  const Kernel kernel = prepare_kernel(*late.op, context);
  if (outputs_concrete(context)) {
    for (size_t i = 0; i < context.output_types.size(); ++i) {
      const TypeInfo& type = context.output_types[i];
      const bool allocated = i < late.output_types.size() && late.output_types[i].is_concrete();
      if (!allocated && context.has_output(static_cast<int>(i))) {
        args.allocate(static_cast<int>(i), type.dtype, type.shape);
      }
    }
  }
  std::vector<std::byte> workspace(kernel.workspace_bytes + kAlignment);
  KernelArgs inner = args;
  const auto address = reinterpret_cast<uintptr_t>(workspace.data());
  inner.workspace = workspace.data() + (aligned(address) - address);
  kernel.run(inner);
}

// --- Widening ------------------------------------------------------------------------------------

// The type that a kernel sees in the place of `dtype`.
DType widened(DType dtype, const OpDef& op) {
  if (!op.any_type && is_half(dtype)) return DType::float32;
  if (!op.packed_types && is_sub_byte(dtype) && is_integer(dtype)) {
    return info(dtype).is_signed ? DType::int8 : DType::uint8;
  }
  // Codes of float4e2m1, for those that move elements alone.
  if (!op.packed_types && is_sub_byte(dtype) && op.any_type) return DType::uint8;
  return dtype;
}

void widen(DType from, const void* in, void* out, int64_t count) {
  parallel_for(0, count, ops::kGrain, [&](int64_t begin, int64_t end) {
    if (from == DType::float16) {
      const Half* source = static_cast<const Half*>(in);
      float* target = static_cast<float*>(out);
      for (int64_t i = begin; i < end; ++i) target[i] = to_float(source[i]);
    } else if (from == DType::bfloat16) {
      const BFloat16* source = static_cast<const BFloat16*>(in);
      float* target = static_cast<float*>(out);
      for (int64_t i = begin; i < end; ++i) target[i] = to_float(source[i]);
    } else {
      const DTypeInfo& row = info(from);
      const uint8_t* source = static_cast<const uint8_t*>(in);
      uint8_t* target = static_cast<uint8_t*>(out);
      for (int64_t i = begin; i < end; ++i) {
        target[i] = static_cast<uint8_t>(get_packed(source, i, row.bits, row.is_signed));
      }
    }
  });
}

void narrow(DType to, const void* in, void* out, int64_t count) {
  // kGrain is a multiple of the elements of a byte, so no two threads write one byte.
  parallel_for(0, count, ops::kGrain, [&](int64_t begin, int64_t end) {
    if (to == DType::float16) {
      const float* source = static_cast<const float*>(in);
      Half* target = static_cast<Half*>(out);
      for (int64_t i = begin; i < end; ++i) target[i] = to_half(source[i]);
    } else if (to == DType::bfloat16) {
      const float* source = static_cast<const float*>(in);
      BFloat16* target = static_cast<BFloat16*>(out);
      for (int64_t i = begin; i < end; ++i) target[i] = to_bfloat16(source[i]);
    } else {
      const int bits = info(to).bits;
      const uint8_t* source = static_cast<const uint8_t*>(in);
      uint8_t* target = static_cast<uint8_t*>(out);
      std::fill(target + begin * bits / 8, target + (end * bits + 7) / 8, uint8_t{0});
      for (int64_t i = begin; i < end; ++i) set_packed(target, i, bits, source[i]);
    }
  });
}

// How one operand of a widened kernel is passed.
struct Passage {
  DType stored = DType::undefined;
  DType seen = DType::undefined;
  size_t offset = 0;  // in the workspace
  Tensor constant;    // converted once
  bool held = false;  // by the inner kernel
  bool converts() const { return stored != seen && !held; }
};

struct WidenedKernel {
  std::vector<Passage> inputs;
  std::vector<Passage> outputs;
  size_t workspace = 0;  // where the inner kernel's begins
  Kernel inner;

  void run(const KernelArgs& args) const {
    std::vector<TensorView> in(args.inputs.begin(), args.inputs.end());
    std::vector<TensorView> out(args.outputs.begin(), args.outputs.end());
    for (size_t i = 0; i < in.size() && i < inputs.size(); ++i) {
      const Passage& passage = inputs[i];
      if (!passage.converts()) continue;
      in[i].dtype = passage.seen;
      if (passage.constant) {
        in[i].data = passage.constant.read().view().data;
        continue;
      }
      in[i].data = args.workspace + passage.offset;
      widen(passage.stored, args.inputs[i].data, in[i].data, in[i].count());
    }
    for (size_t i = 0; i < out.size() && i < outputs.size(); ++i) {
      if (!outputs[i].converts()) continue;
      out[i].dtype = outputs[i].seen;
      out[i].data = args.workspace + outputs[i].offset;
    }
    KernelArgs inner_args{in, out, args.workspace + workspace, args.allocate};
    inner.run(inner_args);
    for (size_t i = 0; i < out.size() && i < outputs.size(); ++i) {
      if (!outputs[i].converts()) continue;
      narrow(outputs[i].stored, out[i].data, args.outputs[i].data, out[i].count());
    }
  }
};

std::vector<Passage> plan_passages(std::vector<TypeInfo>& types, const OpDef& op,
                                   const std::vector<const Tensor*>* constants, size_t& offset) {
  std::vector<Passage> passages(types.size());
  for (size_t i = 0; i < types.size(); ++i) {
    Passage& passage = passages[i];
    passage.stored = types[i].dtype;
    passage.seen = widened(types[i].dtype, op);
    types[i].dtype = passage.seen;
    if (!passage.converts() || !types[i].is_concrete()) continue;
    if (constants != nullptr && i < constants->size() && (*constants)[i] != nullptr) {
      const Tensor& constant = *(*constants)[i];
      const TensorData stored = constant.read();
      passage.constant = Tensor::allocate(passage.seen, constant.shape());
      widen(constant.dtype(), stored.view().data, passage.constant.mutable_data(),
            passage.constant.count());
      continue;
    }
    passage.offset = offset;
    const auto count = static_cast<uint64_t>(types[i].shape.count());
    offset += aligned(static_cast<size_t>(byte_size(passage.seen, count)));
  }
  return passages;
}

// The kernel of the widened types between conversions through the workspace.
Kernel prepare_widened(const OpDef& op, const NodeContext& context) {
  auto kernel = std::make_shared<WidenedKernel>();
  NodeContext wide = context;
  size_t offset = 0;
  kernel->inputs = plan_passages(wide.input_types, op, &wide.constants, offset);
  kernel->outputs = plan_passages(wide.output_types, op, nullptr, offset);
  for (size_t i = 0; i < kernel->inputs.size(); ++i) {
    if (kernel->inputs[i].constant) wide.constants[i] = &kernel->inputs[i].constant;
  }
  kernel->workspace = offset;
  kernel->inner = op.prepare(wide);
  uint32_t held = kernel->inner.held_inputs;
  for (size_t i = 0; i < kernel->inputs.size() && i < 32; ++i) {
    Passage& passage = kernel->inputs[i];
    passage.held = kernel->inner.holds(i);
    if (passage.held) passage.constant = Tensor();
    if (passage.constant) held |= 1u << i;
  }
  const std::string name = kernel->inner.name;
  const size_t bytes = offset + kernel->inner.workspace_bytes;
  return {name, [kernel](const KernelArgs& args) { kernel->run(args); }, bytes, held};
}

bool needs_widening(const OpDef& op, const NodeContext& context) {
  const auto changes = [&](const TypeInfo& type) { return widened(type.dtype, op) != type.dtype; };
  return std::any_of(context.input_types.begin(), context.input_types.end(), changes) ||
         std::any_of(context.output_types.begin(), context.output_types.end(), changes);
}

// "conv_float32_ref": what reports show of a kernel that gave itself no name.
std::string reference_name(const NodeContext& context) {
  std::string name;
  for (const char c : context.node().op_type) {
    name += static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  }
  if (context.has_input(0)) name += fmt::format("_{}", info(context.dtype(0)).name);
  return name + "_ref";
}

}  // namespace

Kernel ops::prepare_at_run(const NodeContext& context) {
  const Node& node = context.node();
  const OpDef* op = find_op(node.domain, node.op_type, context.opset());
  if (op == nullptr) context.unsupported("has no row");
  auto late = std::make_shared<const LateNode>(
      LateNode{node, context.opset(), op, context.input_types, context.output_types});
  return {"", [late](const KernelArgs& args) { run_late(*late, args); }};
}

Kernel prepare_kernel(const OpDef& op, const NodeContext& given) {
  NodeContext context = given;
  infer_node(op, context);
  return in_context(
      [&] { return fmt::format("preparing {}", ops::label(context)); },
      [&] {
        for (int i = 0; i < static_cast<int>(context.output_types.size()); ++i) {
          if (context.has_output(i) &&
              context.output_types[static_cast<size_t>(i)].dtype == DType::undefined) {
            context.invalid(fmt::format("there is no output {}", i));
          }
        }
        bool contents_missing = false;  // that preparation at run time would know
        for (int i = 0; i < context.input_count(); ++i) {
          contents_missing |= context.has_input(i) && context.constant(i) == nullptr;
        }
        Kernel kernel;
        if (op.sizes_outputs) {
          if (needs_widening(op, context)) ops::unsupported_type(context, context.dtype(0));
          kernel = op.prepare(context);
        } else if (!outputs_concrete(context) && contents_missing) {
          kernel = ops::prepare_at_run(context);
        } else if (!outputs_concrete(context)) {
          context.unsupported("the shape of an output cannot be told");
        } else if (needs_widening(op, context)) {
          kernel = prepare_widened(op, context);
        } else {
          kernel = op.prepare(context);
        }
        if (kernel.name.empty()) kernel.name = reference_name(context);
        return kernel;
      });
}

}  // namespace compress
