// If, Loop and Scan: bodies run in executors of their own, which keep their plans between runs.
#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "compress/error.h"
#include "compress/runtime/executor.h"

namespace compress::runtime {
namespace {

// Loops that a broken model never leaves end here: at once beyond the larger number, and beyond the
// smaller one when the time is up. Loops of real models have one iteration a token, frame or box.
constexpr int64_t kMaxIterations = 10'000'000;
constexpr int64_t kFreeIterations = 100'000;

size_t at(ValueId id) { return static_cast<size_t>(id); }

const Body& find_body(const Node& node, std::string_view attribute) {
  for (const Body& body : node.bodies) {
    if (body.attribute == attribute) return body;
  }
  fail(ErrorCode::invalid_model, "it has no '{}'", attribute);
}

bool truth(const TensorView& view) {
  if (view.dtype != DType::boolean || view.count() != 1) {
    fail(ErrorCode::invalid_model, "its condition is no single bool");
  }
  return *static_cast<const uint8_t*>(view.data) != 0;
}

// Storage of the control node's own for a value that goes from one iteration to the next.
struct Carried {
  explicit Carried(MemoryBudget* budget) : block(budget) {}
  Block block;
  TensorView view;
  void assign(const TensorView& from) {
    block.reserve(from.bytes());
    view = {from.dtype, from.shape, block.data()};
    if (from.bytes() > 0) std::memmove(view.data, from.data, from.bytes());
  }
};

// What the iterations add up to along a new axis: grows by doubling, so that memory stays
// proportional to what has been produced.
struct Stacked {
  explicit Stacked(MemoryBudget* budget) : budget(budget) {}
  Stacked(const Stacked&) = delete;
  Stacked(Stacked&& other) noexcept
      : budget(other.budget),
        bytes(std::move(other.bytes)),
        taken(std::exchange(other.taken, 0)),
        item(std::move(other.item)),
        count(other.count) {}
  ~Stacked() { budget->give(taken); }
  MemoryBudget* budget;
  std::vector<std::byte> bytes;
  uint64_t taken = 0;
  TypeInfo item;
  int64_t count = 0;

  void push(const TensorView& view) {
    if (count == 0) {
      item = {view.dtype, true, view.shape};
    } else if (item.dtype != view.dtype || !(item.shape == view.shape)) {
      fail(ErrorCode::invalid_model, "a scan output changes its shape from {} to {}",
           item.shape.to_string(), view.shape.to_string());
    }
    if (is_sub_byte(view.dtype)) fail(ErrorCode::unsupported, "a scan output of a sub-byte type");
    if (const uint64_t needed = bytes.size() + view.bytes(); needed > taken) {
      const uint64_t larger = std::max(needed, 2 * taken);
      budget->take(larger - taken);
      taken = larger;
      bytes.reserve(larger);
    }
    const auto* from = static_cast<const std::byte*>(view.data);
    bytes.insert(bytes.end(), from, from + view.bytes());
    ++count;
  }
};

Shape with_axis(const Shape& shape, int axis, int64_t dim) {
  Shape out;
  for (int i = 0; i <= shape.rank(); ++i) {
    if (i == axis) out.push_back(dim);
    if (i < shape.rank()) out.push_back(shape[i]);
  }
  return out;
}

Shape without_axis(const Shape& shape, int axis) {
  Shape out;
  for (int i = 0; i < shape.rank(); ++i) {
    if (i != axis) out.push_back(shape[i]);
  }
  return out;
}

// Copies between slice `index` of `whole` along `axis` and the contiguous `slice`.
void copy_slice(std::byte* slice, std::byte* whole, const Shape& shape, int axis, int64_t index,
                size_t element, bool to_whole) {
  const int64_t outer = shape.count(0, axis);
  const auto inner = static_cast<size_t>(shape.count(axis + 1, shape.rank())) * element;
  for (int64_t o = 0; o < outer; ++o) {
    std::byte* in_whole = whole + static_cast<size_t>(o * shape[axis] + index) * inner;
    std::byte* in_slice = slice + static_cast<size_t>(o) * inner;
    if (to_whole) {
      std::memcpy(in_whole, in_slice, inner);
    } else {
      std::memcpy(in_slice, in_whole, inner);
    }
  }
}

size_t element_bytes(DType dtype) {
  if (is_sub_byte(dtype) || dtype == DType::string) {
    fail(ErrorCode::unsupported, "scanning over {} values", info(dtype).name);
  }
  return static_cast<size_t>(info(dtype).bits / 8);
}

}  // namespace

void LoopWatch::next() {
  if (++iterations <= kFreeIterations) return;
  const auto now = std::chrono::steady_clock::now();
  if (iterations == kFreeIterations + 1) counted_from = now;
  if (iterations > kMaxIterations) {
    fail(ErrorCode::unsupported, "its loops do not end within {} iterations", kMaxIterations);
  }
  if (std::chrono::duration<double>(now - counted_from).count() > max_seconds) {
    fail(ErrorCode::unsupported,
         "its loops do not end within {} iterations and another {:g} s (a sixth of --time-budget, "
         "where a command has it)",
         kFreeIterations, max_seconds);
  }
}

Executor& Executor::body(const Node& node, std::string_view attribute) {
  const Graph* graph = find_body(node, attribute).graph.get();
  std::unique_ptr<Executor>& executor = bodies_[graph];
  if (!executor) {
    executor = std::make_unique<Executor>(*graph, model_, budget_, graph->outputs().size());
  }
  return *executor;
}

std::vector<TensorView> Executor::body_feeds(const Node& node, std::string_view attribute,
                                             size_t inputs) {
  const Body& found = find_body(node, attribute);
  const Executor& executor = body(node, attribute);
  std::vector<TensorView> feeds(executor.feeds().size());
  size_t from_inputs = 0;
  for (const ValueId id : executor.feeds()) from_inputs += !found.graph->value(id).is_capture;
  if (from_inputs != inputs) {
    fail(ErrorCode::invalid_model, "'{}' takes {} inputs and gets {}", attribute, from_inputs,
         inputs);
  }
  for (size_t i = 0; i < feeds.size(); ++i) {
    const ValueId inner = executor.feeds()[i];
    if (!found.graph->value(inner).is_capture) continue;
    for (const Body::Capture& capture : found.captures) {
      if (capture.inner == inner) feeds[i] = plan_->views[at(capture.outer)];
    }
  }
  return feeds;
}

void Executor::run_control(Step& step, const RunOptions& options) {
  const Node& node = graph_.node(step.node);
  RunOptions inner = options;
  inner.observer = nullptr;
  if (node.op_type == "If") return run_if(node, inner);
  if (node.op_type == "Loop") return run_loop(node, inner);
  run_scan(node, inner);
}

void Executor::run_if(const Node& node, const RunOptions& options) {
  if (node.inputs.empty() || node.inputs[0] == kNoValue) {
    fail(ErrorCode::invalid_model, "it has no condition");
  }
  const bool condition = truth(plan_->views[at(node.inputs[0])]);
  const char* branch = condition ? "then_branch" : "else_branch";
  Executor& executor = body(node, branch);
  executor.run(body_feeds(node, branch, 0), options);
  if (find_body(node, branch).graph->outputs().size() < node.outputs.size()) {
    fail(ErrorCode::invalid_model, "'{}' has too few outputs", branch);
  }
  for (size_t i = 0; i < node.outputs.size(); ++i) copy_to(node.outputs[i], executor.output(i));
}

void Executor::run_loop(const Node& node, const RunOptions& options) {
  const size_t carried_count = node.inputs.size() >= 2 ? node.inputs.size() - 2 : 0;
  const auto present = [&](size_t i) {
    return i < node.inputs.size() && node.inputs[i] != kNoValue;
  };
  int64_t trips = std::numeric_limits<int64_t>::max();
  if (present(0)) {
    const TensorView& view = plan_->views[at(node.inputs[0])];
    if (view.dtype != DType::int64 || view.count() != 1) {
      fail(ErrorCode::invalid_model, "its trip count is no single int64");
    }
    trips = *view.as<int64_t>();
  }
  uint8_t going = !present(1) || truth(plan_->views[at(node.inputs[1])]) ? 1 : 0;

  Executor& executor = body(node, "body");
  const Graph& graph = *find_body(node, "body").graph;
  std::vector<TensorView> feeds = body_feeds(node, "body", 2 + carried_count);
  const size_t outputs = graph.outputs().size();
  if (outputs < 1 + carried_count || node.outputs.size() > outputs - 1) {
    fail(ErrorCode::invalid_model, "its body has {} outputs", outputs);
  }
  std::vector<Carried> carried;
  for (size_t i = 0; i < carried_count; ++i) {
    carried.emplace_back(budget_);
    if (!present(2 + i)) fail(ErrorCode::invalid_model, "an initial value is missing");
    carried.back().assign(plan_->views[at(node.inputs[2 + i])]);
  }
  std::vector<Stacked> stacked;
  for (size_t i = 1 + carried_count; i < outputs; ++i) stacked.emplace_back(budget_);
  // The body may declare the counter and the condition with one dimension.
  const auto scalar_shape = [&](size_t i) {
    const TypeInfo& type = graph.value(executor.feeds()[i]).type;
    return type.has_shape && type.shape.rank() == 1 ? Shape{1} : Shape();
  };
  int64_t iteration = 0;
  for (; going != 0 && iteration < trips; ++iteration) {
    if (options.loops != nullptr) options.loops->next();
    feeds[0] = {DType::int64, scalar_shape(0), &iteration};
    feeds[1] = {DType::boolean, scalar_shape(1), &going};
    for (size_t i = 0; i < carried_count; ++i) feeds[2 + i] = carried[i].view;
    executor.run(feeds, options);
    const bool next = truth(executor.output(0));
    for (size_t i = 0; i < stacked.size(); ++i) {
      stacked[i].push(executor.output(1 + carried_count + i));
    }
    // An output may be a carried input of the body unchanged, so all are read before any is moved.
    std::vector<Carried> moved;
    for (size_t i = 0; i < carried_count; ++i) {
      moved.emplace_back(budget_);
      moved.back().assign(executor.output(1 + i));
    }
    for (size_t i = 0; i < carried_count; ++i) carried[i].assign(moved[i].view);
    going = next ? 1 : 0;
  }
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    if (i < carried_count) {
      copy_to(node.outputs[i], carried[i].view);
      continue;
    }
    Stacked& stack = stacked[i - carried_count];
    if (stack.count == 0) {
      // No iteration: what the body declares, with unknown dimensions as 0.
      const TypeInfo& type = graph.value(graph.outputs()[1 + i]).type;
      if (type.dtype == DType::undefined) {
        fail(ErrorCode::unsupported, "no iteration, and the type of its scan output is not known");
      }
      stack.item = type;
      for (int d = 0; d < type.shape.rank(); ++d) {
        stack.item.shape[d] = std::max<int64_t>(type.shape[d], 0);
      }
    }
    copy_to(node.outputs[i],
            {stack.item.dtype, with_axis(stack.item.shape, 0, stack.count), stack.bytes.data()});
  }
}

void Executor::run_scan(const Node& node, const RunOptions& options) {
  const auto scans = static_cast<size_t>(std::max<int64_t>(node.int_or("num_scan_inputs", 0), 0));
  if (node.inputs.size() < scans || scans == 0) {
    fail(ErrorCode::invalid_model, "Scan without scan inputs");
  }
  const size_t states = node.inputs.size() - scans;
  Executor& executor = body(node, "body");
  const Graph& graph = *find_body(node, "body").graph;
  std::vector<TensorView> feeds = body_feeds(node, "body", states + scans);
  if (graph.outputs().size() < states || node.outputs.size() > graph.outputs().size()) {
    fail(ErrorCode::invalid_model, "its body has {} outputs", graph.outputs().size());
  }
  const size_t stacks = graph.outputs().size() - states;
  const auto axes_in = node.ints_or("scan_input_axes", std::vector<int64_t>(scans, 0));
  const auto axes_out = node.ints_or("scan_output_axes", std::vector<int64_t>(stacks, 0));
  const auto reverse_in = node.ints_or("scan_input_directions", std::vector<int64_t>(scans, 0));
  const auto reverse_out = node.ints_or("scan_output_directions", std::vector<int64_t>(stacks, 0));
  if (axes_in.size() != scans || reverse_in.size() != scans || axes_out.size() != stacks ||
      reverse_out.size() != stacks) {
    fail(ErrorCode::invalid_model, "its axes or directions do not match its inputs and outputs");
  }
  for (const ValueId id : node.inputs) {
    if (id == kNoValue) fail(ErrorCode::invalid_model, "an input is missing");
  }

  std::vector<Carried> state;
  for (size_t i = 0; i < states; ++i) {
    state.emplace_back(budget_);
    state.back().assign(plan_->views[at(node.inputs[i])]);
  }
  int64_t length = -1;
  std::vector<Carried> slices;
  std::vector<int> axes;
  for (size_t i = 0; i < scans; ++i) {
    const TensorView& whole = plan_->views[at(node.inputs[states + i])];
    axes.push_back(normalize_axis(axes_in[i], whole.shape.rank()));
    const int64_t dim = whole.shape[axes.back()];
    if (length >= 0 && dim != length) {
      fail(ErrorCode::invalid_model, "its inputs have {} and {} elements to scan", length, dim);
    }
    length = dim;
    slices.emplace_back(budget_);
    const Shape shape = without_axis(whole.shape, axes.back());
    slices.back().block.reserve(byte_size(whole.dtype, static_cast<uint64_t>(shape.count())));
    slices.back().view = {whole.dtype, shape, slices.back().block.data()};
  }
  std::vector<Stacked> stacked;
  for (size_t i = 0; i < stacks; ++i) stacked.emplace_back(budget_);
  for (int64_t t = 0; t < length; ++t) {
    if (options.loops != nullptr) options.loops->next();
    for (size_t i = 0; i < states; ++i) feeds[i] = state[i].view;
    for (size_t i = 0; i < scans; ++i) {
      const TensorView& whole = plan_->views[at(node.inputs[states + i])];
      copy_slice(slices[i].block.data(), static_cast<std::byte*>(whole.data), whole.shape, axes[i],
                 reverse_in[i] != 0 ? length - 1 - t : t, element_bytes(whole.dtype), false);
      feeds[states + i] = slices[i].view;
    }
    executor.run(feeds, options);
    for (size_t i = 0; i < stacks; ++i) stacked[i].push(executor.output(states + i));
    std::vector<Carried> moved;
    for (size_t i = 0; i < states; ++i) {
      moved.emplace_back(budget_);
      moved.back().assign(executor.output(i));
    }
    for (size_t i = 0; i < states; ++i) state[i].assign(moved[i].view);
  }
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    if (node.outputs[i] == kNoValue) continue;
    if (i < states) {
      copy_to(node.outputs[i], state[i].view);
      continue;
    }
    Stacked& stack = stacked[i - states];
    if (stack.count == 0) fail(ErrorCode::unsupported, "Scan over no elements");
    const int axis = normalize_axis(axes_out[i - states], stack.item.shape.rank() + 1);
    const Shape shape = with_axis(stack.item.shape, axis, length);
    const TensorView& to = place_in_pool(node.outputs[i], stack.item.dtype, shape);
    const size_t element = element_bytes(stack.item.dtype);
    const size_t bytes = static_cast<size_t>(stack.item.shape.count()) * element;
    for (int64_t t = 0; t < length; ++t) {
      copy_slice(stack.bytes.data() + static_cast<size_t>(t) * bytes,
                 static_cast<std::byte*>(to.data), shape, axis,
                 reverse_out[i - states] != 0 ? length - 1 - t : t, element, true);
    }
  }
}

}  // namespace compress::runtime
