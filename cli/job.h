// Read, run the steps, write, prove: what optimize, prune, quantize and run have in common.
#pragma once

#include <string>

#include "cli/command.h"
#include "compress/recipe.h"

namespace compress {

struct Job {
  std::string command;  // "quantize"
  std::string model;
  Recipe recipe;
  Json verification = nullptr;  // the recipe's last step, {"verify": {...}}, for the report
};

// The exit code; failures are thrown.
int run_job(Job job, const CommonFlags& flags);

}  // namespace compress
