// Facts for reports: the machine, the program, a model.
#pragma once

#include <optional>
#include <string>

#include "compress/graph/model.h"
#include "compress/report/report.h"

namespace compress {

std::string program_version();
std::string program_build();  // commit, build type, compiler
std::string utc_now();        // 2026-01-31T12:00:00Z
MachineInfo machine_info();

// Elements of constants of the graph and its bodies.
int64_t parameter_count(const Model& model);
// Zeros among the weights: constants in the weight slot of their operators, also behind Reshape,
// Transpose and DequantizeLinear (where they equal the zero point). None where weights are yet to
// be computed (deferred): nobody does that just to count zeros.
std::optional<double> weight_sparsity(const Model& model);
// The model file's bytes without those of weights that are zero: what pruning makes small, whether
// weights leave the file or not.
uint64_t bytes_without_zeros(const Model& model);
ModelSummary summarize(const Model& model, const std::string& path);

}  // namespace compress
