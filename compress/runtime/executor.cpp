#include "compress/runtime/executor.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "compress/core/interruption.h"
#include "compress/core/parallel.h"
#include "compress/error.h"
#include "compress/runtime/device_plan.h"
#include "compress/runtime/fold.h"
#include "compress/runtime/inline.h"
#include "compress/runtime/lower.h"

namespace compress::runtime {
namespace {

size_t at(ValueId id) { return static_cast<size_t>(id); }

// Contents that may decide shapes: small integer tensors, and the scales of resizing.
bool may_decide_shape(const Node& node, const TensorView& view) {
  if (view.data == nullptr && view.count() > 0) return false;
  if (view.dtype == DType::int64 || view.dtype == DType::int32) return view.count() <= 4096;
  const bool by_scale =
      node.op_type == "Resize" || node.op_type == "Upsample" || node.op_type == "Range";
  return by_scale && view.count() <= 16;
}

bool same_type(const TypeInfo& a, const TensorView& b) {
  return a.dtype == b.dtype && a.shape == b.shape;
}

std::vector<Shape> shapes_of(std::span<const TensorView> views) {
  std::vector<Shape> shapes;
  for (const TensorView& view : views) {
    if (view.dtype != DType::undefined) shapes.push_back(view.shape);
  }
  return shapes;
}

}  // namespace

Executor::Executor(const Graph& graph, const Model& model, MemoryBudget* budget,
                   size_t output_count, std::vector<std::pair<ValueId, std::string>> observed,
                   std::shared_ptr<Device> device)
    : graph_(graph),
      model_(model),
      budget_(budget),
      output_count_(output_count),
      device_(std::move(device)),
      observed_(std::move(observed)),
      observed_index_(static_cast<size_t>(graph.value_slots()), -1),
      arena_(budget),
      pool_(budget) {
  for (size_t i = 0; i < observed_.size(); ++i) {
    observed_index_[at(observed_[i].first)] = static_cast<int>(i);
  }
  for (const ValueId id : graph_.inputs()) {
    if (!graph_.value(id).is_constant()) feeds_.push_back(id);
  }
  for (ValueId id = 0; id < graph_.value_slots(); ++id) {
    const Value& value = graph_.value(id);
    if (value.alive && value.is_capture && !value.is_constant()) feeds_.push_back(id);
  }
}

Plan& Executor::plan_for(std::span<const TensorView> feeds) {
  const auto matches = [&](const Plan& plan) {
    if (plan.threads != thread_count()) return false;
    for (size_t i = 0; i < feeds.size(); ++i) {
      if (!same_type(plan.feed_types[i], feeds[i])) return false;
    }
    return true;
  };
  for (size_t i = 0; i < plans_.size(); ++i) {
    if (!matches(*plans_[i])) continue;
    const auto position = plans_.begin() + static_cast<std::ptrdiff_t>(i);
    std::rotate(plans_.begin(), position, position + 1);
    return *plans_.front();
  }
  std::vector<TypeInfo> types;
  for (const TensorView& feed : feeds) types.push_back({feed.dtype, true, feed.shape});
  auto plan = std::make_unique<Plan>(
      build_plan({&graph_, &model_, feeds_, output_count_, device_}, std::move(types)));
  plan->threads = thread_count();
  if (plans_.size() == kMaxPlans) plans_.pop_back();
  plans_.insert(plans_.begin(), std::move(plan));
  return *plans_.front();
}

void Executor::bind() {
  bind_plan(*plan_, graph_, arena_.data());
  if (device_ == nullptr) return;
  plan_->on_device.reset();     // before the next one takes memory
  plan_->bound_base = nullptr;  // should there be too little
  plan_->on_device = std::make_shared<DevicePlan>(device_, *plan_, graph_, output_count_);
  plan_->bound_base = arena_.data();
}

void Executor::run(std::span<const TensorView> feeds, const RunOptions& options) {
  plan_ = &plan_for(feeds);
  arena_.reserve(plan_->arena_bytes);
  if (plan_->bound_base != arena_.data()) bind();
  for (const Plan::FeedSlot& slot : plan_->feed_slots) {
    void* data = feeds[static_cast<size_t>(slot.feed)].data;
    if (slot.step < 0) {
      plan_->views[static_cast<size_t>(slot.slot)].data = data;
    } else {
      plan_->steps[static_cast<size_t>(slot.step)].inputs[static_cast<size_t>(slot.slot)].data =
          data;
    }
  }
  pool_.release_all();
  if (options.observer != nullptr) {
    for (const auto& [id, name] : observed_) {
      const Home home = plan_->places[at(id)].home;
      if (graph_.value(id).producer == kNoNode || home == Home::constant || home == Home::feed) {
        (*options.observer)(name, plan_->views[at(id)]);
      }
    }
  }
  DevicePlan* on_device = plan_->on_device.get();
  for (size_t i = 0; i < plan_->steps.size(); ++i) {
    if (!options.timed) {
      run_step(i, options);
      continue;
    }
    Step& step = plan_->steps[i];
    const auto begin = std::chrono::steady_clock::now();
    run_step(i, options);
    if (on_device != nullptr) on_device->wait();
    using Milliseconds = std::chrono::duration<double, std::milli>;
    step.milliseconds = Milliseconds(std::chrono::steady_clock::now() - begin).count();
    step.start_ms = Milliseconds(begin.time_since_epoch()).count();
  }
  if (on_device != nullptr) on_device->finish();
}

void Executor::run_step(size_t index, const RunOptions& options) {
  check_interruption();
  Step& step = plan_->steps[index];
  DevicePlan* on_device = plan_->on_device.get();
  if (on_device != nullptr) on_device->bring(index);
  const Node& node = graph_.node(step.node);
  switch (step.kind) {
    case StepKind::fixed: {
      if (step.device != nullptr) {
        on_device->run(index);
        break;
      }
      KernelArgs args;
      args.inputs = step.inputs;
      args.outputs = step.outputs;
      args.workspace = step.workspace;
      step.kernel.run(args);
      break;
    }
    case StepKind::dynamic:
      in_context([&] { return "running node '" + node.name + "' (" + node.op_type + ")"; },
                 [&] { run_dynamic(step); });
      break;
    case StepKind::control:
      in_context([&] { return "running node '" + node.name + "' (" + node.op_type + ")"; },
                 [&] { run_control(step, options); });
      break;
  }
  if (options.observer != nullptr) {
    if (on_device != nullptr) on_device->show(index);
    for (const ValueId id : node.outputs) {
      if (id != kNoValue) observe(id, options);
    }
  }
  for (const ValueId id : step.last_uses) release(id);
}

void Executor::observe(ValueId id, const RunOptions& options) const {
  // Views of the value (Reshape and the like) have no step of their own.
  for (const auto& [value, name] : observed_) {
    const Place& place = plan_->places[at(value)];
    const bool view_of_it = place.root == id && value != id && place.home == Home::arena;
    if (place.home == Home::constant || place.home == Home::feed) continue;
    if (value == id || view_of_it) (*options.observer)(name, plan_->views[at(value)]);
  }
}

TensorView& Executor::place_in_pool(ValueId id, DType dtype, const Shape& shape) {
  Place& place = plan_->places[at(id)];
  TensorView& view = plan_->views[at(id)];
  place.block = pool_.acquire(byte_size(dtype, static_cast<uint64_t>(shape.count())));
  view = {dtype, shape, pool_.data(place.block)};
  return view;
}

void Executor::copy_to(ValueId id, const TensorView& from) {
  if (id == kNoValue) return;
  const TensorView& to = place_in_pool(id, from.dtype, from.shape);
  if (to.bytes() > 0) std::memcpy(to.data, from.data, to.bytes());
}

void Executor::release(ValueId id) {
  Place& place = plan_->places[at(id)];
  if (place.block >= 0) pool_.release(place.block);
  place.block = -1;
}

void Executor::prepare_dynamic(Step& step, const Node& node) {
  bool same = !step.prepared_types.empty() || node.inputs.empty();
  same = same && static_cast<bool>(step.kernel.run);
  for (size_t i = 0; same && i < node.inputs.size(); ++i) {
    const TensorView& view = step.inputs[i];
    same = same_type(step.prepared_types[i], view);
    const Tensor& constant = step.prepared_constants[i];
    if (same && constant && !plan_->known[at(node.inputs[i])]) {
      same = std::memcmp(constant.read().view().data, view.data, view.bytes()) == 0;
    }
  }
  if (same) return;

  step.prepared_types.clear();
  step.prepared_constants.clear();
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    const TensorView& view = step.inputs[i];
    const ValueId id = node.inputs[i];
    step.prepared_types.push_back({view.dtype, id != kNoValue, view.shape});
    Tensor constant;
    if (id != kNoValue && plan_->known[at(id)]) {
      constant = plan_->known[at(id)];
    } else if (id != kNoValue && may_decide_shape(node, view)) {
      constant = Tensor::allocate(view.dtype, view.shape);
      if (view.bytes() > 0) std::memcpy(constant.mutable_data(), view.data, view.bytes());
    }
    step.prepared_constants.push_back(std::move(constant));
  }
  NodeContext context = constant_context(node, node_opset(node, model_), step.prepared_constants);
  context.input_types = step.prepared_types;
  step.op->infer(context);
  step.kernel = prepare_kernel(*step.op, context);
  step.output_types = context.output_types;
}

void Executor::run_dynamic(Step& step) {
  const Node& node = graph_.node(step.node);
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    if (node.inputs[i] != kNoValue) step.inputs[i] = plan_->views[at(node.inputs[i])];
    if (step.inputs[i].dtype == DType::string) {
      fail(ErrorCode::unsupported, "node '{}' ({}) works on strings", node.name, node.op_type);
    }
  }
  prepare_dynamic(step, node);
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    const TypeInfo& type = step.output_types[i];
    step.outputs[i] = {};
    if (node.outputs[i] == kNoValue || !type.is_concrete()) continue;
    step.outputs[i] = place_in_pool(node.outputs[i], type.dtype, type.shape);
  }
  const int workspace =
      step.kernel.workspace_bytes > 0 ? pool_.acquire(step.kernel.workspace_bytes) : -1;
  KernelArgs args;
  args.inputs = step.inputs;
  args.outputs = step.outputs;
  args.workspace = workspace >= 0 ? pool_.data(workspace) : nullptr;
  Tensor discarded;  // backs an omitted output that the kernel sizes itself
  args.allocate = [&](int i, DType dtype, const Shape& shape) {
    const auto slot = static_cast<size_t>(i);
    if (slot >= node.outputs.size()) return;
    if (node.outputs[slot] == kNoValue) {
      discarded = Tensor::allocate(dtype, shape);
      step.outputs[slot] = discarded.mutable_view();
    } else {
      step.outputs[slot] = place_in_pool(node.outputs[slot], dtype, shape);
    }
  };
  step.kernel.run(args);
  if (workspace >= 0) pool_.release(workspace);
}

uint64_t Executor::bytes() const {
  uint64_t sum = arena_.bytes() + pool_.bytes();
  for (const auto& [graph, executor] : bodies_) sum += executor->bytes();
  return sum;
}

void Executor::collect(std::vector<KernelRecord>& records) const {
  if (plan_ == nullptr) return;
  for (const Step& step : plan_->steps) {
    const Node& node = graph_.node(step.node);
    if (step.kind == StepKind::control) {
      records.push_back({node.name,
                         node.op_type,
                         "cpu",
                         "control",
                         step.milliseconds,
                         step.start_ms,
                         false,
                         {},
                         {}});
      for (const Body& body : node.bodies) {
        const auto row = bodies_.find(body.graph.get());
        if (row != bodies_.end()) row->second->collect(records);
      }
      continue;
    }
    const std::vector<std::pair<std::string, std::string>> origins = origins_of(node);
    for (size_t i = 0; i < origins.size(); ++i) {
      records.push_back({origins[i].first, origins[i].second,
                         step.device != nullptr ? "cuda" : "cpu", step.kernel.name,
                         i == 0 ? step.milliseconds : 0, step.start_ms, i > 0,
                         shapes_of(step.inputs), shapes_of(step.outputs)});
    }
  }
}

}  // namespace compress::runtime
