#include "compress/runtime/device_plan.h"

#include "compress/error.h"

namespace compress::runtime {
namespace {

size_t at(ValueId id) { return static_cast<size_t>(id); }

uint64_t bytes_of(const TypeInfo& type) {
  return byte_size(type.dtype, static_cast<uint64_t>(type.shape.count()));
}

// Which copies of each value, by its root, are true at a moment of the run.
struct Residence {
  std::vector<bool> host, device;
  explicit Residence(size_t values) : host(values, true), device(values, false) {}

  void made(ValueId root, bool on_device) {
    host[at(root)] = !on_device;
    device[at(root)] = on_device;
  }
};

}  // namespace

DevicePlan::DevicePlan(std::shared_ptr<Device> device, const Plan& plan, const Graph& graph,
                       size_t output_count)
    : device_(std::move(device)), plan_(plan), graph_(graph), arena_(device_, plan.arena_bytes) {
  Residence residence(plan.places.size());
  const auto want = [&](ValueId id, bool on_device, std::vector<Copy>& copies) {
    const Place& place = plan_.places[at(id)];
    if (place.home != Home::arena && place.home != Home::feed) return;
    std::vector<bool>& there = on_device ? residence.device : residence.host;
    if (there[at(place.root)]) return;
    copies.push_back({place.root, on_device});
    there[at(place.root)] = true;
  };
  for (const Step& step : plan.steps) {
    StepPlan out;
    const Node& node = graph.node(step.node);
    const bool here = step.device != nullptr;
    Graph::for_each_operand(node, [&](int32_t slot, ValueId id) {
      const auto input = static_cast<size_t>(slot);
      if (here && (input >= node.inputs.size() || step.kernel.holds(input))) return;
      want(id, here, out.copies);
    });
    if (here) {
      for (size_t i = 0; i < node.inputs.size(); ++i) {
        const bool absent = node.inputs[i] == kNoValue || step.kernel.holds(i);
        out.inputs.push_back(absent ? nullptr : address(node.inputs[i]));
      }
      for (const ValueId id : node.outputs) {
        out.outputs.push_back(id == kNoValue ? nullptr : address(id));
      }
      out.workspace = arena_.data() + step.workspace_offset;
    }
    for (const ValueId id : node.outputs) {
      if (id != kNoValue && plan.places[at(id)].home == Home::arena) residence.made(id, here);
    }
    steps_.push_back(std::move(out));
  }
  for (size_t i = 0; i < output_count; ++i) want(graph.outputs()[i], false, last_);
}

std::byte* DevicePlan::address(ValueId id) {
  const Place& place = plan_.places[at(id)];
  if (place.home == Home::arena) return arena_.data() + place.offset;
  auto row = own_.find(place.root);
  if (row == own_.end()) {
    const uint64_t bytes = bytes_of(plan_.types[at(place.root)]);
    DeviceBuffer buffer = place.home == Home::constant
                              ? upload(device_, plan_.views[at(place.root)].data, bytes)
                              : DeviceBuffer(device_, bytes);
    row = own_.emplace(place.root, std::move(buffer)).first;
  }
  return row->second.data();
}

void DevicePlan::copy(const Copy& what) {
  const TensorView& host = plan_.views[at(what.root)];
  const cuda::Api& api = device_->api();
  std::byte* there = address(what.root);
  device_->check(what.to_device ? api.upload(device_->context(), there, host.data, host.bytes())
                                : api.download(device_->context(), host.data, there, host.bytes()),
                 what.to_device ? "upload" : "download");
}

void DevicePlan::bring(size_t i) {
  for (const Copy& what : steps_[i].copies) copy(what);
}

void DevicePlan::run(size_t i) {
  const StepPlan& step = steps_[i];
  (*plan_.steps[i].device)({step.inputs, step.outputs, step.workspace});
}

void DevicePlan::finish() {
  for (const Copy& what : last_) copy(what);
  wait();
}

void DevicePlan::show(size_t i) {
  if (plan_.steps[i].device == nullptr) return;
  for (const ValueId id : graph_.node(plan_.steps[i].node).outputs) {
    if (id != kNoValue) copy({id, false});
  }
}

void DevicePlan::wait() {
  device_->check(device_->api().synchronize(device_->context()), device_->info().name);
}

uint64_t DevicePlan::bytes() const {
  uint64_t sum = arena_.bytes();
  for (const auto& [root, buffer] : own_) sum += buffer.bytes();
  return sum;
}

}  // namespace compress::runtime
