// --device: what runs on a CUDA GPU.
#pragma once

#include "cli/command.h"
#include "cli/data.h"
#include "cli/progress.h"
#include "compress/report/report.h"
#include "compress/runtime/device.h"

namespace compress {

// The device that everything runs on: null for the CPU. Fails (unsupported) for `--device cuda`
// where there is none.
std::shared_ptr<Device> chosen_device(const CommonFlags& flags);
// Of reports: "cpu", "cuda", "cuda (emulated)".
std::string device_label(const std::shared_ptr<Device>& device);

// How a session of these flags runs, on that device or, where it is null, on the CPU.
SessionOptions session_options(const CommonFlags& flags, std::shared_ptr<Device> device);

// What `--device all` adds to the report of a run on the CPU: both models timed on the GPU, and the
// candidate's outputs there against those on the CPU. Without a GPU a warning, and a note.
void verify_on_device(const Model& reference, const Model& candidate, JobData& data,
                      const std::vector<NamedTensor>& feed, const CommonFlags& flags,
                      const EvaluateOptions& evaluation, const BenchmarkOptions& timing,
                      Report& report);

}  // namespace compress
