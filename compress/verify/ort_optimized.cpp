// What ONNX Runtime did, out of the graph that it saved, in the place of what the rules say.
#include <map>
#include <string>

#include "compress/verify/ort_rule_table.h"

namespace compress {
namespace {

// The nodes of a graph that ONNX Runtime saved, found by what they kept of the original's.
class Optimized {
 public:
  explicit Optimized(const Graph& graph) : graph_(graph) {
    for (const NodeId id : graph.order()) {
      const Node& node = graph.node(id);
      if (node.name.empty()) continue;
      by_name_.emplace(node.name, id);
    }
  }

  // A fused node is called after its last part ("/L.0/MatMul/MatMulScaleFusion/"), or keeps the
  // name of the value that it makes.
  const Node* find(const Node& node, const Graph& original) const {
    if (const auto row = by_name_.find(node.name); row != by_name_.end()) {
      return &graph_.node(row->second);
    }
    for (const ValueId id : node.outputs) {
      if (id == kNoValue) continue;
      const ValueId same = graph_.find_value(original.value(id).name);
      if (same == kNoValue || graph_.value(same).producer == kNoNode) continue;
      return &graph_.node(graph_.value(same).producer);
    }
    const std::string prefix = node.name + "/";
    const auto row = by_name_.lower_bound(prefix);
    if (!node.name.empty() && row != by_name_.end() && row->first.rfind(prefix, 0) == 0 &&
        row->first.find("Fusion", prefix.size()) != std::string::npos) {
      return &graph_.node(row->second);
    }
    return nullptr;
  }

  bool reads_dequantized_weights(const Node& node) const {
    for (const ValueId id : node.inputs) {
      const NodeId producer = id == kNoValue ? kNoNode : graph_.value(id).producer;
      if (producer == kNoNode || !is_dequantize(graph_.node(producer))) continue;
      const Value& source = graph_.value(graph_.node(producer).inputs[0]);
      if (source.is_constant() && source.constant.dtype() != DType::int32) return true;
    }
    return false;
  }

 private:
  const Graph& graph_;
  std::map<std::string, NodeId> by_name_;
};

OrtRuns runs_of(const Node& node, const Optimized& graph, OrtRuns ruled) {
  if (is_quantize(node)) return OrtRuns::overhead;
  if (is_dequantize(node)) {
    return ruled == OrtRuns::dequantized ? OrtRuns::dequantized : OrtRuns::overhead;
  }
  if (const OrtRule* rule = ort_rule_of(node)) {
    if (rule->kind == OrtKind::integer || rule->kind == OrtKind::slow_integer) {
      return OrtRuns::integer;
    }
    if (rule->kind == OrtKind::packed) return OrtRuns::packed;
    if (rule->kind == OrtKind::dynamic_quantize) return OrtRuns::overhead;
  }
  if (graph.reads_dequantized_weights(node)) return OrtRuns::dequantized;
  return ruled == OrtRuns::moves ? OrtRuns::moves : OrtRuns::floating;
}

// A node that is gone was folded or is part of another.
OrtRuns gone(OrtRuns ruled) { return ruled == OrtRuns::folded ? OrtRuns::folded : OrtRuns::fused; }

// What a rule said of a node with arithmetic, and what became of it, as one of two: quantized or
// not.
bool agree(OrtRuns ruled, OrtRuns found) {
  const auto quantized = [](OrtRuns runs) {
    return runs == OrtRuns::integer || runs == OrtRuns::packed;
  };
  if (found == OrtRuns::fused || ruled == OrtRuns::fused) return true;
  return quantized(ruled) == quantized(found);
}

void correct(OrtNode& row, const Node& node, const Graph& original, const Optimized& optimized) {
  const Node* found = optimized.find(node, original);
  if (found == nullptr) {
    // Products are followed wherever they went; of what is known to be heavy a guess would mislead.
    if (row.macs == 0) {
      row.runs = gone(row.runs);
      row.kernel.clear();
      if (row.runs == OrtRuns::fused) row.reason.clear();
    }
    return;
  }
  const bool linear = is_quantize(node) || is_dequantize(node);
  if (linear && !is_quantize(*found) && !is_dequantize(*found)) {
    row.runs = OrtRuns::fused;
    row.kernel = ort_op_name(*found);
    return;
  }
  const OrtRuns runs = runs_of(*found, optimized, row.runs);
  const bool part = found->name != node.name && found->op_type != node.op_type;
  row.kernel = found->op_type;
  if (part && row.macs == 0) {
    row.runs = OrtRuns::fused;
    row.reason.clear();
    return;
  }
  if (row.runs == OrtRuns::folded || agree(row.runs, runs)) {
    if (row.runs != OrtRuns::integer && row.runs != OrtRuns::packed) row.runs = runs;
    return;
  }
  row.as_ruled = false;
  row.runs = runs;
  row.reason = runs == OrtRuns::integer || runs == OrtRuns::packed
                   ? ""
                   : "ONNX Runtime left it in float, against the rules known to this program";
}

}  // namespace

void apply_optimized(std::vector<OrtNode>& nodes, const Model& model, const Model& optimized) {
  const Optimized graph(optimized.graph);
  // Rows of the main graph come first; bodies are optimized with names of their own.
  size_t at = 0;
  for (const NodeId id : model.graph.order()) {
    if (at == nodes.size()) return;
    correct(nodes[at++], model.graph.node(id), model.graph, graph);
  }
}

}  // namespace compress
