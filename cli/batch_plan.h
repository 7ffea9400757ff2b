// Which models a batch converts by which recipes, to which outputs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/recipes.h"

namespace compress {

struct BatchRequest {
  std::string source;  // a folder, a list (a path a line), or a JSON manifest
  std::vector<std::string> recipes;
  std::string folder;        // of the outputs
  std::string data, labels;  // patterns with {stem}, {name} and {folder} of the model; "" none
  std::vector<std::string> running;  // flags that every run gets and that leave its bytes alone
  std::vector<std::string> flags;    // that every run gets as they are
  std::vector<std::string> plugins;  // SHA-256 of those whose passes every run has
  int64_t shard = 1, shards = 1;
};

struct BatchJob {
  std::string model;
  std::string recipe;  // as the user wrote it
  std::string output;  // below the folder
  std::string data, labels;
  uint64_t input_bytes = 0;
  // What decides the output: SHA-256 of input, recipe, data (names, sizes, times), flags,
  // plug-ins, version.
  std::string key;

  std::string report() const { return output + ".report.json"; }
  std::string log() const { return output + ".log"; }
};

// This shard's jobs, sorted by model, then recipe. Fails (usage or io): nothing to do, an unknown
// recipe, two jobs with one output. A model that cannot be read is a job all the same.
std::vector<BatchJob> plan_batch(const BatchRequest& request);

}  // namespace compress
