// Which channels of a model belong together, found by a walk over the graph.
//
// Every position along the channel axis of a value or a constant holds a *unit*. Operators tie
// units: an Add those of its operands, a depthwise convolution those it reads to those it makes, a
// Reshape that shuffles those it mixes. What is tied goes together or stays; since every tensor
// says position by position which units it holds, concatenated, flattened, split and shuffled
// channels need no cases of their own afterwards.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "compress/graph/model.h"
#include "passes/pass.h"
#include "passes/select.h"

namespace compress {

using ChannelUnit = int32_t;

// Units by union-find; of a tied set, one is the representative.
class ChannelUnits {
 public:
  ChannelUnit add();
  ChannelUnit find(ChannelUnit unit) const;
  void tie(ChannelUnit a, ChannelUnit b);
  // The set stays whole; the first reason counts.
  void lock(ChannelUnit unit, const std::string& reason);
  // "" where it may go.
  const std::string& reason(ChannelUnit unit) const;
  size_t size() const { return parents_.size(); }

 private:
  mutable std::vector<ChannelUnit> parents_;
  std::map<ChannelUnit, std::string> reasons_;  // by representative
};

// What is kept, once that is decided.
class KeptChannels {
 public:
  KeptChannels(const ChannelUnits& units, std::vector<bool> removed)
      : units_(units), removed_(std::move(removed)) {}
  bool keeps(ChannelUnit unit) const { return !removed_[static_cast<size_t>(units_.find(unit))]; }
  // Of positions [from, to).
  int64_t count(const std::vector<ChannelUnit>& positions, size_t from, size_t to) const;
  int64_t count(const std::vector<ChannelUnit>& positions) const {
    return count(positions, 0, positions.size());
  }

 private:
  const ChannelUnits& units_;
  std::vector<bool> removed_;  // by representative
};

// The units along one axis of a tensor or value.
struct ChannelAxis {
  int axis = 0;
  std::vector<ChannelUnit> units;  // one a position
};

enum class ChannelRole {
  makes,   // weights: outputs
  reads,   // weights: inputs
  follows  // biases, norms and other constants along channels
};

struct ChannelConstant {
  ValueId value = kNoValue;
  ChannelRole role = ChannelRole::follows;
  ChannelAxis axis;
  NodeId node = kNoNode;  // the first that reads it so
};

// A layer that makes channels anew.
struct ChannelOrigin {
  NodeId node = kNoNode;
  std::vector<ChannelUnit> units;
};

struct ChannelGraph {
  ChannelUnits units;
  std::vector<ChannelConstant> constants;
  std::map<ValueId, ChannelAxis> values;
  std::vector<ChannelOrigin> origins;
  // What else of the nodes says how many channels there are: groups, sizes, shapes.
  std::vector<std::function<void(Graph&, const KeptChannels&)>> edits;
  std::vector<Skipped> skipped;  // layers that cannot lose channels, whatever reads them
};

// REQUIRES inferred types. Layers that the selection refuses stay whole. With `heads` the units
// that go are heads of attention: positions along a batch axis of products of activations, with
// their queries, keys and values. Without, such products hold what they read.
ChannelGraph find_channels(const Model& model, const Selection& selection, bool heads = false);

// Cuts the removed units out of every constant and node. Types of values that lost channels are
// adjusted.
void cut_channels(Model& model, const ChannelGraph& channels, const KeptChannels& kept);

}  // namespace compress
