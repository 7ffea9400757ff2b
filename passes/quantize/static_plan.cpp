#include "passes/quantize/static_plan.h"

#include <algorithm>
#include <unordered_map>

#include "compress/error.h"
#include "compress/graph/label.h"
#include "passes/edit.h"
#include "passes/quantize/linear.h"
#include "passes/quantize/target.h"

namespace compress {
namespace {

// Operators with an integer kernel of their own (QLinearAdd, QLinearConcat...).
bool is_elementwise_integer(const Node& node) {
  if (!node.domain.empty()) return false;
  for (const char* op : {"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "Sigmoid",
                         "LeakyRelu", "Softmax"}) {
    if (node.op_type == op) return true;
  }
  return false;
}

// Operators that run on integers as they are where input and output share their parameters.
bool moves_values(const Node& node) {
  if (node.is("Resize")) {
    return node.string_or("mode", "nearest") == "nearest";
  }
  for (const char* op : {"MaxPool", "Reshape", "Transpose", "Slice", "Split", "Gather", "Flatten",
                         "Squeeze", "Unsqueeze", "DepthToSpace"}) {
    if (node.is(op)) return true;
  }
  return false;
}

class Planner {
 public:
  Planner(const Model& model, const Options& options, const Selection& selection,
          const std::set<ValueId>& banned)
      : model_(model),
        graph_(model.graph),
        selection_(selection),
        banned_(banned),
        target_(target_of(options)) {
    transformer_ = is_transformer(model);
  }

  StaticPlan run() {
    for (const NodeId id : graph_.order()) consider(id);
    leave_shared_weights();
    const auto values = static_cast<size_t>(graph_.value_slots());
    integer_uses_.assign(values, 0);
    maker_.assign(values, -1);
    for (size_t i = 0; i < all_.size(); ++i) {
      index_[all_[i].node] = i;
      for (const ValueId id : outputs_of(all_[i]))
        maker_[static_cast<size_t>(id)] = static_cast<int>(i);
    }
    // From "everything integer", what does not pay erodes; a chain that pays only as a whole
    // (channel shuffles) would never be found from the other side. Both directions, so that a chain
    // erodes in one round whichever end it starts from.
    chosen_.assign(all_.size(), 0);
    for (size_t i = 0; i < all_.size(); ++i) choose(i, true);
    if (!target_.quantizes_outputs) return finish();
    constexpr int kMaxRounds = 16;
    bool changed = true;
    for (int round = 0; round < kMaxRounds && changed; ++round) {
      changed = false;
      for (size_t i = 0; i < all_.size(); ++i) changed = erode(i) || changed;
      for (size_t i = all_.size(); i-- > 0;) changed = erode(i) || changed;
    }
    return finish();
  }

 private:
  void skip(NodeId id, std::string reason) {
    plan_.skipped.push_back({label(graph_, graph_.node(id)), std::move(reason)});
  }

  bool is_float_value(ValueId id) const { return graph_.value(id).type.dtype == DType::float32; }

  // Elements, unknown dimensions as 1: only relations between neighbours matter.
  int64_t size(ValueId id) const {
    const TypeInfo& type = graph_.value(id).type;
    if (!type.has_shape) return 1;
    int64_t count = 1;
    for (const int64_t dim : type.shape)
      count *= std::max<int64_t>(1, std::min<int64_t>(dim, 1 << 20));
    return std::clamp<int64_t>(count, 1, int64_t{1} << 40);
  }

  // --- Which nodes could be units ---------------------------------------------------------------

  void consider(NodeId id) {
    const Node& node = graph_.node(id);
    if (node.is("Conv") || node.is("Gemm") || node.is("MatMul")) return consider_weights(id);
    if (!node.bodies.empty()) {
      return skip(id,
                  "static quantization has no statistics of what stands in its bodies; --mode "
                  "dynamic and weight-only quantize products there");
    }
    const bool table = node.is("Gather") && graph_.constant_input(node, 0) != nullptr;
    if (table) return consider_table(id);
    if (!target_.quantizes_outputs) return consider_inputs(id);
    const bool elementwise = is_elementwise_integer(node);
    if (!elementwise && !moves_values(node)) {
      if (has_weights(node)) skip(id, no_kernel(node));
      return;
    }
    // In a transformer the sums between products carry outliers (measured: 5 points of accuracy).
    if (!selection_.wants_op(node.op_type, !transformer_) || !selection_.refusal(node).empty())
      return;
    Unit unit;
    unit.node = id;
    unit.shares_scale = !elementwise;
    const size_t inputs = elementwise ? node.inputs.size() : 1;
    for (size_t i = 0; i < inputs; ++i) unit.inputs.push_back(node.inputs[i]);
    if (!inputs_fit(unit) || !outputs_fit(node)) return;
    if (node.is("Softmax") && !selection_.names_op("Softmax")) return;
    if (elementwise && is_piece_of_formula(node)) return;
    if (unit.shares_scale && graph_.value(unit.inputs[0]).is_constant()) return;
    unit.output = node.outputs[0];
    if (elementwise && !node.is("Softmax") && !node.is("Sigmoid")) absorb_activation(unit);
    all_.push_back(unit);
  }

  // For a runtime that wants Q/DQ on what is read alone: sums of branches and pools of averages run
  // on integers then, and what moves values follows by itself.
  void consider_inputs(NodeId id) {
    const Node& node = graph_.node(id);
    const bool is_pool = node.is("AveragePool") || node.is("GlobalAveragePool");
    const bool is_sum = node.is("Add") && !transformer_ && node.inputs.size() == 2 &&
                        !graph_.value(node.inputs[0]).is_constant() &&
                        !graph_.value(node.inputs[1]).is_constant() &&
                        node.inputs[0] != node.inputs[1];
    if ((!is_pool && !is_sum) || !selection_.wants_op(node.op_type, true) ||
        !selection_.refusal(node).empty()) {
      if (has_weights(node)) skip(id, no_kernel(node));
      return;
    }
    Unit unit;
    unit.node = id;
    unit.output = node.outputs[0];
    unit.output_optional = true;
    for (const ValueId input : node.inputs) {
      const NodeId producer = graph_.value(input).producer;
      const bool fuses = producer != kNoNode && graph_.node(producer).is("Conv") &&
                         single_reader(graph_, input) != kNoNode;
      if (is_sum && !target_.quantizes_both_summands && fuses && input == node.inputs[0]) continue;
      if (is_sum && !target_.quantizes_both_summands && fuses && !unit.inputs.empty()) continue;
      unit.inputs.push_back(input);
    }
    if (inputs_fit(unit)) all_.push_back(unit);
  }

  // Squares and sums or products with a constant are pieces of norms, Gelu and HardSwish, whose
  // other pieces have no integer kernel: quantizing some of them costs accuracy and saves no
  // conversion.
  bool is_piece_of_formula(const Node& node) const {
    if (selection_.names_op(node.op_type) || (!node.is("Add") && !node.is("Mul"))) return false;
    if (node.inputs.size() != 2 || node.inputs[0] == node.inputs[1]) return true;
    return graph_.constant_input(node, 0) != nullptr || graph_.constant_input(node, 1) != nullptr;
  }

  static bool has_weights(const Node& node) {
    return node.is("ConvTranspose") || node.is("LSTM") || node.is("GRU") ||
           node.op_type == "Attention" || node.op_type == "EmbedLayerNormalization";
  }

  static std::string no_kernel(const Node& node) {
    const bool by_weights = node.is("ConvTranspose") || node.is("LSTM") || node.is("GRU");
    return fmt::format("no integer kernel for {}{}", node.op_type,
                       by_weights ? "; --override NAME=weight-only/int8/channel stores its weights "
                                    "in 8 bits"
                                  : "");
  }

  bool inputs_fit(const Unit& unit) const {
    return std::all_of(unit.inputs.begin(), unit.inputs.end(), [&](ValueId id) {
      return id != kNoValue && banned_.count(id) == 0 &&
             (is_float_value(id) || (graph_.value(id).is_constant() &&
                                     graph_.value(id).constant.dtype() == DType::float32));
    });
  }

  // Split has several outputs; MaxPool's Indices must be unused.
  bool outputs_fit(const Node& node) const {
    for (size_t i = 0; i < node.outputs.size(); ++i) {
      const ValueId id = node.outputs[i];
      if (id == kNoValue) continue;
      if (banned_.count(id) > 0) return false;
      if (node.is("Split")) continue;
      if (i > 0 && !graph_.is_unused(id)) return false;
    }
    return true;
  }

  void consider_weights(NodeId id) {
    const Node& node = graph_.node(id);
    if (!selection_.wants_op(node.op_type, true)) return skip(id, "not among --op-types");
    if (std::string reason = selection_.refusal(node); !reason.empty()) return skip(id, reason);
    Unit unit;
    unit.node = id;
    unit.has_weights = true;
    unit.output_optional = !node.is("Conv") || !target_.quantizes_outputs;
    const ValueId input = operand(node, 0);
    std::string reason = node.is("Conv") ? conv_reason(node) : product_reason(id);
    if (!reason.empty()) return skip(id, reason);
    unit.inputs = {input};
    unit.output = node.outputs[0];
    if (!is_float_value(input)) return skip(id, "its input is no float32");
    if (target_.quantizes_outputs) absorb_activation(unit);
    for (const ValueId value : {input, unit.output}) {
      const bool matters = value == input || !unit.output_optional;
      if (matters && banned_.count(value) > 0) {
        return skip(id, fmt::format("no usable statistics of '{}'", graph_.value(value).name));
      }
    }
    all_.push_back(unit);
  }

  std::string conv_reason(const Node& node) const {
    const Tensor* weight = graph_.constant_input(node, 1);
    if (weight == nullptr) return "its weights are computed";
    if (weight->dtype() != DType::float32) {
      return fmt::format("weights of type {}", info(weight->dtype()).name);
    }
    if (operand(node, 2) != kNoValue && graph_.constant_input(node, 2) == nullptr) {
      return "its bias is computed";
    }
    return operand(node, 0) == kNoValue ? "an input is missing" : "";
  }

  std::string product_reason(NodeId id) const {
    Linear linear;
    std::string reason = read_linear(model_, id, linear);
    if (reason == "both inputs are activations") {
      reason += ": measured no faster in integers";
    }
    if (reason.empty() && linear.transpose != kNoNode)
      reason = "its weights are transposed at run time";
    return reason;
  }

  // Weights that something else reads as float would stand in the file twice.
  void leave_shared_weights() {
    bool shrunk = true;
    while (shrunk) {
      std::set<NodeId> inside;
      for (const Unit& unit : all_) {
        if (unit.has_weights) inside.insert(unit.node);
      }
      shrunk = std::erase_if(all_, [&](const Unit& unit) {
                 const Node* reader = unit.has_weights ? other_reader(unit.node, inside) : nullptr;
                 if (reader == nullptr) return false;
                 skip(unit.node, fmt::format("its weights are also read by {} '{}', which stays",
                                             reader->op_type, reader->name));
                 return true;
               }) > 0;
    }
  }

  const Node* other_reader(NodeId id, const std::set<NodeId>& inside) const {
    for (const Use& use : graph_.uses(graph_.node(id).inputs[1])) {
      if (use.slot != 1 || inside.count(use.node) == 0) return &graph_.node(use.node);
    }
    return nullptr;
  }

  void consider_table(NodeId id) {
    const Node& node = graph_.node(id);
    Table table;
    if (!selection_.wants_op("Gather", true) || !selection_.refusal(node).empty()) return;
    if (!is_float(graph_.constant_input(node, 0)->dtype())) return;
    if (std::string reason = read_table(model_, id, table); !reason.empty())
      return skip(id, reason);
    if (graph_.uses(table.weight).size() > 1) {
      return skip(id, "its table is also read by another node");
    }
    if (table.rows * table.width * 3 < 2 * kNodeProtoBytes) return skip(id, "too small to gain");
    plan_.tables.push_back(id);
  }

  // Relu, and Clip whose bounds enclose zero, become saturation of the quantized output.
  void absorb_activation(Unit& unit) const {
    const NodeId next = single_reader(graph_, unit.output);
    if (next == kNoNode) return;
    const Node& node = graph_.node(next);
    if (!node.is("Relu") && !node.is("Clip")) return;
    if (operand(node, 0) != unit.output || banned_.count(node.outputs[0]) > 0) return;
    if (!selection_.refusal(node).empty()) return;
    if (node.is("Clip") && !encloses_zero(node)) return;
    unit.activation = next;
    unit.output = node.outputs[0];
  }

  bool encloses_zero(const Node& clip) const {
    double low = -1;
    double high = 1;
    if (model_.opset() < 11) {
      low = clip.float_or("min", -1);
      high = clip.float_or("max", 1);
    } else {
      for (size_t slot : {size_t{1}, size_t{2}}) {
        if (operand(clip, slot) == kNoValue) continue;
        const Tensor* bound = graph_.constant_input(clip, slot);
        if (bound == nullptr || bound->count() != 1) return false;
        (slot == 1 ? low : high) = bound->to_double();
      }
    }
    return low <= 0 && high > 0;
  }

  // --- Which of them pay ------------------------------------------------------------------------

  bool is_chosen(NodeId id) const {
    const auto row = index_.find(id);
    return row != index_.end() && chosen_[row->second];
  }

  std::vector<ValueId> outputs_of(const Unit& unit) const {
    if (!unit.shares_scale) return {unit.output};
    std::vector<ValueId> out;
    for (const ValueId id : graph_.node(unit.node).outputs) {
      if (id != kNoValue && !graph_.is_unused(id)) out.push_back(id);
    }
    return out;
  }

  void choose(size_t i, bool integer) {
    chosen_[i] = integer;
    for (const ValueId id : all_[i].inputs)
      integer_uses_[static_cast<size_t>(id)] += integer ? 1 : -1;
  }

  bool erode(size_t i) {
    if (!chosen_[i] || all_[i].has_weights || pays(all_[i])) return false;
    choose(i, false);
    return true;
  }

  int64_t integer_uses(ValueId id) const { return integer_uses_[static_cast<size_t>(id)]; }

  // The chosen unit that makes the value, or nullptr.
  const Unit* maker(ValueId id) const {
    const int i = maker_[static_cast<size_t>(id)];
    return i >= 0 && chosen_[static_cast<size_t>(i)] ? &all_[static_cast<size_t>(i)] : nullptr;
  }

  bool has_float_reader(ValueId id) const {
    return graph_.is_output(id) || static_cast<int64_t>(graph_.uses(id).size()) > integer_uses(id);
  }

  // Elements converted between float and integer around the (chosen) unit, were it float and as it
  // is. Equal costs go to float, which is more accurate.
  bool pays(const Unit& unit) const {
    int64_t as_float = 0;
    int64_t as_integer = 0;
    for (const ValueId id : unit.inputs) {
      if (graph_.value(id).is_constant()) continue;
      const Unit* before = maker(id);
      const auto own = std::count(unit.inputs.begin(), unit.inputs.end(), id);
      if (before != nullptr && before->output_optional) continue;  // gives either
      if (before != nullptr && !has_float_reader(id)) as_float += size(id);
      if (before == nullptr && integer_uses(id) == own) as_integer += size(id);
    }
    for (const ValueId id : outputs_of(unit)) {
      if (banned_.count(id) > 0) return false;
      if (integer_uses(id) > 0) as_float += size(id);
      if (has_float_reader(id)) as_integer += size(id);
    }
    return as_integer < as_float;
  }

  std::set<ValueId> quantized_values() const {
    std::set<ValueId> out;
    for (size_t i = 0; i < all_.size(); ++i) {
      if (!chosen_[i]) continue;
      for (const ValueId id : all_[i].inputs) {
        if (!graph_.value(id).is_constant()) out.insert(id);
      }
      if (all_[i].output_optional) continue;
      for (const ValueId id : outputs_of(all_[i])) out.insert(id);
    }
    return out;
  }

  // --- Result -----------------------------------------------------------------------------------

  StaticPlan finish() {
    quantized_ = quantized_values();
    for (size_t i = 0; i < all_.size(); ++i) {
      Unit unit = all_[i];
      if (!chosen_[i]) continue;
      if (unit.activation != kNoNode && quantized_.count(unit.output) == 0) {
        unit.activation = kNoNode;  // a float result: the activation stays a node
        unit.output = graph_.node(unit.node).outputs[0];
      }
      if (unit.shares_scale) {
        for (const ValueId id : outputs_of(unit)) {
          const auto row = plan_.root.find(unit.inputs[0]);
          plan_.root[id] = row == plan_.root.end() ? unit.inputs[0] : row->second;
        }
      }
      plan_.units.push_back(unit);
    }
    plan_.quantized = quantized_;
    explain_floats();
    return std::move(plan_);
  }

  // Nodes that sit among integer ones and stay float, so that a user sees what breaks the chain.
  void explain_floats() {
    if (!target_.quantizes_outputs) return;
    std::set<NodeId> absorbed;
    for (const Unit& unit : plan_.units) absorbed.insert(unit.activation);
    for (const NodeId id : graph_.order()) {
      const Node& node = graph_.node(id);
      if (is_chosen(id) || node.is("Conv") || node.is("Gemm") || node.is("MatMul")) continue;
      const bool fed = std::any_of(node.inputs.begin(), node.inputs.end(), [&](ValueId input) {
        return input != kNoValue && quantized_.count(input) > 0;
      });
      const bool feeds = std::any_of(node.outputs.begin(), node.outputs.end(), [&](ValueId out) {
        return out != kNoValue && quantized_.count(out) > 0;
      });
      if (!fed || !feeds || absorbed.count(id) > 0) continue;
      skip(id, moves_values(node) || is_elementwise_integer(node)
                   ? "converting around it costs no less than an integer " + node.op_type + " saves"
                   : node.op_type + " has no integer kernel: float between integer neighbours");
    }
  }

  const Model& model_;
  const Graph& graph_;
  const Selection& selection_;
  const std::set<ValueId>& banned_;
  const Target& target_;
  bool transformer_ = false;
  std::vector<Unit> all_;
  std::unordered_map<NodeId, size_t> index_;
  std::vector<char> chosen_;
  std::vector<int64_t> integer_uses_;  // by value: slots of chosen units that read it
  std::vector<int> maker_;             // by value: the unit whose output it is, -1: none
  std::set<ValueId> quantized_;
  StaticPlan plan_;
};

}  // namespace

StaticPlan plan_static(const Model& model, const Options& options, const Selection& selection,
                       const std::set<ValueId>& banned) {
  return Planner(model, options, selection, banned).run();
}

}  // namespace compress
