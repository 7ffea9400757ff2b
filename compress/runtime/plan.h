// What one run of a graph does for given input shapes: steps with prepared kernels, and where each
// value lives.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "compress/graph/model.h"
#include "compress/ops/op.h"
#include "compress/runtime/memory.h"

namespace compress {
class Device;
}

namespace compress::runtime {

struct DeviceArgs;
class DevicePlan;

enum class StepKind {
  fixed,    // shapes known, kernel prepared, memory in the arena
  dynamic,  // shapes known when the step is reached: inferred, prepared and allocated then
  control,  // If, Loop, Scan: runs executors of its bodies
};

struct Step {
  NodeId node = kNoNode;
  const OpDef* op = nullptr;
  StepKind kind = StepKind::fixed;
  Kernel kernel;  // without `run` where a device has the step
  std::shared_ptr<const std::function<void(const DeviceArgs&)>> device;
  std::vector<TensorView> inputs;
  std::vector<TensorView> outputs;
  uint64_t workspace_offset = 0;
  std::byte* workspace = nullptr;
  std::vector<ValueId> last_uses;  // pooled values that no later step reads
  double milliseconds = 0;
  double start_ms = 0;  // on the steady clock
  // dynamic: what `kernel` was prepared for. Tensors are the known contents (empty: not known).
  std::vector<TypeInfo> prepared_types;
  std::vector<Tensor> prepared_constants;
  std::vector<TypeInfo> output_types;
};

enum class Home { none, constant, feed, arena, pool };

// Where a value is. An alias has the root's home and offset.
struct Place {
  Home home = Home::none;
  ValueId root = kNoValue;
  uint64_t offset = 0;  // arena
  int feed = -1;
  int block = -1;  // pool; set while the value is alive
};

struct Plan {
  std::vector<TypeInfo> feed_types;  // the key
  int threads = 0;                   // and the number of threads: workspaces depend on it
  std::vector<TypeInfo> types;       // by value
  std::vector<Tensor> known;         // by value: constants and what follows from shapes
  std::vector<TensorData> handles;   // keep the contents of `known` in memory
  std::vector<Place> places;         // by value
  std::vector<TensorView> views;     // by value; pooled ones are set during a run
  std::vector<Step> steps;
  uint64_t arena_bytes = 0;

  const std::byte* bound_base = nullptr;
  std::shared_ptr<DevicePlan> on_device;  // of the bound plan, where there is a device
  struct FeedSlot {
    int feed;
    int step;  // -1: views[slot]
    int slot;  // input `slot` of the step
  };
  std::vector<FeedSlot> feed_slots;
};

// The parts of an executor that planning reads.
struct PlanInputs {
  const Graph* graph;
  const Model* model;
  std::span<const ValueId> feeds;
  size_t output_count;             // graph outputs beyond these are observed only and die early
  std::shared_ptr<Device> device;  // null: everything on the CPU
};

bool is_control_flow(const Node& node);
// The row of a node; of our internal domain too.
const OpDef& row_of(const Node& node, const Model& model);
// Operand types and contents as `infer` and `prepare` see them.
NodeContext make_context(const Node& node, const Model& model, const std::vector<TypeInfo>& types,
                         const std::vector<Tensor>& known);

Plan build_plan(const PlanInputs& inputs, std::vector<TypeInfo> feed_types);
// Points every view and workspace into an arena at `base`.
void bind_plan(Plan& plan, const Graph& graph, std::byte* base);

}  // namespace compress::runtime
