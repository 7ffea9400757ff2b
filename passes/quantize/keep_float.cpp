#include "passes/quantize/keep_float.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>

#include "compress/error.h"
#include "compress/verify/multiply_adds.h"
#include "compress/verify/sensitivity.h"
#include "passes/edit.h"
#include "passes/quantize/linear.h"
#include "passes/quantize/pack.h"
#include "passes/quantize/precision.h"
#include "passes/types.h"

namespace compress {
namespace {

constexpr int64_t kSamples = 32;  // that the floor is measured on
constexpr int64_t kFewer = 8;     // that single layers are measured on: only their order matters
constexpr int kMostAttempts = 7;
// Of what the floor allows, the part that is used: samples that nobody saw come out a little worse.
constexpr double kUsed = 0.8;

// Noise over signal of independent noise that leaves this cosine: cos^2 = S / (S + N).
double noise_at(double cosine) { return 1 / (cosine * cosine) - 1; }

double noise_of(const OutputSimilarity& output) {
  if (std::isnan(output.sqnr_db)) return 1e9;
  return std::isinf(output.sqnr_db) && output.sqnr_db > 0 ? 0 : std::pow(10, -output.sqnr_db / 10);
}

std::vector<int64_t> spread(const std::vector<int64_t>& indices, int64_t count) {
  std::vector<int64_t> out;
  for (const int64_t i : evenly_spaced(static_cast<int64_t>(indices.size()), count)) {
    out.push_back(indices[static_cast<size_t>(i)]);
  }
  return out;
}

// One source of error: the weights of a layer, or an activation with all that shares its scale.
struct Part {
  NodeId from = kNoNode;        // the first node that it changes
  NodeId layer = kNoNode;       // of weights, else
  ValueId value = kNoValue;     // of an activation
  std::vector<NodeId> holders;  // all of these in float: the error is gone
  double damage = 0;            // noise over signal on the outputs that miss the floor, summed
};

// Nodes that go to float32 together, and what that is for.
struct Candidate {
  std::vector<NodeId> nodes;
  std::string reason;
};

class Keeper {
 public:
  Keeper(QuantJob& job, double floor, const std::function<void(QuantJob&)>& quantize)
      : job_(job),
        floor_(floor),
        allowed_(noise_at(1 - (1 - floor) * kUsed)),
        quantize_(quantize),
        samples_(calibration_samples(job, "--min-cosine")),
        kept_samples_(*samples_.source),
        reference_(job.model) {}

  void run() {
    infer_known_types(reference_);
    seen_.emplace(reference_, kept_samples_, spread(samples_.indices, kSamples), EvaluateOptions{});
    std::optional<Attempt> best = attempt({});
    before_ = best->cosine;
    if (!holds(*best)) best = search(*best);
    take(std::move(*best));
  }

 private:
  struct Attempt {
    std::unique_ptr<Model> model;
    std::unique_ptr<QuantJob> job;
    Evaluation evaluation;
    double cosine = 1;
    size_t steps = 0;  // of the path
  };

  Attempt attempt(const std::map<NodeId, std::string>& in_float) {
    Attempt out;
    out.model = std::make_unique<Model>(job_.model);
    out.job = std::make_unique<QuantJob>(
        QuantJob{*out.model, job_.options, job_.statistics, job_.selection});
    out.job->samples = job_.samples;
    out.job->overrides = job_.overrides;
    std::map<std::string, std::string> by_label;
    for (const auto& [id, reason] : in_float) {
      by_label[label_of(reference_.graph, reference_.graph.node(id))] = reason;
    }
    out.job->selection.restrict([before = job_.selection, by_label = std::move(by_label),
                                 &graph = reference_.graph](const Node& node) -> std::string {
      std::string label = node.name;
      if (label.empty() && !node.outputs.empty() && node.outputs[0] != kNoValue) {
        label = graph.value(node.outputs[0]).name;
      }
      const auto row = by_label.find(label);
      return row == by_label.end() ? before.refusal(node) : row->second;
    });
    quantize_(*out.job);
    out.evaluation = seen_->evaluate(*out.model);
    out.cosine = out.evaluation.similarity.at("cosine").candidate;
    return out;
  }

  bool holds(const Attempt& attempt) const {
    return attempt.job->quantized == 0 || attempt.cosine >= 1 - (1 - floor_) * kUsed;
  }

  void take(Attempt attempt) {
    QuantJob& from = *attempt.job;
    Json labels = Json::array();
    for (const Skipped& row : from.result.skipped) {
      if (row.reason.starts_with("--min-cosine")) labels.push_back(row.node);
    }
    from.result.details["min_cosine"] = floor_;
    from.result.details["cosine_of_integers"] = before_;
    from.result.details["cosine"] = attempt.cosine;
    from.result.details["kept_in_float"] = labels;
    if (!labels.empty()) {
      from.result.details["note"] = fmt::format(
          "--min-cosine {:g}: all in integers reached {:.4f}; {} layers stay in float32, which "
          "gives {:.4f} on calibration samples",
          floor_, before_, labels.size(), attempt.cosine);
    }
    job_.model = std::move(*attempt.model);
    job_.result = std::move(from.result);
    job_.quantized = from.quantized;
    job_.layers = std::move(from.layers);
    job_.tables = std::move(from.tables);
    job_.trace = std::move(from.trace);
  }

  // --- What each part of the quantized model does to the outputs ---------------------------------

  std::vector<Part> parts_of(const QuantJob& quantized) const {
    const StaticTrace& trace = quantized.trace;
    std::vector<Part> parts;
    std::map<ValueId, std::vector<NodeId>> holders;  // by root
    const auto root_of = [&](ValueId id) {
      const auto row = trace.root.find(id);
      return row == trace.root.end() ? id : row->second;
    };
    for (const StaticTrace::Step& step : trace.steps) {
      if (step.has_weights) parts.push_back({step.node, step.node, kNoValue, {step.node}, 0});
      for (const ValueId id : step.values) {
        if (trace.activations.count(root_of(id)) == 0) continue;
        std::vector<NodeId>& nodes = holders[root_of(id)];
        if (nodes.empty() || nodes.back() != step.node) nodes.push_back(step.node);
      }
    }
    const Graph& graph = reference_.graph;
    for (auto& [value, nodes] : holders) {
      const NodeId producer = graph.value(value).producer;
      parts.push_back({producer == kNoNode ? graph.order().front() : producer, kNoNode, value,
                       std::move(nodes), 0});
    }
    std::vector<int> position(static_cast<size_t>(graph.node_slots()), 0);
    int next = 0;
    for (const NodeId id : graph.order()) position[static_cast<size_t>(id)] = next++;
    std::stable_sort(parts.begin(), parts.end(), [&](const Part& a, const Part& b) {
      return position[static_cast<size_t>(a.from)] < position[static_cast<size_t>(b.from)];
    });
    return parts;
  }

  // The float model with this error alone; false where there is none to put there.
  bool put(const Part& part, const QuantJob& quantized, Model& variant) const {
    Graph& graph = variant.graph;
    if (part.layer != kNoNode) {
      const size_t slot = graph.node(part.layer).is("Gather") ? 0 : 1;
      const ValueId weight = graph.node(part.layer).inputs[slot];
      Tensor rounded = weight_of(quantized, part.layer, weight);
      if (!rounded || rounded.shape() != graph.value(weight).constant.shape()) return false;
      graph.set_input(part.layer, slot,
                      graph.add_constant(graph.value(weight).name + "_rounded", rounded));
      return true;
    }
    const QuantParams& params = quantized.trace.activations.at(part.value);
    const ValueId scale = graph.add_constant("scale", Tensor::scalar(params.scales[0]));
    const ValueId zero = graph.add_constant("zero_point", zero_point_tensor(params, {}));
    const std::string name = graph.value(part.value).name;
    const NodeId quantize =
        graph.add({"QuantizeLinear", {part.value, scale, zero}, {name + "_integers"}});
    const NodeId dequantize = graph.add(
        {"DequantizeLinear", {graph.node(quantize).outputs[0], scale, zero}, {name + "_rounded"}});
    graph.replace_uses(part.value, graph.node(dequantize).outputs[0]);
    graph.set_input(quantize, 0, part.value);
    return true;
  }

  static Tensor weight_of(const QuantJob& quantized, NodeId layer, ValueId weight) {
    const Graph& graph = quantized.model.graph;
    std::array<ValueId, 3> ids{};
    std::optional<int> axis;
    if (const auto row = quantized.tables.find(weight); row != quantized.tables.end()) {
      ids = row->second;
    } else {
      if (!graph.node(layer).alive) return {};
      const NodeId pair = constant_dequantize(graph, graph.node(layer), 1);
      if (pair == kNoNode) return {};
      const Node& node = graph.node(pair);
      ids = {node.inputs[0], node.inputs[1], node.inputs[2]};
      if (graph.value(ids[1]).constant.count() > 1) {
        axis = static_cast<int>(node.int_or("axis", 1));
      }
    }
    const Tensor& integers = graph.value(ids[0]).constant;
    QuantParams params;
    params.dtype = integers.dtype();
    params.axis = axis;
    for (const double x : graph.value(ids[1]).constant.to_doubles()) {
      params.scales.push_back(static_cast<float>(x));
    }
    for (const double x : graph.value(ids[2]).constant.to_doubles()) {
      params.zero_points.push_back(static_cast<int32_t>(x));
    }
    return dequantize(integers, params);
  }

  void measure(std::vector<Part>& parts, const QuantJob& quantized,
               const std::vector<char>& misses) {
    ReferenceOutputs few(reference_, kept_samples_, spread(seen_->indices(), kFewer), {});
    VariantMeter meter(few);
    for (Part& part : parts) {
      Model variant = reference_;
      if (!put(part, quantized, variant)) continue;
      const Evaluation evaluation = meter.measure(variant, part.from);
      for (size_t o = 0; o < evaluation.outputs.size(); ++o) {
        if (misses[o]) part.damage += noise_of(evaluation.outputs[o]);
      }
    }
  }

  // --- Which nodes go to float, and in which order -----------------------------------------------

  double cost(NodeId id) const {
    const Graph& graph = reference_.graph;
    const Node& node = graph.node(id);
    auto work = static_cast<double>(multiply_adds(graph, node));
    for (const ValueId out : node.outputs) {
      if (out == kNoValue || !graph.value(out).type.is_concrete()) continue;
      work += static_cast<double>(graph.value(out).type.shape.count());
    }
    for (size_t slot = 0; slot < node.inputs.size(); ++slot) {
      const Tensor* weight = graph.constant_input(node, slot);
      if (weight != nullptr) work += static_cast<double>(weight->count());
    }
    return std::max(work, 1.0);
  }

  std::vector<Candidate> candidates_of(const std::vector<Part>& parts) const {
    const Graph& graph = reference_.graph;
    std::vector<Candidate> out;
    for (const Part& part : parts) {
      if (!(part.damage > 0)) continue;
      const std::string what = part.layer != kNoNode
                                   ? "its weights as integers"
                                   : fmt::format("'{}' as integers", graph.value(part.value).name);
      out.push_back({part.holders,
                     fmt::format("--min-cosine {:g}: {}, all else in float, put noise of {:.2g} of "
                                 "the signal on the outputs that miss it",
                                 floor_, what, part.damage)});
    }
    return out;
  }

  // Each step frees the outputs of the most noise for the work that it moves to float.
  std::vector<Candidate> path_of(const std::vector<Part>& parts) const {
    std::vector<Candidate> left = candidates_of(parts);
    std::vector<Candidate> path;
    std::set<NodeId> kept;
    std::vector<char> clean(parts.size(), 0);
    const auto is_kept = [&](NodeId id) { return kept.count(id) > 0; };
    for (;;) {
      double best = 0;
      size_t chosen = 0;
      for (size_t i = 0; i < left.size(); ++i) {
        double work = 0;
        for (const NodeId id : left[i].nodes) work += is_kept(id) ? 0 : cost(id);
        if (work == 0) continue;
        const std::set<NodeId> own(left[i].nodes.begin(), left[i].nodes.end());
        double gain = 0;
        for (size_t p = 0; p < parts.size(); ++p) {
          const auto& holders = parts[p].holders;
          if (clean[p] || !std::all_of(holders.begin(), holders.end(), [&](NodeId id) {
                return is_kept(id) || own.count(id) > 0;
              })) {
            continue;
          }
          gain += parts[p].damage;
        }
        if (gain / work > best) best = gain / work, chosen = i;
      }
      if (best == 0) return path;
      kept.insert(left[chosen].nodes.begin(), left[chosen].nodes.end());
      for (size_t p = 0; p < parts.size(); ++p) {
        clean[p] = std::all_of(parts[p].holders.begin(), parts[p].holders.end(), is_kept);
      }
      path.push_back(left[chosen]);
    }
  }

  static std::map<NodeId, std::string> first_steps(const std::vector<Candidate>& path,
                                                   size_t steps) {
    std::map<NodeId, std::string> out;
    for (size_t i = 0; i < steps; ++i) {
      for (const NodeId id : path[i].nodes) out.try_emplace(id, path[i].reason);
    }
    return out;
  }

  // The steps after which what is left should be within what is allowed: noise adds up, and the
  // parts' sum stands for what was measured of the whole.
  size_t expected_steps(const std::vector<Part>& parts, const std::vector<Candidate>& path,
                        double measured) const {
    double sum = 0;
    for (const Part& part : parts) sum += part.damage;
    std::set<NodeId> kept;
    for (size_t i = 0; i < path.size(); ++i) {
      kept.insert(path[i].nodes.begin(), path[i].nodes.end());
      double rest = 0;
      for (const Part& part : parts) {
        const bool gone = std::all_of(part.holders.begin(), part.holders.end(),
                                      [&](NodeId id) { return kept.count(id) > 0; });
        if (!gone) rest += part.damage;
      }
      if (rest / sum * measured <= allowed_) return i + 1;
    }
    return path.size();
  }

  Attempt search(Attempt& all) {
    std::vector<char> misses;
    double measured = 0;
    for (const OutputSimilarity& output : all.evaluation.outputs) {
      misses.push_back(!(output.cosine >= 1 - (1 - floor_) * kUsed));
      if (misses.back()) measured = std::max(measured, noise_of(output));
    }
    std::vector<Part> parts = parts_of(*all.job);
    measure(parts, *all.job, misses);
    const std::vector<Candidate> path = path_of(parts);
    if (path.empty()) return std::move(all);
    // From the expected place outwards until one holds, then by halves.
    size_t fails = 0;
    size_t next = expected_steps(parts, path, measured);
    std::optional<Attempt> best;
    for (int tries = 0; tries < kMostAttempts; ++tries) {
      Attempt found = attempt(first_steps(path, next));
      found.steps = next;
      if (holds(found)) {
        best = std::move(found);
      } else {
        fails = next;
        if (next == path.size()) break;
      }
      const size_t most = best ? best->steps : path.size();
      if (best && fails + 1 >= most) break;
      next = best ? (fails + most) / 2 : std::min(path.size(), fails + std::max<size_t>(fails, 1));
      if (tries == kMostAttempts - 2 && !best) next = path.size();
    }
    if (best) return std::move(*best);
    // Not even that: everything that was integer goes back.
    std::map<NodeId, std::string> everything;
    for (const StaticTrace::Step& step : all.job->trace.steps) {
      everything[step.node] =
          fmt::format("--min-cosine {:g}: no part in integers was found to hold it", floor_);
    }
    return attempt(everything);
  }

  QuantJob& job_;
  double floor_;
  double allowed_;  // noise over signal
  const std::function<void(QuantJob&)>& quantize_;
  CalibrationSamples samples_;
  KeptSamples kept_samples_;
  Model reference_;
  std::optional<ReferenceOutputs> seen_;
  double before_ = 1;
};

}  // namespace

void quantize_above(QuantJob& job, double floor, const std::function<void(QuantJob&)>& quantize) {
  Keeper(job, floor, quantize).run();
}

}  // namespace compress
