#include "passes/recover/activations.h"

#include <set>
#include <utility>

#include "compress/error.h"
#include "compress/quant/qparams.h"
#include "compress/runtime/common_type.h"
#include "compress/runtime/session.h"
#include "passes/edit.h"

namespace compress {
namespace {

// The integers behind a dequantized activation, and how they become floats; else the value itself.
struct Source {
  ValueId id = kNoValue;
  std::optional<QuantParams> params;  // one scale for the tensor
};

Source source_of(const Graph& graph, ValueId id) {
  const NodeId producer = graph.value(id).producer;
  if (producer == kNoNode) return {id, {}};
  const Node& node = graph.node(producer);
  if (!node.is("DequantizeLinear") || graph.value(node.inputs[0]).is_constant()) return {id, {}};
  const Tensor* scale = graph.constant_input(node, 1);
  const Tensor* zero = graph.constant_input(node, 2);
  if (scale == nullptr || zero == nullptr || scale->count() != 1) return {id, {}};
  QuantParams params;
  params.dtype = zero->dtype();
  params.scales = {static_cast<float>(scale->to_double())};
  params.zero_points = {static_cast<int32_t>(zero->to_double())};
  return {node.inputs[0], std::move(params)};
}

int64_t bytes_of(const std::vector<Tensor>& contents) {
  int64_t bytes = 0;
  for (const Tensor& tensor : contents) bytes += static_cast<int64_t>(tensor.bytes());
  return bytes;
}

}  // namespace

Model cut_model(const Model& model, ValueId wanted, const std::map<ValueId, TypeInfo>& given) {
  Model cut = model;
  Graph& graph = cut.graph;
  for (size_t i = 0; i < graph.outputs().size(); ++i) graph.set_output(i, wanted);
  for (const auto& [id, type] : given) {
    const std::string name = graph.value(id).name;
    graph.rename(id, graph.unique_value_name(name + "_computed"));
    graph.replace_uses(id, graph.add_input(name, type), id != wanted);
  }
  erase_unread_nodes(graph);
  const std::vector<ValueId> inputs(graph.inputs().begin(), graph.inputs().end());
  for (const ValueId id : inputs) {
    if (graph.is_unused(id) && !graph.value(id).is_constant()) graph.remove_input(id);
  }
  return cut;
}

void observe(const Model& model, const std::set<std::string>& names,
             const CalibrationSamples& samples,
             const std::function<void(const std::string& name, const TensorView& content)>& show) {
  SessionOptions options;
  options.observed = names;
  Session session(model, options);
  for (const int64_t index : samples.indices) {
    session.run(samples.source->get(index).inputs, show);
  }
}

void Activations::advance_to(ValueId id) {
  const Source source = source_of(model_.graph, id);
  if (kept_.count(source.id) == 0)
    fetch(
        source.id, [](const Tensor&) {}, true);
}

void Activations::visit(ValueId id, const std::function<void(const TensorView&)>& visit,
                        bool keep) {
  const Source source = source_of(model_.graph, id);
  const auto show = [&](const Tensor& content) {
    if (source.params) {
      visit(dequantize(content, *source.params).read().view());
    } else {
      visit(convert(content, DType::float32).read().view());
    }
  };
  if (const auto row = kept_.find(source.id); row != kept_.end()) {
    for (const Tensor& content : row->second) show(content);
    return;
  }
  fetch(source.id, show, keep);
}

void Activations::fetch(ValueId id, const std::function<void(const Tensor&)>& show, bool keep) {
  Contents contents;
  int64_t bytes = 0;
  compute(id, [&](size_t, Tensor content) {
    show(content);
    bytes += static_cast<int64_t>(content.bytes());
    if (keep && bytes <= budget_) {
      contents.push_back(std::move(content));
    } else {
      contents.clear();
    }
  });
  if (keep && bytes <= budget_) store(id, std::move(contents));
}

void Activations::compute(ValueId wanted,
                          const std::function<void(size_t sample, Tensor content)>& done) {
  std::map<ValueId, TypeInfo> given;
  for (const auto& [id, contents] : kept_) given[id] = common_type(contents);
  const Model cut = cut_model(model_, wanted, given);
  std::set<std::string> names;
  Session session(cut);
  for (const auto& [name, type] : session.inputs()) names.insert(name);
  for (size_t i = 0; i < samples_.indices.size(); ++i) {
    std::vector<NamedTensor> feeds;
    for (const auto& [id, contents] : kept_) {
      const std::string& name = model_.graph.value(id).name;
      if (names.count(name) > 0) feeds.push_back({name, contents[i]});
    }
    if (feeds.size() < names.size()) {
      for (NamedTensor& input : samples_.source->get(samples_.indices[i]).inputs) {
        if (names.count(input.name) > 0) feeds.push_back(std::move(input));
      }
    }
    done(i, std::move(session.run(feeds)[0]));
  }
}

void Activations::store(ValueId id, Contents contents) {
  kept_bytes_ += bytes_of(contents);
  kept_.emplace(id, std::move(contents));
  oldest_first_.push_back(id);
  while (kept_bytes_ > budget_) {
    const ValueId oldest = oldest_first_.front();
    oldest_first_.pop_front();
    kept_bytes_ -= bytes_of(kept_.at(oldest));
    kept_.erase(oldest);
  }
}

}  // namespace compress
