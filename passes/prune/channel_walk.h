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

// A number of the shape that a Reshape or Expand takes.
struct ShapeNumber {
  NodeId node = kNoNode;
  int axis = 0;
};

class ChannelWalk {
 public:
  ChannelWalk(const Model& model, const Selection& selection, bool heads, ChannelGraph& out)
      : model(model), graph(model.graph), selection(selection), heads(heads), out(out) {}

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
  // Of these, each goes through a product of activations of its own: heads of attention.
  void mark_heads(const std::vector<ChannelUnit>& units);
  // Dimension `axis` of what a Reshape or Expand makes becomes the number of units that are kept;
  // false where that cannot be. `copied`: the axis of the input that a 0 there would mean.
  bool set_dimension(NodeId id, int axis, int64_t copied, const std::vector<ChannelUnit>& units);
  // The model computes with the number of these; `ends` is where it arrives.
  void ask(std::vector<ChannelUnit> units, std::vector<ShapeNumber> ends) {
    asked_.emplace_back(std::move(units), std::move(ends));
  }

  const Model& model;
  const Graph& graph;
  const Selection& selection;
  const bool heads;  // those alone go
  ChannelGraph& out;

 private:
  void visit(NodeId id);
  void check_constants();
  void check_asked();
  void keep_all_but_heads();

  // A constant's axis: where it is in out.constants, and who reads it so.
  struct Bound {
    size_t row;
    std::set<std::pair<NodeId, int32_t>> readers;
  };
  std::map<std::pair<ValueId, int>, Bound> bound_;
  std::vector<ChannelUnit> heads_;
  // Of each Reshape and Expand: the axis of channels, and which.
  std::map<NodeId, std::pair<int, std::vector<ChannelUnit>>> shape_numbers_;
  std::vector<std::pair<std::vector<ChannelUnit>, std::vector<ShapeNumber>>> asked_;
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
// Where their number counts (channel_shapes.cpp).
void shape_of_channels(ChannelWalk& walk, NodeId id);
void expand_channels(ChannelWalk& walk, NodeId id);

}  // namespace compress
