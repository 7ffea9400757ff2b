// From statistics to ranges, and from data to statistics.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "calibration/files.h"
#include "compress/graph/model.h"
#include "compress/quant/statistics.h"
#include "compress/runtime/sample_source.h"

namespace compress {

// Runs the model (op by op semantics, float) over the samples and gathers what is wanted. Memory
// does not grow with the number of samples. `progress(done, total)` may be empty.
StatisticsSet collect_statistics(const Model& model, SampleSource& data,
                                 const std::vector<int64_t>& indices,
                                 const StatisticsRequests& requests,
                                 const std::function<void(int64_t, int64_t)>& progress = {});

// docs/formats.md: an .npz with header.json and arrays VALUE/min, max, count, hist, absmax, gram.
void write_statistics(const StatisticsSet& set, const std::string& path, bool overwrite,
                      const DataFiles& files);
StatisticsSet read_statistics(const std::string& path, const DataFiles& files);
// Two runs over different data of the same graph; fails (invalid_model) where the graphs differ.
void merge_statistics(StatisticsSet& into, const StatisticsSet& other);

// SHA-256 of the structure and constants of a graph: what statistics belong to.
std::string fingerprint(const Model& model);

}  // namespace compress
