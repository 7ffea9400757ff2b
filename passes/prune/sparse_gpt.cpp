#include "passes/prune/sparse_gpt.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "compress/core/parallel.h"
#include "passes/prune/candidates.h"
#include "passes/recover/gptq.h"

namespace compress {
namespace {

constexpr int64_t kPanel = 128;  // columns that are pruned before those behind them hear of it

// Columns in an order in which those of one group of N:M lie together: input channels for each tap.
std::vector<int64_t> column_order(int64_t inputs, int64_t taps) {
  std::vector<int64_t> order;
  for (int64_t tap = 0; tap < taps; ++tap) {
    for (int64_t input = 0; input < inputs; ++input) order.push_back(input * taps + tap);
  }
  return order;
}

// Ends of the pieces that are decided at once: groups of N:M, or panels.
std::vector<int64_t> piece_ends(int64_t inputs, int64_t columns, const SparseGptOptions& options) {
  std::vector<int64_t> ends;
  for (int64_t at = 0; at < columns;) {
    const int64_t width = options.n_of_m ? std::min(options.of, inputs - at % inputs)
                                         : std::min(kPanel, columns - at);
    ends.push_back(at += width);
  }
  return ends;
}

// Columns [begin, end) of every row.
class Panel {
 public:
  Panel(RowMatrixXf& weights, const RowMatrixXf& spread, const std::vector<uint8_t>& dead,
        int64_t begin, int64_t end)
      : weights_(weights),
        spread_(spread),
        dead_(dead),
        begin_(begin),
        end_(end),
        goes_(static_cast<size_t>(weights.rows() * (end - begin)), 0),
        errors_(RowMatrixXf::Zero(weights.rows(), end - begin)) {}

  // Marks the `count` elements of columns [begin, end) whose loss matters least.
  void mark_smallest(int64_t count) {
    const int64_t rows = weights_.rows(), width = end_ - begin_;
    std::vector<std::pair<float, int64_t>> scores(static_cast<size_t>(rows * width));
    for (int64_t i = 0; i < rows * width; ++i) {
      scores[static_cast<size_t>(i)] = {score(i / width, begin_ + i % width), i};
    }
    std::nth_element(scores.begin(), scores.begin() + count, scores.end());
    for (int64_t i = 0; i < count; ++i) {
      goes_[static_cast<size_t>(scores[static_cast<size_t>(i)].second)] = 1;
    }
  }

  // Prunes columns, each row on its own: group by group where `ends` says so, else as marked.
  void prune(const std::vector<int64_t>& ends, int64_t keep) {
    parallel_for(0, weights_.rows(), 8, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        int64_t at = begin_;
        for (const int64_t end : ends) {
          if (keep > 0) mark_group(row, at, end, keep);
          for (; at < end; ++at) settle(row, at);
        }
      }
    });
  }

  // What the columns behind the panel have to make up for.
  void spread_behind() {
    const int64_t columns = weights_.cols();
    parallel_for(0, weights_.rows(), 8, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        float* w = weights_.data() + row * columns;
        for (int64_t c = begin_; c < end_; ++c) {
          const float error = errors_(row, c - begin_);
          if (error == 0) continue;
          const float* u = spread_.data() + c * columns;
          for (int64_t j = end_; j < columns; ++j) w[j] -= error * u[j];
        }
      }
    });
  }

 private:
  float score(int64_t row, int64_t column) const {
    if (dead_[static_cast<size_t>(column)] != 0) return 0;
    const float loss = weights_(row, column) / spread_(column, column);
    return std::isnan(loss) ? std::numeric_limits<float>::infinity() : loss * loss;
  }

  void mark_group(int64_t row, int64_t begin, int64_t end, int64_t keep) {
    std::vector<std::pair<float, int64_t>> scores;
    for (int64_t c = begin; c < end; ++c) scores.emplace_back(score(row, c), c);
    std::sort(scores.begin(), scores.end());
    for (int64_t i = 0; i + keep < end - begin; ++i) {
      goes_[index(row, scores[static_cast<size_t>(i)].second)] = 1;
    }
  }

  void settle(int64_t row, int64_t column) {
    if (goes_[index(row, column)] == 0) return;
    float& weight = weights_(row, column);
    const float error = weight / spread_(column, column);
    errors_(row, column - begin_) = error;
    weight = 0;
    for (int64_t c = column + 1; c < end_; ++c) weights_(row, c) -= error * spread_(column, c);
  }

  size_t index(int64_t row, int64_t column) const {
    return static_cast<size_t>(row * (end_ - begin_) + column - begin_);
  }

  RowMatrixXf& weights_;
  const RowMatrixXf& spread_;
  const std::vector<uint8_t>& dead_;
  int64_t begin_, end_;
  std::vector<uint8_t> goes_;
  RowMatrixXf errors_;
};

bool prune_rows(RowMatrixXf& weights, const Eigen::MatrixXd& gram, int64_t inputs,
                const SparseGptOptions& options) {
  const int64_t columns = weights.cols(), rows = weights.rows();
  std::vector<uint8_t> dead(static_cast<size_t>(columns));
  for (int64_t c = 0; c < columns; ++c) dead[static_cast<size_t>(c)] = !(gram(c, c) > 0);
  const RowMatrixXf spread = gptq_spread(gram, kGptqDamping);
  if (spread.size() == 0) return false;
  const std::vector<int64_t> ends = piece_ends(inputs, columns, options);
  int64_t gone = 0;
  for (size_t from = 0; from < ends.size();) {
    const int64_t begin = from == 0 ? 0 : ends[from - 1];
    size_t to = from + 1;
    while (to < ends.size() && ends[to] - begin <= kPanel) ++to;
    const std::vector<int64_t> pieces(ends.begin() + static_cast<int64_t>(from),
                                      ends.begin() + static_cast<int64_t>(to));
    Panel panel(weights, spread, dead, begin, pieces.back());
    if (!options.n_of_m) {
      const int64_t wanted = wanted_zeros(options.sparsity, rows * pieces.back()) - gone;
      panel.mark_smallest(wanted);
      gone += wanted;
    }
    panel.prune(pieces, options.n_of_m ? options.keep : 0);
    panel.spread_behind();
    from = to;
  }
  return true;
}

}  // namespace

std::optional<Tensor> sparse_gpt(const Tensor& weights, const WeightAxes& axes,
                                 const InputGram& inputs, const SparseGptOptions& options) {
  const Shape& shape = weights.shape();
  const bool rows_first = axes.output == 0;
  const int64_t outputs = shape[axes.output],
                columns = shape.count() / std::max<int64_t>(1, outputs);
  const int64_t rows = outputs / inputs.groups();
  const std::vector<int64_t> order = column_order(axes.segment, columns / axes.segment);
  const auto at = [&](int64_t row, int64_t column) {
    return static_cast<size_t>(rows_first ? row * columns + column : column * outputs + row);
  };
  const TensorData data = weights.read();
  const auto* from = data.view().as<const float>();
  Tensor out = Tensor::allocate(DType::float32, shape);
  const std::span<float> to = out.mutable_as<float>();
  for (int64_t group = 0; group < inputs.groups(); ++group) {
    const int64_t first = group * rows;
    RowMatrixXf part(rows, columns);
    Eigen::MatrixXd gram(columns, columns);
    for (int64_t c = 0; c < columns; ++c) {
      const int64_t column = order[static_cast<size_t>(c)];
      for (int64_t r = 0; r < rows; ++r) part(r, c) = from[at(first + r, column)];
      for (int64_t other = 0; other < columns; ++other) {
        gram(other, c) = inputs.sum(group)(order[static_cast<size_t>(other)], column);
      }
    }
    if (!prune_rows(part, gram, axes.segment, options)) return {};
    for (int64_t c = 0; c < columns; ++c) {
      for (int64_t r = 0; r < rows; ++r) {
        to[at(first + r, order[static_cast<size_t>(c)])] = part(r, c);
      }
    }
  }
  return out;
}

}  // namespace compress
