// A Pad with zeros on spatial axes moves into the pads of the Conv that reads it. The Pad itself
// dies where all its readers took it.
#include <algorithm>

#include "compress/graph/label.h"
#include "passes/edit.h"
#include "passes/optimize/optimize.h"

namespace compress {
namespace {

// Pads of all axes [begin..., end...] of a constant zero Pad, or nothing.
std::vector<int64_t> zero_pads(const Model& model, const Node& node) {
  if (node.string_or("mode", "constant") != "constant" || operand(node, 0) == kNoValue) return {};
  if (model.opset() < 11) {
    return node.float_or("value", 0) == 0 ? node.ints_or("pads", {}) : std::vector<int64_t>();
  }
  const Tensor* pads = constant_of(model, operand(node, 1));
  if (pads == nullptr || operand(node, 3) != kNoValue) return {};
  if (operand(node, 2) != kNoValue) {
    const Tensor* value = constant_of(model, operand(node, 2));
    if (value == nullptr || value->count() != 1 || !is_float(value->dtype())) return {};
    if (value->to_double() != 0) return {};
  }
  return pads->to_ints();
}

// True where the Conv took the pads over.
bool widen_conv(Graph& graph, NodeId id, ValueId source, const std::vector<int64_t>& pads) {
  Node& conv = graph.edit(id);
  const std::string mode = conv.string_or("auto_pad", "NOTSET");
  if (mode != "NOTSET" && mode != "VALID") return false;
  const size_t rank = pads.size() / 2;
  const size_t spatial = rank - 2;
  for (const size_t i : {size_t{0}, size_t{1}, rank, rank + 1}) {
    if (pads[i] != 0) return false;
  }
  if (std::any_of(pads.begin(), pads.end(), [](int64_t pad) { return pad < 0; })) return false;
  std::vector<int64_t> total(2 * spatial, 0);
  if (mode == "NOTSET") total = conv.ints_or("pads", total);
  if (total.size() != 2 * spatial) return false;
  for (size_t i = 0; i < spatial; ++i) {
    total[i] += pads[2 + i];
    total[spatial + i] += pads[rank + 2 + i];
  }
  conv.remove_attribute("auto_pad");
  conv.set_attribute("pads", total);
  graph.set_input(id, 0, source);
  return true;
}

}  // namespace

PassResult fuse_pad(Model& model, PassContext&) {
  Graph& graph = model.graph;
  PassResult result;
  int64_t fused = 0;
  const std::vector<NodeId> order = graph.order();
  for (const NodeId id : order) {
    if (!graph.node(id).is("Pad")) continue;
    const std::vector<int64_t> pads = zero_pads(model, graph.node(id));
    const ValueId source = operand(graph.node(id), 0);
    if (pads.size() < 6 || pads.size() % 2 != 0) continue;
    const auto uses = graph.uses(graph.node(id).outputs[0]);
    const std::vector<Use> readers(uses.begin(), uses.end());
    for (const Use& use : readers) {
      if (!graph.node(use.node).is("Conv") || use.slot != 0) continue;
      if (widen_conv(graph, use.node, source, pads)) {
        ++fused;
      } else {
        result.skipped.push_back({label(graph, graph.node(id)), "the Conv cannot take these pads"});
      }
    }
  }
  result.changed = fused > 0;
  if (result.changed) result.details["fused"] = fused;
  return result;
}

}  // namespace compress
