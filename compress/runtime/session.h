// Plans a model for concrete input shapes and runs it: inference, calibration, constant folding.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "compress/core/tensor.h"
#include "compress/graph/model.h"

namespace compress {

class Device;  // runtime/device.h

struct SessionOptions {
  // Fuse to integer and library kernels on a copy (runtime/lower). false: op by op, reference
  // kernels: the oracle.
  bool lower = true;
  // Most bytes that planned and pooled memory may take; 0: in proportion to the model's file and to
  // what it is fed (runtime/memory.h).
  uint64_t max_memory = 0;
  // Loops of one run that go on for more than a hundred thousand iterations end, as an error, when
  // these have taken so long.
  double max_loop_seconds = 10;
  // Values (by name) that observe() sees. They are kept out of fusions.
  std::set<std::string> observed;
  // Also compute in float64: float32 tensors are widened (finite differences, parity).
  bool as_double = false;
  // Where nodes run that have a kernel there; the rest, and bodies of control flow, run on the CPU.
  std::shared_ptr<Device> device;
};

// What a node ran on.
struct KernelRecord {
  std::string node;
  std::string op;
  std::string device;
  std::string kernel;
  double milliseconds = 0;  // of the last profiled run
  double start_ms = 0;      // of that run's kernel, on the steady clock
  // Nodes that one kernel computes have records that follow each other; all but the first are
  // `fused` and take no time of their own.
  bool fused = false;
  std::vector<Shape> inputs;  // of the kernel, omitted ones left out
  std::vector<Shape> outputs;
};

class Session {
 public:
  // Keeps a copy of the graph that shares constants. Fails (unsupported) naming the first node
  // whose operator has no row, before anything runs.
  explicit Session(const Model& model, SessionOptions options = {});
  Session(Session&&) noexcept;
  ~Session();

  // Names and declared types of what run() wants; initializers that are also inputs are left out.
  std::vector<std::pair<std::string, TypeInfo>> inputs() const;
  std::vector<std::string> output_names() const;

  using Observer = std::function<void(const std::string& value, const TensorView& content)>;
  // Runs once. Feeds are matched by name; missing, unknown or mistyped ones fail (usage) with what
  // the model takes. Returns the outputs in order; they own their memory.
  std::vector<Tensor> run(std::span<const NamedTensor> feeds, const Observer& observe = {});

  // Runs without copying outputs, for timing; REQUIRES that run() was called with these feeds'
  // shapes.
  void run_discarding(std::span<const NamedTensor> feeds);
  // Output i of the last run of either kind, where the run left it; valid until the next one.
  const TensorView& output(size_t i) const;
  // Times each kernel during one run.
  void profile(std::span<const NamedTensor> feeds);
  // The kernels of the last plan, in order.
  std::vector<KernelRecord> kernels() const;
  // Planned arena, packed weights and pool of the last plan.
  uint64_t arena_bytes() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// A random but plausible feed for a model: floats N(0, 1), integer ids small and non-negative,
// attention masks ones. Unknown dimensions come from `shapes`, else the sides of pictures (rank 4)
// are 224 and the rest is 1. Seeded; for timing, and for tests.
std::vector<NamedTensor> random_feed(const Model& model, const std::map<std::string, Shape>& shapes,
                                     uint64_t seed, int64_t batch = 1);

}  // namespace compress
