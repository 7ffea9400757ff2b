// Computes what depends on constants alone, and what depends only on those dimensions of a shape
// that are known (traced padding reads a channel count although the batch is symbolic).
//
// A fold must not inflate the model: its result may be larger than the constants that it frees by
// no more than the removed node took in the file. So Expand and ConstantOfShape of anything large
// stay, and so does Transpose of a table that another node reads.
#include <algorithm>
#include <set>

#include "compress/error.h"
#include "compress/graph/label.h"
#include "compress/ops/fold.h"
#include "passes/edit.h"
#include "passes/optimize/optimize.h"
#include "passes/optimize/partial_values.h"
#include "passes/types.h"
#include "passes/weights.h"

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
std::vector<Tensor> evaluate(const Model& model, const Node& node, uint64_t allowed,
                             uint64_t max_bytes) {
  const int opset = node.domain.empty() ? model.opset() : model.opsets.at(node.domain);
  const OpDef* op = find_op(node.domain, node.op_type, opset);
  if (op == nullptr) fail(ErrorCode::unsupported, "no operator {} is known", node.op_type);
  NodeContext context = context_of(model.graph, node, opset);
  infer_node(*op, context);
  uint64_t total = 0;
  for (const TypeInfo& type : context.output_types) {
    if (!type.is_concrete() || info(type.dtype).bits == 0) continue;
    total += byte_size(type.dtype, static_cast<uint64_t>(type.shape.count()));
  }
  if (total > allowed || !is_foldable(context, max_bytes)) return {};
  return fold_node(*op, context);
}

// Models of IR 3 list every initializer among the inputs, and some exporters go on doing so.
// Runtimes then take it for a default that a caller may override, and neither fold nor prepack it.
// Nobody feeds weights: they become plain constants.
int64_t unlist_initializers(Model& model) {
  Graph& graph = model.graph;
  std::vector<ValueId> listed;
  for (const ValueId id : graph.inputs()) {
    if (graph.value(id).is_constant()) listed.push_back(id);
  }
  for (const ValueId id : listed) {
    const std::string name = graph.value(id).name;
    const ValueId plain = graph.add_constant(name, graph.value(id).constant);
    graph.replace_uses(id, plain);
    graph.remove_input(id);
    if (graph.find_value(name) == kNoValue) graph.rename(plain, name);
  }
  if (!listed.empty()) model.ir_version = std::max<int64_t>(model.ir_version, 4);
  return static_cast<int64_t>(listed.size());
}

class Folder {
 public:
  Folder(Model& model, uint64_t max_bytes)
      : model_(model), graph_(model.graph), partial_(model), max_bytes_(max_bytes) {}

  PassResult run() {
    const int64_t unlisted = unlist_initializers(model_);
    const std::vector<NodeId> order = graph_.order();
    for (const NodeId id : order) visit(id);
    result_.changed = folded_ + constants_ + unlisted > 0;
    if (result_.changed) {
      result_.details = {
          {"folded", folded_}, {"constant_nodes", constants_}, {"unlisted", unlisted}};
    }
    return std::move(result_);
  }

 private:
  void visit(NodeId id) {
    const Node& node = graph_.node(id);
    if (node.is("Reshape") && node.int_or("allowzero", 0) == 0) infer_last_dimension(id);
    for (const ValueId out : node.outputs) {
      if (out != kNoValue && graph_.is_output(out)) return;
    }
    if (node.is("Constant")) {
      if (Tensor tensor = constant_node_value(node)) {
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
          return input == kNoValue || constant_of(model_, input) != nullptr;
        });
    if (all_constant) {
      fold(id);
    } else if (const auto known = partial_.visit(node); known && known->is_known()) {
      replace(id, {known->tensor()});
    }
  }

  // Reshape to [batch, 1280] with an unknown batch is Reshape to [-1, 1280]: the Shape chain goes.
  void infer_last_dimension(NodeId id) {
    const ValueId shape = operand(graph_.node(id), 1);
    if (shape == kNoValue || graph_.value(shape).is_constant()) return;
    auto dims = partial_.find(shape);
    if (!dims || dims->is_scalar || dims->dtype != DType::int64) return;
    std::optional<int64_t>* unknown = nullptr;
    for (auto& dim : dims->values) {
      if (dim && *dim > 0) continue;
      if (dim || unknown != nullptr) return;
      unknown = &dim;
    }
    if (unknown == nullptr) return;
    *unknown = -1;
    const std::string name = graph_.value(shape).name + "_inferred";
    graph_.set_input(id, 1, graph_.add_constant(name, dims->tensor()));
    ++folded_;
  }

  void fold(NodeId id) {
    const Node& node = graph_.node(id);
    for (const ValueId input : node.inputs) {
      if (input != kNoValue && graph_.value(input).constant.dtype() == DType::string) return;
    }
    const uint64_t allowed = freed_bytes(graph_, id) + kNodeBytes;
    std::vector<Tensor> outputs;
    try {
      outputs = evaluate(model_, node, allowed, max_bytes_);
    } catch (const Error& error) {
      result_.skipped.push_back({label(graph_, node), error.message()});
      return;
    }
    if (outputs.empty()) {
      result_.skipped.push_back(
          {label(graph_, node), "the result would be larger than what it frees"});
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
  infer_known_types(model);
  // "quantize" runs this pass too and has no such option.
  const int64_t max_bytes =
      context.options.has("max-fold-bytes") ? context.options.integer("max-fold-bytes") : 64 << 20;
  return Folder(model, static_cast<uint64_t>(max_bytes)).run();
}

}  // namespace compress
