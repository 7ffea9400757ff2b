// Runs one graph: the main graph of a session, or a body of control flow.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "compress/runtime/plan.h"
#include "compress/runtime/session.h"

namespace compress::runtime {

// The iterations of all loops of one run: a broken model need not leave them.
struct LoopWatch {
  double max_seconds;  // after the first kFreeIterations
  int64_t iterations = 0;
  std::chrono::steady_clock::time_point counted_from = {};
  // To be called before each iteration. Fails (unsupported).
  void next();
};

struct RunOptions {
  const Session::Observer* observer = nullptr;
  bool timed = false;
  LoopWatch* loops = nullptr;  // null: loops may go on
};

class Executor {
 public:
  // `graph` and `model` outlive the executor. `observed` are values and the names to report.
  Executor(const Graph& graph, const Model& model, MemoryBudget* budget, size_t output_count,
           std::vector<std::pair<ValueId, std::string>> observed = {},
           std::shared_ptr<Device> device = nullptr);

  // Inputs in order (constants left out), then captures that are no constants.
  const std::vector<ValueId>& feeds() const { return feeds_; }

  // Afterwards output(i) is valid until the next run.
  void run(std::span<const TensorView> feeds, const RunOptions& options = {});
  const TensorView& output(size_t i) const {
    return plan_->views[static_cast<size_t>(graph_.outputs()[i])];
  }

  // Of the last plan; null before the first run.
  const Plan* plan() const { return plan_; }
  uint64_t bytes() const;
  // Appends a record a kernel, bodies included.
  void collect(std::vector<KernelRecord>& records) const;

 private:
  static constexpr size_t kMaxPlans = 8;

  Plan& plan_for(std::span<const TensorView> feeds);
  void bind();
  void run_step(size_t index, const RunOptions& options);
  void run_dynamic(Step& step);
  void prepare_dynamic(Step& step, const Node& node);
  // control.cpp
  void run_control(Step& step, const RunOptions& options);
  void run_if(const Node& node, const RunOptions& options);
  void run_loop(const Node& node, const RunOptions& options);
  void run_scan(const Node& node, const RunOptions& options);
  Executor& body(const Node& node, std::string_view attribute);
  // Fills the feeds of a body from its captures; the first `inputs` slots are the caller's.
  std::vector<TensorView> body_feeds(const Node& node, std::string_view attribute, size_t inputs);
  // Memory of the pool for a value, and its view.
  TensorView& place_in_pool(ValueId id, DType dtype, const Shape& shape);
  void copy_to(ValueId id, const TensorView& from);
  void release(ValueId id);
  void observe(ValueId id, const RunOptions& options) const;

  const Graph& graph_;
  const Model& model_;
  MemoryBudget* budget_;
  size_t output_count_;
  std::shared_ptr<Device> device_;  // of the main graph; bodies run on the CPU
  std::vector<std::pair<ValueId, std::string>> observed_;
  std::vector<int> observed_index_;  // by value; -1: not observed
  std::vector<ValueId> feeds_;
  std::vector<std::unique_ptr<Plan>> plans_;  // most recent first
  Plan* plan_ = nullptr;
  Block arena_;
  Pool pool_;
  std::map<const Graph*, std::unique_ptr<Executor>> bodies_;
};

}  // namespace compress::runtime
