#include "compress/train/parameters.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <string_view>

#include "compress/ops/gradient_families.h"
#include "compress/ops/support.h"

namespace compress::train {
namespace {

struct Slots {
  std::string_view domain, op;
  std::array<int, 3> slots;  // -1: none
  bool norm = false;
};

constexpr Slots kSlots[] = {
    {"", "Conv", {1, 2, -1}},
    {"", "ConvTranspose", {1, 2, -1}},
    {"", "Gemm", {1, 2, 0}},
    {"", "MatMul", {1, 0, -1}},
    {"", "PRelu", {1, -1, -1}, true},
    {"", "Gather", {0, -1, -1}},
    {"", "LSTM", {1, 2, 3}},
    {"", "GRU", {1, 2, 3}},
    {"", "RNN", {1, 2, 3}},
    {"", "BatchNormalization", {1, 2, -1}, true},
    {"", "LayerNormalization", {1, 2, -1}, true},
    {"", "RMSNormalization", {1, -1, -1}, true},
    {"", "SimplifiedLayerNormalization", {1, -1, -1}, true},
    {"", "GroupNormalization", {1, 2, -1}, true},
    {"", "InstanceNormalization", {1, 2, -1}, true},
    {"com.microsoft", "SkipLayerNormalization", {2, 3, 4}, true},
    {"com.microsoft", "BiasGelu", {1, -1, -1}, true},
};

const Slots* slots_of(const Node& node) {
  for (const Slots& row : kSlots) {
    if (node.is(row.op, row.domain)) return &row;
  }
  return nullptr;
}

const Node* producer_of(const Graph& graph, ValueId id) {
  const NodeId node = id == kNoValue ? kNoNode : graph.value(id).producer;
  return node == kNoNode ? nullptr : &graph.node(node);
}

bool moves(const Node& node) {
  for (const char* op : {"Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten"}) {
    if (node.is(op)) return true;
  }
  return false;
}

// The constant that a slot's value is made of; kNoValue where there is none. `pair` is set to the
// DequantizeLinear on the way.
ValueId source_of(const Graph& graph, ValueId id, const Node*& pair) {
  while (id != kNoValue && !graph.value(id).is_constant()) {
    const Node* node = producer_of(graph, id);
    if (node == nullptr) return kNoValue;
    if (node->op_type == "DequantizeLinear") pair = node;
    if (!moves(*node) && node->op_type != "DequantizeLinear" && node->op_type != "QuantizeLinear") {
      return kNoValue;
    }
    id = node->inputs.empty() ? kNoValue : node->inputs[0];
  }
  return id;
}

// Add of a constant right behind a layer: its bias.
bool adds_bias(const Graph& graph, const Node& node, size_t slot) {
  if (!node.is("Add") || node.inputs.size() != 2) return false;
  const Node* layer = producer_of(graph, node.inputs[1 - slot]);
  return layer != nullptr && (layer->is("MatMul") || layer->is("Conv") || layer->is("Gemm") ||
                              layer->is("ConvTranspose"));
}

class Finder {
 public:
  Finder(const Graph& graph, const ParameterOptions& options) : graph_(graph), options_(options) {}

  std::vector<Parameter> find() {
    for (const NodeId id : graph_.order()) visit(graph_.node(id));
    return std::move(found_);
  }

 private:
  void visit(const Node& node) {
    if (const Slots* row = slots_of(node)) {
      for (const int slot : row->slots) {
        if (slot < 0 || static_cast<size_t>(slot) >= node.inputs.size()) continue;
        const bool bias = slot == 3;  // of recurrent operators: a matrix, one row a direction
        take(node, node.inputs[static_cast<size_t>(slot)], !row->norm && !bias);
      }
    }
    for (const size_t slot : {size_t{0}, size_t{1}}) {
      if (adds_bias(graph_, node, slot)) take(node, node.inputs[slot], false);
    }
    if (options_.scales && node.op_type == "DequantizeLinear") take_scale(node);
  }

  void take(const Node& node, ValueId id, bool layer) {
    const Node* pair = nullptr;
    const ValueId source = source_of(graph_, id, pair);
    if (source == kNoValue) return;
    add(node, source, layer && graph_.value(source).constant.shape().rank() >= 2, false);
    if (pair != nullptr && !found_.empty() && found_.back().constant == source) {
      found_.back().step = mean_scale(*pair);
    }
  }

  double mean_scale(const Node& dequantize) const {
    const Tensor* scale = graph_.constant_input(dequantize, 1);
    if (scale == nullptr || scale->count() == 0) return 0;
    double sum = 0;
    for (const double s : scale->to_doubles()) sum += std::abs(s);
    return sum / static_cast<double>(scale->count());
  }

  void take_scale(const Node& node) {
    const Node* quantize = producer_of(graph_, node.inputs[0]);
    if (quantize == nullptr || quantize->op_type != "QuantizeLinear") return;
    // The range of the data is known, and its slope would cost the first layer's data gradient.
    if (graph_.value(quantize->inputs[0]).is_input) return;
    if (quantize->inputs[1] != node.inputs[1] || !graph_.value(node.inputs[1]).is_constant())
      return;
    add(node, node.inputs[1], false, true);
  }

  void add(const Node& node, ValueId id, bool decays, bool is_scale) {
    const Value& value = graph_.value(id);
    if (value.constant.dtype() != DType::float32 || value.constant.count() == 0) return;
    if (!seen_.insert(id).second) return;
    found_.push_back({value.name, id, kNoValue, value.constant, decays, is_scale, node.name});
  }

  const Graph& graph_;
  const ParameterOptions& options_;
  std::set<ValueId> seen_;
  std::vector<Parameter> found_;
};

// A constant becomes an input; the constant's name goes with it.
ValueId to_input(Graph& graph, ValueId constant) {
  const Value& value = graph.value(constant);
  const std::string name = value.name;
  const TypeInfo type{value.constant.dtype(), true, value.constant.shape()};
  const bool listed = value.is_input;
  const ValueId input = graph.add_input(graph.unique_value_name(name + "/state"), type);
  graph.replace_uses(constant, input);
  if (listed) graph.remove_input(constant);
  if (graph.value(constant).alive && graph.is_unused(constant)) graph.erase_value(constant);
  return input;
}

}  // namespace

std::vector<Parameter> find_parameters(const Graph& graph, const ParameterOptions& options) {
  return Finder(graph, options).find();
}

void bind_parameters(Graph& graph, std::vector<Parameter>& parameters) {
  for (Parameter& parameter : parameters) {
    parameter.value = to_input(graph, graph.find_value(parameter.name));
  }
}

std::vector<State> train_batch_norm(Graph& graph) {
  std::vector<State> states;
  std::set<ValueId> taken;
  const std::vector<NodeId> order = graph.order();
  for (const NodeId id : order) {
    const Node node = graph.node(id);
    if (!node.is("BatchNormalization") || node.inputs.size() < 5 || node.outputs.size() != 1) {
      continue;
    }
    const bool own = graph.value(node.inputs[3]).is_constant() &&
                     graph.value(node.inputs[4]).is_constant() &&
                     taken.insert(node.inputs[3]).second && taken.insert(node.inputs[4]).second;
    if (!own) continue;  // statistics that two layers share stay what they are
    NodeSpec spec{"BatchNormalization", node.inputs, {node.name + "/y"}, node.attributes};
    const auto momentum = static_cast<double>(node.float_or("momentum", 0.9f));
    std::erase_if(spec.attributes, [](const Attribute& a) { return a.name == "momentum"; });
    // The node gives the batch's own: batches of one update do not wait for each other.
    spec.attributes.push_back({"momentum", 0.0f, ""});
    for (const size_t slot : {size_t{3}, size_t{4}}) {
      const Value& value = graph.value(node.inputs[slot]);
      State state{value.name, kNoValue, kNoValue, value.constant, momentum};
      state.input = spec.inputs[slot] = to_input(graph, node.inputs[slot]);
      states.push_back(std::move(state));
      spec.outputs.push_back(states.back().name + "/next");
    }
    spec.attributes.push_back({"training_mode", int64_t{1}, ""});
    spec.attributes.push_back({kOpsetAttribute, int64_t{15}, ""});
    const NodeId made = graph.insert_before(id, std::move(spec));
    const std::vector<ValueId> outputs = graph.node(made).outputs;
    states[states.size() - 2].output = outputs[1];
    states[states.size() - 1].output = outputs[2];
    graph.replace_uses(node.outputs[0], outputs[0]);
    graph.erase(id);
  }
  return states;
}

std::string activate_dropout(Graph& graph, uint64_t seed) {
  ValueId step = kNoValue;
  const std::vector<NodeId> order = graph.order();
  for (const NodeId id : order) {
    const Node node = graph.node(id);
    if (!node.is("Dropout")) continue;
    const Tensor* given = graph.constant_input(node, 1);
    const float ratio =
        given != nullptr ? static_cast<float>(given->to_double()) : node.float_or("ratio", 0.5f);
    if (!(ratio > 0 && ratio < 1)) continue;
    if (step == kNoValue) {
      step = graph.add_input(graph.unique_value_name("train/step"), {DType::int64, true, Shape()});
    }
    NodeSpec spec{"Mask", {node.inputs[0], step},      {node.name + "/masked"}, {},
                  "",     std::string(kGradientDomain)};
    spec.attributes = {{"ratio", ratio, ""},
                       {"seed", static_cast<int64_t>(seed), ""},
                       {"id", static_cast<int64_t>(id), ""}};
    const NodeId made = graph.insert_before(id, std::move(spec));
    graph.replace_uses(node.outputs[0], graph.node(made).outputs[0]);
    const bool unused = std::all_of(node.outputs.begin(), node.outputs.end(), [&](ValueId out) {
      return out == kNoValue || graph.is_unused(out);
    });
    if (unused) graph.erase(id);
  }
  return step == kNoValue ? "" : graph.value(step).name;
}

}  // namespace compress::train
