// Structured pruning: whole channels of Conv, Gemm and MatMul, or heads of attention, leave the
// model, and with them whatever depends on them, so that tensors, file and work shrink. What is
// found by passes/prune/channels.h; which go, by passes/prune/channel_choice.h.
#include <algorithm>

#include "compress/error.h"
#include "compress/graph/label.h"
#include "compress/ops/op.h"
#include "passes/optimize/optimize.h"
#include "passes/prune/channel_calibration.h"
#include "passes/prune/granularity.h"
#include "passes/prune/prune.h"
#include "passes/prune/sparsities.h"
#include "passes/prune/taylor.h"
#include "passes/types.h"
#include "passes/weights.h"

namespace compress {
namespace {

int64_t parameters_of(const Graph& graph) {
  int64_t count = 0;
  for (ValueId id = 0; id < graph.value_slots(); ++id) {
    const Value& value = graph.value(id);
    if (value.alive && value.is_constant() && is_float(value.constant.dtype())) {
      count += value.constant.count();
    }
  }
  return count;
}

// Types once more, from what the weights are now: the walk's account against inference.
void check_types(Model& model, const ChannelGraph& channels, const KeptChannels& kept) {
  infer_known_types(model);
  pin_types(model);
  for (const auto& [id, axis] : channels.values) {
    const Value& value = model.graph.value(id);
    if (!value.type.has_shape) continue;
    const int64_t dim = value.type.shape[axis.axis];
    if (dim >= 0 && dim != kept.count(axis.units)) {
      fail(ErrorCode::internal, "'{}' has {} channels where {} stay", value.name, dim,
           kept.count(axis.units));
    }
  }
}

// How many there are of what goes: channels of the group's first layer, or heads.
struct GroupCounts {
  int64_t all = 0;
  int64_t removed = 0;
};

GroupCounts count_channels(const ChannelGraph& channels, const ChannelGroup& group,
                           const KeptChannels& kept) {
  for (const ChannelOrigin& origin : channels.origins) {
    if (origin.node != group.layers[0]) continue;
    const auto all = static_cast<int64_t>(origin.units.size());
    return {all, all - kept.count(origin.units)};
  }
  return {};
}

GroupCounts count_heads(const ChannelGroup& group, const KeptChannels& kept) {
  const auto free = static_cast<int64_t>(group.units.size());
  return {free + group.locked, free - kept.count(group.units)};
}

// Of each group: what an override says of the first of its layers that one names.
std::vector<double> sparsities_of(const Graph& graph, const std::vector<ChannelGroup>& groups,
                                  const Sparsities& sparsities) {
  std::vector<double> out;
  for (const ChannelGroup& group : groups) {
    std::optional<double> own;
    for (const NodeId id : group.layers) {
      if (!own) own = sparsities.own(graph, graph.node(id));
    }
    out.push_back(own.value_or(sparsities.all()));
  }
  return out;
}

Json group_json(const Graph& graph, const ChannelGroup& group, const char* what,
                const GroupCounts& counts) {
  Json tied = Json::array();
  for (size_t i = 1; i < group.layers.size(); ++i) {
    tied.push_back(label(graph, graph.node(group.layers[i])));
  }
  return {{"node", label(graph, graph.node(group.layers[0]))},
          {"tied", std::move(tied)},
          {what, counts.all},
          {"removed", counts.removed}};
}

}  // namespace

void prepare_channels_walk(Model& model, PassContext& context) {
  adopt_constant_nodes(model.graph);
  fold_constants(model, context);
  eliminate_identity(model, context);
  eliminate_dead(model, context);
  infer_known_types(model);
  pin_types(model);
}

PassResult remove_channels(Model& model, PassContext& context) {
  PassResult result;
  const Granularity granularity = read_granularity(context.options);
  if (!removes(granularity.unit)) return result;
  const bool heads = granularity.unit == PruneUnit::head;
  const char* what = heads ? "heads" : "channels";
  const std::string method = context.options.text("method");
  if (method != "magnitude" && context.samples == nullptr) {
    fail(ErrorCode::usage, "--method {} measures what layers read, on samples; give --data",
         method);
  }
  const Model before = model;
  prepare_channels_walk(model, context);
  const ChannelGraph channels = find_channels(model, Selection(context.options), heads);
  const std::vector<ChannelGroup> groups = channel_groups(channels);
  const Sparsities sparsities(context.options, granularity);
  const ChannelBudget budget{sparsities.all(), context.options.text("scope") == "global",
                             context.options.integer("channel-multiple"),
                             sparsities_of(model.graph, groups, sparsities)};
  const bool measures = method != "magnitude";
  const CalibrationSamples samples = measures ? (*context.samples)() : CalibrationSamples();
  const ChannelScores scores =
      method == "taylor" ? taylor_scores(model, channels, samples, context.seed)
      : measures         ? calibrated_scores(model, channels, samples, method == "sparsegpt")
                         : magnitude_scores(model, channels);
  const KeptChannels kept(channels.units, choose_channels(channels, groups, scores, budget));

  Json layers = Json::array();
  int64_t all = 0, removed = 0;
  result.skipped = channels.skipped;
  for (const ChannelGroup& group : groups) {
    const GroupCounts counts =
        heads ? count_heads(group, kept) : count_channels(channels, group, kept);
    std::string reason = group.units.empty() ? group.reason : "";
    // Layers without heads are no part of the figures.
    if (!heads || reason.empty()) all += counts.all;
    removed += counts.removed;
    if (reason.empty() && counts.removed == 0 && budget.sparsity > 0) {
      reason = group.units.size() + static_cast<size_t>(group.locked) == 1
                   ? fmt::format("its {} all hang together", what)
                   : fmt::format("none of its {} goes at this sparsity", what);
    }
    if (!reason.empty()) {
      for (const NodeId id : group.layers) {
        result.skipped.push_back({label(model.graph, model.graph.node(id)), reason});
      }
    } else {
      layers.push_back(group_json(model.graph, group, what, counts));
    }
  }
  const int64_t parameters = parameters_of(model.graph);
  int64_t rebuilt = 0;
  if (removed == 0) {
    model = before;
  } else {
    if (method == "sparsegpt") {
      rebuilt = make_up_for(model, channels, kept, samples);
    }
    cut_channels(model, channels, kept);
    check_types(model, channels, kept);
  }
  result.changed = removed > 0;
  result.details = {{what, all},
                    {"removed", removed},
                    {"parameters_before", parameters},
                    {"parameters", parameters_of(model.graph)},
                    {"layers", std::move(layers)}};
  if (method == "sparsegpt") result.details["rebuilt_layers"] = rebuilt;
  return result;
}

}  // namespace compress
