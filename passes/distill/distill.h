// The steps that train: distill (from a teacher, from labels, or both) and train (from scratch).
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "compress/train/ranks.h"
#include "passes/pass.h"

namespace compress {

// What training needs of the world outside of the model; passes read no files themselves.
struct TrainingAccess {
  std::function<CalibrationSamples()> samples;          // empty: there is no data
  std::function<Model(const std::string&)> read_model;  // the teacher
  const Model* input = nullptr;                         // the model before the first step
  // The model before --qat had it quantized; the pipeline sets it. Null: it did not.
  const Model* unquantized = nullptr;
  // What a checkpoint file holds; empty where there is none.
  std::function<std::vector<NamedTensor>(const std::string&)> load;
  std::function<void(const std::string&, const std::vector<NamedTensor>&)> save;
  std::function<void(std::string_view line)> log;  // an epoch a line
  // Processes that do the same; `load` gives all of them what rank 0 has.
  train::Ranks ranks;
  // Of all batches; `note` is the loss and the rate.
  std::function<void(int64_t done, int64_t total, const std::string& note)> progress;
};

std::span<const OptionDef> distill_options();
std::span<const OptionDef> train_options();

PassResult distill_model(Model& model, PassContext& context);
PassResult train_model(Model& model, PassContext& context);

}  // namespace compress
