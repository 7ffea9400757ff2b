#include "compress/train/recompute.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace compress::train {
namespace {

class Recompute {
 public:
  Recompute(Graph& graph, NodeId first_backward)
      : graph_(graph),
        first_backward_(first_backward),
        segment_(static_cast<size_t>(first_backward), -1),
        copy_(static_cast<size_t>(graph.value_slots()), kNoValue) {}

  int64_t run() {
    for (const NodeId id : graph_.order()) {
      if (id < first_backward_) forward_.push_back(id);
    }
    if (forward_.size() < 4) return 0;
    const auto size = static_cast<size_t>(std::sqrt(static_cast<double>(forward_.size()))) + 1;
    for (size_t i = 0; i < forward_.size(); ++i) {
      segment_[static_cast<size_t>(forward_[i])] = static_cast<int>(i / size);
    }
    // Backward starts with the last segment: what that computed is still there.
    const int last = segment_[static_cast<size_t>(forward_.back())];
    for (const NodeId id : std::vector<NodeId>(forward_)) {
      if (segment_[static_cast<size_t>(id)] < last) redirect(id);
    }
    return copies_;
  }

 private:
  // Backward's readers of what the node makes read a copy.
  void redirect(NodeId id) {
    for (const ValueId out : std::vector<ValueId>(graph_.node(id).outputs)) {
      if (out == kNoValue || is_kept(out)) continue;
      const auto uses = graph_.uses(out);
      const std::vector<Use> readers(uses.begin(), uses.end());
      for (const Use& use : readers) {
        if (use.node < first_backward_ || is_copy(use.node)) continue;
        graph_.set_input(use.node, static_cast<size_t>(use.slot), copy_of(out));
      }
    }
  }

  bool is_copy(NodeId id) const { return std::binary_search(made_.begin(), made_.end(), id); }

  // Inputs, constants, results, and what later segments read.
  bool is_kept(ValueId id) const {
    const NodeId producer = graph_.value(id).producer;
    if (producer == kNoNode || producer >= first_backward_ || graph_.is_output(id)) return true;
    if (!graph_.node(producer).bodies.empty()) return true;
    const int segment = segment_[static_cast<size_t>(producer)];
    const auto uses = graph_.uses(id);
    return std::any_of(uses.begin(), uses.end(), [&](const Use& use) {
      return use.node < first_backward_ && segment_[static_cast<size_t>(use.node)] != segment;
    });
  }

  // Segments are short, so this does not go deep.
  ValueId copy_of(ValueId id) {
    if (id == kNoValue || is_kept(id)) return id;
    ValueId& known = copy_[static_cast<size_t>(id)];
    if (known != kNoValue) return known;
    const Node node = graph_.node(graph_.value(id).producer);
    NodeSpec spec{node.op_type, {}, {}, node.attributes, node.name + "/again", node.domain};
    for (const ValueId input : node.inputs) spec.inputs.push_back(copy_of(input));
    for (const ValueId out : node.outputs) {
      spec.outputs.push_back(out == kNoValue ? "" : graph_.value(out).name + "/again");
    }
    const NodeId made = graph_.add(std::move(spec));
    made_.push_back(made);
    ++copies_;
    for (size_t i = 0; i < node.outputs.size(); ++i) {
      if (node.outputs[i] == kNoValue) continue;
      const ValueId copy = graph_.node(made).outputs[i];
      graph_.set_type(copy, graph_.value(node.outputs[i]).type);
      copy_[static_cast<size_t>(node.outputs[i])] = copy;
    }
    return copy_[static_cast<size_t>(id)];
  }

  Graph& graph_;
  NodeId first_backward_;
  std::vector<NodeId> forward_;
  std::vector<int> segment_;   // by node; -1: not run
  std::vector<ValueId> copy_;  // by value
  std::vector<NodeId> made_;   // rising
  int64_t copies_ = 0;
};

}  // namespace

int64_t recompute_activations(Graph& graph, NodeId first_backward) {
  return Recompute(graph, first_backward).run();
}

}  // namespace compress::train
