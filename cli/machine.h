// Facts for reports: the machine, the program, a model.
#pragma once

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
// Transpose and DequantizeLinear (where they equal the zero point).
double weight_sparsity(const Model& model);
ModelSummary summarize(const Model& model, const std::string& path);

}  // namespace compress
