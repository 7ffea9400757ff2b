#include "passes/prune/channel_calibration.h"

#include <Eigen/Cholesky>
#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "passes/recover/activations.h"
#include "passes/recover/input_gram.h"

namespace compress {
namespace {

using Eigen::MatrixXd;

constexpr double kDamping = 0.01;  // of the mean of the diagonal, as for GPTQ

// A layer that reads channels, as rows of outputs by columns [input of the group, tap].
struct Reader {
  const ChannelConstant* weights;
  NodeId node;
  bool rows_first;
  int64_t outputs, inputs, taps;  // inputs: of a group

  int64_t columns() const { return inputs * taps; }
  size_t at(int64_t row, int64_t column) const {
    return static_cast<size_t>(rows_first ? row * columns() + column : column * outputs + row);
  }
};

// Those whose inputs can be followed: float32 weights of one Conv, Gemm or MatMul, in execution
// order.
std::vector<Reader> readers_of(const Model& model, const ChannelGraph& channels) {
  const Graph& graph = model.graph;
  std::map<NodeId, Reader> by_node;
  for (const ChannelConstant& row : channels.constants) {
    const Node& node = graph.node(row.node);
    const Tensor& tensor = graph.value(row.value).constant;
    if (row.role != ChannelRole::reads || graph.uses(row.value).size() != 1 ||
        tensor.dtype() != DType::float32 || node.is("ConvTranspose")) {
      continue;
    }
    const Shape& shape = tensor.shape();
    const int64_t taps = node.is("Conv") ? shape.count(2, shape.rank()) : 1;
    const int64_t inputs = shape[row.axis.axis];
    by_node.emplace(row.node, Reader{&row, row.node, row.axis.axis == 1,
                                     tensor.count() / (inputs * taps), inputs, taps});
  }
  std::vector<Reader> out;
  for (const NodeId id : graph.order()) {
    if (const auto row = by_node.find(id); row != by_node.end()) out.push_back(row->second);
  }
  return out;
}

MatrixXd rows_of(const Reader& reader, const std::vector<double>& values, int64_t first,
                 int64_t count) {
  MatrixXd rows(count, reader.columns());
  for (int64_t r = 0; r < count; ++r) {
    for (int64_t c = 0; c < reader.columns(); ++c) rows(r, c) = values[reader.at(first + r, c)];
  }
  return rows;
}

MatrixXd damped(MatrixXd gram) {
  const double mean = gram.diagonal().mean();
  gram.diagonal().array() += mean > 0 ? kDamping * mean : 1;
  return gram;
}

InputGram gram_of(const Model& model, const Reader& reader, const CalibrationSamples& samples,
                  Activations& activations) {
  const Tensor& tensor = model.graph.value(reader.weights->value).constant;
  InputGram gram(model, reader.node, tensor.shape(), static_cast<int64_t>(samples.indices.size()));
  activations.visit(model.graph.node(reader.node).inputs[0],
                    [&](const TensorView& content) { gram.add(content); });
  return gram;
}

// The columns of each unit, in a group: of all inputs that hold it, tap by tap.
std::map<ChannelUnit, std::vector<Eigen::Index>> columns_of(const Reader& reader,
                                                            const ChannelUnits& units) {
  std::map<ChannelUnit, std::vector<Eigen::Index>> out;
  for (int64_t c = 0; c < reader.columns(); ++c) {
    const auto input = static_cast<size_t>(c / reader.taps);
    out[units.find(reader.weights->axis.units[input])].push_back(c);
  }
  return out;
}

// Adds the errors of one reader to the scores.
void score(const Reader& reader, const std::vector<double>& values, const InputGram& gram,
           bool compensated, const ChannelUnits& units, ChannelScores& scores) {
  const int64_t rows = reader.outputs / gram.groups();
  std::map<ChannelUnit, double> errors;
  double energy = 0;
  for (int64_t group = 0; group < gram.groups(); ++group) {
    const MatrixXd& h = gram.sum(group);
    if (!h.allFinite()) return;
    const MatrixXd w = rows_of(reader, values, group * rows, rows);
    energy += (w * h).cwiseProduct(w).sum();
    MatrixXd inverse;
    if (compensated) {
      const Eigen::LLT<MatrixXd> factor(damped(h));
      if (factor.info() != Eigen::Success) return;
      inverse = factor.solve(MatrixXd::Identity(h.rows(), h.cols()));
    }
    for (const auto& [unit, columns] : columns_of(reader, units)) {
      const MatrixXd part = w(Eigen::all, columns);
      const MatrixXd own = (compensated ? std::as_const(inverse) : h)(columns, columns);
      if (compensated) {
        errors[unit] += own.llt().solve(part.transpose()).cwiseProduct(part.transpose()).sum();
      } else if (static_cast<int64_t>(columns.size()) == reader.taps) {
        errors[unit] += (part.colwise().squaredNorm() * own.diagonal()).value();
      } else {
        // A head is one: what its columns have in common counts.
        errors[unit] += (part * own).cwiseProduct(part).sum();
      }
    }
  }
  if (!(energy > 0)) return;
  for (const auto& [unit, error] : errors) scores[static_cast<size_t>(unit)] += error / energy;
}

// The weights of kept columns that come closest to all of them.
bool refit(const MatrixXd& gram, const std::vector<int64_t>& kept, MatrixXd& rows) {
  const MatrixXd h = damped(gram);
  const auto count = static_cast<Eigen::Index>(kept.size());
  MatrixXd among(count, count), with_all(gram.rows(), count);
  for (Eigen::Index c = 0; c < count; ++c) {
    with_all.col(c) = h.col(kept[static_cast<size_t>(c)]);
    for (Eigen::Index r = 0; r < count; ++r) {
      among(r, c) = h(kept[static_cast<size_t>(r)], kept[static_cast<size_t>(c)]);
    }
  }
  const Eigen::LLT<MatrixXd> factor(among);
  if (factor.info() != Eigen::Success) return false;
  const MatrixXd fitted = factor.solve((rows * with_all).transpose()).transpose();
  if (!fitted.allFinite()) return false;
  for (Eigen::Index c = 0; c < count; ++c) rows.col(kept[static_cast<size_t>(c)]) = fitted.col(c);
  return true;
}

}  // namespace

ChannelScores calibrated_scores(const Model& model, const ChannelGraph& channels,
                                const CalibrationSamples& samples, bool compensated) {
  ChannelScores scores(channels.units.size(), 0);
  Activations activations(model, samples);
  for (const Reader& reader : readers_of(model, channels)) {
    const InputGram gram = gram_of(model, reader, samples, activations);
    score(reader, model.graph.value(reader.weights->value).constant.to_doubles(), gram, compensated,
          channels.units, scores);
  }
  return scores;
}

int64_t make_up_for(Model& model, const ChannelGraph& channels, const KeptChannels& kept,
                    const CalibrationSamples& samples) {
  int64_t changed = 0;
  Activations activations(model, samples);
  for (const Reader& reader : readers_of(model, channels)) {
    std::vector<int64_t> columns;
    for (int64_t input = 0; input < reader.inputs; ++input) {
      if (!kept.keeps(reader.weights->axis.units[static_cast<size_t>(input)])) continue;
      for (int64_t t = 0; t < reader.taps; ++t) columns.push_back(input * reader.taps + t);
    }
    if (static_cast<int64_t>(columns.size()) == reader.columns()) continue;
    const InputGram gram = gram_of(model, reader, samples, activations);
    const Tensor before = model.graph.value(reader.weights->value).constant;
    std::vector<double> values = before.to_doubles();
    const int64_t rows = reader.outputs / gram.groups();
    bool fits = true;
    for (int64_t group = 0; group < gram.groups() && fits; ++group) {
      MatrixXd part = rows_of(reader, values, group * rows, rows);
      fits = gram.sum(group).allFinite() && refit(gram.sum(group), columns, part);
      for (int64_t r = 0; r < rows && fits; ++r) {
        for (const int64_t c : columns) values[reader.at(group * rows + r, c)] = part(r, c);
      }
    }
    if (!fits) continue;
    // What goes is still read until it is cut: the layers behind must not see it any more.
    std::vector<bool> stays(static_cast<size_t>(reader.columns()));
    for (const int64_t c : columns) stays[static_cast<size_t>(c)] = true;
    for (int64_t r = 0; r < reader.outputs; ++r) {
      for (int64_t c = 0; c < reader.columns(); ++c) {
        if (!stays[static_cast<size_t>(c)]) values[reader.at(r, c)] = 0;
      }
    }
    const Tensor fitted = Tensor::from<double>(before.shape(), std::span<const double>(values));
    model.graph.set_constant(reader.weights->value, convert(fitted, before.dtype()));
    ++changed;
  }
  return changed;
}

}  // namespace compress
