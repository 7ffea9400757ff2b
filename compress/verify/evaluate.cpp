#include "compress/verify/evaluate.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <span>

#include "compress/error.h"
#include "compress/verify/accuracy.h"
#include "compress/verify/distortion.h"

namespace compress {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// One output that both models have.
struct Compared {
  std::string name;
  size_t reference = 0;  // index among the outputs
  size_t candidate = 0;
  Distortion distortion;
  int64_t rows = 0;
  int64_t same_argmax = 0;
  double kl = 0;
};

struct Side {
  Accuracy accuracy;
  std::map<int64_t, std::vector<float>> embeddings;  // by sample, until its partner comes
  std::vector<double> cosines;                       // one a pair
};

std::vector<Compared> match_outputs(const std::vector<std::string>& ours,
                                    const std::vector<std::string>& theirs,
                                    std::vector<std::string>& notes) {
  std::vector<Compared> out;
  for (size_t i = 0; i < ours.size(); ++i) {
    const auto at = std::find(theirs.begin(), theirs.end(), ours[i]);
    if (at != theirs.end()) {
      out.push_back({ours[i], i, static_cast<size_t>(at - theirs.begin()), {}, 0, 0, 0});
    } else if (ours.size() == theirs.size()) {
      notes.push_back(
          fmt::format("output '{}' is called '{}' in the candidate", ours[i], theirs[i]));
      out.push_back({ours[i], i, i, {}, 0, 0, 0});
    } else {
      notes.push_back(fmt::format("output '{}' is missing in the candidate", ours[i]));
    }
  }
  if (out.empty()) fail(ErrorCode::invalid_model, "the two models have no output in common");
  return out;
}

void compare(Compared& row, const Tensor& reference, const Tensor& candidate, int64_t axis,
             std::vector<std::string>& notes) {
  if (!is_comparable(reference.dtype()) || !is_comparable(candidate.dtype())) {
    const std::string note = fmt::format("output '{}' holds no numbers", row.name);
    if (std::find(notes.begin(), notes.end(), note) == notes.end()) notes.push_back(note);
    return;
  }
  if (!(reference.shape() == candidate.shape())) {
    fail(ErrorCode::invalid_model,
         "output '{}' has shape {} in the reference and {} in the "
         "candidate for the same sample",
         row.name, reference.shape().to_string(), candidate.shape().to_string());
  }
  const TensorData reference_data = reference.read();
  const TensorData candidate_data = candidate.read();
  const Rows ours = rows_of(reference_data.view(), axis);
  const Rows theirs = rows_of(candidate_data.view(), axis);
  row.distortion.add(ours.values, theirs.values);
  for (int64_t i = 0; i < ours.count(); ++i) {
    ++row.rows;
    row.same_argmax += argmax(ours.row(i)) == argmax(theirs.row(i));
    row.kl += kl_divergence(ours.row(i), theirs.row(i));
  }
}

// Why the labels cannot be compared with the rows of the output; "" where they can.
std::string label_mismatch(const Tensor& output, const Rows& rows, int64_t labels) {
  if (labels == rows.count()) return "";
  return fmt::format(
      "{} labels do not fit the output {}: it holds {} rows of {} scores; name another output or "
      "axis with --metric-output NAME:AXIS",
      labels, output.shape().to_string(), rows.count(), rows.classes);
}

// Whether the arg-max of each row is its label.
std::vector<bool> add_labels(Side& side, const Tensor& output, int64_t axis, const Tensor& label) {
  const TensorData data = output.read();
  const Rows rows = rows_of(data.view(), axis);
  const std::vector<int64_t> labels = label.to_ints();
  const std::string mismatch = label_mismatch(output, rows, static_cast<int64_t>(labels.size()));
  if (!mismatch.empty()) fail(ErrorCode::usage, "{}", mismatch);
  side.accuracy.add(rows, labels);
  std::vector<bool> right;
  for (size_t i = 0; i < labels.size(); ++i) {
    right.push_back(argmax(rows.row(static_cast<int64_t>(i))) == labels[i]);
  }
  return right;
}

// Samples that only one of the models has right.
struct Disagreement {
  int64_t lost = 0;  // only the reference
  int64_t won = 0;   // only the candidate

  void add(const std::vector<bool>& reference, const std::vector<bool>& candidate) {
    for (size_t i = 0; i < reference.size(); ++i) {
      lost += reference[i] && !candidate[i];
      won += candidate[i] && !reference[i];
    }
  }
};

// Sample `position` of a batch as a tensor of batch 1.
Tensor slice(const Tensor& tensor, int64_t position) {
  Shape shape = tensor.shape();
  if (shape.rank() == 0 || shape[0] <= 1) return tensor;
  const size_t bytes = tensor.bytes() / static_cast<size_t>(shape[0]);
  shape[0] = 1;
  const auto data = std::make_shared<TensorData>(tensor.read());
  return Tensor::borrow(tensor.dtype(), shape,
                        data->bytes().data() + bytes * static_cast<size_t>(position), data);
}

std::vector<float> mask_of(const Sample& sample, int64_t position) {
  for (const NamedTensor& input : sample.inputs) {
    if (input.name.find("mask") == std::string::npos) continue;
    const TensorData data = slice(input.tensor, position).read();
    return to_floats(data.view());
  }
  return {};
}

void add_embedding(Side& side, int64_t sample, const Tensor& output, std::span<const float> mask) {
  const TensorData data = output.read();
  std::vector<float> pooled = mean_pool(data.view(), mask);
  const auto partner = side.embeddings.find(sample ^ 1);
  if (partner == side.embeddings.end()) {
    side.embeddings.emplace(sample, std::move(pooled));
    return;
  }
  side.cosines.push_back(cosine(partner->second, pooled));
  side.embeddings.erase(partner);
}

OutputSimilarity similarity_of(const Compared& row) {
  const double rows = static_cast<double>(row.rows);
  return {row.name,
          row.distortion.sqnr_db(),
          row.distortion.psnr_db(),
          row.distortion.cosine(),
          row.distortion.mse(),
          row.distortion.max_abs_error(),
          static_cast<double>(row.same_argmax) / rows,
          row.kl / rows};
}

// Keeps the worse of two; NaN is the worst.
void keep_worst(double& worst, double value, bool higher_is_better) {
  if (std::isnan(worst)) return;
  if (std::isnan(value) || (higher_is_better ? value < worst : value > worst)) worst = value;
}

Measurements summarize(const std::vector<OutputSimilarity>& outputs, size_t metric_output) {
  Measurements out = {{"mse", {0, 0}},
                      {"psnr", {kInfinity, kInfinity}},
                      {"sqnr", {kInfinity, kInfinity}},
                      {"cosine", {1, kInfinity}},
                      {"kl", {0, -kInfinity}},
                      {"agreement", {1, outputs[metric_output].agreement}}};
  for (const OutputSimilarity& row : outputs) {
    keep_worst(out["mse"].candidate, row.mse, false);
    keep_worst(out["psnr"].candidate, row.psnr_db, true);
    keep_worst(out["sqnr"].candidate, row.sqnr_db, true);
    keep_worst(out["cosine"].candidate, row.cosine, true);
    keep_worst(out["kl"].candidate, row.kl, false);
  }
  return out;
}

Measurements accuracy_of(const Side& reference, const Side& candidate, bool positions,
                         std::span<const double> scores) {
  Measurements out;
  const Accuracy& ours = reference.accuracy;
  const Accuracy& theirs = candidate.accuracy;
  if (ours.count() > 0) {
    const Accuracy::Macro a = ours.macro();
    const Accuracy::Macro b = theirs.macro();
    out["top1"] = {ours.top1(), theirs.top1()};
    out["top5"] = {ours.top5(), theirs.top5()};
    out["precision"] = {a.precision, b.precision};
    out["recall"] = {a.recall, b.recall};
    out["f1"] = {a.f1, b.f1};
    if (positions) out["perplexity"] = {ours.perplexity(), theirs.perplexity()};
  }
  if (!scores.empty()) {
    out["spearman"] = {spearman(reference.cosines, scores), spearman(candidate.cosines, scores)};
  }
  return out;
}

// Tokens of one text depend on each other: no intervals for them.
void add_intervals(Evaluation& result, int64_t count, const Disagreement& disagreement) {
  for (const char* name : {"top1", "top5"}) {
    const Measured& value = result.accuracy.at(name);
    result.intervals[name] = {
        share_interval(value.reference, count), share_interval(value.candidate, count), {}};
  }
  result.intervals["top1"].drop = drop_interval(disagreement.lost, disagreement.won, count);
}

void add_confusion(Evaluation& result, const Side& reference, const Side& candidate) {
  const auto ours = reference.accuracy.confusion(), theirs = candidate.accuracy.confusion();
  if (ours.empty() || ours.size() != theirs.size()) return;
  const int64_t classes = std::llround(std::sqrt(static_cast<double>(ours.size())));
  result.confusion = {classes, {ours.begin(), ours.end()}, {theirs.begin(), theirs.end()}};
}

}  // namespace

Evaluation evaluate(Session& reference, Session& candidate, SampleSource& data,
                    const std::vector<int64_t>& indices, const EvaluateOptions& options) {
  return evaluate(runner_of(reference), runner_of(candidate), data, indices, options);
}

Evaluation evaluate(const Runner& reference, const Runner& candidate, SampleSource& data,
                    const std::vector<int64_t>& indices, const EvaluateOptions& options) {
  Evaluation result;
  std::vector<Compared> outputs = match_outputs(reference.outputs, candidate.outputs, result.notes);
  size_t metric = 0;
  if (!options.metric_output.empty()) {
    const auto at = std::find_if(outputs.begin(), outputs.end(), [&](const Compared& row) {
      return row.name == options.metric_output;
    });
    if (at == outputs.end()) {
      fail(ErrorCode::usage, "--metric-output: the models have no output '{}' in common",
           options.metric_output);
    }
    metric = static_cast<size_t>(at - outputs.begin());
  }
  const std::vector<double> all_scores = data.pair_scores();
  std::vector<double> scores;  // of the pairs that were evaluated, in that order
  Side ours, theirs;
  Disagreement disagreement;
  bool positions = false;
  bool with_labels = true;
  const int64_t total = static_cast<int64_t>(indices.size());
  for (int64_t first = 0; first < total; first += options.batch) {
    const int64_t last = std::min(first + options.batch, total);
    const std::vector<int64_t> batch(indices.begin() + first, indices.begin() + last);
    const Sample sample = join(data, batch);
    const std::vector<Tensor> a = reference.run(sample.inputs);
    const std::vector<Tensor> b = candidate.run(sample.inputs);
    for (size_t i = 0; i < outputs.size(); ++i) {
      compare(outputs[i], a[outputs[i].reference], b[outputs[i].candidate],
              i == metric ? options.metric_axis : -1, result.notes);
    }
    const Tensor& a_metric = a[outputs[metric].reference];
    const Tensor& b_metric = b[outputs[metric].candidate];
    if (first == 0 && sample.label && !options.needs_labels) {
      const TensorData data_of_output = a_metric.read();
      const std::string mismatch = label_mismatch(
          a_metric, rows_of(data_of_output.view(), options.metric_axis), sample.label->count());
      if (!mismatch.empty()) result.notes.push_back("compared without labels: " + mismatch);
      with_labels = mismatch.empty();
    }
    if (sample.label && with_labels) {
      positions = positions || sample.label->count() > static_cast<int64_t>(batch.size());
      try {
        disagreement.add(add_labels(ours, a_metric, options.metric_axis, *sample.label),
                         add_labels(theirs, b_metric, options.metric_axis, *sample.label));
      } catch (const Error& error) {
        if (options.needs_labels || error.code() == ErrorCode::internal) throw;
        result.notes.push_back("compared without labels: " + error.message());
        with_labels = positions = false;
        ours.accuracy = theirs.accuracy = {};
        disagreement = {};
      }
    }
    for (size_t i = 0; i < batch.size() && !all_scores.empty(); ++i) {
      const int64_t at = static_cast<int64_t>(i);
      const std::vector<float> mask = mask_of(sample, at);
      const size_t pairs = ours.cosines.size();
      add_embedding(ours, batch[i], slice(a_metric, at), mask);
      add_embedding(theirs, batch[i], slice(b_metric, at), mask);
      if (ours.cosines.size() > pairs) {
        scores.push_back(all_scores[static_cast<size_t>(batch[i] / 2)]);
      }
    }
    result.samples = last;
    if (options.progress) options.progress(last, total);
  }
  for (const Compared& row : outputs) {
    if (row.distortion.count() > 0) result.outputs.push_back(similarity_of(row));
  }
  if (!result.outputs.empty()) {
    const auto at =
        std::find_if(result.outputs.begin(), result.outputs.end(),
                     [&](const OutputSimilarity& row) { return row.name == outputs[metric].name; });
    result.similarity = summarize(
        result.outputs,
        at == result.outputs.end() ? 0 : static_cast<size_t>(at - result.outputs.begin()));
  }
  result.labelled = ours.accuracy.count() > 0;
  result.accuracy = accuracy_of(ours, theirs, positions, scores);
  if (result.labelled && !positions) add_intervals(result, ours.accuracy.count(), disagreement);
  if (result.labelled) add_confusion(result, ours, theirs);
  return result;
}

bool can_measure(MetricNeeds needs, SampleSource* data) {
  switch (needs) {
    case MetricNeeds::nothing:
    case MetricNeeds::timing:
    case MetricNeeds::memory:
    case MetricNeeds::generation:
      return true;
    case MetricNeeds::data:
      return data != nullptr;
    case MetricNeeds::labels:
      return data != nullptr && data->labelled();
    case MetricNeeds::pair_scores:
      return data != nullptr && !data->pair_scores().empty();
    case MetricNeeds::positions: {
      if (data == nullptr || !data->labelled() || data->size() == 0) return false;
      const Sample sample = data->get(0);
      return sample.label && sample.label->count() > 1;
    }
  }
  return false;
}

}  // namespace compress
