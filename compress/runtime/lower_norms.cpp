// Softmax and the norms: rows of floats. LayerNorm and RMSNorm are recognised from their nodes:
// (x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon), and the same without the mean.
#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "compress/runtime/inline.h"
#include "compress/runtime/lower.h"
#include "compress/runtime/lower_elements.h"
#include "compress/runtime/lower_internal.h"
#include "compress/runtime/lower_patterns.h"

namespace compress::runtime {
namespace {

using kernels::ElementOp;

class Norms {
 public:
  Norms(Graph& graph, const Model& model) : graph_(graph), model_(model) {}

  void run() {
    for (const NodeId id : std::vector<NodeId>(graph_.order())) {
      const Node& node = graph_.node(id);
      if (!node.alive || node.inputs.empty() || node.outputs.empty()) continue;
      if (node.inputs[0] == kNoValue || node.outputs[0] == kNoValue) continue;
      if (graph_.value(node.outputs[0]).type.dtype != DType::float32) continue;
      if (node.is("Softmax")) {
        lower_softmax(id);
      } else if (is_layer_norm(node)) {
        lower_layer_norm(id);
      } else if (node.is("SkipLayerNormalization", "com.microsoft")) {
        lower_skip_norm(id, 3, 4);
      } else if (node.is("SkipSimplifiedLayerNormalization", "com.microsoft")) {
        lower_skip_norm(id, -1, 3);
      } else if (node.is("Div") || node.is("Mul")) {
        lower_pieces(id);
      }
    }
  }

 private:
  bool is_layer_norm(const Node& node) const {
    return node.is("LayerNormalization") || node.is("SimplifiedLayerNormalization");
  }

  bool is_last_axis(int64_t axis, int rank) const {
    return rank > 0 && (axis == -1 || axis == rank - 1);
  }

  // One number a column of x: constant, its other dimensions 1.
  bool is_column_constant(ValueId id, ValueId x) const {
    if (id == kNoValue || !graph_.value(id).is_constant()) return false;
    const Tensor& constant = graph_.value(id).constant;
    const TypeInfo& type = graph_.value(x).type;
    if (constant.dtype() != DType::float32 || constant.shape().rank() < 1) return false;
    if (!type.has_shape || constant.shape().rank() > type.shape.rank()) return false;
    const int64_t columns = type.shape[type.shape.rank() - 1];
    return columns > 0 && constant.count() == columns &&
           constant.shape()[constant.shape().rank() - 1] == columns;
  }

  void lower_softmax(NodeId id) {
    const Node& node = graph_.node(id);
    const int rank = rank_of(graph_, node.inputs[0]);
    const int64_t fallback = node_opset(node, model_) < 13 ? 1 : -1;
    if (!is_last_axis(node.int_or("axis", fallback), rank)) return;
    replace_parts(graph_, "Softmax", {node.inputs[0]}, {}, node.outputs[0], {id});
  }

  void lower_layer_norm(NodeId id) {
    const Node& node = graph_.node(id);
    const ValueId x = node.inputs[0];
    const bool simple = node.is("SimplifiedLayerNormalization");
    if (!is_last_axis(node.int_or("axis", -1), rank_of(graph_, x))) return;
    for (size_t i = 1; i < node.outputs.size(); ++i) {
      if (node.outputs[i] != kNoValue && !graph_.is_unused(node.outputs[i])) return;
    }
    for (size_t i = 1; i < node.inputs.size(); ++i) {
      if (node.inputs[i] != kNoValue && !is_column_constant(node.inputs[i], x)) return;
    }
    if (simple && node.inputs.size() != 2) return;
    replace_parts(graph_, simple ? "RmsNorm" : "LayerNorm", node.inputs,
                  {{kEpsilon, node.float_or("epsilon", 1e-5f), ""}}, node.outputs[0], {id});
  }

  bool are_unused(const Node& node, std::span<const size_t> outputs) const {
    return std::all_of(outputs.begin(), outputs.end(), [&](size_t i) {
      return i >= node.outputs.size() || node.outputs[i] == kNoValue ||
             graph_.is_unused(node.outputs[i]);
    });
  }

  // The sum of input, skip and bias is a node of its own, which chains of elements take up: it may
  // be read as output 3. beta_slot is -1 where there is no beta.
  void lower_skip_norm(NodeId id, int beta_slot, int bias_slot) {
    const Node node = graph_.node(id);
    const auto operand = [&](int slot) {
      const auto at = static_cast<size_t>(slot);
      return slot < 0 || at >= node.inputs.size() ? kNoValue : node.inputs[at];
    };
    const ValueId x = operand(0), skip = operand(1), gain = operand(2);
    const ValueId beta = operand(beta_slot), bias = operand(bias_slot);
    const int rank = rank_of(graph_, x);
    if (skip == kNoValue || rank < 2) return;
    if (rank_of(graph_, skip) < 1 || rank_of(graph_, skip) > rank) return;
    if (!are_unused(node, std::array<size_t, 2>{1, 2})) return;
    if (!is_column_constant(gain, x)) return;
    for (const ValueId optional : {beta, bias}) {
      if (optional != kNoValue && !is_column_constant(optional, x)) return;
    }
    ValueId sum = x;
    for (const ValueId term : {skip, bias}) {
      if (term == kNoValue) continue;
      const std::string name = graph_.value(node.outputs[0]).name + "/sum";
      const NodeId add = graph_.insert_before(id, {"Add", {sum, term}, {name}});
      sum = graph_.node(add).outputs[0];
      graph_.set_type(sum, graph_.value(x).type);
      add_origin(graph_, add, id);
    }
    if (node.outputs.size() > 3 && node.outputs[3] != kNoValue) {
      graph_.replace_uses(node.outputs[3], sum);
    }
    std::vector<ValueId> inputs = {sum, gain};
    if (beta != kNoValue) inputs.push_back(beta);
    replace_parts(graph_, beta_slot < 0 ? "RmsNorm" : "LayerNorm", std::move(inputs),
                  {{kEpsilon, node.float_or("epsilon", 1e-12f), ""}}, node.outputs[0], {id});
  }

  // --- From pieces -------------------------------------------------------------------------------

  // The operand of a mean over the last axis that keeps it; kNoValue where `id` is none.
  ValueId mean_operand(ValueId id, std::vector<NodeId>& parts) const {
    const NodeId mean = producer_of(graph_, id, "ReduceMean");
    if (mean == kNoNode || graph_.node(mean).int_or("keepdims", 1) == 0) return kNoValue;
    const Node& node = graph_.node(mean);
    std::vector<int64_t> axes = node.ints_or("axes", {});
    if (const Tensor* given = graph_.constant_input(node, 1)) axes = given->to_ints();
    if (axes.size() != 1 || !is_last_axis(axes[0], rank_of(graph_, node.inputs[0]))) {
      return kNoValue;
    }
    parts.push_back(mean);
    return node.inputs[0];
  }

  std::optional<Element> step_of(ValueId id) const {
    const NodeId producer = id == kNoValue ? kNoNode : graph_.value(id).producer;
    return producer == kNoNode ? std::nullopt : element_of(graph_, graph_.node(producer));
  }

  // sqrt(mean(v * v) + epsilon): v, or kNoValue.
  ValueId deviation_of(ValueId root, float& epsilon, std::vector<NodeId>& parts) const {
    const auto root_step = step_of(root);
    if (!root_step || root_step->op != ElementOp::square_root) return kNoValue;
    parts.push_back(graph_.value(root).producer);
    const ValueId sum = root_step->operands[0];
    const auto sum_step = step_of(sum);
    if (!sum_step || sum_step->op != ElementOp::add_number) return kNoValue;
    epsilon = sum_step->p;
    parts.push_back(graph_.value(sum).producer);
    const ValueId squares = mean_operand(sum_step->operands[0], parts);
    const auto square = step_of(squares);
    if (!square) return kNoValue;
    const bool product = square->op == ElementOp::multiply && square->operands.size() == 2 &&
                         square->operands[0] == square->operands[1];
    if (square->op != ElementOp::square && !product) return kNoValue;
    parts.push_back(graph_.value(squares).producer);
    return square->operands[0];
  }

  // x where v is x - mean(x); kNoValue otherwise.
  ValueId centred(ValueId v, std::vector<NodeId>& parts) const {
    const auto difference = step_of(v);
    if (!difference || difference->op != ElementOp::subtract) return kNoValue;
    std::vector<NodeId> own = {graph_.value(v).producer};
    const ValueId of = mean_operand(difference->operands[1], own);
    if (of == kNoValue || of != difference->operands[0]) return kNoValue;
    parts.insert(parts.end(), own.begin(), own.end());
    return of;
  }

  // v / sqrt(...), or v * (1 / sqrt(...)).
  bool quotient(const Node& node, ValueId& v, ValueId& deviation,
                std::vector<NodeId>& parts) const {
    const auto step = element_of(graph_, node);
    if (!step || step->operands.size() != 2) return false;
    v = step->operands[0];
    deviation = step->operands[1];
    if (step->op == ElementOp::divide) return true;
    for (const size_t slot : {size_t{1}, size_t{0}}) {
      const auto inverse = step_of(step->operands[slot]);
      const bool reciprocal =
          inverse && (inverse->op == ElementOp::reciprocal ||
                      (inverse->op == ElementOp::number_over && inverse->p == 1.0f));
      if (!reciprocal) continue;
      parts.push_back(graph_.value(step->operands[slot]).producer);
      v = step->operands[1 - slot];
      deviation = inverse->operands[0];
      return true;
    }
    return false;
  }

  // Follows `out` to a node `type` with one number a column; that operand, or kNoValue.
  ValueId take_columns(std::string_view type, ValueId x, ValueId& out,
                       std::vector<NodeId>& parts) const {
    const NodeId reader = only_reader(graph_, out);
    if (reader == kNoNode || !graph_.node(reader).is(type)) return kNoValue;
    const Node& node = graph_.node(reader);
    if (node.inputs.size() != 2) return kNoValue;
    const ValueId other = node.inputs[0] == out ? node.inputs[1] : node.inputs[0];
    if (!is_column_constant(other, x)) return kNoValue;
    out = node.outputs[0];
    parts.push_back(reader);
    return other;
  }

  void lower_pieces(NodeId id) {
    const Node& node = graph_.node(id);
    std::vector<NodeId> parts = {id};
    ValueId v = kNoValue, deviation = kNoValue;
    if (!quotient(node, v, deviation, parts)) return;
    float epsilon = 0;
    const ValueId squared = deviation_of(deviation, epsilon, parts);
    if (squared == kNoValue) return;
    std::vector<NodeId> mean_parts;
    ValueId x = centred(v, mean_parts);
    const bool has_mean = x != kNoValue;
    if (has_mean) {
      // The square may have a difference of its own, of the same x.
      std::vector<NodeId> again;
      if (squared != v && centred(squared, again) != x) return;
      mean_parts.insert(mean_parts.end(), again.begin(), again.end());
      parts.insert(parts.end(), mean_parts.begin(), mean_parts.end());
    } else {
      if (squared != v) return;
      x = v;
    }
    ValueId out = node.outputs[0];
    const ValueId gain = take_columns("Mul", x, out, parts);
    const ValueId bias =
        has_mean && gain != kNoValue ? take_columns("Add", x, out, parts) : kNoValue;
    if (!has_mean && gain == kNoValue) return;
    finish(has_mean, x, gain, bias, epsilon, out, parts);
  }

  void finish(bool has_mean, ValueId x, ValueId gain, ValueId bias, float epsilon, ValueId out,
              std::vector<NodeId> parts) {
    std::sort(parts.begin(), parts.end());
    parts.erase(std::unique(parts.begin(), parts.end()), parts.end());
    for (const NodeId part : parts) {
      const ValueId made = graph_.node(part).outputs[0];
      if (made != out && !only_used_by(graph_, made, parts)) return;
    }
    // In the order of execution, so that erasing from the back leaves no reader behind.
    const std::vector<NodeId>& order = graph_.order();
    std::vector<NodeId> sorted;
    for (const NodeId id : order) {
      if (std::binary_search(parts.begin(), parts.end(), id)) sorted.push_back(id);
    }
    std::vector<ValueId> inputs = {x, gain};
    if (has_mean) inputs.push_back(bias);
    replace_parts(graph_, has_mean ? "LayerNorm" : "RmsNorm", std::move(inputs),
                  {{kEpsilon, epsilon, ""}}, out, sorted);
  }

  Graph& graph_;
  const Model& model_;
};

}  // namespace

void lower_norms(Graph& graph, const Model& model) { Norms(graph, model).run(); }

}  // namespace compress::runtime
