#include "compress/verify/sensitivity.h"

#include <algorithm>
#include <cmath>

#include "compress/error.h"
#include "compress/runtime/common_type.h"
#include "compress/verify/accuracy.h"

namespace compress {
namespace {

uint64_t bytes_of(const Sample& sample) {
  uint64_t bytes = 0;
  for (const NamedTensor& input : sample.inputs) bytes += input.tensor.bytes();
  return bytes;
}

std::vector<NamedTensor> those_named(std::span<const NamedTensor> feeds,
                                     const std::set<std::string>& names) {
  std::vector<NamedTensor> out;
  for (const NamedTensor& feed : feeds) {
    if (names.count(feed.name) > 0) out.push_back(feed);
  }
  return out;
}

std::set<std::string> input_names(const Session& session) {
  std::set<std::string> names;
  for (const auto& [name, type] : session.inputs()) names.insert(name);
  return names;
}

bool holds_distributions(const Tensor& output, int64_t axis) {
  if (output.dtype() != DType::float32) return false;
  const TensorData data = output.read();
  const Rows rows = rows_of(data.view(), axis);
  for (int64_t i = 0; i < rows.count(); ++i) {
    if (!is_distribution(rows.row(i))) return false;
  }
  return rows.count() > 0 && rows.classes > 1;
}

}  // namespace

Sample KeptSamples::get(int64_t index) {
  if (const auto row = kept_.find(index); row != kept_.end()) return row->second;
  Sample sample = source_.get(index);
  bytes_ += bytes_of(sample);
  if (bytes_ <= budget_) kept_.emplace(index, sample);
  return sample;
}

std::string_view damage_name(Damage damage) { return damage == Damage::kl ? "kl" : "noise"; }

double damage_of(const Evaluation& evaluation, Damage damage) {
  const auto read = [&](const char* name) { return evaluation.similarity.at(name).candidate; };
  if (evaluation.similarity.empty()) return NAN;
  if (damage == Damage::kl) return read("kl");
  const double db = read("sqnr");
  return std::isinf(db) && db > 0 ? 0 : std::pow(10, -db / 10);
}

ReferenceOutputs::ReferenceOutputs(const Model& reference, SampleSource& data,
                                   std::vector<int64_t> indices, EvaluateOptions options)
    : reference_(reference),
      data_(data),
      indices_(std::move(indices)),
      options_(std::move(options)) {
  Session session(reference_);
  names_ = session.output_names();
  const auto total = static_cast<int64_t>(indices_.size());
  outputs_.resize(static_cast<size_t>((total + options_.batch - 1) / options_.batch));
  bool distributions = !outputs_.empty();
  const auto at = std::find(names_.begin(), names_.end(), options_.metric_output);
  const size_t metric = at == names_.end() ? 0 : static_cast<size_t>(at - names_.begin());
  for (size_t i = 0; i < outputs_.size(); ++i) {
    outputs_[i] = session.run(join(data_, batch(static_cast<int64_t>(i))).inputs);
    distributions = distributions && holds_distributions(outputs_[i][metric], options_.metric_axis);
  }
  damage_ = distributions || data_.labelled() ? Damage::kl : Damage::noise;
}

std::vector<int64_t> ReferenceOutputs::batch(int64_t index) const {
  const int64_t first = index * options_.batch;
  const int64_t last =
      std::min<int64_t>(first + options_.batch, static_cast<int64_t>(indices_.size()));
  return {indices_.begin() + first, indices_.begin() + last};
}

Evaluation ReferenceOutputs::evaluate(const Model& candidate) {
  Session session(candidate);
  return evaluate_by(session.output_names(), [&](int64_t, std::span<const NamedTensor> inputs) {
    return session.run(inputs);
  });
}

Evaluation ReferenceOutputs::evaluate_by(
    std::vector<std::string> names,
    const std::function<std::vector<Tensor>(int64_t, std::span<const NamedTensor>)>& run) {
  // evaluate() asks both sides once a batch, in order.
  size_t ours = 0;
  int64_t theirs = 0;
  Runner kept;
  kept.outputs = names_;
  kept.run = [&](std::span<const NamedTensor>) { return outputs_[ours++]; };
  Runner candidate;
  candidate.outputs = std::move(names);
  candidate.run = [&](std::span<const NamedTensor> inputs) { return run(theirs++, inputs); };
  return compress::evaluate(kept, candidate, data_, indices_, options_);
}

Model slice_model(const Model& model, const std::map<std::string, TypeInfo>& given,
                  const std::vector<std::string>& wanted) {
  Model cut = model;
  Graph& graph = cut.graph;
  if (!wanted.empty()) {
    const size_t before = graph.outputs().size();
    for (size_t i = 0; i < std::max(before, wanted.size()); ++i) {
      const ValueId id = graph.find_value(wanted[std::min(i, wanted.size() - 1)]);
      i < before ? graph.set_output(i, id) : graph.add_output(id);
    }
  }
  for (const auto& [name, type] : given) {
    const ValueId id = graph.find_value(name);
    graph.rename(id, graph.unique_value_name(name + "_computed"));
    graph.replace_uses(id, graph.add_input(name, type), false);
  }
  const std::vector<NodeId> order = graph.order();
  for (auto id = order.rbegin(); id != order.rend(); ++id) {
    const std::vector<ValueId>& outputs = graph.node(*id).outputs;
    if (std::none_of(outputs.begin(), outputs.end(),
                     [&](ValueId out) { return out != kNoValue && !graph.is_unused(out); })) {
      graph.erase(*id);
    }
  }
  const std::vector<ValueId> inputs(graph.inputs().begin(), graph.inputs().end());
  for (const ValueId id : inputs) {
    if (graph.is_unused(id) && !graph.value(id).is_constant()) graph.remove_input(id);
  }
  return cut;
}

struct VariantMeter::Front {
  // By value name, a tensor a batch.
  std::map<std::string, std::vector<Tensor>> values;

  std::map<std::string, TypeInfo> types() const {
    std::map<std::string, TypeInfo> out;
    for (const auto& [name, contents] : values) out[name] = common_type(contents);
    return out;
  }
  std::vector<NamedTensor> feeds(int64_t batch, std::span<const NamedTensor> inputs) const {
    std::vector<NamedTensor> out(inputs.begin(), inputs.end());
    for (const auto& [name, contents] : values) {
      out.push_back({name, contents[static_cast<size_t>(batch)]});
    }
    return out;
  }
};

VariantMeter::VariantMeter(ReferenceOutputs& reference, uint64_t budget)
    : reference_(reference), budget_(budget), front_(std::make_unique<Front>()) {}

VariantMeter::~VariantMeter() = default;

// To the values that are computed before `from` and read there or later.
void VariantMeter::advance(NodeId from) {
  if (stuck_) return;
  const Graph& graph = reference_.model().graph;
  std::vector<char> is_before(static_cast<size_t>(graph.node_slots()), 0);
  for (const NodeId id : graph.order()) {
    if (id == from) break;
    is_before[static_cast<size_t>(id)] = 1;
  }
  std::vector<std::string> wanted;
  for (ValueId id = 0; id < graph.value_slots(); ++id) {
    const Value& value = graph.value(id);
    if (!value.alive || value.producer == kNoNode ||
        !is_before[static_cast<size_t>(value.producer)])
      continue;
    const auto uses = graph.uses(id);
    const bool is_read = std::any_of(uses.begin(), uses.end(), [&](const Use& use) {
      return !is_before[static_cast<size_t>(use.node)];
    });
    // An output above the cut is not what a variant changes; it would have to be computed anew.
    if (graph.is_output(id)) {
      stuck_ = true;
      return;
    }
    if (is_read) wanted.push_back(value.name);
  }
  if (wanted.empty()) return;
  Front next;
  uint64_t bytes = 0;
  std::erase_if(wanted, [&](const std::string& name) {
    const auto row = front_->values.find(name);
    if (row == front_->values.end()) return false;
    for (const Tensor& content : row->second) bytes += content.bytes();
    next.values.insert(*row);
    return true;
  });
  if (wanted.empty()) {
    *front_ = std::move(next);
    return;
  }
  Session session(slice_model(reference_.model(), front_->types(), wanted));
  const std::set<std::string> names = input_names(session);
  for (int64_t b = 0; b < reference_.batches(); ++b) {
    const Sample sample = join(reference_.data(), reference_.batch(b));
    std::vector<Tensor> outputs = session.run(those_named(front_->feeds(b, sample.inputs), names));
    for (size_t i = 0; i < wanted.size(); ++i) {
      bytes += outputs[i].bytes();
      next.values[wanted[i]].push_back(std::move(outputs[i]));
    }
    if (bytes > budget_) return;  // from a narrower place further down it may fit again
  }
  *front_ = std::move(next);
}

Evaluation VariantMeter::measure(const Model& variant, NodeId from) {
  advance(from);
  const bool fits = std::all_of(front_->values.begin(), front_->values.end(), [&](const auto& row) {
    return variant.graph.find_value(row.first) != kNoValue;
  });
  if (!fits || front_->values.empty()) {
    ++whole_;
    return reference_.evaluate(variant);
  }
  ++cut_;
  Session session(slice_model(variant, front_->types(), {}));
  const std::set<std::string> names = input_names(session);
  return reference_.evaluate_by(
      session.output_names(), [&](int64_t batch, std::span<const NamedTensor> inputs) {
        return session.run(those_named(front_->feeds(batch, inputs), names));
      });
}

}  // namespace compress
