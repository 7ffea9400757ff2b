#include "compress/verify/accuracy.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "compress/error.h"
#include "compress/verify/distortion.h"

namespace compress {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kSmallest = 1e-12;  // of a probability
constexpr double kNormal95 = 1.959964;
constexpr int64_t kMostConfused = 40;  // classes of a confusion matrix

double ratio(int64_t part, int64_t whole) {
  return whole == 0 ? kNaN : static_cast<double>(part) / static_cast<double>(whole);
}

// log of the sum of exponentials.
double log_sum(std::span<const float> row) {
  const double largest = *std::max_element(row.begin(), row.end());
  if (!std::isfinite(largest)) return largest;
  double sum = 0;
  for (const float x : row) sum += std::exp(x - largest);
  return largest + std::log(sum);
}

std::vector<double> ranks_of(std::span<const double> values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return values[a] < values[b]; });
  std::vector<double> ranks(values.size());
  for (size_t first = 0; first < order.size();) {
    size_t last = first + 1;
    while (last < order.size() && values[order[last]] == values[order[first]]) ++last;
    const double mean = static_cast<double>(first + last - 1) / 2;
    for (size_t i = first; i < last; ++i) ranks[order[i]] = mean;
    first = last;
  }
  return ranks;
}

}  // namespace

Rows rows_of(const TensorView& tensor, int64_t axis) {
  Rows rows;
  rows.values = to_floats(tensor);
  const int rank = tensor.shape.rank();
  if (rank == 0) {
    rows.classes = 1;
    return rows;
  }
  if (axis < -rank || axis >= rank) {
    fail(ErrorCode::usage, "the output {} has no axis {}; name another with --metric-output",
         tensor.shape.to_string(), axis);
  }
  const int at = static_cast<int>(axis < 0 ? axis + rank : axis);
  rows.classes = tensor.shape[at];
  const int64_t inner = tensor.shape.count(at + 1, rank);
  if (inner == 1 || rows.values.empty()) return rows;
  const int64_t outer = tensor.shape.count(0, at);
  std::vector<float> moved(rows.values.size());
  size_t out = 0;
  for (int64_t o = 0; o < outer; ++o) {
    for (int64_t i = 0; i < inner; ++i) {
      for (int64_t c = 0; c < rows.classes; ++c) {
        moved[out++] = rows.values[static_cast<size_t>((o * rows.classes + c) * inner + i)];
      }
    }
  }
  rows.values = std::move(moved);
  return rows;
}

int64_t argmax(std::span<const float> row) {
  int64_t best = -1;
  for (size_t i = 0; i < row.size(); ++i) {
    if (std::isnan(row[i])) continue;
    if (best < 0 || row[i] > row[static_cast<size_t>(best)]) best = static_cast<int64_t>(i);
  }
  return best;
}

bool is_distribution(std::span<const float> row) {
  double sum = 0;
  for (const float x : row) {
    if (!(x >= 0)) return false;
    sum += x;
  }
  return std::fabs(sum - 1) <= 1e-3;
}

// Gibbs' inequality holds up to rounding.
double at_least_zero(double sum) { return sum < 0 ? 0 : sum; }

double kl_divergence(std::span<const float> reference, std::span<const float> candidate) {
  double sum = 0;
  if (is_distribution(reference)) {
    const auto clamped = [](std::span<const float> row, size_t i) {
      return std::isnan(row[i]) ? kNaN : std::max<double>(row[i], kSmallest);
    };
    for (size_t i = 0; i < reference.size(); ++i) {
      const double p = clamped(reference, i);
      sum += p * (std::log(p) - std::log(clamped(candidate, i)));
    }
    return at_least_zero(sum);
  }
  const double reference_log = log_sum(reference);
  const double candidate_log = log_sum(candidate);
  for (size_t i = 0; i < reference.size(); ++i) {
    const double log_p = reference[i] - reference_log;
    const double p = std::exp(log_p);
    if (p > 0) sum += p * (log_p - (candidate[i] - candidate_log));
  }
  return at_least_zero(sum);
}

double cross_entropy(std::span<const float> row, int64_t label) {
  const float score = row[static_cast<size_t>(label)];
  if (is_distribution(row)) return -std::log(std::max<double>(score, kSmallest));
  return log_sum(row) - score;
}

std::pair<double, double> share_interval(double share, int64_t count) {
  const double n = static_cast<double>(count), z2 = kNormal95 * kNormal95;
  const double middle = (share + z2 / (2 * n)) / (1 + z2 / n);
  const double reach =
      kNormal95 / (1 + z2 / n) * std::sqrt(share * (1 - share) / n + z2 / (4 * n * n));
  return {std::max(middle - reach, 0.0), std::min(middle + reach, 1.0)};
}

std::pair<double, double> drop_interval(int64_t lost, int64_t won, int64_t count) {
  const double a = static_cast<double>(lost) + 0.5, b = static_cast<double>(won) + 0.5;
  const double n = static_cast<double>(count) + 2;
  const double reach = kNormal95 * std::sqrt(a + b - (a - b) * (a - b) / n) / n;
  return {(a - b) / n - reach, (a - b) / n + reach};
}

void Accuracy::add(const Rows& rows, std::span<const int64_t> labels) {
  assert(static_cast<int64_t>(labels.size()) == rows.count());
  if (static_cast<int64_t>(classes_.size()) < rows.classes) {
    classes_.resize(static_cast<size_t>(rows.classes));
    const bool readable = count_ == 0 && rows.classes > 1 && rows.classes <= kMostConfused;
    confusion_.assign(readable ? static_cast<size_t>(rows.classes * rows.classes) : 0, 0);
  }
  for (size_t i = 0; i < labels.size(); ++i) {
    const int64_t label = labels[i];
    if (label < 0) continue;
    if (label >= rows.classes) {
      fail(ErrorCode::invalid_model,
           "label {} is not one of the output's {} classes; do the labels belong to this model?",
           label, rows.classes);
    }
    const auto row = rows.row(static_cast<int64_t>(i));
    const int64_t predicted = argmax(row);
    ++count_;
    first_ += predicted == label;
    // Larger ones, and equal ones that come before: ties are counted as arg-max breaks them.
    const float score = row[static_cast<size_t>(label)];
    int64_t before = std::isnan(score) ? rows.classes : 0;
    for (int64_t c = 0; c < rows.classes; ++c) {
      const float other = row[static_cast<size_t>(c)];
      before += other > score || (other == score && c < label);
    }
    among_five_ += before < 5;
    entropy_ += cross_entropy(row, label);
    ++classes_[static_cast<size_t>(label)].labelled;
    if (predicted >= 0) ++classes_[static_cast<size_t>(predicted)].predicted;
    if (!confusion_.empty() && predicted >= 0) {
      ++confusion_[static_cast<size_t>(label * rows.classes + predicted)];
    }
    if (predicted == label) ++classes_[static_cast<size_t>(label)].both;
  }
}

double Accuracy::top1() const { return ratio(first_, count_); }
double Accuracy::top5() const { return ratio(among_five_, count_); }
double Accuracy::perplexity() const {
  return count_ == 0 ? kNaN : std::exp(entropy_ / static_cast<double>(count_));
}

Accuracy::Macro Accuracy::macro() const {
  Macro sum;
  int64_t present = 0;
  for (const Class& row : classes_) {
    if (row.labelled == 0) continue;
    ++present;
    const double both = static_cast<double>(row.both);
    if (row.predicted > 0) sum.precision += both / static_cast<double>(row.predicted);
    sum.recall += both / static_cast<double>(row.labelled);
    // 2 p r / (p + r) with p and r written out; no division by zero since labelled > 0.
    sum.f1 += 2 * both / static_cast<double>(row.labelled + row.predicted);
  }
  if (present == 0) return {kNaN, kNaN, kNaN};
  const double n = static_cast<double>(present);
  return {sum.precision / n, sum.recall / n, sum.f1 / n};
}

std::vector<float> mean_pool(const TensorView& hidden, std::span<const float> mask) {
  const std::vector<float> values = to_floats(hidden);
  if (hidden.shape.rank() != 3) return values;
  const size_t positions = static_cast<size_t>(hidden.shape[1]);
  const size_t width = static_cast<size_t>(hidden.shape[2]);
  std::vector<double> sum(width, 0.0);
  double weight = 0;
  for (size_t p = 0; p < positions; ++p) {
    const double m = mask.size() == positions ? mask[p] : 1.0;
    weight += m;
    for (size_t i = 0; i < width; ++i) sum[i] += m * values[p * width + i];
  }
  std::vector<float> mean(width);
  for (size_t i = 0; i < width; ++i) mean[i] = static_cast<float>(sum[i] / std::max(weight, 1e-9));
  return mean;
}

double cosine(std::span<const float> a, std::span<const float> b) {
  Distortion sums;
  sums.add(a, b);
  return sums.cosine();
}

double spearman(std::span<const double> a, std::span<const double> b) {
  const bool finite = std::all_of(a.begin(), a.end(), [](double x) { return std::isfinite(x); }) &&
                      std::all_of(b.begin(), b.end(), [](double x) { return std::isfinite(x); });
  if (a.size() < 2 || a.size() != b.size() || !finite) return kNaN;
  const std::vector<double> x = ranks_of(a);
  const std::vector<double> y = ranks_of(b);
  const double mean = static_cast<double>(a.size() - 1) / 2;
  double xx = 0, yy = 0, xy = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    xx += (x[i] - mean) * (x[i] - mean);
    yy += (y[i] - mean) * (y[i] - mean);
    xy += (x[i] - mean) * (y[i] - mean);
  }
  return xx == 0 || yy == 0 ? kNaN : xy / std::sqrt(xx * yy);
}

}  // namespace compress
