// A teacher's outputs for samples: computed when asked for, and kept where they fit into memory or
// where a file of an earlier run has them.
#pragma once

#include <map>
#include <vector>

#include "compress/runtime/sample_source.h"
#include "compress/runtime/session.h"
#include "compress/train/loss.h"

namespace compress::train {

class Teacher {
 public:
  // `may_keep`: a sample's outputs are the same whenever it is fed (no augmentation). `samples`:
  // how many there are; `batch`: the most at once.
  Teacher(const Model& teacher, const LossInputs& inputs, bool may_keep, size_t samples,
          int64_t batch);

  // Appends a feed for each value; samples are told apart by their index.
  void feed(const std::vector<int64_t>& indices, const std::vector<NamedTensor>& sample,
            std::vector<NamedTensor>& feeds);

  // All outputs of these samples, as `take` wants them.
  std::vector<NamedTensor> outputs(SampleSource& data, const std::vector<int64_t>& indices,
                                   int64_t batch);
  // Uses what an earlier run computed. Fails (usage) where a few samples show that it was of
  // another teacher or of other data.
  void take(const std::vector<NamedTensor>& outputs, SampleSource& data,
            const std::vector<int64_t>& indices);

 private:
  void compute(const std::vector<int64_t>& indices, const std::vector<NamedTensor>& sample,
               std::vector<NamedTensor>& feeds);
  void keep(const std::vector<int64_t>& indices, size_t k, const Tensor& values);
  bool recall(const std::vector<int64_t>& indices, std::vector<NamedTensor>& feeds) const;
  bool look_up(const std::vector<int64_t>& indices, std::vector<NamedTensor>& feeds) const;

  const LossInputs& inputs_;
  Session session_;
  bool may_keep_;
  size_t samples_;
  std::map<size_t, Shape> shapes_;
  std::map<std::pair<size_t, int64_t>, std::vector<float>> kept_;
  std::map<int64_t, size_t> rows_;  // of `taken_`, by sample
  std::vector<Tensor> taken_;       // one a value: [samples, ...]
};

}  // namespace compress::train
