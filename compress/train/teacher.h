// A teacher's outputs for samples: computed ahead of training where they fit into memory, taken
// from a file of an earlier run, or else computed when asked for.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "compress/runtime/sample_source.h"
#include "compress/runtime/session.h"
#include "compress/train/loss.h"
#include "compress/train/ranks.h"

namespace compress::train {

class Teacher {
 public:
  // `batch`: the most samples at once.
  Teacher(const Model& teacher, const LossInputs& inputs, int64_t batch);

  // Appends a feed for each value; samples are told apart by their index.
  void feed(const std::vector<int64_t>& indices, const std::vector<NamedTensor>& sample,
            std::vector<NamedTensor>& feeds);

  // Keeps the outputs of all these samples, if they fit; the ranks share the work. Batches are
  // those of `indices` in order, so that a sample's last bits do not depend on what it is trained
  // with.
  void prepare(SampleSource& data, const std::vector<int64_t>& indices, const Ranks& ranks);
  // All outputs of these samples, as `take` wants them.
  std::vector<NamedTensor> outputs(SampleSource& data, const std::vector<int64_t>& indices,
                                   const Ranks& ranks);
  // Uses what an earlier run computed. Fails (usage) where a few samples show that it was of
  // another teacher or of other data.
  void take(const std::vector<NamedTensor>& outputs, SampleSource& data,
            const std::vector<int64_t>& indices);

 private:
  void compute(const std::vector<NamedTensor>& sample, std::vector<NamedTensor>& feeds);
  // A tensor a value, of all samples; else why there are none.
  std::string compute_all(SampleSource& data, const std::vector<int64_t>& indices, uint64_t most,
                          const Ranks& ranks, std::vector<Tensor>& all);
  bool look_up(const std::vector<int64_t>& indices, std::vector<NamedTensor>& feeds) const;

  const LossInputs& inputs_;
  Session session_;
  int64_t batch_;
  std::map<int64_t, size_t> rows_;  // of `taken_`, by sample
  std::vector<Tensor> taken_;       // one a value: [samples, ...]
};

}  // namespace compress::train
