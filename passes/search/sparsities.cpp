// What a search varies of prune: how many of each layer's weights, channels or heads go.
#include <algorithm>
#include <cmath>
#include <map>

#include "compress/error.h"
#include "passes/prune/candidates.h"
#include "passes/prune/channel_choice.h"
#include "passes/prune/prune.h"
#include "passes/search/search.h"

namespace compress {
namespace {

constexpr int64_t kLeastWeights = 1024;  // below it a layer stays as it is

double share_of(std::string_view rung) { return std::strtod(std::string(rung).c_str(), nullptr); }

// From narrow to wide.
std::vector<std::string> rungs_of(const Granularity& granularity, double implied) {
  if (granularity.unit == PruneUnit::n_of_m) return {fmt::format("{:.6g}", implied), "0"};
  if (removes(granularity.unit)) return {"0.9", "0.75", "0.5", "0.35", "0.2", "0.1", "0"};
  return {"0.95", "0.9", "0.8", "0.7", "0.6", "0.5", "0.4", "0.3", "0.2", "0.1", "0"};
}

// A middle rung first, that of all weights left never.
std::vector<std::string> measured_of(std::vector<std::string> rungs) {
  rungs.pop_back();
  std::rotate(rungs.begin(), rungs.begin() + static_cast<std::ptrdiff_t>(rungs.size() / 2),
              rungs.end());
  return rungs;
}

// Single weights, N:M and blocks: a layer a node, with all tensors that it reads first.
std::vector<SearchLayer> weight_layers(const Model& model, const Options& options,
                                       const Granularity& granularity) {
  Model copy = model;  // ids stay
  const bool needs_axes =
      granularity.unit != PruneUnit::element || options.text("method") != "magnitude";
  std::map<NodeId, SearchLayer> by_node;
  for (const Candidate& candidate : find_candidates(copy, options, needs_axes).chosen) {
    const WeightRead& read = candidate.reads.front();
    if (read.graph != &copy.graph) continue;  // a body has no place in the order of execution
    const Node& node = copy.graph.node(read.node);
    SearchLayer& layer = by_node[read.node];
    layer.node = read.node;
    layer.label = label_of(copy.graph, node);
    layer.op = node.op_type;
    layer.weights += candidate.target.tensor.count();
  }
  std::vector<SearchLayer> layers;
  for (const NodeId id : model.graph.order()) {
    if (const auto row = by_node.find(id); row != by_node.end()) layers.push_back(row->second);
  }
  return layers;
}

// Channels and heads: what goes together is a layer, called after its first one.
std::vector<SearchLayer> group_layers(const Model& model, const Options& options, bool heads) {
  Model copy = model;
  PassContext context{options};
  prepare_channels_walk(copy, context);
  const ChannelGraph channels = find_channels(copy, Selection(options), heads);
  std::vector<SearchLayer> layers;
  for (const ChannelGroup& group : channel_groups(channels)) {
    if (group.units.size() + static_cast<size_t>(group.locked) < 2 || group.units.empty()) continue;
    const std::set<ChannelUnit> units(group.units.begin(), group.units.end());
    const Node& first = copy.graph.node(group.layers[0]);
    SearchLayer layer{group.layers[0], label_of(copy.graph, first), first.op_type, 0, {}};
    for (const ChannelConstant& row : channels.constants) {
      if (row.role == ChannelRole::follows) continue;
      const auto is_ours = [&](ChannelUnit unit) {
        return units.count(channels.units.find(unit)) > 0;
      };
      if (std::any_of(row.axis.units.begin(), row.axis.units.end(), is_ours)) {
        layer.weights += copy.graph.value(row.value).constant.count();
      }
    }
    layers.push_back(std::move(layer));
  }
  return layers;
}

std::vector<SearchLayer> layers_of(const Model& model, const SearchSettings& settings) {
  const Options options(find_step("prune").options, settings.options);
  const Granularity granularity = read_granularity(options);
  std::vector<SearchLayer> layers =
      removes(granularity.unit) ? group_layers(model, options, granularity.unit == PruneUnit::head)
                                : weight_layers(model, options, granularity);
  std::erase_if(layers, [](const SearchLayer& layer) { return layer.weights < kLeastWeights; });
  for (SearchLayer& layer : layers) {
    layer.ladder = rungs_of(granularity, read_sparsity(options, granularity));
    layer.measured = measured_of(layer.ladder);
  }
  return layers;
}

// The same sparsity for all layers, and one over all of them; from little to much.
std::vector<std::vector<SearchSetting>> families_of(const Model&, const SearchSettings& settings) {
  const Options options(find_step("prune").options, settings.options);
  if (read_granularity(options).unit == PruneUnit::n_of_m) {
    return {{{"all layers", settings.options}}};
  }
  std::vector<std::vector<SearchSetting>> families;
  for (const char* scope : {"layer", "global"}) {
    if (options.given("scope") && options.text("scope") != scope) continue;
    families.emplace_back();
    constexpr int kSteps = 20;
    for (int step = 1; step < kSteps; ++step) {
      Json row = settings.options;
      row["scope"] = scope;
      row["sparsity"] = static_cast<double>(step) / kSteps;
      families.back().push_back(
          {fmt::format("{:.2f} {}", static_cast<double>(step) / kSteps,
                       std::string_view(scope) == "layer" ? "of each layer" : "of all together"),
           std::move(row)});
    }
  }
  return families;
}

// Layers that no override names stay as they are.
Json mixed_of(const Model&, const SearchSettings& settings, const std::vector<SearchTrial>&) {
  Json mixed = settings.options;
  mixed.erase("scope");
  const Options options(find_step("prune").options, settings.options);
  if (read_granularity(options).unit != PruneUnit::n_of_m) mixed["sparsity"] = 0.0;
  return mixed;
}

double small_damage(std::string_view) { return 0; }

int64_t bytes_at(const std::string& rung, int64_t weights) {
  return std::llround(static_cast<double>(weights) * 4 * (1 - share_of(rung)));
}

// Twice as much with each tenth of the weights.
double harm_ratio(const std::string& from, const std::string& to) {
  return std::pow(2.0, 10 * (share_of(to) - share_of(from)));
}

Json for_layer(const Json& options, const std::string& label, const std::string& rung) {
  Json out = options;
  out.erase("scope");
  out["override"] = {exact_pattern(label) + "=" + rung, ".*=0"};
  return out;
}

}  // namespace

const SearchKind& sparsity_search() {
  static const SearchKind kind = {"prune",  layers_of,  families_of, mixed_of, small_damage,
                                  bytes_at, harm_ratio, for_layer,   {}};
  return kind;
}

}  // namespace compress
