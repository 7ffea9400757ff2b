// Structured pruning: whole channels of Conv, Gemm and MatMul leave the model, and with them
// whatever depends on them, so that tensors, file and work shrink. What is found by
// passes/prune/channels.h; which go, by passes/prune/channel_choice.h.
#include <algorithm>

#include "compress/error.h"
#include "compress/graph/label.h"
#include "compress/ops/op.h"
#include "passes/optimize/optimize.h"
#include "passes/prune/channel_calibration.h"
#include "passes/prune/granularity.h"
#include "passes/prune/prune.h"
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

Json group_json(const Model& model, const ChannelGraph& channels, const ChannelGroup& group,
                const KeptChannels& kept) {
  const Graph& graph = model.graph;
  Json tied = Json::array();
  for (size_t i = 1; i < group.layers.size(); ++i) {
    tied.push_back(label(graph, graph.node(group.layers[i])));
  }
  int64_t all = 0, left = 0;
  for (const ChannelOrigin& origin : channels.origins) {
    if (origin.node != group.layers[0]) continue;
    all = static_cast<int64_t>(origin.units.size());
    left = kept.count(origin.units);
  }
  return {{"node", label(graph, graph.node(group.layers[0]))},
          {"tied", std::move(tied)},
          {"channels", all},
          {"removed", all - left}};
}

}  // namespace

void prepare_channels_walk(Model& model, PassContext& context) {
  adopt_constant_nodes(model.graph);
  fold_constants(model, context);
  eliminate_identity(model, context);
  eliminate_dead(model, context);
  infer_known_types(model);
}

PassResult remove_channels(Model& model, PassContext& context) {
  PassResult result;
  const Granularity granularity = read_granularity(context.options);
  if (granularity.unit != PruneUnit::channel) return result;
  const std::string method = context.options.text("method");
  if (method != "magnitude" && context.samples == nullptr) {
    fail(ErrorCode::usage, "--method {} measures what layers read, on samples; give --data",
         method);
  }
  const Model before = model;
  prepare_channels_walk(model, context);
  const ChannelGraph channels = find_channels(model, Selection(context.options));
  const std::vector<ChannelGroup> groups = channel_groups(channels);
  const ChannelBudget budget{read_sparsity(context.options, granularity),
                             context.options.text("scope") == "global",
                             context.options.integer("channel-multiple")};
  const bool measures = method != "magnitude";
  const CalibrationSamples samples = measures ? (*context.samples)() : CalibrationSamples();
  const ChannelScores scores =
      measures ? calibrated_scores(model, channels, samples, method == "sparsegpt")
               : magnitude_scores(model, channels);
  const KeptChannels kept(channels.units, choose_channels(channels, groups, scores, budget));

  Json layers = Json::array();
  int64_t all = 0, removed = 0;
  result.skipped = channels.skipped;
  for (const ChannelGroup& group : groups) {
    Json row = group_json(model, channels, group, kept);
    const auto gone = row["removed"].get<int64_t>();
    all += row["channels"].get<int64_t>();
    removed += gone;
    std::string reason = group.units.empty() ? group.reason : "";
    if (reason.empty() && gone == 0 && budget.sparsity > 0) {
      reason = group.units.size() + static_cast<size_t>(group.locked) == 1
                   ? "its channels all hang together"
                   : "none of its channels goes at this sparsity";
    }
    if (!reason.empty()) {
      for (const NodeId id : group.layers) {
        result.skipped.push_back({label(model.graph, model.graph.node(id)), reason});
      }
    } else {
      layers.push_back(std::move(row));
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
  result.details = {{"channels", all},
                    {"removed", removed},
                    {"parameters_before", parameters},
                    {"parameters", parameters_of(model.graph)},
                    {"layers", std::move(layers)}};
  if (method == "sparsegpt") result.details["rebuilt_layers"] = rebuilt;
  return result;
}

}  // namespace compress
