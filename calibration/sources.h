// One function a kind of data set; dataset.cpp chooses.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "calibration/feed.h"
#include "calibration/spec.h"
#include "compress/runtime/sample_source.h"

namespace compress {

std::unique_ptr<SampleSource> open_images(const DatasetSpec& spec,
                                          const std::vector<ModelInput>& inputs,
                                          const DataFiles& files);
// .npz, .npy, IDX and CSV.
std::unique_ptr<SampleSource> open_arrays(const DatasetSpec& spec,
                                          const std::vector<ModelInput>& inputs,
                                          const DataFiles& files);
std::unique_ptr<SampleSource> open_tensor_folders(const DatasetSpec& spec,
                                                  const std::vector<ModelInput>& inputs,
                                                  const DataFiles& files);

// What a file of labels holds: a label (or a row of labels) a sample, or a score a pair of samples.
struct Labels {
  Tensor labels;               // int64[samples] or int64[samples, positions]; may be undefined
  std::vector<double> scores;  // one a pair of consecutive samples
};
// Fails (invalid_model) where neither fits `samples`.
Labels interpret_labels(const Tensor& array, int64_t samples, const std::string& what);
// .npy, IDX, or the column "label" of a CSV file.
Tensor read_labels(const std::string& path, const DataFiles& files);

// Column numbers of a header; -1 where there is none.
int find_column(const std::vector<std::string>& header, std::string_view name);

// The rows [first, first + rows) of an array, sharing its memory.
Tensor slice_rows(const std::shared_ptr<const TensorData>& array, int64_t first, int64_t rows);

// The last part of a path, for messages.
std::string base_name(const std::string& path);

}  // namespace compress
