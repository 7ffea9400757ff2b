// The oracle of channel removal: the model with the same channels zero.
#pragma once

#include "passes/prune/channel_choice.h"
#include "passes/prune/granularity.h"
#include "passes/prune/prune.h"
#include "tests/passes/support.h"

namespace compress::test {

// The model with every removed channel's (or head's) weights zero, decided as the pass decides.
inline Model masked_channels(const Model& model, Json given, const char* granularity = "channel") {
  given["granularity"] = granularity;
  const Options options(find_step("prune").options, given);
  PassContext context{options};
  Model out = model;
  prepare_channels_walk(out, context);
  const ChannelGraph channels =
      find_channels(out, Selection(options), std::string_view(granularity) == "head");
  const ChannelBudget budget{read_sparsity(options, read_granularity(options)),
                             options.text("scope") == "global",
                             options.integer("channel-multiple")};
  const KeptChannels kept(channels.units, choose_channels(channels, channel_groups(channels),
                                                          magnitude_scores(out, channels), budget));
  for (const ChannelConstant& row : channels.constants) {
    const Tensor before = out.graph.value(row.value).constant;
    const int64_t inner = before.shape().count(row.axis.axis + 1, before.shape().rank());
    std::vector<double> values = before.to_doubles();
    for (size_t i = 0; i < values.size(); ++i) {
      const size_t at = i / static_cast<size_t>(inner) % row.axis.units.size();
      if (!kept.keeps(row.axis.units[at])) values[i] = 0;
    }
    out.graph.set_constant(row.value,
                           convert(Tensor::from<double>(before.shape(), values), before.dtype()));
  }
  return out;
}

}  // namespace compress::test
