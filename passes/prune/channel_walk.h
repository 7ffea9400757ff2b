// The state of the walk that finds channels, as the rules of operators see it.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "passes/edit.h"
#include "passes/prune/channels.h"

namespace compress {

class ChannelWalk {
 public:
  ChannelWalk(const Model& model, const Selection& selection, ChannelGraph& out)
      : model(model), graph(model.graph), selection(selection), out(out) {}

  void run();

  // --- For the rules -----------------------------------------------------------------------------
  // The channels of a value, or nullptr where nothing of it can go.
  const ChannelAxis* channels(ValueId id) const;
  const ChannelAxis* channels(const Node& node, size_t slot) const {
    return channels(operand(node, slot));
  }
  // nullptr where the operand is no constant.
  const Tensor* constant(const Node& node, size_t slot) const;
  std::optional<std::vector<int64_t>> ints(const Node& node, std::string_view attribute,
                                           size_t slot) const;
  // The shape as far as it is known; nullopt without a rank.
  std::optional<Shape> shape(ValueId id) const;
  std::optional<Shape> shape(const Node& node, size_t slot) const {
    return shape(operand(node, slot));
  }
  // All that the node reads stays, because of the node.
  void lock_inputs(NodeId id, const std::string& why);
  void lock(const std::vector<ChannelUnit>& units, const std::string& reason);
  void tie(const std::vector<ChannelUnit>& a, const std::vector<ChannelUnit>& b);
  // New units that the node makes, ready to be locked where it was refused.
  std::vector<ChannelUnit> make(NodeId id, int64_t count);
  // The node reads the constant in `slot` with these units along `axis`.
  void bind(NodeId id, size_t slot, int axis, const std::vector<ChannelUnit>& units,
            ChannelRole role);
  void set(ValueId id, int axis, std::vector<ChannelUnit> units);
  void edit(std::function<void(Graph&, const KeptChannels&)> change) {
    out.edits.push_back(std::move(change));
  }
  // A layer whose outputs stay, whatever reads them.
  void skip(NodeId id, std::string reason);

  const Model& model;
  const Graph& graph;
  const Selection& selection;
  ChannelGraph& out;

 private:
  void visit(NodeId id);
  void check_constants();

  // A constant's axis: where it is in out.constants, and who reads it so.
  struct Bound {
    size_t row;
    std::set<std::pair<NodeId, int32_t>> readers;
  };
  std::map<std::pair<ValueId, int>, Bound> bound_;
};

// How an operator of ONNX's own domain passes channels on: binds constants, ties units, sets
// outputs.
struct ChannelRule {
  std::string_view op;
  void (*visit)(ChannelWalk& walk, NodeId id);
  // Channels may come by any input; of others, by the first, and those elsewhere stay.
  bool by_any_input = false;
};
// nullptr where there is none.
const ChannelRule* find_layer_rule(std::string_view op);    // channel_layers.cpp: makes channels
const ChannelRule* find_channel_rule(std::string_view op);  // channel_rules.cpp: passes them on

// Reshape and Flatten (channel_reshape.cpp).
void reshape_channels(ChannelWalk& walk, NodeId id);

}  // namespace compress
