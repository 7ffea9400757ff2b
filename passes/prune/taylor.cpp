#include "passes/prune/taylor.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <set>

#include "compress/core/interruption.h"
#include "compress/core/parallel.h"
#include "compress/error.h"
#include "compress/runtime/session.h"
#include "compress/train/samples.h"
#include "compress/train/training_graph.h"
#include "compress/verify/accuracy.h"

namespace compress {
namespace {

// Uniform in [0, 1), a function of the numbers alone.
double uniform(uint64_t seed, int64_t sample, uint64_t draw) {
  const uint64_t key = train::mixed_bits(seed + train::mixed_bits(static_cast<uint64_t>(sample)));
  return static_cast<double>(train::mixed_bits(key + draw) >> 11) * 0x1p-53;
}

// Box and Muller 1958.
double normal(uint64_t seed, int64_t sample, uint64_t draw) {
  const double radius = std::sqrt(-2 * std::log(1 - uniform(seed, sample, 2 * draw)));
  return radius * std::cos(2 * std::numbers::pi * uniform(seed, sample, 2 * draw + 1));
}

// A class for each row of probabilities.
Tensor drawn_classes(const TensorView& output, uint64_t seed, int64_t sample) {
  const Rows rows = rows_of(output);
  std::vector<int64_t> classes;
  for (int64_t r = 0; r < rows.count(); ++r) {
    double left = uniform(seed, sample, static_cast<uint64_t>(r));
    int64_t chosen = 0;
    for (const float p : rows.row(r)) {
      left -= static_cast<double>(p);
      if (left < 0) break;
      ++chosen;
    }
    classes.push_back(std::min(chosen, rows.classes - 1));
  }
  const Shape shape(output.shape.dims().first(static_cast<size_t>(output.shape.rank()) - 1));
  return Tensor::from<int64_t>(shape, classes);
}

Tensor with_noise(const TensorView& output, uint64_t seed, int64_t sample) {
  Tensor out = Tensor::allocate(DType::float32, output.shape);
  const auto from = std::span(output.as<const float>(), static_cast<size_t>(output.count()));
  uint64_t draw = 0;
  std::transform(from.begin(), from.end(), out.mutable_as<float>().begin(),
                 [&](float x) { return x + static_cast<float>(normal(seed, sample, draw++)); });
  return out;
}

// Gradients of the loss, sample by sample.
class Gradients {
 public:
  Gradients(const Model& model, const CalibrationSamples& samples, uint64_t seed)
      : model_(model),
        samples_(samples),
        seed_(seed),
        plain_(model),
        target_(target_of()),
        graph_(train::make_training_graph(model,
                                          target_ == Target::noisy_outputs ? &model : nullptr,
                                          target_ != Target::noisy_outputs, options())),
        session_(graph_.model) {
    for (size_t i = 0; i < graph_.parameters.size(); ++i) {
      rows_[graph_.parameters[i].name] = static_cast<size_t>(i);
    }
  }

  bool has(const std::string& constant) const { return rows_.count(constant) > 0; }

  // Calls done() after each sample; of() is that sample's.
  template <class Done>
  void run(Done&& done) {
    for (const int64_t index : samples_.indices) {
      check_interruption();
      session_.run_discarding(feeds(index));
      done();
    }
  }
  std::span<const float> of(const std::string& constant) const {
    const TensorView& view = session_.output(1 + rows_.at(constant));
    return {view.as<const float>(), static_cast<size_t>(view.count())};
  }

 private:
  enum class Target { labels, drawn_classes, noisy_outputs };

  Target target_of() {
    const Sample first = samples_.source->get(samples_.indices.at(0));
    if (first.label) return Target::labels;
    const Tensor output = plain_.run(first.inputs).at(0);
    if (output.dtype() != DType::float32 || output.shape().rank() < 2) return Target::noisy_outputs;
    const TensorData data = output.read();
    const Rows rows = rows_of(data.view());
    bool shares = rows.count() > 0 && rows.classes > 1;
    for (int64_t r = 0; r < rows.count() && shares; ++r) shares = is_distribution(rows.row(r));
    return shares ? Target::drawn_classes : Target::noisy_outputs;
  }

  train::TrainOptions options() const {
    train::TrainOptions options;
    const Sample first = samples_.source->get(samples_.indices.at(0));
    const Shape& shape = first.inputs.at(0).tensor.shape();
    options.batch = shape.rank() > 0 ? shape[0] : 1;
    options.batch_statistics = false;
    options.learn_scales = false;
    options.loss.terms =
        train::parse_loss(target_ == Target::noisy_outputs ? "mse" : "cross-entropy");
    return options;
  }

  std::vector<NamedTensor> feeds(int64_t index) {
    const Sample sample = samples_.source->get(index);
    std::vector<NamedTensor> out = sample.inputs;
    const train::LossInputs& wanted = graph_.inputs;
    if (target_ == Target::labels) {
      Tensor label = sample.label.value();
      if (label.shape().rank() == 2 && label.shape()[1] == 1) {
        label = label.reshaped({label.shape()[0]});
      }
      const Graph& graph = graph_.model.graph;
      const ValueId logits = train::logits_of(graph, output_name());
      train::check_labels(label, graph.value(logits).type, {index});
      out.push_back({wanted.label, std::move(label)});
    } else {
      const Tensor made = plain_.run(sample.inputs).at(0);
      const TensorData data = made.read();
      const bool classes = target_ == Target::drawn_classes;
      out.push_back({classes ? wanted.label : wanted.teacher.at(0),
                     classes ? drawn_classes(data.view(), seed_, index)
                             : with_noise(data.view(), seed_, index)});
    }
    for (const train::Parameter& parameter : graph_.parameters) {
      out.push_back({graph_.model.graph.value(parameter.value).name, parameter.initial});
    }
    return out;
  }

  std::string output_name() const { return model_.graph.value(model_.graph.outputs()[0]).name; }

  const Model& model_;
  const CalibrationSamples& samples_;
  uint64_t seed_;
  Session plain_;
  Target target_;
  train::TrainingGraph graph_;
  Session session_;
  std::map<std::string, size_t> rows_;
};

}  // namespace

void rank_by_taylor(const Model& model, Candidates& candidates, const CalibrationSamples& samples,
                    uint64_t seed) {
  Gradients gradients(model, samples, seed);
  std::vector<Candidate> ranked;
  for (Candidate& candidate : candidates.chosen) {
    const bool here = candidate.home == &model.graph;
    if (here && gradients.has(candidate.home->value(candidate.value).name)) {
      ranked.push_back(std::move(candidate));
    } else {
      candidates.skipped.push_back(
          {label_of(candidate), "it has no gradient: not float32, or the loss does not read it"});
    }
  }
  candidates.chosen = std::move(ranked);
  struct Row {
    std::string name;
    TensorData weights;
    std::vector<double> sums;
  };
  std::vector<Row> rows;
  for (const Candidate& candidate : candidates.chosen) {
    const Tensor& tensor = candidate.target.tensor;
    rows.push_back({candidate.home->value(candidate.value).name, tensor.read(),
                    std::vector<double>(static_cast<size_t>(tensor.count()), 0)});
  }
  gradients.run([&] {
    for (Row& row : rows) {
      const std::span<const float> gradient = gradients.of(row.name);
      const std::span<const float> weights = row.weights.as<float>();
      parallel_for(0, static_cast<int64_t>(weights.size()), 4096, [&](int64_t from, int64_t to) {
        for (auto i = static_cast<size_t>(from); i < static_cast<size_t>(to); ++i) {
          const double change = double{weights[i]} * double{gradient[i]};
          row.sums[i] += change * change;
        }
      });
    }
  });
  for (size_t i = 0; i < rows.size(); ++i) {
    std::vector<float>& ranks = candidates.chosen[i].target.ranks;
    for (const double sum : rows[i].sums) ranks.push_back(static_cast<float>(std::sqrt(sum)));
  }
}

ChannelScores taylor_scores(const Model& model, const ChannelGraph& channels,
                            const CalibrationSamples& samples, uint64_t seed) {
  Gradients gradients(model, samples, seed);
  const auto name_of = [&](const ChannelConstant& row) -> const std::string& {
    return model.graph.value(row.value).name;
  };
  const auto usable = [&](const ChannelConstant& row, ChannelRole role) {
    return row.role == role && gradients.has(name_of(row));
  };
  std::set<ChannelUnit> read;
  for (const ChannelConstant& row : channels.constants) {
    if (!usable(row, ChannelRole::reads)) continue;
    for (const ChannelUnit unit : row.axis.units) read.insert(channels.units.find(unit));
  }
  ChannelScores scores(channels.units.size(), 0), sums(channels.units.size());
  gradients.run([&] {
    std::fill(sums.begin(), sums.end(), 0);
    for (const ChannelConstant& row : channels.constants) {
      const bool reads = usable(row, ChannelRole::reads);
      if (!reads && !usable(row, ChannelRole::makes)) continue;
      const Tensor& tensor = model.graph.value(row.value).constant;
      const TensorData data = tensor.read();
      const std::span<const float> weights = data.as<float>();
      const std::span<const float> gradient = gradients.of(name_of(row));
      const auto inner =
          static_cast<size_t>(tensor.shape().count(row.axis.axis + 1, tensor.shape().rank()));
      for (size_t i = 0; i < weights.size(); ++i) {
        const ChannelUnit unit =
            channels.units.find(row.axis.units[i / inner % row.axis.units.size()]);
        if (reads != (read.count(unit) > 0)) continue;
        sums[static_cast<size_t>(unit)] += double{weights[i]} * double{gradient[i]};
      }
    }
    for (size_t unit = 0; unit < sums.size(); ++unit) scores[unit] += sums[unit] * sums[unit];
  });
  return scores;
}

}  // namespace compress
