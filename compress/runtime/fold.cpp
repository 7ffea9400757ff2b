#include "compress/runtime/fold.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>

#include "compress/error.h"
#include "compress/runtime/inline.h"

namespace compress {
namespace {

constexpr std::array<std::string_view, 7> kRandom = {
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
    "Multinomial",  "Bernoulli",        "Dropout"};

}  // namespace

bool is_pure(const Node& node) {
  if (!node.bodies.empty()) return false;
  // Dropout with a training mode draws; without one it is the identity, which folds later.
  if (node.op_type == "Dropout") return node.inputs.size() < 3;
  return std::find(kRandom.begin(), kRandom.end(), node.op_type) == kRandom.end();
}

NodeContext constant_context(const Node& node, int opset, std::span<const Tensor> inputs) {
  NodeContext context(node, opset);
  for (const Tensor& input : inputs) {
    context.input_types.push_back(input ? TypeInfo{input.dtype(), true, input.shape()}
                                        : TypeInfo{});
    context.constants.push_back(input ? &input : nullptr);
  }
  context.output_types.resize(node.outputs.size());
  return context;
}

std::vector<Tensor> evaluate(const OpDef& op, const Node& node, int opset,
                             std::span<const Tensor> inputs, uint64_t max_bytes) {
  if (node.is("Constant") && node.outputs.size() == 1) {
    const Tensor* held = node.tensor_or_null("value");
    if (held != nullptr && held->dtype() != DType::string) return {*held};
  }
  NodeContext context = constant_context(node, opset, inputs);
  op.infer(context);
  const Kernel kernel = prepare_kernel(op, context);
  constexpr uint64_t kMaxWorkspace = uint64_t{256} << 20;
  if (kernel.workspace_bytes > std::max(max_bytes, kMaxWorkspace)) {
    fail(ErrorCode::unsupported, "node '{}' ({}) needs {} bytes to be computed", node.name,
         node.op_type, kernel.workspace_bytes);
  }

  std::vector<TensorData> handles;
  std::vector<TensorView> input_views;
  for (const Tensor& input : inputs) {
    handles.push_back(input ? input.read() : TensorData());
    input_views.push_back(handles.back().view());
  }
  std::vector<Tensor> outputs(node.outputs.size());
  std::vector<TensorView> output_views(node.outputs.size());
  uint64_t bytes = 0;
  const auto allocate = [&](int i, DType dtype, const Shape& shape) {
    bytes += byte_size(dtype, static_cast<uint64_t>(shape.count()));
    if (bytes > max_bytes) {
      fail(ErrorCode::unsupported, "node '{}' ({}): its result is larger than {} bytes", node.name,
           node.op_type, max_bytes);
    }
    const auto slot = static_cast<size_t>(i);
    outputs[slot] = Tensor::allocate(dtype, shape);
    output_views[slot] = outputs[slot].mutable_view();
  };
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    const TypeInfo& type = context.output_types[i];
    if (node.outputs[i] == kNoValue || !type.is_concrete()) continue;
    allocate(static_cast<int>(i), type.dtype, type.shape);
  }
  const Tensor workspace = Tensor::allocate(
      DType::uint8, {static_cast<int64_t>(std::max<size_t>(kernel.workspace_bytes, 1))});
  KernelArgs args;
  args.inputs = input_views;
  args.outputs = output_views;
  args.workspace = const_cast<std::byte*>(workspace.read().bytes().data());
  args.allocate = allocate;
  kernel.run(args);
  return outputs;
}

std::vector<Tensor> evaluate(const Node& node, const Model& model, std::span<const Tensor> inputs,
                             uint64_t max_bytes) {
  return evaluate(op_of(node, model), node, runtime::node_opset(node, model), inputs, max_bytes);
}

}  // namespace compress
