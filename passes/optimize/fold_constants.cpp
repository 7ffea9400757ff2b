// Computes what depends on constants alone, and what depends only on those dimensions of a shape
// that are known (traced padding reads a channel count although the batch is symbolic).
//
// A fold must not inflate the model: its result may be larger than the constants that it frees by
// no more than the removed node took in the file. So Expand and ConstantOfShape of anything large
// stay, and so does Transpose of a table that another node reads.
#include <algorithm>
#include <set>

#include "compress/error.h"
#include "compress/ops/op.h"
#include "passes/edit.h"
#include "passes/optimize/optimize.h"
#include "passes/optimize/partial_values.h"

namespace compress {
namespace {

// A NodeProto with names seldom takes fewer bytes than this.
constexpr uint64_t kNodeBytes = 64;

// Q/DQ pairs are instructions to a runtime, not arithmetic; random nodes differ between runs.
bool is_never_folded(const Node& node) {
  static const std::set<std::string, std::less<>> kNames = {
      "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "RandomNormal",
      "RandomUniform",  "RandomNormalLike", "RandomUniformLike",     "Multinomial",
      "Bernoulli",      "Dropout"};
  return kNames.count(node.op_type) > 0 || !node.bodies.empty();
}

// The tensor that a Constant node holds, or none for forms that stay (sparse).
Tensor constant_of(const Node& node) {
  if (const Tensor* tensor = node.tensor_or_null("value")) return *tensor;
  if (node.attribute("value_float")) return Tensor::scalar(node.float_or("value_float", 0));
  if (node.attribute("value_int")) return Tensor::scalar(node.int_or("value_int", 0));
  if (node.attribute("value_floats")) {
    const std::vector<float> values = node.floats_or("value_floats", {});
    return Tensor::from<float>({static_cast<int64_t>(values.size())}, values);
  }
  if (node.attribute("value_ints")) {
    const std::vector<int64_t> values = node.ints_or("value_ints", {});
    return Tensor::from<int64_t>({static_cast<int64_t>(values.size())}, values);
  }
  return {};
}

// Bytes of constants that go when this node goes.
uint64_t freed_bytes(const Graph& graph, NodeId id) {
  uint64_t bytes = 0;
  std::set<ValueId> seen;
  for (const ValueId input : graph.node(id).inputs) {
    if (input == kNoValue || !seen.insert(input).second || graph.is_output(input)) continue;
    const auto uses = graph.uses(input);
    const bool ours =
        std::all_of(uses.begin(), uses.end(), [&](const Use& use) { return use.node == id; });
    if (ours) bytes += graph.value(input).constant.bytes();
  }
  return bytes;
}

// Runs one node whose inputs are constants; nothing where its result would be too large.
std::vector<Tensor> evaluate(const Model& model, const Node& node, uint64_t max_bytes) {
  const OpDef* op = find_op(node.domain, node.op_type,
                            node.domain.empty() ? model.opset() : model.opsets.at(node.domain));
  if (op == nullptr) return {};
  NodeContext context(node, node.domain.empty() ? model.opset() : model.opsets.at(node.domain));
  std::vector<TensorData> data;
  std::vector<TensorView> views;
  for (const ValueId input : node.inputs) {
    const Tensor* tensor = fixed_constant(model, input);
    context.constants.push_back(tensor);
    context.input_types.push_back(tensor ? TypeInfo{tensor->dtype(), true, tensor->shape()}
                                         : TypeInfo{});
    data.push_back(tensor ? tensor->read() : TensorData());
    views.push_back(data.back().view());
  }
  context.output_types.resize(node.outputs.size());
  op->infer(context);
  std::vector<Tensor> outputs(node.outputs.size());
  std::vector<TensorView> results(node.outputs.size());
  uint64_t total = 0;
  for (size_t i = 0; i < outputs.size(); ++i) {
    const TypeInfo& type = context.output_types[i];
    if (node.outputs[i] == kNoValue) continue;
    if (!type.is_concrete()) return {};
    total += byte_size(type.dtype, static_cast<uint64_t>(type.shape.count()));
    if (total > max_bytes) return {};
    outputs[i] = Tensor::allocate(type.dtype, type.shape);
    results[i] = outputs[i].mutable_view();
  }
  const Kernel kernel = prepare_kernel(*op, context);
  Tensor workspace = Tensor::allocate(
      DType::uint8, {static_cast<int64_t>(std::max<size_t>(1, kernel.workspace_bytes))});
  kernel.run({views, results, workspace.mutable_data(), {}});
  return outputs;
}

class Folder {
 public:
  Folder(Model& model, uint64_t max_bytes)
      : model_(model), graph_(model.graph), partial_(model), max_bytes_(max_bytes) {}

  PassResult run() {
    const std::vector<NodeId> order = graph_.order();
    for (const NodeId id : order) visit(id);
    result_.changed = folded_ + constants_ > 0;
    if (result_.changed) result_.details = {{"folded", folded_}, {"constant_nodes", constants_}};
    return std::move(result_);
  }

 private:
  void visit(NodeId id) {
    const Node& node = graph_.node(id);
    for (const ValueId out : node.outputs) {
      if (out != kNoValue && graph_.is_output(out)) return;
    }
    if (node.is("Constant")) {
      if (Tensor tensor = constant_of(node)) {
        graph_.set_constant(node.outputs[0], std::move(tensor));
        graph_.erase(id);
        ++constants_;
      }
      return;
    }
    if (is_never_folded(node) || node.outputs.empty()) return;
    const bool all_constant =
        !node.inputs.empty() &&
        std::all_of(node.inputs.begin(), node.inputs.end(), [&](ValueId input) {
          return input == kNoValue || fixed_constant(model_, input) != nullptr;
        });
    if (all_constant) {
      fold(id);
    } else if (const auto known = partial_.visit(node); known && known->is_known()) {
      replace(id, {known->tensor()});
    }
  }

  void fold(NodeId id) {
    const Node& node = graph_.node(id);
    for (const ValueId input : node.inputs) {
      if (input != kNoValue && graph_.value(input).constant.dtype() == DType::string) return;
    }
    const uint64_t allowed = std::min(max_bytes_, freed_bytes(graph_, id) + kNodeBytes);
    std::vector<Tensor> outputs;
    try {
      outputs = evaluate(model_, node, allowed);
    } catch (const Error& error) {
      result_.skipped.push_back({node.name, error.message()});
      return;
    }
    if (outputs.empty()) {
      result_.skipped.push_back({node.name, "the result would be larger than what it frees"});
      return;
    }
    replace(id, std::move(outputs));
  }

  void replace(NodeId id, std::vector<Tensor> outputs) {
    const std::vector<ValueId> values = graph_.node(id).outputs;
    for (size_t i = 0; i < values.size(); ++i) {
      if (values[i] != kNoValue) graph_.set_constant(values[i], std::move(outputs[i]));
    }
    const std::vector<ValueId> inputs = graph_.node(id).inputs;
    graph_.erase(id);
    // What only this node read goes at once, so that the next fold sees what it frees.
    for (const ValueId input : inputs) {
      if (input == kNoValue) continue;
      const Value& value = graph_.value(input);
      if (value.alive && value.is_constant() && !value.is_input && graph_.is_unused(input)) {
        graph_.erase_value(input);
      }
    }
    ++folded_;
  }

  Model& model_;
  Graph& graph_;
  PartialValues partial_;
  uint64_t max_bytes_;
  int64_t folded_ = 0;
  int64_t constants_ = 0;
  PassResult result_;
};

}  // namespace

PassResult fold_constants(Model& model, PassContext& context) {
  infer_types(model);
  const auto max_bytes = static_cast<uint64_t>(context.options.integer("max-fold-bytes"));
  return Folder(model, max_bytes).run();
}

}  // namespace compress
