#include "passes/prune/candidates.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "compress/error.h"
#include "compress/graph/label.h"
#include "passes/edit.h"

namespace compress {
namespace {

// The constant behind Identity nodes, or nullptr.
const Tensor* plain_constant(const Graph& graph, ValueId id) {
  while (id != kNoValue) {
    const Value& value = graph.value(id);
    if (value.is_constant()) return &value.constant;
    if (value.producer == kNoNode || !graph.node(value.producer).is("Identity")) return nullptr;
    id = operand(graph.node(value.producer), 0);
  }
  return nullptr;
}

// Fills in the parameters of the DequantizeLinear; "" or why the weights cannot be pruned.
std::string read_parameters(const WeightRead& read, PruneTarget& target) {
  const Node& node = read.graph->node(read.dequantize);
  const Tensor* scale = plain_constant(*read.graph, operand(node, 1));
  if (scale == nullptr || !is_float(scale->dtype())) return "its scale is computed";
  target.scales = scale->to_doubles();
  target.zero_points.assign(target.scales.size(), 0);
  if (operand(node, 2) != kNoValue) {
    const Tensor* zero = plain_constant(*read.graph, node.inputs[2]);
    if (zero == nullptr || zero->count() != scale->count()) return "its zero point is computed";
    const std::vector<int64_t> values = zero->to_ints();
    for (size_t i = 0; i < values.size(); ++i) {
      target.zero_points[i] = static_cast<int32_t>(values[i]);
    }
  }
  if (target.scales.size() == 1) return "";
  const Shape& shape = target.tensor.shape();
  const int axis = normalize_axis(node.int_or("axis", 1), shape.rank());
  target.axis_size = shape[axis];
  target.inner = shape.count(axis + 1, shape.rank());
  target.block_size = node.int_or("block_size", 0);
  const int64_t blocks =
      target.block_size > 0 ? (target.axis_size + target.block_size - 1) / target.block_size : 0;
  const int64_t expected = target.block_size > 0 && target.axis_size > 0
                               ? target.tensor.count() / target.axis_size * blocks
                               : target.axis_size;
  return scale->count() == expected ? "" : "its scales do not fit its shape";
}

// A reader of the constant, or of what Reshape, Transpose, Q/DQ... make of it, that is no weight
// slot; "" where there is none.
std::string other_reader(const Graph& home, ValueId constant, bool gather) {
  std::vector<std::pair<const Graph*, ValueId>> open = {{&home, constant}};
  while (!open.empty()) {
    const auto [graph, id] = open.back();
    open.pop_back();
    if (graph->is_output(id)) return "a graph output";
    for (const Use& use : graph->uses(id)) {
      const Node& node = graph->node(use.node);
      if (use.slot >= static_cast<int32_t>(node.inputs.size())) {
        for (const Body& body : node.bodies) {
          for (const Body::Capture& capture : body.captures) {
            if (capture.outer == id) open.emplace_back(body.graph.get(), capture.inner);
          }
        }
        continue;
      }
      const std::vector<int> slots = weight_slots(node, gather);
      if (std::find(slots.begin(), slots.end(), use.slot) != slots.end()) continue;
      const bool moves = use.slot == 0 && passes_weights(node);
      if (!moves) return describe(*graph, node);
      for (const ValueId out : node.outputs) {
        if (out != kNoValue) open.emplace_back(graph, out);
      }
    }
  }
  return "";
}

std::vector<Candidate> all_candidates(Model& model, bool gather) {
  std::vector<Candidate> out;
  std::map<std::pair<Graph*, ValueId>, size_t> index;
  for (const WeightRead& read : find_weights(model, gather)) {
    const auto [row, is_new] = index.emplace(std::pair(read.home, read.value), out.size());
    if (is_new) {
      out.push_back({read.home, read.value, {}, {}, {}});
      out.back().target.tensor = read.home->value(read.value).constant;
    }
    Candidate& candidate = out[row->second];
    const std::optional<WeightAxes> axes = weight_axes(read);
    if (is_new) {
      candidate.axes = axes;
    } else if (axes != candidate.axes) {
      candidate.axes.reset();
    }
    candidate.reads.push_back(read);
  }
  return out;
}

// "" where the candidate is to be pruned.
std::string refusal(Candidate& candidate, const Selection& selection, bool gather,
                    bool needs_axes) {
  for (const WeightRead& read : candidate.reads) {
    const Node& node = read.graph->node(read.node);
    if (!selection.wants_op(node.op_type, true)) return "not among --op-types";
    if (std::string reason = selection.refusal(node); !reason.empty()) return reason;
  }
  const std::string reader = other_reader(*candidate.home, candidate.value, gather);
  if (!reader.empty()) return "also read by " + reader;
  const WeightRead& first = candidate.reads.front();
  const bool quantized = first.dequantize != kNoNode;
  const DType dtype = candidate.target.tensor.dtype();
  if (!can_prune(dtype, quantized)) return fmt::format("weights of type {}", info(dtype).name);
  if (needs_axes && !candidate.axes)
    return "its axis of inputs is not plain (Reshape, a table, or two uses)";
  return quantized ? read_parameters(first, candidate.target) : "";
}

double ratio(int64_t part, int64_t whole) {
  return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
}

}  // namespace

Candidates find_candidates(Model& model, const Options& options, bool needs_axes) {
  const Selection selection(options);
  const bool gather = selection.names_op("Gather");
  adopt_constant_nodes(model.graph);
  Candidates out;
  for (Candidate& candidate : all_candidates(model, gather)) {
    std::string reason = refusal(candidate, selection, gather, needs_axes);
    if (reason.empty()) {
      out.chosen.push_back(std::move(candidate));
    } else {
      out.skipped.push_back({label_of(candidate), std::move(reason)});
    }
  }
  return out;
}

std::string label_of(const Candidate& candidate) {
  const WeightRead& read = candidate.reads.front();
  return label(*read.graph, read.graph->node(read.node));
}

double sparsity_of(const Candidate& candidate, const Sparsities& sparsities) {
  const WeightRead& read = candidate.reads.front();
  return sparsities.of(*read.graph, read.graph->node(read.node));
}

void PruneReport::set(Candidate& candidate, Zeroed zeroed) {
  const int64_t count = candidate.target.tensor.count();
  if (zeroed.changed > 0) candidate.home->set_constant(candidate.value, std::move(zeroed.tensor));
  candidate.target.tensor = Tensor();
  ++tensors_;
  weights_ += count;
  zeros_ += zeroed.zeros;
  changed_ += zeroed.changed;
  layers_.push_back({{"node", label_of(candidate)},
                     {"tensor", candidate.home->value(candidate.value).name},
                     {"weights", count},
                     {"zeros", zeroed.zeros},
                     {"sparsity", ratio(zeroed.zeros, count)}});
}

PassResult PruneReport::result(std::vector<Skipped> skipped) {
  PassResult out;
  out.changed = changed_ > 0;
  out.skipped = std::move(skipped);
  out.details = {{"tensors", tensors_},
                 {"weights", weights_},
                 {"zeros", zeros_},
                 {"sparsity", ratio(zeros_, weights_)},
                 {"layers", std::move(layers_)}};
  return out;
}

int64_t wanted_zeros(double sparsity, int64_t count) {
  return std::clamp<int64_t>(std::llround(sparsity * static_cast<double>(count)), 0, count);
}

}  // namespace compress
