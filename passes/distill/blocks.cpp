#include "passes/distill/blocks.h"

#include <algorithm>
#include <map>
#include <set>

#include "compress/train/parameters.h"
#include "passes/edit.h"

namespace compress {
namespace {

constexpr std::string_view kDequantized = "_DequantizeLinear_Output";

// Values that depend on the model's inputs, by id.
std::vector<bool> activations_of(const Graph& graph) {
  std::vector<bool> depends(static_cast<size_t>(graph.value_slots()), false);
  for (const ValueId id : graph.inputs()) {
    depends[static_cast<size_t>(id)] = !graph.value(id).is_constant();
  }
  for (const NodeId id : graph.order()) {
    bool any = false;
    Graph::for_each_operand(graph.node(id), [&](int32_t, ValueId operand) {
      any = any || depends[static_cast<size_t>(operand)];
    });
    for (const ValueId out : graph.node(id).outputs) {
      if (out != kNoValue) depends[static_cast<size_t>(out)] = any;
    }
  }
  return depends;
}

// The value of the teacher that `name` stands for: the quantizer adds to names.
std::string target_of(const Graph& student, ValueId id, const Graph& teacher) {
  std::string name = student.value(id).name;
  if (name.ends_with(kDequantized)) name.resize(name.size() - kDequantized.size());
  const ValueId found = teacher.find_value(name);
  if (found == kNoValue || teacher.value(found).is_constant()) return "";
  if (teacher.value(found).producer == kNoNode) return "";
  const TypeInfo &a = student.value(id).type, &b = teacher.value(found).type;
  const bool same = a.dtype == DType::float32 && b.dtype == DType::float32 && a.has_shape &&
                    b.has_shape && a.shape.rank() == b.shape.rank() && a.shape.rank() > 1;
  if (!same) return "";
  for (int i = 1; i < a.shape.rank(); ++i) {
    if (a.shape[i] != b.shape[i]) return "";
  }
  return name;
}

// Walks the nodes in order and keeps what is still to be read: where that is one value, all that
// follows depends on it alone.
class Cuts {
 public:
  Cuts(const Graph& student, const Graph& teacher)
      : student_(student), teacher_(teacher), depends_(activations_of(student)) {
    for (const train::Parameter& p : train::find_parameters(student)) weights_.insert(p.constant);
    for (const ValueId id : student.inputs()) {
      if (depends_[static_cast<size_t>(id)] && !student.is_unused(id)) open_[id] = readers(id);
    }
  }

  std::vector<Block> find() {
    for (const NodeId id : student_.order()) {
      const Node& node = student_.node(id);
      if (!is_activation(node)) continue;
      visit(node);
      if (open_.size() == 1) consider(open_.begin()->first);
    }
    return std::move(blocks_);
  }

 private:
  bool is_activation(const Node& node) const {
    return std::any_of(node.outputs.begin(), node.outputs.end(), [&](ValueId out) {
      return out != kNoValue && depends_[static_cast<size_t>(out)];
    });
  }

  // Of a value; being an output counts as one.
  int64_t readers(ValueId id) const {
    return static_cast<int64_t>(student_.uses(id).size()) + (student_.is_output(id) ? 1 : 0);
  }

  void visit(const Node& node) {
    Graph::for_each_operand(node, [&](int32_t, ValueId operand) {
      if (leads_to_weights(operand)) trains_ = true;
      const auto row = open_.find(operand);
      if (row != open_.end() && --row->second == 0) open_.erase(row);
    });
    for (const ValueId out : node.outputs) {
      if (out == kNoValue || !depends_[static_cast<size_t>(out)]) continue;
      if (const int64_t count = readers(out); count > 0) open_[out] = count;
    }
  }

  bool leads_to_weights(ValueId id) const {
    while (!student_.value(id).is_constant()) {
      const NodeId producer = student_.value(id).producer;
      if (producer == kNoNode || depends_[static_cast<size_t>(id)]) return false;
      id = student_.node(producer).inputs[0];
      if (id == kNoValue) return false;
    }
    return weights_.contains(id);
  }

  void consider(ValueId id) {
    const std::string target = target_of(student_, id, teacher_);
    if (target.empty() || is_before_bias(id)) return;
    const std::string& name = student_.value(id).name;
    if (trains_) {
      blocks_.push_back({blocks_.empty() ? "" : blocks_.back().output, name, target});
    } else if (!blocks_.empty() && !closes(id)) {
      // Nothing to train since: quantization, a pool. The block ends behind it.
      blocks_.back().output = name;
      blocks_.back().target = target;
    }
    trains_ = false;
  }

  // Apart from its layer an added bias would be a block without weights.
  bool is_before_bias(ValueId id) const {
    const auto& uses = student_.uses(id);
    if (uses.size() != 1 || student_.is_output(id)) return false;
    const Node& node = student_.node(uses[0].node);
    return node.is("Add") && leads_to_weights(node.inputs[uses[0].slot == 0 ? 1 : 0]);
  }

  // Logits are what is compared.
  bool closes(ValueId id) const {
    const std::string& op = student_.node(student_.value(id).producer).op_type;
    return op == "Softmax" || op == "LogSoftmax";
  }

  const Graph& student_;
  const Graph& teacher_;
  std::vector<bool> depends_;
  std::set<ValueId> weights_;
  std::map<ValueId, int64_t> open_;  // values that are read further on, and how often
  std::vector<Block> blocks_;
  bool trains_ = false;
};

void set_only_output(Graph& graph, ValueId id) {
  for (size_t i = 0; i < graph.outputs().size(); ++i) graph.set_output(i, id);
}

}  // namespace

std::vector<Block> find_blocks(const Model& student, const Model& teacher) {
  return Cuts(student.graph, teacher.graph).find();
}

Model cut_at(const Model& model, const std::string& value) {
  Model out = model;
  set_only_output(out.graph, out.graph.find_value(value));
  erase_unread_nodes(out.graph);
  return out;
}

Model cut_block(const Model& student, const Block& block) {
  Model out = student;
  Graph& graph = out.graph;
  const ValueId end = graph.find_value(block.output);
  if (!block.input.empty()) {
    const ValueId start = graph.find_value(block.input);
    const ValueId input = graph.add_input(block.input + "/block", graph.value(start).type);
    graph.replace_uses(start, input, false);
  }
  set_only_output(graph, end);
  erase_unread_nodes(graph);
  const std::vector<ValueId> inputs(graph.inputs().begin(), graph.inputs().end());
  for (const ValueId id : inputs) {
    if (!block.input.empty() && graph.is_unused(id)) graph.remove_input(id);
  }
  return out;
}

}  // namespace compress
