// Inference over a whole graph, with folding of what depends on shapes and small constants.
#include <algorithm>
#include <map>

#include "compress/error.h"
#include "compress/graph/label.h"
#include "compress/ops/fold.h"
#include "compress/ops/op.h"
#include "compress/ops/partial.h"
#include "compress/ops/support.h"

namespace compress {
namespace {

// Shape arithmetic, index lists, scales: enough for all that decides shapes, little to compute.
constexpr uint64_t kMaxFoldBytes = 64 << 10;

// Operators that read the shape of their input alone.
bool reads_only_shape(const Node& node) {
  return node.domain.empty() && (node.op_type == "Shape" || node.op_type == "Size");
}

}  // namespace

struct TypeInference::State {
  Graph& graph;
  const Model& model;
  std::map<ValueId, Tensor> folded;
  std::map<ValueId, PartialInts> partial;  // shape arithmetic that is not wholly known

  // What is known of each input's content, kept in `storage` where it comes from a constant.
  std::vector<const PartialInts*> partial_inputs(const NodeContext& context,
                                                 std::vector<PartialInts>& storage) const {
    const std::vector<ValueId>& ids = context.node().inputs;
    storage.resize(ids.size());
    std::vector<const PartialInts*> inputs(ids.size(), nullptr);
    for (size_t i = 0; i < ids.size(); ++i) {
      const auto found = partial.find(ids[i]);
      if (found != partial.end()) {
        inputs[i] = &found->second;
      } else if (const Tensor* tensor = context.constant(static_cast<int>(i))) {
        if (auto list = partial_of(*tensor)) {
          storage[i] = std::move(*list);
          inputs[i] = &storage[i];
        }
      }
    }
    return inputs;
  }

  void visit_partial(NodeContext& context) {
    const Node& node = context.node();
    if (node.outputs.empty() || node.outputs[0] == kNoValue) return;
    std::vector<PartialInts> storage;
    const std::vector<const PartialInts*> inputs = partial_inputs(context, storage);
    if (!context.output_types[0].is_concrete()) refine_output(context, inputs);
    if (auto list = evaluate_partial(context, inputs)) {
      partial.emplace(node.outputs[0], std::move(*list));
    }
  }

  void set_unknown(const Node& node) {
    for (const ValueId id : node.outputs) {
      if (id != kNoValue) graph.set_type(id, TypeInfo{});
    }
  }

  void visit(NodeId id) {
    const Node& node = graph.node(id);
    const int opset = opset_of(node, model);
    const OpDef* op = find_op(node.domain, node.op_type, opset);
    if (op == nullptr || model.find_function(node) != nullptr) return set_unknown(node);
    NodeContext context = context_of(graph, node, opset);
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      const auto known = folded.find(node.inputs[i]);
      if (known != folded.end()) context.constants[i] = &known->second;
    }
    try {
      infer_node(*op, context);
    } catch (Error& error) {
      if (error.code() == ErrorCode::unsupported) return set_unknown(node);
      if (node.name.empty()) error.add_context(describe(graph, node));
      throw;
    }
    const bool foldable = is_foldable(context, kMaxFoldBytes);
    if (!foldable) visit_partial(context);
    for (size_t i = 0; i < node.outputs.size(); ++i) {
      if (node.outputs[i] != kNoValue) graph.set_type(node.outputs[i], context.output_types[i]);
    }
    if (!foldable) return;
    try {
      std::vector<Tensor> tensors = fold_node(*op, context);
      for (size_t i = 0; i < tensors.size(); ++i) {
        if (tensors[i]) folded.emplace(node.outputs[i], std::move(tensors[i]));
      }
    } catch (const Error& error) {
      if (error.code() != ErrorCode::unsupported) throw;
    }
  }
};

namespace {

// Each run of a model may draw anew, so what is drawn is no constant.
bool draws(const Node& node) {
  return node.op_type.compare(0, 6, "Random") == 0 || node.op_type == "Multinomial" ||
         node.op_type == "Bernoulli" || (node.op_type == "Dropout" && node.inputs.size() > 2);
}

}  // namespace

NodeContext context_of(const Graph& graph, const Node& node, int opset) {
  NodeContext context(node, opset);
  context.input_types.resize(node.inputs.size());
  context.constants.resize(node.inputs.size(), nullptr);
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    if (node.inputs[i] == kNoValue) continue;
    const Value& value = graph.value(node.inputs[i]);
    context.input_types[i] = value.type;
    if (!value.is_constant()) continue;
    context.input_types[i] = {value.constant.dtype(), true, value.constant.shape()};
    context.constants[i] = &value.constant;
  }
  return context;
}

void infer_node(const OpDef& op, NodeContext& context) {
  context.output_types.assign(context.node().outputs.size(), TypeInfo{});
  const std::string name = ops::label(context);
  try {
    op.infer(context);
  } catch (Error& error) {
    if (error.message().compare(0, name.size(), name) != 0) error.add_context("types of " + name);
    throw;
  }
}

bool is_foldable(const NodeContext& context, uint64_t max_bytes) {
  if (!context.node().bodies.empty() || draws(context.node())) return false;
  if (reads_only_shape(context.node())) return context.has_input(0) && context.in(0).is_concrete();
  for (int i = 0; i < context.input_count(); ++i) {
    if (!context.has_input(i)) continue;
    const Tensor* tensor = context.constant(i);
    if (tensor == nullptr || tensor->dtype() == DType::string) return false;
    if (tensor->bytes() > max_bytes) return false;
  }
  for (size_t i = 0; i < context.output_types.size(); ++i) {
    if (!context.has_output(static_cast<int>(i))) continue;
    const TypeInfo& type = context.output_types[i];
    if (!type.is_concrete() || info(type.dtype).bits == 0) return false;
    if (byte_size(type.dtype, static_cast<uint64_t>(type.shape.count())) > max_bytes) return false;
  }
  return true;
}

std::vector<Tensor> fold_node(const OpDef& op, const NodeContext& context) {
  std::vector<Tensor> inputs;
  for (int i = 0; i < context.input_count(); ++i) {
    inputs.push_back(context.constant(i) != nullptr ? *context.constant(i) : Tensor());
  }
  return run_node(op, context, inputs);
}

std::vector<Tensor> run_node(const OpDef& op, const NodeContext& given,
                             std::span<const Tensor> inputs) {
  NodeContext context = given;
  infer_node(op, context);
  const Kernel kernel = prepare_kernel(op, context);
  std::vector<TensorData> held;
  std::vector<TensorView> views;
  for (size_t i = 0; i < inputs.size(); ++i) {
    held.push_back(inputs[i] ? inputs[i].read() : TensorData());
    views.push_back(held.back().view());
    if (!inputs[i]) views.back().shape = context.input_types[i].shape;
  }
  std::vector<Tensor> outputs(context.node().outputs.size());
  std::vector<TensorView> targets(outputs.size());
  const auto allocate = [&](int i, DType dtype, const Shape& shape) {
    const auto slot = static_cast<size_t>(i);
    outputs[slot] = Tensor::allocate(dtype, shape);
    targets[slot] = outputs[slot].mutable_view();
  };
  for (size_t i = 0; i < outputs.size(); ++i) {
    const TypeInfo& type = context.output_types[i];
    if (context.has_output(static_cast<int>(i)) && type.is_concrete()) {
      allocate(static_cast<int>(i), type.dtype, type.shape);
    }
  }
  const Tensor workspace =
      Tensor::allocate(DType::uint8, Shape{static_cast<int64_t>(kernel.workspace_bytes)});
  KernelArgs args{views, targets, nullptr, allocate};
  args.workspace = const_cast<std::byte*>(static_cast<const std::byte*>(workspace.identity()));
  kernel.run(args);
  return outputs;
}

void infer_types(Model& model, const std::map<std::string, Shape>& input_shapes) {
  for (const ValueId id : model.graph.inputs()) {
    const Value& value = model.graph.value(id);
    const auto given = input_shapes.find(value.name);
    if (given == input_shapes.end()) continue;
    model.graph.set_type(id, {value.type.dtype, true, given->second});
  }
  TypeInference inference(model.graph, model);
  const std::vector<NodeId> order = model.graph.order();
  for (const NodeId id : order) inference.visit(id);
}

TypeInference::TypeInference(Graph& graph, const Model& model)
    : state_(std::make_unique<State>(State{graph, model, {}, {}})) {}
TypeInference::~TypeInference() = default;

void TypeInference::visit(NodeId id) { state_->visit(id); }

}  // namespace compress
