// Data sets by path or JSON spec (docs/data.md).
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "calibration/files.h"
#include "compress/graph/model.h"
#include "compress/recipe.h"
#include "compress/runtime/sample_source.h"

namespace compress {

struct DatasetOptions {
  std::string path;  // a folder of images, .npz, .npy, IDX, CSV, a folder of test_data_set_*, or a
                     // spec: a .json file
  std::string labels;  // --labels; "" for none
};

// Opens the data set for this model: arrays are matched to inputs by name, a single array to a
// single input; `label` (or what the spec names) is the labels. Fails (usage) where names, types or
// shapes do not fit, saying what the model takes; (io, invalid_model) for the files.
std::unique_ptr<SampleSource> open_dataset(const DatasetOptions& options, const Model& model,
                                           const DataFiles& files);

// Seeded noise of the model's input types: only for --allow-random and for timing without data.
std::unique_ptr<SampleSource> random_dataset(const Model& model, int64_t samples, uint64_t seed,
                                             const std::map<std::string, Shape>& shapes = {});

// A view of some samples of another source, which must outlive it.
std::unique_ptr<SampleSource> subset(SampleSource& source, std::vector<int64_t> indices);

}  // namespace compress
