// What each layer may lose within a limit of accuracy: which precision each gets (quantize), or how
// many of its weights go (prune), so that the model is as small, or as fast, as it goes while a
// metric drops by no more than was allowed.
//
// Settings for the whole model come first, then one layer at a time is measured in each of its
// rungs (compress/verify/sensitivity), and from everything at its narrowest the layers are widened
// in the order of harm prevented per byte; how far that must go is found by halving. What was tried
// is kept as JSON after every step, so that a search that was cut off goes on where it was. Given
// the same measurements it takes the same steps.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "compress/graph/model.h"
#include "compress/report/search.h"
#include "compress/verify/sensitivity.h"
#include "passes/pass.h"

namespace compress {

enum class Minimize { size, latency };

struct SearchKind;
const SearchKind& precision_search();  // quantize
const SearchKind& sparsity_search();   // prune

struct SearchSettings {
  const SearchKind* kind = &precision_search();
  double max_drop = 0;                 // of `metric`
  std::string metric;                  // a row of all_metrics() that an Evaluation holds
  bool relative = false;               // the drop counts as a part of the reference's value
  Minimize minimize = Minimize::size;  // size: SearchHooks::size
  double budget_seconds = 600;
  uint64_t seed = 0;
  Json options = Json::object();  // of the step, as given: what the search does not vary stays
  std::vector<std::string> disabled;
  EvaluateOptions evaluate;  // as of the outputs that are searched on
};

using SearchTrial = SearchPoint;

// What the search asks of its surroundings.
struct SearchHooks {
  PipelineOptions pipeline;  // with statistics and samples
  std::function<uint64_t(const Model&)> size;
  std::function<double(const Model&)> latency;  // over the reference's
  std::function<Evaluation(const Model&)> held_out;
  // The model is the best so far that holds.
  std::function<void(const SearchTrial&, const Model&)> publish;
  std::function<void(const Json& state)> save;
  std::function<double()> seconds;  // spent, earlier runs of the same search included
  std::function<void(const std::string&)> say;
};

struct SearchResult {
  std::vector<SearchTrial> trials;  // in the order they were tried
  std::vector<SensitivityRow> sensitivity;
  Damage damage = Damage::kl;
  int64_t chosen = -1;  // among trials; -1: the optimized float model
  bool out_of_time = false;
  double held_out_drop = 0;
  int64_t held_out_looks = 0;  // candidates that were measured on the held-out half
  Model model;
  PipelineResult pipeline;
};

// The drop of the settings' metric. Fails (usage) where the evaluation does not hold it.
double drop_of(const Evaluation& evaluation, const std::string& metric, bool relative);

// A layer whose precision (or sparsity) is chosen: its rungs, written as --override takes them,
// from narrow to wide.
struct SearchLayer {
  NodeId node = kNoNode;  // the first of those that change
  std::string label;
  std::string op;
  int64_t weights = 0;
  std::vector<std::string> ladder;
  std::vector<std::string> measured = {};  // the rungs to be measured, the most telling first
};

// Options of the step for the whole model.
struct SearchSetting {
  std::string label;
  Json options;
};

// What a step lets a search vary.
struct SearchKind {
  std::string_view step;
  // Those of the model that the options let change, in execution order.
  std::vector<SearchLayer> (*layers)(const Model& model, const SearchSettings& settings);
  // Settings for the whole model. Of several in a row, each costs less than the one before, and is
  // taken to do more harm: the last that holds is found by halving.
  std::vector<std::vector<SearchSetting>> (*families)(const Model& model,
                                                      const SearchSettings& settings);
  // The options that mixes share, after those were tried.
  Json (*mixed)(const Model& model, const SearchSettings& settings,
                const std::vector<SearchTrial>& trials);
  // The damage of rungs that are not measured, nearly none.
  double (*small_damage)(std::string_view rung);
  // Bytes of a layer's weights at a rung, about.
  int64_t (*bytes)(const std::string& rung, int64_t weights);
  // How many times the harm of one rung another does, about.
  double (*harm_ratio)(const std::string& from, const std::string& to);
  // The options that put one layer on a rung and leave all others as they are.
  Json (*for_layer)(const Json& options, const std::string& label, const std::string& rung);
  // Passes that would change what lies ahead of the layer.
  std::vector<std::string> left_out;
};

// Products, convolutions and embeddings with float constants of some size, in execution order.
std::vector<SearchLayer> search_layers(const Model& model);

// The options that give one layer a precision and leave all others in float32.
Json options_for_layer(const Json& options, const std::string& label, const std::string& precision);

// One layer in one precision. REQUIRES that layers come in execution order.
SensitivityRow measure_layer(VariantMeter& meter, ReferenceOutputs& seen, const SearchLayer& layer,
                             const std::string& precision, const Json& options,
                             const SearchSettings& settings, const PipelineOptions& pipeline);

// Bytes of a layer's weights in a precision, about.
int64_t bytes_in(const std::string& precision, int64_t weights);

// `input` is the model as read, `optimized` the same after "optimize", which `seen` runs. `state`
// is what save() was given last, or null.
SearchResult search(const Model& input, const Model& optimized, ReferenceOutputs& seen,
                    const SearchSettings& settings, const SearchHooks& hooks, const Json& state);

}  // namespace compress
