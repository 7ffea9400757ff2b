// Metrics of rows of scores: arg-max, labels, perplexity, KL, rank correlation.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "compress/core/tensor.h"

namespace compress {

// An output as rows of scores of the classes: the class axis is moved last.
struct Rows {
  int64_t classes = 0;
  std::vector<float> values;  // row-major

  int64_t count() const { return classes == 0 ? 0 : static_cast<int64_t>(values.size()) / classes; }
  std::span<const float> row(int64_t i) const {
    return std::span(values).subspan(static_cast<size_t>(i * classes),
                                     static_cast<size_t>(classes));
  }
};
// A scalar is one row of one class. Fails (usage) where the axis does not exist.
Rows rows_of(const TensorView& tensor, int64_t axis = -1);

// Index of the largest; the first of equal ones. NaN never wins; -1 where nothing is a number.
int64_t argmax(std::span<const float> row);

// Non-negative and summing to 1 within 1e-3: taken as probabilities; others go through softmax.
bool is_distribution(std::span<const float> row);
// KL(reference || candidate) in nats. The reference's row decides whether both are probabilities;
// probabilities below 1e-12 count as that, since a quantized softmax has true zeros.
double kl_divergence(std::span<const float> reference, std::span<const float> candidate);
// -log of the probability of `label`.
double cross_entropy(std::span<const float> row, int64_t label);

// 95 % confidence interval of a share, by Wilson's score.
std::pair<double, double> share_interval(double share, int64_t count);
// Of a drop between two models on the same samples, of which `lost` only the first has right and
// `won` only the second (Agresti and Min 2005: half a sample is added to each of the four cells).
std::pair<double, double> drop_interval(int64_t lost, int64_t won, int64_t count);

// Labelled metrics of one model, streamed. Labels below 0 are left out (padding).
class Accuracy {
 public:
  // Fails (usage) where a label is not a class. REQUIRES labels.size() == rows.count().
  void add(const Rows& rows, std::span<const int64_t> labels);

  int64_t count() const { return count_; }
  double top1() const;
  double top5() const;
  struct Macro {
    double precision = 0;
    double recall = 0;
    double f1 = 0;
  };
  // Averages over the classes that occur among the labels; a class never predicted has precision 0.
  Macro macro() const;
  double perplexity() const;
  // Counts [label, arg-max], row-major; empty where there are more classes than a reader can see.
  std::span<const int64_t> confusion() const { return confusion_; }

 private:
  int64_t count_ = 0;
  int64_t first_ = 0;
  int64_t among_five_ = 0;
  double entropy_ = 0;
  struct Class {
    int64_t labelled = 0;
    int64_t predicted = 0;
    int64_t both = 0;
  };
  std::vector<Class> classes_;
  std::vector<int64_t> confusion_;
};

// Mean over positions (axis 1 of [1, positions, width], weighted by `mask` [positions] where there
// is one); a tensor without positions is taken as it is.
std::vector<float> mean_pool(const TensorView& hidden, std::span<const float> mask);
double cosine(std::span<const float> a, std::span<const float> b);
// Spearman's rank correlation; equal values share their mean rank. NaN for fewer than two values or
// where one side is constant.
double spearman(std::span<const double> a, std::span<const double> b);

}  // namespace compress
