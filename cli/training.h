// What the steps that train need of the command line's side: samples, the teacher's file,
// checkpoints, a line an epoch.
#pragma once

#include <string_view>
#include <vector>

#include "cli/command.h"
#include "cli/data.h"
#include "cli/progress.h"
#include "passes/distill/distill.h"

namespace compress {

bool trains(std::string_view step);

// All operands outlive the result.
TrainingAccess training_access(const JobData& data, const Model& input, const CommonFlags& flags,
                               Progress& progress, const train::Ranks& ranks);

// Resolved steps as they go into a written model: files by their content, and without what does
// not decide its bytes.
std::vector<Json> portable_steps(std::vector<Json> steps);

}  // namespace compress
