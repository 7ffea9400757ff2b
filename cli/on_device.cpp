#include "cli/on_device.h"

#include <algorithm>
#include <set>

#include "cli/console.h"
#include "compress/core/parallel.h"
#include "compress/error.h"

namespace compress {
namespace {

// How many nodes ran there, and which operators did not.
void count_nodes(Session& session, const std::vector<NamedTensor>& feed, DeviceReport& out) {
  session.run(feed);
  session.profile(feed);
  std::set<std::string> left;
  for (const KernelRecord& kernel : session.kernels()) {
    if (kernel.device == "cpu") {
      ++out.nodes_on_cpu;
      left.insert(kernel.op);
    } else {
      ++out.nodes_on_device;
    }
  }
  out.ops_on_cpu.assign(left.begin(), left.end());
}

DeviceReport describe(const std::shared_ptr<Device>& device) {
  DeviceReport out;
  const cuda::DeviceInfo& info = device->info();
  out.device = device_label(device);
  out.name = info.name;
  out.capability = fmt::format("{}.{}", info.major, info.minor);
  out.driver = fmt::format("{}.{}", info.driver / 1000, info.driver % 1000 / 10);
  out.memory_bytes = info.memory_bytes;
  return out;
}

}  // namespace

std::shared_ptr<Device> chosen_device(const CommonFlags& flags) {
  return flags.device == "cuda" ? Device::cuda() : nullptr;
}

SessionOptions session_options(const CommonFlags& flags, std::shared_ptr<Device> device) {
  SessionOptions options;
  options.lower = !flags.no_lower;
  options.max_memory = max_memory_bytes(flags);
  // Loops have a sixth of the time for timing: 5 s of the default 30.
  if (flags.time_budget > 0) options.max_loop_seconds = std::max(1.0, flags.time_budget / 6);
  options.device = std::move(device);
  return options;
}

std::string device_label(const std::shared_ptr<Device>& device) {
  if (device == nullptr) return "cpu";
  return device->info().is_emulated != 0 ? "cuda (emulated)" : "cuda";
}

void verify_on_device(const Model& reference, const Model& candidate, JobData& data,
                      const std::vector<NamedTensor>& feed, const CommonFlags& flags,
                      const EvaluateOptions& evaluation, const BenchmarkOptions& timing,
                      Report& report) {
  std::shared_ptr<Device> device;
  try {
    device = Device::cuda();
  } catch (const Error& error) {
    report.notes.emplace_back(error.what());
    say(fmt::format("warning: {}; the CPU alone was used", error.what()));
    return;
  }
  Session there_reference(reference, session_options(flags, device));
  Session there(candidate, session_options(flags, device));
  DeviceReport row = describe(device);
  count_nodes(there, feed, row);
  if (data.evaluation != nullptr) {
    Session here(candidate, session_options(flags, nullptr));
    row.against_cpu = evaluate(here, there, *data.evaluation, data.evaluation_indices, evaluation);
  }
  if (timing.seconds > 0) {
    SpeedRow speed;
    speed.device = row.device;
    speed.threads = thread_count();
    speed.batch = flags.batch;
    speed.data = report.data;
    speed.benchmark = benchmark(there_reference, there, feed, timing);
    report.speed.push_back(std::move(speed));
  }
  report.notes.push_back(device_line(row));
  report.devices.push_back(std::move(row));
}

}  // namespace compress
