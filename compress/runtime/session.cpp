#include "compress/runtime/session.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "compress/error.h"
#include "compress/graph/label.h"
#include "compress/runtime/executor.h"
#include "compress/runtime/inline.h"
#include "compress/runtime/lower.h"
#include "compress/runtime/prepare_graph.h"

namespace compress {
namespace {

using runtime::Executor;

std::string describe_type(const TypeInfo& type) {
  std::string text(info(type.dtype).name);
  return type.has_shape ? text + type.shape.to_string() : text;
}

}  // namespace

struct Session::Impl {
  struct Input {
    std::string name;
    TypeInfo type;     // as declared
    bool is_optional;  // an initializer that is listed as an input
  };

  // Inlined and widened, not lowered; declared types intact. Empty where no initializer can be
  // overridden: then what runs is made from it once.
  Model model;
  SessionOptions options;
  std::vector<Input> inputs;
  std::vector<std::string> outputs;
  std::map<std::string, Tensor> overrides;
  uint64_t file_bytes;

  runtime::MemoryBudget budget;
  // What runs: the model with overrides, lowered and folded.
  std::unique_ptr<Model> lowered;
  std::unique_ptr<Executor> executor;
  // Reused by each run, so that it allocates nothing.
  std::vector<TensorData> handles;
  std::vector<TensorView> views;
  std::vector<Tensor> converted;

  Impl(const Model& source, SessionOptions session_options)
      : model(source), options(std::move(session_options)), file_bytes(source.file_bytes) {
    budget.limit = options.max_memory;
    name_nodes(model);
    runtime::inline_functions(model);
    runtime::expand_operators(model);
    runtime::check_operators(model.graph, model);
    read_interface();
    if (options.as_double) runtime::widen_to_double(model.graph);
    rebuild();
  }

  void read_interface() {
    for (const ValueId id : model.graph.inputs()) {
      const Value& value = model.graph.value(id);
      inputs.push_back({value.name, value.type, value.is_constant()});
      if (value.is_constant()) {
        inputs.back().type = {value.constant.dtype(), true, value.constant.shape()};
      }
    }
    for (const ValueId id : model.graph.outputs()) outputs.push_back(model.graph.value(id).name);
  }

  void rebuild() {
    executor.reset();
    const bool again = std::any_of(inputs.begin(), inputs.end(),
                                   [](const Input& input) { return input.is_optional; });
    lowered = std::make_unique<Model>(again ? model : std::exchange(model, {}));
    Graph& graph = lowered->graph;
    for (const auto& [name, tensor] : overrides) {
      graph.set_constant(graph.find_value(name), tensor);
    }
    // Observed values become outputs: nothing is fused over them and they keep their layout.
    std::vector<std::string> names;
    for (const std::string& name : options.observed) {
      const ValueId id = graph.find_value(name);
      if (id == kNoValue) continue;
      graph.add_output(id);
      names.push_back(name);
    }
    runtime::push_constants_into_bodies(graph);
    uint64_t foldable = runtime::foldable_bytes(*lowered);
    if (options.lower && !options.as_double) {
      runtime::fold_constants(graph, *lowered, true, foldable);
      runtime::lower(*lowered);
    }
    runtime::fold_constants(graph, *lowered, false, foldable);
    runtime::push_constants_into_bodies(graph);
    graph.compact();
    std::vector<std::pair<ValueId, std::string>> observed;
    for (size_t i = 0; i < names.size(); ++i) {
      observed.emplace_back(graph.outputs()[outputs.size() + i], names[i]);
    }
    executor =
        std::make_unique<Executor>(graph, *lowered, &budget, outputs.size(), std::move(observed),
                                   options.as_double ? nullptr : options.device);
  }

  std::string wanted() const {
    std::string text;
    for (const Input& input : inputs) {
      if (input.is_optional) continue;
      text += (text.empty() ? "" : ", ") + ("'" + input.name + "' " + describe_type(input.type));
    }
    return text.empty() ? "no inputs" : text;
  }

  void check_feed(const Input& input, const Tensor& tensor) const {
    bool fits = input.type.dtype == DType::undefined || input.type.dtype == tensor.dtype();
    // Where float64 runs, the caller may feed either.
    fits |=
        options.as_double && input.type.dtype == DType::float32 && tensor.dtype() == DType::float64;
    if (fits && input.type.has_shape) {
      fits = input.type.shape.rank() == tensor.shape().rank();
      for (int i = 0; fits && i < tensor.shape().rank(); ++i) {
        fits = input.type.shape[i] < 0 || input.type.shape[i] == tensor.shape()[i];
      }
    }
    if (!fits) {
      fail(ErrorCode::usage, "input '{}' is {}{}; the model takes {}", input.name,
           info(tensor.dtype()).name, tensor.shape().to_string(), wanted());
    }
  }

  static const Tensor* find_feed(std::span<const NamedTensor> feeds, const std::string& name) {
    for (const NamedTensor& feed : feeds) {
      if (feed.name == name) return &feed.tensor;
    }
    return nullptr;
  }

  void check_names(std::span<const NamedTensor> feeds) const {
    for (size_t i = 0; i < feeds.size(); ++i) {
      const auto same = [&](const Input& input) { return input.name == feeds[i].name; };
      if (std::none_of(inputs.begin(), inputs.end(), same)) {
        fail(ErrorCode::usage, "the model has no input '{}'; it takes {}", feeds[i].name, wanted());
      }
      for (size_t k = 0; k < i; ++k) {
        if (feeds[k].name == feeds[i].name) {
          fail(ErrorCode::usage, "input '{}' is fed twice", feeds[i].name);
        }
      }
    }
  }

  // Initializers that old models list as inputs: a feed replaces their value, and what was folded
  // from it is folded again.
  void apply_overrides(std::span<const NamedTensor> feeds) {
    bool changed = false;
    for (const Input& input : inputs) {
      if (!input.is_optional) continue;
      const Tensor* feed = find_feed(feeds, input.name);
      const auto row = overrides.find(input.name);
      if (feed == nullptr) {
        if (row == overrides.end()) continue;
        overrides.erase(row);
        changed = true;
        continue;
      }
      check_feed(input, *feed);
      const Tensor wide = options.as_double && feed->dtype() == DType::float32
                              ? convert(*feed, DType::float64)
                              : *feed;
      if (row != overrides.end() && same_content(row->second, wide)) continue;
      overrides[input.name] = wide;
      changed = true;
    }
    if (changed) rebuild();
  }

  void run(std::span<const NamedTensor> feeds, runtime::RunOptions run_options) {
    check_names(feeds);
    apply_overrides(feeds);
    handles.clear();
    views.clear();
    converted.clear();
    for (const Input& input : inputs) {
      if (input.is_optional) continue;
      const Tensor* feed = find_feed(feeds, input.name);
      if (feed == nullptr) {
        fail(ErrorCode::usage, "input '{}' is missing; the model takes {}", input.name, wanted());
      }
      check_feed(input, *feed);
      if (feed->dtype() == DType::string) {
        fail(ErrorCode::unsupported, "input '{}' is a tensor of strings", input.name);
      }
      if (options.as_double && feed->dtype() == DType::float32) {
        converted.push_back(convert(*feed, DType::float64));
        feed = &converted.back();
      }
      handles.push_back(feed->read());
      views.push_back(handles.back().view());
    }
    if (options.max_memory == 0) {
      uint64_t fed = 0;
      for (const TensorView& view : views) fed += view.bytes();
      budget.limit = runtime::default_memory_limit(file_bytes, fed);
    }
    runtime::LoopWatch loops{options.max_loop_seconds};
    run_options.loops = &loops;
    executor->run(views, run_options);
  }
};

Session::Session(const Model& model, SessionOptions options)
    : impl_(std::make_unique<Impl>(model, std::move(options))) {}
Session::Session(Session&&) noexcept = default;
Session::~Session() = default;

std::vector<std::pair<std::string, TypeInfo>> Session::inputs() const {
  std::vector<std::pair<std::string, TypeInfo>> result;
  for (const Impl::Input& input : impl_->inputs) {
    if (!input.is_optional) result.emplace_back(input.name, input.type);
  }
  return result;
}

std::vector<std::string> Session::output_names() const { return impl_->outputs; }

std::vector<Tensor> Session::run(std::span<const NamedTensor> feeds, const Observer& observe) {
  runtime::RunOptions run_options;
  if (observe) run_options.observer = &observe;
  impl_->run(feeds, run_options);
  std::vector<Tensor> outputs;
  for (size_t i = 0; i < impl_->outputs.size(); ++i) {
    const TensorView& view = impl_->executor->output(i);
    outputs.push_back(Tensor::allocate(view.dtype, view.shape));
    if (view.bytes() > 0) std::memcpy(outputs.back().mutable_data(), view.data, view.bytes());
  }
  return outputs;
}

void Session::run_discarding(std::span<const NamedTensor> feeds) { impl_->run(feeds, {}); }

const TensorView& Session::output(size_t i) const { return impl_->executor->output(i); }

void Session::profile(std::span<const NamedTensor> feeds) {
  runtime::RunOptions run_options;
  run_options.timed = true;
  impl_->run(feeds, run_options);
}

std::vector<KernelRecord> Session::kernels() const {
  std::vector<KernelRecord> records;
  impl_->executor->collect(records);
  return records;
}

uint64_t Session::arena_bytes() const { return impl_->executor->bytes(); }

}  // namespace compress
