#include "passes/prune/channel_choice.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "passes/edit.h"
#include "passes/prune/candidates.h"

namespace compress {

std::vector<ChannelGroup> channel_groups(const ChannelGraph& channels) {
  const ChannelUnits& units = channels.units;
  const size_t layers = channels.origins.size();
  std::vector<size_t> parents(layers);
  std::iota(parents.begin(), parents.end(), size_t{0});
  const auto find = [&](size_t layer) {
    while (parents[layer] != layer) layer = parents[layer];
    return layer;
  };
  std::vector<size_t> owners(units.size(), layers);
  for (size_t layer = 0; layer < layers; ++layer) {
    for (const ChannelUnit unit : channels.origins[layer].units) {
      size_t& owner = owners[static_cast<size_t>(units.find(unit))];
      if (owner == layers) owner = layer;
      const size_t a = find(owner), b = find(layer);
      parents[std::max(a, b)] = std::min(a, b);
    }
  }
  std::vector<ChannelGroup> groups(layers);
  std::vector<bool> seen(units.size());
  for (size_t layer = 0; layer < layers; ++layer) {
    ChannelGroup& group = groups[find(layer)];
    group.layers.push_back(channels.origins[layer].node);
    for (const ChannelUnit unit : channels.origins[layer].units) {
      const ChannelUnit root = units.find(unit);
      if (seen[static_cast<size_t>(root)]) continue;
      seen[static_cast<size_t>(root)] = true;
      const std::string& reason = units.reason(root);
      if (reason.empty()) {
        group.units.push_back(root);
      } else {
        if (group.locked++ == 0) group.reason = reason;
      }
    }
  }
  std::erase_if(groups, [](const ChannelGroup& group) { return group.layers.empty(); });
  return groups;
}

ChannelScores magnitude_scores(const Model& model, const ChannelGraph& channels) {
  ChannelScores scores(channels.units.size(), 0);
  for (const ChannelConstant& row : channels.constants) {
    // Of what follows, a BatchNorm's scale counts: without it the filters' sizes mean nothing.
    const Node& node = model.graph.node(row.node);
    const bool is_scale = node.is("BatchNormalization") && operand(node, 1) == row.value;
    if (row.role == ChannelRole::follows && !is_scale) continue;
    const Tensor& tensor = model.graph.value(row.value).constant;
    const Shape& shape = tensor.shape();
    const int64_t inner = shape.count(row.axis.axis + 1, shape.rank());
    const std::vector<double> values = tensor.to_doubles();
    std::map<ChannelUnit, double> sizes;
    double sum = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      const size_t position = i / static_cast<size_t>(inner) % row.axis.units.size();
      const double square = values[i] * values[i];
      sizes[channels.units.find(row.axis.units[position])] += square;
      sum += square;
    }
    if (!(sum > 0) || !std::isfinite(sum)) continue;
    const double mean = sum / static_cast<double>(sizes.size());
    for (const auto& [unit, size] : sizes) scores[static_cast<size_t>(unit)] += size / mean;
  }
  return scores;
}

namespace {

// What a group keeps at least if `removable` of its `total` units could go.
int64_t least_kept(int64_t total, int64_t removable, int64_t multiple) {
  const int64_t locked = total - removable;
  const int64_t least = std::max<int64_t>(1, locked);
  return std::min(total, (least + multiple - 1) / multiple * multiple);
}

int64_t rounded_up(int64_t kept, int64_t total, int64_t multiple) {
  return std::min(total, (kept + multiple - 1) / multiple * multiple);
}

std::vector<ChannelUnit> ranked(const ChannelGroup& group, const ChannelScores& scores) {
  std::vector<ChannelUnit> order = group.units;
  std::stable_sort(order.begin(), order.end(), [&](ChannelUnit a, ChannelUnit b) {
    return scores[static_cast<size_t>(a)] < scores[static_cast<size_t>(b)];
  });
  return order;
}

}  // namespace

std::vector<bool> choose_channels(const ChannelGraph& channels,
                                  const std::vector<ChannelGroup>& groups,
                                  const ChannelScores& scores, const ChannelBudget& budget) {
  std::vector<bool> goes(channels.units.size());
  std::vector<std::vector<ChannelUnit>> orders;
  std::vector<int64_t> wanted;  // of each group
  int64_t all = 0;
  for (const ChannelGroup& group : groups) {
    orders.push_back(ranked(group, scores));
    const int64_t total = static_cast<int64_t>(group.units.size()) + group.locked;
    const double sparsity =
        budget.of_groups.empty() ? budget.sparsity : budget.of_groups[wanted.size()];
    const bool decided = budget.together || group.units.empty();
    wanted.push_back(decided ? 0 : wanted_zeros(sparsity, total));
    if (!group.units.empty()) all += total;
  }
  if (budget.together) {
    // The smallest of all, as far as their groups let them go.
    std::vector<std::pair<double, size_t>> rows;
    for (size_t g = 0; g < groups.size(); ++g) {
      const int64_t total = static_cast<int64_t>(groups[g].units.size()) + groups[g].locked;
      const int64_t most =
          total - least_kept(total, static_cast<int64_t>(groups[g].units.size()), budget.multiple);
      for (int64_t i = 0; i < most; ++i) {
        rows.emplace_back(scores[static_cast<size_t>(orders[g][static_cast<size_t>(i)])], g);
      }
    }
    std::stable_sort(rows.begin(), rows.end());
    const auto count =
        std::min<size_t>(rows.size(), static_cast<size_t>(wanted_zeros(budget.sparsity, all)));
    for (size_t i = 0; i < count; ++i) ++wanted[rows[i].second];
  }
  for (size_t g = 0; g < groups.size(); ++g) {
    const auto removable = static_cast<int64_t>(groups[g].units.size());
    const int64_t total = removable + groups[g].locked;
    const int64_t kept = std::max(rounded_up(total - wanted[g], total, budget.multiple),
                                  least_kept(total, removable, budget.multiple));
    for (int64_t i = 0; i < total - kept; ++i) {
      goes[static_cast<size_t>(orders[g][static_cast<size_t>(i)])] = true;
    }
  }
  return goes;
}

}  // namespace compress
