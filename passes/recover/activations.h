// Values of a model over the calibration samples, for passes that rewrite it layer by layer.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "compress/graph/model.h"
#include "passes/pass.h"

namespace compress {

// Runs only what lies between a value and those asked for before, which are kept (as the integers
// that they were dequantized from, where they were) within a budget of bytes; the oldest go first.
class Activations {
 public:
  // Both outlive this. The model may change between calls, but not above a value that was visited:
  // ask in execution order.
  Activations(const Model& model, const CalibrationSamples& samples,
              int64_t budget = int64_t{192} << 20)
      : model_(model), samples_(samples), budget_(budget) {}

  // Computes and keeps a value, so that later ones start from it.
  void advance_to(ValueId id);
  // Calls visit(content) for every sample in order; content is float32. Without `keep` the model
  // may still change above the value.
  void visit(ValueId id, const std::function<void(const TensorView& content)>& visit,
             bool keep = true);

 private:
  using Contents = std::vector<Tensor>;  // by sample

  // Runs a model with `wanted` as its only output on the samples, from what is kept.
  void compute(ValueId wanted, const std::function<void(size_t sample, Tensor content)>& done);
  void fetch(ValueId id, const std::function<void(const Tensor& content)>& show, bool keep);
  void store(ValueId id, Contents contents);

  const Model& model_;
  const CalibrationSamples& samples_;
  int64_t budget_;
  int64_t kept_bytes_ = 0;
  std::map<ValueId, Contents> kept_;
  std::list<ValueId> oldest_first_;
};

// Runs the whole model on the samples, in order, and shows the named values of each run.
void observe(const Model& model, const std::set<std::string>& names,
             const CalibrationSamples& samples,
             const std::function<void(const std::string& name, const TensorView& content)>& show);

// A copy of the model that computes only `wanted`, with `given` values as inputs of the same names.
Model cut_model(const Model& model, ValueId wanted, const std::map<ValueId, TypeInfo>& given);

}  // namespace compress
