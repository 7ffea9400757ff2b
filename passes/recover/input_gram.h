// What a layer with weights sees: X X' over the calibration samples.
#pragma once

#include <Eigen/Core>
#include <vector>

#include "compress/core/tensor.h"
#include "compress/graph/model.h"

namespace compress {

// The sums of X X' of a Conv (one a group: columns are [channel of the group, kernel position]),
// Gemm or MatMul (columns are inputs), sample by sample. Of large images evenly spaced positions
// are taken, enough for the rank.
class InputGram {
 public:
  // `node` reads weights of `weight_shape` (Gemm with transA 0). `samples`: how many add() will
  // see.
  InputGram(const Model& model, NodeId node, const Shape& weight_shape, int64_t samples);

  void add(const TensorView& input);
  int64_t groups() const { return static_cast<int64_t>(sums_.size()); }
  const Eigen::MatrixXd& sum(int64_t group) const { return sums_[static_cast<size_t>(group)]; }
  // The same with the mean taken off every row of X: what is left of errors where a bias makes up
  // for their mean.
  Eigen::MatrixXd centered_sum(int64_t group) const;
  Eigen::VectorXd mean(int64_t group) const;

 private:
  void add_convolution(const TensorView& input);
  void add_rows(const TensorView& input);
  void add_panel(const Eigen::MatrixXf& columns, int64_t group);

  const Model& model_;
  NodeId node_;
  Shape weight_shape_;
  bool is_conv_;
  int64_t k_;
  int64_t positions_per_sample_;  // at most
  std::vector<Eigen::MatrixXd> sums_;
  std::vector<Eigen::VectorXd> totals_;  // of rows
  std::vector<int64_t> counts_;
};

}  // namespace compress
