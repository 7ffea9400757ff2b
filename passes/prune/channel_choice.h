// Which channels go: groups that go together, how much each unit counts, and how many go of each.
#pragma once

#include <vector>

#include "passes/prune/channels.h"

namespace compress {

// Layers whose channels are tied, as a whole: a residual stream is one group.
struct ChannelGroup {
  std::vector<NodeId> layers;      // that make them, in execution order
  std::vector<ChannelUnit> units;  // representatives that may go, in order
  int64_t locked = 0;              // others
  std::string reason;              // why
};

std::vector<ChannelGroup> channel_groups(const ChannelGraph& channels);

// By representative; units that nothing counts have 0.
using ChannelScores = std::vector<double>;

// The squares of all weights that a unit takes part in: each tensor's share over its units' mean,
// so that layers of large weights do not decide alone.
ChannelScores magnitude_scores(const Model& model, const ChannelGraph& channels);

struct ChannelBudget {
  double sparsity = 0.5;
  bool together = false;               // over the whole model; else in each group
  int64_t multiple = 1;                // of what a group keeps, where it has as many
  std::vector<double> of_groups = {};  // sparsities of their own, instead, one a group
};

// True by representative: it goes. Of equal scores the first go; every group keeps one.
std::vector<bool> choose_channels(const ChannelGraph& channels,
                                  const std::vector<ChannelGroup>& groups,
                                  const ChannelScores& scores, const ChannelBudget& budget);

}  // namespace compress
