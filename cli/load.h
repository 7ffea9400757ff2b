// Both models under load: clients in a closed loop, batch by batch.
#pragma once

#include <vector>

#include "cli/onnxruntime.h"
#include "cli/verification.h"

namespace compress {

// What timing runs on: a batch of real samples, or noise.
std::vector<NamedTensor> timing_feed(const Model& model, JobData& data, const CommonFlags& flags,
                                     int64_t batch);

// Add the rows of the load test to the report, where one was asked for.
void load_here(const Model& reference, const Model& candidate, const SessionOptions& options,
               JobData& data, const CommonFlags& flags, const VerifyExtras& extras, Report& report);
void load_elsewhere(OnnxRuntime& reference, OnnxRuntime& candidate, const Model& model,
                    const Model& other, JobData& data, const CommonFlags& flags,
                    const VerifyExtras& extras, Report& report);

}  // namespace compress
