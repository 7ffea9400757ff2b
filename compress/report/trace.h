// A profile in the trace-event format (chrome://tracing, Perfetto).
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "compress/runtime/session.h"

namespace compress {

// One run of one model.
struct TraceProcess {
  std::string name;
  std::vector<KernelRecord> kernels;  // of a profiled run
};

// "X" events (ts and dur in microseconds since the start of the run), a process a model.
std::string to_trace(std::span<const TraceProcess> processes);
// Fails (usage) where the path does not end in .json.
void check_trace_path(std::string_view path);

}  // namespace compress
