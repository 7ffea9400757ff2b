// Where the values of a plan are on a device, and what is copied between it and the host before
// each step. The device's arena mirrors the host's: a value has the same offset in both.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <vector>

#include "compress/runtime/device.h"
#include "compress/runtime/plan.h"

namespace compress::runtime {

class DevicePlan {
 public:
  // `plan` is bound, and outlives this. Constants that kernels do not hold are uploaded.
  DevicePlan(std::shared_ptr<Device> device, const Plan& plan, const Graph& graph,
             size_t output_count);

  // Before step `i`, whoever runs it: what it reads is where it reads it.
  void bring(size_t i);
  // Runs step `i`. REQUIRES that it has a kernel of the device.
  void run(size_t i);
  // After the last step: the outputs are on the host.
  void finish();
  // For observers: copies what step `i` has made to the host.
  void show(size_t i);
  // Waits for the device, so that a step's time is its own.
  void wait();
  uint64_t bytes() const;

 private:
  struct Copy {
    ValueId root;
    bool to_device;
  };
  struct StepPlan {
    std::vector<Copy> copies;
    std::vector<std::byte*> inputs, outputs;
    std::byte* workspace = nullptr;
  };

  std::byte* address(ValueId id);
  void copy(const Copy& what);

  std::shared_ptr<Device> device_;
  const Plan& plan_;
  const Graph& graph_;
  DeviceBuffer arena_;
  std::map<ValueId, DeviceBuffer> own_;  // constants and feeds, by root
  std::vector<StepPlan> steps_;
  std::vector<Copy> last_;
};

}  // namespace compress::runtime
