// Where the distortion comes from: each value that both models compute, compared on the same data.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "compress/graph/model.h"
#include "compress/runtime/sample_source.h"
#include "compress/verify/bins.h"

namespace compress {

struct LayerSimilarity {
  std::string name;  // of the reference's node
  std::string op;
  std::string value;  // the output that was compared
  double sqnr_db = 0;
};

struct LayerOptions {
  // Of the reference's values that are kept until the candidate has run; what lies beyond is left
  // out and `truncated` is set.
  uint64_t max_bytes = uint64_t{1} << 30;
  bool lower = true;
};

struct LayerComparison {
  std::vector<LayerSimilarity> layers;  // in the reference's order
  int64_t samples = 0;
  bool truncated = false;
};

// Values are matched by name. Where the candidate quantizes a value (Q, then DQ), what the readers
// of the DQ see is compared with the reference's value.
LayerComparison compare_layers(const Model& reference, const Model& candidate, SampleSource& data,
                               const std::vector<int64_t>& indices,
                               const LayerOptions& options = {});

struct WeightSimilarity {
  std::string name;
  std::string node;  // the first that reads it in the reference, and its operator
  std::string op;
  std::string dtype;   // of the candidate's stored weight
  double sqnr_db = 0;  // infinite where nothing changed
  int64_t elements = 0;
  uint64_t reference_bytes = 0;
  uint64_t candidate_bytes = 0;  // with scales and zero points
  double reference_zeros = 0;    // shares of the elements
  double candidate_zeros = 0;
  // Over one range; none where nothing changed.
  Bins reference_bins = {};
  Bins candidate_bins = {};
};
// Float constants of the reference that the candidate keeps, as they are, quantized or changed,
// under names that follow from theirs ({w}_quantized with {w}_scale, {w}_Q4 with {w}_scales).
std::vector<WeightSimilarity> compare_weights(const Model& reference, const Model& candidate);

}  // namespace compress
