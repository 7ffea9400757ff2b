// Pruning by what layers see of calibration data, layer after layer in execution order, so that
// each reads what the pruned ones before it make.
//
// With --scope global, what each layer loses follows from measurement: a weight counts as the part
// that it has in the energy of its layer's outputs, and the smallest of all layers go.
//
// wanda: |weight| times the norm of the input it multiplies, compared within each output (Sun et
// al. 2023, arXiv 2306.11695). sparsegpt: the weights whose loss the others of their output can
// make up for best, which they then do (Frantar and Alistarh 2023, arXiv 2301.00774).
#include <algorithm>
#include <bit>
#include <cmath>
#include <map>

#include "compress/core/parallel.h"
#include "compress/error.h"
#include "passes/edit.h"
#include "passes/prune/candidates.h"
#include "passes/prune/masks.h"
#include "passes/prune/prune.h"
#include "passes/prune/sparse_gpt.h"
#include "passes/recover/activations.h"
#include "passes/recover/input_gram.h"

namespace compress {
namespace {

// The root of the sum of squares of each input of a layer: channels of a convolution, else columns.
class InputNorms {
 public:
  InputNorms(bool is_conv, int64_t inputs)
      : is_conv_(is_conv), sums_(static_cast<size_t>(inputs), 0) {}

  void add(const TensorView& x) {
    const auto inputs = static_cast<int64_t>(sums_.size());
    const int64_t inner = is_conv_ ? x.shape.count(2, x.shape.rank()) : 1;
    const int64_t outer = x.shape.count() / std::max<int64_t>(1, inputs * inner);
    const auto* data = x.as<const float>();
    parallel_for(0, inputs, 1, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) {
        double sum = 0;
        for (int64_t o = 0; o < outer; ++o) {
          const float* run = data + (o * inputs + c) * inner;
          for (int64_t i = 0; i < inner; ++i) sum += double{run[i]} * run[i];
        }
        sums_[static_cast<size_t>(c)] += sum;
      }
    });
  }
  std::vector<double> norms() const {
    std::vector<double> out;
    for (const double sum : sums_) out.push_back(std::sqrt(sum));
    return out;
  }

 private:
  bool is_conv_;
  std::vector<double> sums_;
};

// "" where the layer's inputs and weights can be followed.
std::string refusal(const Model& model, const Candidate& candidate, bool updates) {
  const WeightRead& first = candidate.reads.front();
  const Node& node = first.graph->node(first.node);
  const Shape& shape = candidate.target.tensor.shape();
  for (const WeightRead& read : candidate.reads) {
    const Node& reader = read.graph->node(read.node);
    if (read.graph != &model.graph) return "in a body, whose inputs calibration does not see";
    if (reader.op_type != node.op_type || reader.int_or("group", 1) != node.int_or("group", 1)) {
      return "read in different ways";
    }
    const ValueId plain =
        read.dequantize == kNoNode ? read.value : model.graph.node(read.dequantize).outputs[0];
    if (operand(reader, 1) != plain) return "its weights are moved on the way";
    if (updates && read.dequantize != kNoNode) return "its weights are quantized";
  }
  if (node.is("Conv")) {
    const int64_t groups = node.int_or("group", 1);
    return groups > 0 && shape.rank() >= 3 && shape[0] % groups == 0 ? "" : "uneven groups";
  }
  if (node.is("Gemm")) return node.int_or("transA", 0) == 0 ? "" : "its input is transposed";
  if (node.is("MatMul")) return shape.rank() == 2 ? "" : "not two dimensions";
  return "inputs are followed for Conv, Gemm and MatMul only";
}

class CalibratedPruner {
 public:
  CalibratedPruner(Model& model, PassContext& context, const Granularity& granularity)
      : model_(model),
        granularity_(granularity),
        sparsities_(context.options, granularity),
        updates_(context.options.text("method") == "sparsegpt"),
        together_(context.options.text("scope") == "global"),
        samples_((*context.samples)()),
        activations_(model, samples_) {}

  PassResult run(Candidates candidates) {
    leave(candidates, [&](const Candidate& candidate) {
      std::string reason = refusal(model_, candidate, updates_);
      if (reason.empty() && granularity_.unit == PruneUnit::n_of_m &&
          candidate.axes->segment <= granularity_.keep) {
        reason = fmt::format("{} inputs an output, of which {} stay", candidate.axes->segment,
                             granularity_.keep);
      }
      if (reason.empty() && sparsity_of(candidate, sparsities_) == 0) {
        reason = "a sparsity of 0";
      }
      return reason;
    });
    std::map<ValueId, double> shares;
    if (together_) {
      leave(candidates, [&](Candidate& candidate) { return weigh(candidate); });
      if (!updates_) {
        zero_least(candidates, granularity_, sparsities_, true, report_);
        return report_.result(std::move(candidates.skipped));
      }
      shares = allocate(candidates.chosen);
    }
    leave(candidates, [&](Candidate& candidate) {
      const double sparsity =
          together_ ? shares.at(candidate.value) : sparsity_of(candidate, sparsities_);
      return updates_ ? rebuild(candidate, sparsity) : zero(candidate, sparsity);
    });
    return report_.result(std::move(candidates.skipped));
  }

 private:
  // Moves the candidates for which there is a reason to the skipped ones.
  template <class Reason>
  static void leave(Candidates& candidates, Reason&& reason_of) {
    std::vector<Candidate> rest;
    for (Candidate& candidate : candidates.chosen) {
      std::string reason =
          in_context([&] { return fmt::format("while pruning {}", label_of(candidate)); },
                     [&] { return reason_of(candidate); });
      if (reason.empty()) {
        rest.push_back(std::move(candidate));
      } else {
        candidates.skipped.push_back({label_of(candidate), std::move(reason)});
      }
    }
    candidates.chosen = std::move(rest);
  }

  const Node& node_of(const Candidate& candidate) const {
    return model_.graph.node(candidate.reads.front().node);
  }

  // Shows what all readers of the weights read, sample by sample.
  template <class Add>
  void visit_inputs(const Candidate& candidate, Add&& add) {
    bool first = true;
    for (const WeightRead& read : candidate.reads) {
      activations_.visit(model_.graph.node(read.node).inputs[0], add, first);
      first = false;
    }
  }

  // Ranks by size and input; "" or why that cannot be.
  std::string weigh(Candidate& candidate) {
    const Node& node = node_of(candidate);
    PruneTarget& target = candidate.target;
    const WeightAxes& axes = *candidate.axes;
    const int64_t groups = node.is("Conv") ? node.int_or("group", 1) : 1;
    InputNorms inputs(node.is("Conv"), axes.segment * groups);
    visit_inputs(candidate, [&](const TensorView& content) { inputs.add(content); });
    std::vector<double> norms = inputs.norms();
    if (!std::all_of(norms.begin(), norms.end(), [](double x) { return std::isfinite(x); })) {
      return "its inputs are not finite";
    }
    target.weigh_inputs(norms, axes.reduction, axes.output, groups);
    if (!together_) return "";
    // As parts of the layer's energy, inputs taken as independent.
    const TensorData data = target.tensor.read();
    double energy = 0;
    for (int64_t i = 0; i < target.tensor.count(); ++i) {
      const double part = std::bit_cast<double>(target.key_at(data.view(), i));
      energy += part * part;
    }
    if (!(energy > 0) || !std::isfinite(energy)) return "its outputs have no energy to measure by";
    for (double& norm : norms) norm /= std::sqrt(energy);
    target.weigh_inputs(std::move(norms), axes.reduction, axes.output, groups);
    return "";
  }

  // The sparsity of each layer that follows from ranking all together.
  std::map<ValueId, double> allocate(std::vector<Candidate>& candidates) const {
    std::vector<const PruneTarget*> targets;
    int64_t count = 0;
    for (const Candidate& candidate : candidates) {
      targets.push_back(&candidate.target);
      count += candidate.target.tensor.count();
    }
    std::map<ValueId, double> out;
    if (targets.empty()) return out;
    Threshold threshold = select_smallest(targets, wanted_zeros(sparsities_.all(), count));
    for (Candidate& candidate : candidates) {
      const Zeroed zeroed = zero_smallest(candidate.target, threshold);
      out[candidate.value] =
          static_cast<double>(zeroed.zeros) /
          static_cast<double>(std::max<int64_t>(1, candidate.target.tensor.count()));
    }
    return out;
  }

  std::string zero(Candidate& candidate, double sparsity) {
    if (std::string reason = weigh(candidate); !reason.empty()) return reason;
    const PruneTarget& target = candidate.target;
    const WeightAxes& axes = *candidate.axes;
    if (granularity_.unit == PruneUnit::element) {
      report_.set(candidate, zero_masked(target, mask_outputs(target, axes, sparsity)));
    } else if (granularity_.unit == PruneUnit::n_of_m) {
      report_.set(candidate, zero_masked(target, mask_n_of_m(target, axes, granularity_.keep,
                                                             granularity_.of)));
    } else {
      report_.set(candidate,
                  zero_masked(target, mask_smallest_blocks(target, axes, granularity_, sparsity)));
    }
    return "";
  }

  std::string rebuild(Candidate& candidate, double sparsity) {
    const Tensor weight = candidate.target.tensor;
    const NodeId id = candidate.reads.front().node;
    InputGram gram(model_, id, weight.shape(),
                   static_cast<int64_t>(samples_.indices.size() * candidate.reads.size()));
    visit_inputs(candidate, [&](const TensorView& content) { gram.add(content); });
    const SparseGptOptions options{sparsity, granularity_.unit == PruneUnit::n_of_m,
                                   granularity_.keep, granularity_.of};
    std::optional<Tensor> sparse =
        sparse_gpt(convert(weight, DType::float32), *candidate.axes, gram, options);
    if (!sparse) return "what it reads cannot be inverted (not finite)";
    report_.set(candidate, count_zeros(candidate.target, convert(*sparse, weight.dtype())));
    return "";
  }

  Model& model_;
  Granularity granularity_;
  Sparsities sparsities_;
  bool updates_;
  bool together_;
  CalibrationSamples samples_;
  Activations activations_;
  PruneReport report_;
};

}  // namespace

PassResult prune_calibrated(Model& model, PassContext& context) {
  const std::string method = context.options.text("method");
  const Granularity granularity = read_granularity(context.options);
  if (method == "magnitude" || method == "taylor" || removes(granularity.unit)) return {};
  if (context.options.text("scope") == "global" && granularity.unit == PruneUnit::n_of_m) {
    fail(ErrorCode::usage, "--granularity {}:{} holds in every group; leave out --scope global",
         granularity.keep, granularity.of);
  }
  if (method == "sparsegpt" && granularity.unit == PruneUnit::block) {
    fail(ErrorCode::usage,
         "--method sparsegpt prunes elements and N:M; wanda ranks blocks as well");
  }
  if (context.samples == nullptr) {
    fail(ErrorCode::usage, "--method {} measures what layers read, on samples; give --data",
         method);
  }
  return CalibratedPruner(model, context, granularity)
      .run(find_candidates(model, context.options, true));
}

}  // namespace compress
