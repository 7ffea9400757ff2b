#include "passes/search/search.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "compress/error.h"
#include "passes/overrides.h"

namespace compress {
namespace {

constexpr int kHeldOutLooks = 5;    // candidates that the held-out half may turn down, and one more
constexpr size_t kFewSamples = 64;  // damages of single layers settle early
constexpr int kTries = 12;          // of narrowing single layers again, once the path was walked

// At most `most` of the samples, evenly; those of a pair stay together.
std::vector<int64_t> few_of(const std::vector<int64_t>& indices, bool pairs, size_t most) {
  const size_t unit = pairs ? 2 : 1;
  const auto units = static_cast<int64_t>(indices.size() / unit);
  std::vector<int64_t> out;
  for (const int64_t at :
       evenly_spaced(units, std::min(units, static_cast<int64_t>(most / unit)))) {
    for (size_t k = 0; k < unit; ++k) out.push_back(indices[static_cast<size_t>(at) * unit + k]);
  }
  return out;
}

// A step on the way from narrow to wide: one layer up one rung of its useful ones.
struct Rise {
  size_t layer;
  std::string to;
  double slope;  // damage prevented per byte, or per share of the time
};

class Search {
 public:
  Search(const Model& input, const Model& optimized, ReferenceOutputs& seen,
         const SearchSettings& settings, const SearchHooks& hooks, const Json& state)
      : input_(input),
        optimized_(optimized),
        seen_(seen),
        settings_(settings),
        hooks_(hooks),
        kind_(*settings.kind) {
    result_.damage = seen.damage();
    read_state(state);
  }

  SearchResult run() {
    for (const auto& family : kind_.families(optimized_, settings_)) try_family(family);
    mixed_ = kind_.mixed(optimized_, settings_, result_.trials);
    if (!out_of_time(seconds_of(mixed_))) walk();
    if (result_.out_of_time) recall_trials();
    mark_front();
    finish();
    return std::move(result_);
  }

 private:
  // The last of a row that holds, were the drop monotone.
  void try_family(const std::vector<SearchSetting>& family) {
    size_t low = 0, high = family.size();
    while (low < high) {
      const size_t middle = low + (high - low) / 2;
      const auto& [label, options] = family[middle];
      // What does not fit is left out; a quicker one may.
      if (!known_.contains(options.dump()) && out_of_time(seconds_of(options))) return;
      if (result_.trials[try_options(label, options, true)].holds) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
  }

  // Whether what takes `next` seconds, and then the end, no longer fit into the budget.
  bool out_of_time(double next) {
    const bool out = hooks_.seconds() + next + end_seconds() >= settings_.budget_seconds;
    result_.out_of_time = result_.out_of_time || out;
    return out;
  }

  // The end: what is at hand is measured on the held-out half, and the proof.
  double end_seconds() const {
    constexpr double kMeasurements = 4, kMostOfBudget = 0.2;
    return std::min(kMeasurements * longest_measurement_, kMostOfBudget * settings_.budget_seconds);
  }

  static std::string method_of(const Json& options) {
    return options.value("algorithm", options.value("method", ""));
  }

  // The longest trial so far that rounded alike: that is what takes the time.
  double seconds_of(const Json& options) const {
    const auto row = trial_seconds_.find(method_of(options));
    return row == trial_seconds_.end() ? 0 : row->second;
  }

  // What an earlier run of this search tried and this one had no time to come to.
  void recall_trials() {
    for (const auto& [key, trial] : known_) {
      const bool listed =
          std::any_of(result_.trials.begin(), result_.trials.end(),
                      [&](const SearchTrial& row) { return row.options == trial.options; });
      if (listed) continue;
      result_.trials.push_back(trial);
      result_.trials.back().holds = holds(trial);
    }
  }

  // --- State ------------------------------------------------------------------------------------

  void read_state(const Json& state) {
    if (!state.is_object()) return;
    for (const Json& row : state.at("trials")) {
      SearchTrial trial = search_point(row);
      known_.emplace(trial.options.dump(), std::move(trial));
    }
    for (const Json& row : state.at("sensitivity")) {
      SensitivityRow known = sensitivity_row(row);
      known_rows_.emplace(known.node + "=" + known.precision, std::move(known));
    }
  }

  // Also what an earlier run knew and this one has not come to yet.
  void save() {
    Json state = {{"trials", Json::array()}, {"sensitivity", Json::array()}};
    for (const auto& [key, trial] : known_) state["trials"].push_back(to_json(trial));
    for (const auto& [key, row] : known_rows_) state["sensitivity"].push_back(to_json(row));
    hooks_.save(state);
  }

  // --- Trials -----------------------------------------------------------------------------------

  struct Built {
    Model model;
    PipelineResult pipeline;
  };

  Built build(const Json& options) const {
    Built out{input_, {}};
    Recipe recipe;
    recipe.seed = settings_.seed;
    recipe.steps = {{std::string(kind_.step), options}};
    out.pipeline = run_pipeline(out.model, recipe, hooks_.pipeline);
    return out;
  }

  bool holds(const SearchTrial& trial) const {
    return trial.failure.empty() && trial.drop <= settings_.max_drop;
  }

  double cost(const SearchTrial& trial) const {
    return settings_.minimize == Minimize::size ? static_cast<double>(trial.bytes) : trial.latency;
  }

  // Index among the trials.
  size_t try_options(const std::string& label, const Json& options, bool single) {
    const std::string key = options.dump();
    for (size_t i = 0; i < result_.trials.size(); ++i) {
      if (result_.trials[i].options.dump() == key) return i;
    }
    SearchTrial trial;
    std::optional<Built> built;
    if (const auto known = known_.find(key); known != known_.end()) {
      trial = known->second;
    } else {
      trial.label = label;
      trial.options = options;
      trial.single = single;
      const double start = hooks_.seconds();
      try {
        built = build(options);
        const double middle = hooks_.seconds();
        measure(*built, trial);
        const double end = hooks_.seconds();
        longest_measurement_ = std::max(longest_measurement_, end - middle);
        double& longest = trial_seconds_[method_of(options)];
        longest = std::max(longest, end - start);
      } catch (const Error& error) {
        if (error.code() == ErrorCode::internal || error.code() == ErrorCode::io) throw;
        trial.failure = error.message();
      }
      known_.emplace(key, trial);
      save();
    }
    trial.holds = holds(trial);
    if (hooks_.say) hooks_.say(line_of(trial));
    result_.trials.push_back(trial);
    const size_t index = result_.trials.size() - 1;
    if (trial.holds &&
        (best_ < 0 || cost(trial) < cost(result_.trials[static_cast<size_t>(best_)]))) {
      best_ = static_cast<int64_t>(index);
      if (built) hooks_.publish(trial, built->model);
      best_built_ = std::move(built);
    }
    return index;
  }

  void measure(const Built& built, SearchTrial& trial) {
    trial.bytes = hooks_.size(built.model);
    const Evaluation evaluation = seen_.evaluate(built.model);
    trial.drop = drop_of(evaluation, settings_.metric, settings_.relative);
    trial.damage = damage_of(evaluation, seen_.damage());
    trial.agreement = evaluation.similarity.at("agreement").candidate;
    if (settings_.minimize == Minimize::latency) trial.latency = hooks_.latency(built.model);
  }

  std::string line_of(const SearchTrial& trial) const {
    if (!trial.failure.empty()) return fmt::format("{}: {}", trial.label, trial.failure);
    std::string text =
        fmt::format("{}: {} bytes, {} drop {:.4f}, {} {:.3g}", trial.label, trial.bytes,
                    settings_.metric, trial.drop, damage_name(result_.damage), trial.damage);
    if (trial.latency > 0) text += fmt::format(", {:.2f} of the time", trial.latency);
    return text + (trial.holds ? ", holds" : "");
  }

  // --- Mixed settings ---------------------------------------------------------------------------

  void walk() {
    const std::vector<SearchLayer> layers = kind_.layers(optimized_, settings_);
    if (layers.empty()) return;
    measure_layers(layers);
    if (out_of_time(seconds_of(mixed_))) return;
    const std::vector<Rise> path = path_of(layers);
    std::vector<char> taken(path.size(), 0);
    const auto try_first = [&](size_t count) {
      std::fill(taken.begin(), taken.end(), 0);
      std::fill(taken.begin(), taken.begin() + static_cast<std::ptrdiff_t>(count), 1);
      return try_mix(layers, path, taken);
    };
    // The least number of steps that holds, were the drop monotone.
    size_t low = 0, high = path.size();
    while (low < high && !out_of_time(seconds_of(mixed_))) {
      const size_t middle = low + (high - low) / 2;
      if (result_.trials[try_first(middle)].holds) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    if (out_of_time(seconds_of(mixed_))) return;
    if (!result_.trials[try_first(high)].holds) return;
    narrow_again(layers, path, taken);
  }

  // One precision of all layers after the other, so that where time is short, layers can be
  // compared in one of them at least and the others be told from it (harm_of).
  void measure_layers(const std::vector<SearchLayer>& layers) {
    const double now = hooks_.seconds();
    const double left = settings_.budget_seconds - end_seconds() - now;
    constexpr double kShare = 0.5;  // of what is left; mixes take the rest
    const double until = now + kShare * left;
    size_t rounds = 0;
    for (const SearchLayer& layer : layers) rounds = std::max(rounds, layer.measured.size());
    std::optional<ReferenceOutputs> few;
    for (size_t round = 0; round < rounds; ++round) {
      // Made only where something is left to be measured: a search that goes on may know all.
      std::optional<VariantMeter> meter;
      int64_t done = 0;
      for (const SearchLayer& layer : layers) {
        ++done;
        const std::vector<std::string>& precisions = layer.measured;
        if (round >= precisions.size()) continue;
        const std::string key = layer.label + "=" + precisions[round];
        if (known_rows_.contains(key) || unfit_.contains(key)) continue;
        const double start = hooks_.seconds();
        if (start + longest_layer_ >= until) return take_rows(layers);
        if (out_of_time(longest_layer_)) return take_rows(layers);
        if (!few) {
          SampleSource& data = seen_.data();
          few.emplace(optimized_, data,
                      few_of(seen_.indices(), !data.pair_scores().empty(), kFewSamples),
                      settings_.evaluate);
        }
        if (!meter) meter.emplace(*few);
        try {
          known_rows_.emplace(key, measure_layer(*meter, *few, layer, precisions[round], mixed_,
                                                 settings_, hooks_.pipeline));
        } catch (const Error& error) {
          if (error.code() == ErrorCode::internal || error.code() == ErrorCode::io) throw;
          unfit_.insert(key);
          continue;
        }
        longest_layer_ = std::max(longest_layer_, hooks_.seconds() - start);
        save();
        if (hooks_.say) {
          hooks_.say(fmt::format("sensitivity: {} of {} precisions, {} of {} layers", round + 1,
                                 rounds, done, layers.size()));
        }
      }
    }
    take_rows(layers);
  }

  void take_rows(const std::vector<SearchLayer>& layers) {
    for (const SearchLayer& layer : layers) {
      for (const std::string& precision : layer.ladder) {
        const auto row = known_rows_.find(layer.label + "=" + precision);
        if (row != known_rows_.end()) result_.sensitivity.push_back(row->second);
      }
    }
  }

  // What was measured, else what follows from another precision of the layer by what lies between
  // the two in other layers, or from other layers alone; nothing where it takes no such precision.
  std::optional<double> harm_of(const SearchLayer& layer, const std::string& precision) const {
    const std::string key = layer.label + "=" + precision;
    if (unfit_.contains(key)) return {};
    if (const auto row = known_rows_.find(key); row != known_rows_.end()) {
      return std::max(row->second.damage, 0.0);
    }
    for (const std::string& other : layer.measured) {
      const auto row = known_rows_.find(layer.label + "=" + other);
      if (row == known_rows_.end()) continue;
      return std::max(row->second.damage, 0.0) * ratio_between(other, precision);
    }
    return typical_harm(layer.op, precision);
  }

  // The median of measured layers of the operator.
  std::optional<double> typical_harm(const std::string& op, const std::string& precision) const {
    std::vector<double> harms;
    for (const auto& [key, row] : known_rows_) {
      if (row.op == op && row.precision == precision) harms.push_back(std::max(row.damage, 0.0));
    }
    if (harms.empty()) return {};
    const auto middle = harms.begin() + static_cast<std::ptrdiff_t>(harms.size() / 2);
    std::nth_element(harms.begin(), middle, harms.end());
    return *middle;
  }

  double ratio_between(const std::string& from, const std::string& to) const {
    std::vector<double> ratios;
    for (const auto& [key, row] : known_rows_) {
      if (row.precision != from || !(row.damage > 0)) continue;
      const auto other = known_rows_.find(row.node + "=" + to);
      if (other != known_rows_.end() && other->second.damage > 0) {
        ratios.push_back(other->second.damage / row.damage);
      }
    }
    if (ratios.empty()) return kind_.harm_ratio(from, to);
    const auto middle = ratios.begin() + static_cast<std::ptrdiff_t>(ratios.size() / 2);
    std::nth_element(ratios.begin(), middle, ratios.end());
    return *middle;
  }

  struct Rung {
    std::string precision;
    double bytes;
    double damage;
  };

  // The rungs on the lower hull of damage over bytes, from narrow to wide.
  std::vector<Rung> hull_of(const SearchLayer& layer) const {
    std::vector<Rung> all;
    for (const std::string& precision : layer.ladder) {
      const auto bytes = static_cast<double>(kind_.bytes(precision, layer.weights));
      const bool is_measured = std::find(layer.measured.begin(), layer.measured.end(), precision) !=
                               layer.measured.end();
      if (!is_measured) {
        all.push_back({precision, bytes, kind_.small_damage(precision)});
      } else if (const std::optional<double> harm = harm_of(layer, precision)) {
        all.push_back({precision, bytes, *harm});
      }
    }
    std::stable_sort(all.begin(), all.end(), [](const Rung& a, const Rung& b) {
      return a.bytes != b.bytes ? a.bytes < b.bytes : a.damage < b.damage;
    });
    std::vector<Rung> hull;
    for (const Rung& rung : all) {
      if (!hull.empty() && rung.damage >= hull.back().damage) continue;
      const auto slope = [](const Rung& a, const Rung& b) {
        return (a.damage - b.damage) / std::max(b.bytes - a.bytes, 1e-9);
      };
      while (hull.size() > 1 &&
             slope(hull[hull.size() - 2], hull.back()) <= slope(hull.back(), rung)) {
        hull.pop_back();
      }
      if (hull.size() == 1 && hull.back().bytes >= rung.bytes) hull.pop_back();
      hull.push_back(rung);
    }
    return hull;
  }

  std::vector<Rise> path_of(const std::vector<SearchLayer>& layers) {
    std::vector<Rise> path;
    narrowest_.clear();
    for (size_t i = 0; i < layers.size(); ++i) {
      const std::vector<Rung> hull = hull_of(layers[i]);
      narrowest_.push_back(hull.front().precision);
      for (size_t r = 1; r < hull.size(); ++r) {
        const double saved = hull[r - 1].damage - hull[r].damage;
        path.push_back(
            {i, hull[r].precision, saved / std::max(hull[r].bytes - hull[r - 1].bytes, 1.0)});
      }
    }
    // Within a layer slopes fall from narrow to wide, so the order of its steps is kept.
    std::stable_sort(path.begin(), path.end(),
                     [](const Rise& a, const Rise& b) { return a.slope > b.slope; });
    return path;
  }

  size_t try_mix(const std::vector<SearchLayer>& layers, const std::vector<Rise>& path,
                 const std::vector<char>& taken) {
    std::vector<std::string> chosen = narrowest_;
    for (size_t i = 0; i < path.size(); ++i) {
      if (taken[i]) chosen[path[i].layer] = path[i].to;
    }
    std::map<std::string, int> counts;
    Json overrides = Json::array();
    for (size_t i = 0; i < layers.size(); ++i) {
      overrides.push_back(exact_pattern(layers[i].label) + "=" + chosen[i]);
      ++counts[chosen[i]];
    }
    std::string label = "mixed:";
    for (const auto& [precision, count] : counts) {
      label += fmt::format("{} {} {}", label.back() == ':' ? "" : ",", count, precision);
    }
    Json options = mixed_;
    options["override"] = std::move(overrides);
    return try_options(label, options, false);
  }

  // Single layers one step back, the heaviest first, as long as it holds.
  void narrow_again(const std::vector<SearchLayer>& layers, const std::vector<Rise>& path,
                    std::vector<char> taken) {
    std::vector<size_t> order;
    for (size_t i = 0; i < path.size(); ++i) {
      if (!taken[i]) continue;
      const bool is_last = std::none_of(path.begin() + static_cast<std::ptrdiff_t>(i) + 1,
                                        path.end(), [&](const Rise& later) {
                                          const auto at = static_cast<size_t>(&later - path.data());
                                          return taken[at] && later.layer == path[i].layer;
                                        });
      if (is_last) order.push_back(i);
    }
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      return layers[path[a].layer].weights > layers[path[b].layer].weights;
    });
    int tries = 0;
    for (const size_t i : order) {
      if (tries++ >= kTries || out_of_time(seconds_of(mixed_))) return;
      taken[i] = 0;
      if (!result_.trials[try_mix(layers, path, taken)].holds) taken[i] = 1;
    }
  }

  // --- The end ----------------------------------------------------------------------------------

  void mark_front() {
    for (SearchTrial& trial : result_.trials) {
      trial.on_front =
          trial.failure.empty() &&
          std::none_of(result_.trials.begin(), result_.trials.end(), [&](const SearchTrial& other) {
            if (!other.failure.empty()) return false;
            const bool no_worse = cost(other) <= cost(trial) && other.drop <= trial.drop;
            return no_worse && (cost(other) < cost(trial) || other.drop < trial.drop);
          });
    }
  }

  // The cheapest that holds on what the search saw and on what it did not.
  void finish() {
    std::vector<size_t> order;
    for (size_t i = 0; i < result_.trials.size(); ++i) {
      if (result_.trials[i].holds) order.push_back(i);
    }
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      return cost(result_.trials[a]) < cost(result_.trials[b]);
    });
    for (const size_t i : order) {
      if (result_.held_out_looks > kHeldOutLooks) break;
      if (result_.held_out_looks > 0 &&
          hooks_.seconds() + seconds_of(result_.trials[i].options) >= settings_.budget_seconds) {
        result_.out_of_time = true;
        break;
      }
      const bool at_hand = static_cast<int64_t>(i) == best_ && best_built_;
      Built built = at_hand ? std::move(*best_built_) : build(result_.trials[i].options);
      ++result_.held_out_looks;
      const double drop =
          drop_of(hooks_.held_out(built.model), settings_.metric, settings_.relative);
      if (hooks_.say) {
        hooks_.say(fmt::format("held out: {} drop {:.4f} ({})", settings_.metric, drop,
                               result_.trials[i].label));
      }
      if (!(drop <= settings_.max_drop)) continue;
      result_.chosen = static_cast<int64_t>(i);
      result_.held_out_drop = drop;
      result_.model = std::move(built.model);
      result_.pipeline = std::move(built.pipeline);
      return;
    }
    result_.model = optimized_;
  }

  const Model& input_;
  const Model& optimized_;
  ReferenceOutputs& seen_;
  const SearchSettings& settings_;
  const SearchHooks& hooks_;
  const SearchKind& kind_;
  Json mixed_ = Json::object();
  std::vector<std::string> narrowest_;
  std::map<std::string, SearchTrial> known_;  // by the dump of their options
  std::map<std::string, SensitivityRow> known_rows_;
  std::set<std::string> unfit_;  // layer and precision that does not go with it
  // Seconds, of this run.
  std::map<std::string, double> trial_seconds_;  // by algorithm
  double longest_measurement_ = 0, longest_layer_ = 0;
  int64_t best_ = -1;
  std::optional<Built> best_built_;  // unless an earlier run built it
  SearchResult result_;
};

}  // namespace

SearchResult search(const Model& input, const Model& optimized, ReferenceOutputs& seen,
                    const SearchSettings& settings, const SearchHooks& hooks, const Json& state) {
  return Search(input, optimized, seen, settings, hooks, state).run();
}

}  // namespace compress
