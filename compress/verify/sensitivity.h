// What one changed layer does to a model's outputs, measured: variants of a reference that differ
// from it from one node on, on values of the reference that are computed once.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "compress/graph/model.h"
#include "compress/runtime/sample_source.h"
#include "compress/verify/evaluate.h"

namespace compress {

// Keeps what `source` decoded, up to a budget of bytes; what lies beyond is decoded again.
class KeptSamples : public SampleSource {
 public:
  explicit KeptSamples(SampleSource& source, uint64_t budget = uint64_t{512} << 20)
      : source_(source), budget_(budget) {}
  int64_t size() const override { return source_.size(); }
  Sample get(int64_t index) override;
  bool labelled() const override { return source_.labelled(); }
  std::vector<double> pair_scores() const override { return source_.pair_scores(); }
  std::vector<std::string> constants() const override { return source_.constants(); }
  std::string description() const override { return source_.description(); }

 private:
  SampleSource& source_;
  uint64_t budget_;
  uint64_t bytes_ = 0;
  std::map<int64_t, Sample> kept_;
};

// One number for how far outputs are from the reference's, small and roughly additive over layers:
// KL divergence where the metric output is a distribution (or holds scores of labelled classes),
// noise over signal elsewhere.
enum class Damage { kl, noise };
std::string_view damage_name(Damage damage);
double damage_of(const Evaluation& evaluation, Damage damage);

// Compares candidates with one reference on fixed samples; the reference runs once.
class ReferenceOutputs {
 public:
  // All outlive this.
  ReferenceOutputs(const Model& reference, SampleSource& data, std::vector<int64_t> indices,
                   EvaluateOptions options);

  Evaluation evaluate(const Model& candidate);
  Damage damage() const { return damage_; }
  const Model& model() const { return reference_; }
  SampleSource& data() { return data_; }
  const std::vector<int64_t>& indices() const { return indices_; }
  int64_t batches() const { return static_cast<int64_t>(outputs_.size()); }
  std::vector<int64_t> batch(int64_t index) const;
  // `run(batch index, inputs)` gives the candidate's outputs, named `names`.
  Evaluation evaluate_by(
      std::vector<std::string> names,
      const std::function<std::vector<Tensor>(int64_t, std::span<const NamedTensor>)>& run);

 private:
  const Model& reference_;
  SampleSource& data_;
  std::vector<int64_t> indices_;
  EvaluateOptions options_;
  std::vector<std::string> names_;
  std::vector<std::vector<Tensor>> outputs_;  // by batch
  Damage damage_ = Damage::noise;
};

// Measures variants in the order of the nodes from which they differ, on cached prefixes: what the
// reference computed before such a node is kept, and variants run from there.
class VariantMeter {
 public:
  // `budget`: most bytes of kept values; where they would take more, variants run from further up.
  explicit VariantMeter(ReferenceOutputs& reference, uint64_t budget = uint64_t{256} << 20);
  ~VariantMeter();

  // REQUIRES that nodes come in the reference's order of execution. Values above `from` have the
  // same names in both models.
  Evaluation measure(const Model& variant, NodeId from);
  // Runs from the start, and those from kept values.
  int64_t whole_runs() const { return whole_; }
  int64_t cut_runs() const { return cut_; }

 private:
  struct Front;
  void advance(NodeId from);

  ReferenceOutputs& reference_;
  uint64_t budget_;
  std::unique_ptr<Front> front_;
  bool stuck_ = false;  // the budget was met; the front stays where it is
  int64_t whole_ = 0;
  int64_t cut_ = 0;
};

// The part of a model between `given` values (they become inputs) and `wanted` ones (empty: the
// model's outputs). REQUIRES that none is both.
Model slice_model(const Model& model, const std::map<std::string, TypeInfo>& given,
                  const std::vector<std::string>& wanted);

struct SensitivityRow {
  std::string node;
  std::string op;
  std::string precision;
  int64_t weights = 0;      // elements
  int64_t bytes_saved = 0;  // of the weights, about
  double damage = 0;
  double sqnr_db = 0;
  double agreement = 0;
  double drop = 0;  // of the metric
};

}  // namespace compress
