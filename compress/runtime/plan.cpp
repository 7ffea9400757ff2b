#include "compress/runtime/plan.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>

#include "compress/core/mapped_pages.h"
#include "compress/error.h"
#include "compress/runtime/device.h"
#include "compress/runtime/fold.h"
#include "compress/runtime/inline.h"
#include "compress/runtime/lower.h"

namespace compress::runtime {
namespace {

// What is computed while planning may take this much, so that shape arithmetic vanishes from runs
// but large tables are not made once a plan.
constexpr uint64_t kMaxPlannedBytes = 1 << 20;
constexpr uint64_t kMaxPlannedInAll = uint64_t{64} << 20;

constexpr std::array<std::string_view, 5> kViewOps = {"Reshape", "Squeeze", "Unsqueeze", "Identity",
                                                      "Flatten"};

bool is_view_op(const Node& node) {
  return node.domain.empty() &&
         std::find(kViewOps.begin(), kViewOps.end(), node.op_type) != kViewOps.end();
}

size_t at(ValueId id) { return static_cast<size_t>(id); }

class Planner {
 public:
  Planner(const PlanInputs& inputs, std::vector<TypeInfo> feed_types)
      : graph_(*inputs.graph),
        model_(*inputs.model),
        output_count_(inputs.output_count),
        device_(inputs.device) {
    const auto slots = static_cast<size_t>(graph_.value_slots());
    plan_.feed_types = std::move(feed_types);
    plan_.types.resize(slots);
    plan_.known.resize(slots);
    plan_.handles.resize(slots);
    plan_.places.resize(slots);
    plan_.views.resize(slots);
    for (ValueId id = 0; id < graph_.value_slots(); ++id) {
      const Value& value = graph_.value(id);
      if (value.alive && value.is_constant()) set_known(id, value.constant);
    }
    for (size_t i = 0; i < inputs.feeds.size(); ++i) {
      const ValueId id = inputs.feeds[i];
      plan_.types[at(id)] = plan_.feed_types[i];
      plan_.places[at(id)] = {Home::feed, id, 0, static_cast<int>(i), -1};
    }
  }

  Plan build() {
    for (const NodeId id : graph_.order()) {
      const Node& node = graph_.node(id);
      in_context([&] { return "planning " + describe(node); }, [&] { plan_node(id, node); });
    }
    assign_memory();
    return std::move(plan_);
  }

 private:
  static std::string describe(const Node& node) {
    return "node '" + node.name + "' (" + node.op_type + ")";
  }

  void set_known(ValueId id, Tensor tensor) {
    plan_.types[at(id)] = {tensor.dtype(), true, tensor.shape()};
    plan_.known[at(id)] = std::move(tensor);
    plan_.places[at(id)] = {Home::constant, id, 0, -1, -1};
  }

  void plan_node(NodeId id, const Node& node) {
    if (is_control_flow(node)) return add_late(id, nullptr, StepKind::control);
    const OpDef& op = row_of(node, model_);
    bool concrete = true;
    for (const ValueId input : node.inputs) {
      concrete &= input == kNoValue || plan_.types[at(input)].is_concrete();
      if (input != kNoValue && plan_.types[at(input)].dtype == DType::string) {
        fail(ErrorCode::unsupported, "node '{}' ({}) works on strings", node.name, node.op_type);
      }
    }
    if (!concrete) return add_late(id, &op, StepKind::dynamic);
    if (fold_shape(node)) return;

    NodeContext context = make_context(node, model_, plan_.types, plan_.known);
    op.infer(context);
    if (!outputs_concrete(node, context)) return add_late(id, &op, StepKind::dynamic);
    if (fold_node(node, op, context)) return;
    for (size_t i = 0; i < node.outputs.size(); ++i) {
      if (node.outputs[i] != kNoValue) plan_.types[at(node.outputs[i])] = context.output_types[i];
    }
    if (is_view_op(node) && add_view(node)) return;
    Step step;
    step.node = id;
    step.op = &op;
    if (!prepare_for_device(step, context)) step.kernel = prepare_kernel(op, context);
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      const Tensor* constant = context.constants[i];
      if (!step.kernel.holds(i) || constant == nullptr || constant->identity() == nullptr) continue;
      drop_mapped_pages({static_cast<const std::byte*>(constant->identity()), constant->bytes()});
    }
    for (const ValueId output : node.outputs) {
      if (output != kNoValue) plan_.places[at(output)] = {Home::arena, output, 0, -1, -1};
    }
    plan_.steps.push_back(std::move(step));
  }

  bool prepare_for_device(Step& step, const NodeContext& context) const {
    if (device_ == nullptr) return false;
    std::optional<DeviceKernel> kernel = prepare_on_device(device_, context);
    if (!kernel) return false;
    step.kernel.name = std::move(kernel->name);
    step.kernel.workspace_bytes = kernel->workspace_bytes;
    step.kernel.held_inputs = kernel->held_inputs;
    step.device =
        std::make_shared<const std::function<void(const DeviceArgs&)>>(std::move(kernel->run));
    return true;
  }

  // Everything downstream of a late step is late as well: its types are not concrete.
  void add_late(NodeId id, const OpDef* op, StepKind kind) {
    Step step;
    step.node = id;
    step.op = op;
    step.kind = kind;
    for (const ValueId output : graph_.node(id).outputs) {
      if (output != kNoValue) plan_.places[at(output)] = {Home::pool, output, 0, -1, -1};
    }
    plan_.steps.push_back(std::move(step));
  }

  static bool outputs_concrete(const Node& node, const NodeContext& context) {
    for (size_t i = 0; i < node.outputs.size(); ++i) {
      if (node.outputs[i] != kNoValue && !context.output_types[i].is_concrete()) return false;
    }
    return true;
  }

  // Shape and Size need only the type of what they read.
  bool fold_shape(const Node& node) {
    if (!node.domain.empty() || node.inputs.empty() || node.outputs.empty()) return false;
    const bool shape = node.op_type == "Shape";
    if ((!shape && node.op_type != "Size") || node.inputs[0] == kNoValue) return false;
    const Shape& of = plan_.types[at(node.inputs[0])].shape;
    if (!shape) {
      set_known(node.outputs[0], Tensor::scalar<int64_t>(of.count()));
      return true;
    }
    const auto bound = [&](const char* name, int64_t fallback) {
      int64_t axis = node.int_or(name, fallback);
      if (axis < 0) axis += of.rank();
      return std::clamp<int64_t>(axis, 0, of.rank());
    };
    const int64_t start = bound("start", 0);
    const int64_t end = std::max(start, bound("end", of.rank()));
    set_known(
        node.outputs[0],
        Tensor::from<int64_t>({end - start}, of.dims().subspan(static_cast<size_t>(start),
                                                               static_cast<size_t>(end - start))));
    return true;
  }

  bool fold_node(const Node& node, const OpDef& op, const NodeContext& context) {
    if (!is_pure(node)) return false;
    uint64_t bytes = 0;
    for (const TypeInfo& type : context.output_types) {
      if (type.is_concrete()) {
        bytes += byte_size(type.dtype, static_cast<uint64_t>(type.shape.count()));
      }
    }
    if (bytes > kMaxPlannedBytes || planned_bytes_ > kMaxPlannedInAll) return false;
    planned_bytes_ += bytes;
    std::vector<Tensor> inputs;
    for (const ValueId input : node.inputs) {
      if (input != kNoValue && !plan_.known[at(input)]) return false;
      inputs.push_back(input == kNoValue ? Tensor() : plan_.known[at(input)]);
    }
    std::vector<Tensor> outputs =
        evaluate(op, node, node_opset(node, model_), inputs, kMaxPlannedBytes);
    for (size_t i = 0; i < node.outputs.size(); ++i) {
      if (node.outputs[i] != kNoValue) set_known(node.outputs[i], std::move(outputs[i]));
    }
    return true;
  }

  bool add_view(const Node& node) {
    const ValueId from = node.inputs[0];
    const ValueId to = node.outputs[0];
    const Place& source = plan_.places[at(from)];
    if (source.home != Home::arena && source.home != Home::feed) return false;
    if (plan_.types[at(from)].shape.count() != plan_.types[at(to)].shape.count()) return false;
    plan_.places[at(to)] = source;
    return true;
  }

  void assign_memory() {
    // The last step that reads each root; graph outputs live beyond the last step.
    const auto steps = static_cast<int>(plan_.steps.size());
    std::vector<int> last(plan_.places.size(), -1);
    const auto touch = [&](ValueId id, int step) {
      if (id == kNoValue || plan_.places[at(id)].root == kNoValue) return;
      int& end = last[at(plan_.places[at(id)].root)];
      end = std::max(end, step);
    };
    for (int i = 0; i < steps; ++i) {
      const Node& node = graph_.node(plan_.steps[static_cast<size_t>(i)].node);
      Graph::for_each_operand(node, [&](int32_t, ValueId id) { touch(id, i); });
      for (const ValueId id : node.outputs) touch(id, i);
    }
    for (size_t i = 0; i < output_count_; ++i) touch(graph_.outputs()[i], steps);

    std::vector<std::vector<ValueId>> ends(static_cast<size_t>(steps) + 1);
    for (ValueId id = 0; id < static_cast<ValueId>(last.size()); ++id) {
      if (last[at(id)] >= 0) ends[static_cast<size_t>(last[at(id)])].push_back(id);
    }
    ArenaLayout layout;
    for (int i = 0; i < steps; ++i) {
      Step& step = plan_.steps[static_cast<size_t>(i)];
      for (const ValueId id : graph_.node(step.node).outputs) {
        if (id == kNoValue || plan_.places[at(id)].home != Home::arena) continue;
        const TypeInfo& type = plan_.types[at(id)];
        plan_.places[at(id)].offset =
            layout.allocate(byte_size(type.dtype, static_cast<uint64_t>(type.shape.count())));
      }
      if (step.kernel.workspace_bytes > 0) {
        step.workspace_offset = layout.allocate(step.kernel.workspace_bytes);
        layout.release(step.workspace_offset);
      }
      for (const ValueId id : ends[static_cast<size_t>(i)]) {
        if (plan_.places[at(id)].home == Home::arena) layout.release(plan_.places[at(id)].offset);
        if (plan_.places[at(id)].home == Home::pool) step.last_uses.push_back(id);
      }
    }
    plan_.arena_bytes = layout.peak();
    for (ValueId id = 0; id < static_cast<ValueId>(last.size()); ++id) {
      Place& place = plan_.places[at(id)];
      if (place.home == Home::arena) place.offset = plan_.places[at(place.root)].offset;
    }
  }

  const Graph& graph_;
  const Model& model_;
  size_t output_count_;
  std::shared_ptr<Device> device_;
  uint64_t planned_bytes_ = 0;
  Plan plan_;
};

// A handle to a constant's content at an address that its elements may be read from: raw data of a
// mapped file can start anywhere.
TensorData aligned_handle(const Tensor& tensor) {
  TensorData data = tensor.read();
  const auto bits = static_cast<size_t>(std::max(info(tensor.dtype()).bits / 8, 1));
  if (reinterpret_cast<uintptr_t>(data.view().data) % bits == 0) return data;
  Tensor copy = Tensor::allocate(tensor.dtype(), tensor.shape());
  std::memcpy(copy.mutable_data(), data.view().data, data.view().bytes());
  return copy.read();
}

}  // namespace

bool is_control_flow(const Node& node) {
  return node.domain.empty() &&
         (node.op_type == "If" || node.op_type == "Loop" || node.op_type == "Scan");
}

const OpDef& row_of(const Node& node, const Model& model) {
  if (node.domain == kInternalDomain) return internal_op(node);
  if (const OpDef* op = find_op(node.domain, node.op_type, node_opset(node, model))) return *op;
  return op_of(node, model);  // fails, naming the nearest
}

NodeContext make_context(const Node& node, const Model& model, const std::vector<TypeInfo>& types,
                         const std::vector<Tensor>& known) {
  NodeContext context(node, node_opset(node, model));
  for (const ValueId input : node.inputs) {
    context.input_types.push_back(input == kNoValue ? TypeInfo{} : types[at(input)]);
    const bool has = input != kNoValue && known[at(input)];
    context.constants.push_back(has ? &known[at(input)] : nullptr);
  }
  context.output_types.resize(node.outputs.size());
  return context;
}

Plan build_plan(const PlanInputs& inputs, std::vector<TypeInfo> feed_types) {
  return Planner(inputs, std::move(feed_types)).build();
}

void bind_plan(Plan& plan, const Graph& graph, std::byte* base) {
  plan.bound_base = base;
  plan.feed_slots.clear();
  const auto needs_content = [&](ValueId id) {
    if (plan.places[at(id)].home != Home::constant ||
        plan.handles[at(id)].view().dtype != DType::undefined) {
      return;
    }
    if (plan.known[at(id)].dtype() == DType::string) return;
    plan.handles[at(id)] = aligned_handle(plan.known[at(id)]);
  };
  for (ValueId id = 0; id < static_cast<ValueId>(plan.views.size()); ++id) {
    const Place& place = plan.places[at(id)];
    TensorView& view = plan.views[at(id)];
    if (place.home == Home::arena || place.home == Home::feed) {
      view = {plan.types[at(id)].dtype, plan.types[at(id)].shape, nullptr};
    }
    if (place.home == Home::arena) view.data = base + place.offset;
    if (place.home == Home::feed) plan.feed_slots.push_back({place.feed, -1, id});
  }
  const auto view_of = [&](ValueId id) -> TensorView& {
    needs_content(id);
    if (plan.places[at(id)].home == Home::constant) {
      plan.views[at(id)] = plan.handles[at(id)].view();
    }
    return plan.views[at(id)];
  };
  for (size_t i = 0; i < plan.steps.size(); ++i) {
    Step& step = plan.steps[i];
    const Node& node = graph.node(step.node);
    step.workspace = base + step.workspace_offset;
    step.inputs.assign(node.inputs.size(), {});
    step.outputs.assign(node.outputs.size(), {});
    Graph::for_each_operand(node, [&](int32_t slot, ValueId id) {
      const auto at_slot = static_cast<size_t>(slot);
      if (at_slot < node.inputs.size() && plan.known[at(id)] && step.kernel.holds(at_slot)) {
        step.inputs[at_slot] = {plan.types[at(id)].dtype, plan.types[at(id)].shape, nullptr};
        return;
      }
      const TensorView& view = view_of(id);
      if (at_slot >= node.inputs.size()) return;
      step.inputs[at_slot] = view;
      if (step.kind == StepKind::fixed && plan.places[at(id)].home == Home::feed) {
        plan.feed_slots.push_back({plan.places[at(id)].feed, static_cast<int>(i), slot});
      }
    });
    for (size_t k = 0; k < node.outputs.size(); ++k) {
      if (node.outputs[k] != kNoValue) step.outputs[k] = plan.views[at(node.outputs[k])];
    }
  }
  for (const ValueId id : graph.outputs()) view_of(id);
}

}  // namespace compress::runtime
