#include "compress/report/trace.h"

#include <algorithm>

#include "compress/error.h"
#include "compress/recipe.h"

namespace compress {
namespace {

Json shapes(const std::vector<Shape>& all) {
  Json out = Json::array();
  for (const Shape& shape : all) out.push_back(shape.to_string());
  return out;
}

Json metadata(const char* what, int64_t pid, const std::string& name) {
  return {{"name", what}, {"ph", "M"}, {"pid", pid}, {"tid", 1}, {"args", {{"name", name}}}};
}

void add_run(const TraceProcess& process, int64_t pid, Json& events) {
  events.push_back(metadata("process_name", pid, process.name));
  events.push_back(metadata("thread_name", pid, "one run"));
  double start = 0;
  for (const KernelRecord& row : process.kernels) {
    if (row.start_ms > 0 && (start == 0 || row.start_ms < start)) start = row.start_ms;
  }
  for (const KernelRecord& row : process.kernels) {
    // A body of control flow that did not run has no time.
    if (row.start_ms <= 0) continue;
    if (row.fused && events.back().contains("dur")) {
      events.back()["args"]["nodes"].push_back(row.node);
      continue;
    }
    events.push_back({{"name", row.node.empty() ? row.op : row.node},
                      {"cat", row.op},
                      {"ph", "X"},
                      {"pid", pid},
                      {"tid", 1},
                      {"ts", (row.start_ms - start) * 1000},
                      {"dur", row.milliseconds * 1000},
                      {"args",
                       {{"op", row.op},
                        {"kernel", row.kernel},
                        {"nodes", Json::array({row.node})},
                        {"inputs", shapes(row.inputs)},
                        {"outputs", shapes(row.outputs)}}}});
  }
}

}  // namespace

std::string to_trace(std::span<const TraceProcess> processes) {
  Json events = Json::array();
  int64_t pid = 0;
  for (const TraceProcess& process : processes) add_run(process, ++pid, events);
  const Json trace = {{"traceEvents", events}, {"displayTimeUnit", "ms"}};
  return trace.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

void check_trace_path(std::string_view path) {
  if (path.ends_with(".json")) return;
  fail(ErrorCode::usage, "--profile {}: the profile is written as .json; name such a file", path);
}

}  // namespace compress
