// What a node does element by element, as a step of a program; activations made of several nodes;
// and, after layouts are assigned, whole chains as one node that passes over memory once.
#include "compress/runtime/lower_elements.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <utility>

#include "compress/runtime/inline.h"
#include "compress/runtime/lower.h"
#include "compress/runtime/lower_internal.h"
#include "compress/runtime/lower_patterns.h"

namespace compress::runtime {
namespace {

using kernels::ElementOp;
using kernels::ElementProgram;

bool is_float(const Graph& graph, ValueId id) {
  if (id == kNoValue) return false;
  const Value& value = graph.value(id);
  return (value.is_constant() ? value.constant.dtype() : value.type.dtype) == DType::float32;
}

struct Name {
  std::string_view name;
  ElementOp op;
};

constexpr std::array<Name, 9> kUnary = {{{"Neg", ElementOp::negate},
                                         {"Abs", ElementOp::absolute},
                                         {"Sqrt", ElementOp::square_root},
                                         {"Reciprocal", ElementOp::reciprocal},
                                         {"Exp", ElementOp::exponential},
                                         {"Erf", ElementOp::error_function},
                                         {"Tanh", ElementOp::tangent_h},
                                         {"Sigmoid", ElementOp::sigmoid},
                                         {"HardSwish", ElementOp::hard_swish}}};
constexpr std::array<Name, 6> kBinary = {{{"Add", ElementOp::add},
                                          {"Sub", ElementOp::subtract},
                                          {"Mul", ElementOp::multiply},
                                          {"Div", ElementOp::divide},
                                          {"Max", ElementOp::maximum},
                                          {"Min", ElementOp::minimum}}};

// A constant of one element that does not raise the rank of what it is combined with.
std::optional<float> number_beside(const Graph& graph, const Node& node, size_t slot) {
  const std::optional<double> value = scalar_constant(graph, node, slot);
  if (!value) return std::nullopt;
  const int rank = graph.value(node.inputs[slot]).constant.shape().rank();
  const int other = rank_of(graph, node.inputs[1 - slot]);
  if (rank > 0 && (other < 0 || rank > other)) return std::nullopt;
  return static_cast<float>(*value);
}

std::optional<Element> binary_element(const Graph& graph, const Node& node, ElementOp op) {
  if (node.inputs.size() != 2) return std::nullopt;
  const std::optional<float> left = number_beside(graph, node, 0);
  const std::optional<float> right = number_beside(graph, node, 1);
  const auto with_number = [&](ElementOp of, size_t slot, float p) {
    return Element{of, p, 0, {node.inputs[slot]}};
  };
  if (right && !left) {
    if (op == ElementOp::add) return with_number(ElementOp::add_number, 0, *right);
    if (op == ElementOp::subtract) return with_number(ElementOp::add_number, 0, -*right);
    if (op == ElementOp::multiply) return with_number(ElementOp::scale, 0, *right);
    if (op == ElementOp::divide) return with_number(ElementOp::divide_by, 0, *right);
  }
  if (left && !right) {
    if (op == ElementOp::add) return with_number(ElementOp::add_number, 1, *left);
    if (op == ElementOp::subtract) return with_number(ElementOp::from_number, 1, *left);
    if (op == ElementOp::multiply) return with_number(ElementOp::scale, 1, *left);
    if (op == ElementOp::divide) return with_number(ElementOp::number_over, 1, *left);
  }
  return Element{op, 0, 0, node.inputs};
}

std::optional<Element> unary_element(const Graph& graph, const Node& node) {
  const ValueId x = node.inputs[0];
  for (const Name& row : kUnary) {
    if (node.op_type == row.name && node.inputs.size() == 1) return Element{row.op, 0, 0, {x}};
  }
  if (node.op_type == "LeakyRelu") {
    return Element{ElementOp::leaky, node.float_or("alpha", 0.01f), 0, {x}};
  }
  if (node.op_type == "HardSigmoid") {
    return Element{
        ElementOp::hard_sigmoid, node.float_or("alpha", 0.2f), node.float_or("beta", 0.5f), {x}};
  }
  if (node.op_type == "Gelu") {
    const bool tanh = node.string_or("approximate", "none") == "tanh";
    return Element{tanh ? ElementOp::gelu_tanh : ElementOp::gelu, 0, 0, {x}};
  }
  if (node.op_type == "Pow" && node.inputs.size() == 2) {
    const std::optional<float> power = number_beside(graph, node, 1);
    if (power == 2.0f) return Element{ElementOp::square, 0, 0, {x}};
    if (power == 0.5f) return Element{ElementOp::square_root, 0, 0, {x}};
    return std::nullopt;
  }
  if (const std::optional<Bounds> bounds = bounds_of(graph, node)) {
    return Element{ElementOp::clip, bounds->lo, bounds->hi, {x}};
  }
  return std::nullopt;
}

// --- Activations of several nodes ----------------------------------------------------------------

// Every use of the value is by one of the parts, and it is no graph output.
bool used_within(const Graph& graph, ValueId id, const std::vector<NodeId>& parts) {
  if (graph.is_output(id)) return false;
  for (const Use& use : graph.uses(id)) {
    const bool operand = static_cast<size_t>(use.slot) < graph.node(use.node).inputs.size();
    if (!operand || std::find(parts.begin(), parts.end(), use.node) == parts.end()) return false;
  }
  return true;
}

class ActivationMatch {
 public:
  ActivationMatch(const Graph& graph, ValueId x) : graph_(graph), x_(x) {}

  std::optional<FusedActivation> match() {
    if (graph_.is_output(x_)) return std::nullopt;
    // From each reader of x forwards, through at most as many nodes as the longest form has.
    for (const Use& use : graph_.uses(x_)) {
      if (static_cast<size_t>(use.slot) >= graph_.node(use.node).inputs.size()) return std::nullopt;
    }
    for (const auto form : {&ActivationMatch::gated, &ActivationMatch::erf_gelu,
                            &ActivationMatch::tanh_gelu, &ActivationMatch::single}) {
      parts_.clear();
      out_ = kNoValue;
      activation_ = {};
      if ((this->*form)() && closed()) return FusedActivation{activation_, parts_, out_};
    }
    return std::nullopt;
  }

 private:
  bool closed() const {
    if (!used_within(graph_, x_, parts_)) return false;
    for (const NodeId part : parts_) {
      const ValueId made = graph_.node(part).outputs[0];
      if (made != out_ && !used_within(graph_, made, parts_)) return false;
    }
    return true;
  }

  bool finish(ElementOp op, float p, float q, ValueId out) {
    activation_ = {true, op, p, q};
    out_ = out;
    return true;
  }

  std::optional<Element> step(NodeId id) const { return element_of(graph_, graph_.node(id)); }

  // The reader of `from` whose step is `op`; appended to the parts.
  std::optional<Element> reader(ValueId from, ElementOp op, ValueId& to) {
    for (const Use& use : graph_.uses(from)) {
      const std::optional<Element> element = step(use.node);
      if (!element || element->op != op || element->operands[0] != from) {
        // A product has its operands either way round.
        const bool second = element && element->op == op && element->operands.size() == 2 &&
                            element->operands[1] == from;
        if (!second) continue;
      }
      to = graph_.node(use.node).outputs[0];
      if (std::find(parts_.begin(), parts_.end(), use.node) == parts_.end()) {
        parts_.push_back(use.node);
      }
      return element;
    }
    return std::nullopt;
  }

  bool reads(const Element& element, ValueId a, ValueId b) const {
    return element.operands.size() == 2 &&
           ((element.operands[0] == a && element.operands[1] == b) ||
            (element.operands[0] == b && element.operands[1] == a));
  }

  bool near(float a, float b) const { return std::abs(a - b) <= 1e-4f * std::abs(b); }

  // One node, where it is alone in reading x.
  bool single() {
    const NodeId id = only_reader(graph_, x_);
    if (id == kNoNode) return false;
    const std::optional<Element> element = step(id);
    if (!element || element->operands.size() != 1) return false;
    constexpr std::array<ElementOp, 9> kThese = {
        ElementOp::clip,         ElementOp::leaky,      ElementOp::sigmoid,
        ElementOp::hard_sigmoid, ElementOp::hard_swish, ElementOp::gelu,
        ElementOp::gelu_tanh,    ElementOp::tangent_h,  ElementOp::error_function};
    if (std::find(kThese.begin(), kThese.end(), element->op) == kThese.end()) return false;
    parts_.push_back(id);
    return finish(element->op, element->p, element->q, graph_.node(id).outputs[0]);
  }

  // x * gate(x): SiLU by the logistic function, HardSwish by HardSigmoid or by its pieces.
  bool gated() {
    ValueId gate = kNoValue, out = kNoValue;
    if (reader(x_, ElementOp::sigmoid, gate)) {
      const std::optional<Element> product = reader(gate, ElementOp::multiply, out);
      return product && reads(*product, x_, gate) && finish(ElementOp::silu, 1, 0, out);
    }
    if (const auto hard = reader(x_, ElementOp::hard_sigmoid, gate)) {
      const std::optional<Element> product = reader(gate, ElementOp::multiply, out);
      return product && near(hard->p, 1.0f / 6) && near(hard->q, 0.5f) &&
             reads(*product, x_, gate) && finish(ElementOp::hard_swish, 0, 0, out);
    }
    // clip(x + 3, 0, 6) * x / 6, the division before or after the product.
    ValueId shifted = kNoValue, clipped = kNoValue;
    const auto shift = reader(x_, ElementOp::add_number, shifted);
    if (!shift || shift->p != 3.0f) return false;
    const auto clip = reader(shifted, ElementOp::clip, clipped);
    if (!clip || clip->p != 0.0f || clip->q != 6.0f) return false;
    gate = clipped;
    const bool early = sixth(clipped, gate);
    const std::optional<Element> product = reader(gate, ElementOp::multiply, out);
    if (!product || !reads(*product, x_, gate)) return false;
    if (!early) {
      const ValueId whole = out;
      if (!sixth(whole, out)) return false;
    }
    return finish(ElementOp::hard_swish, 0, 0, out);
  }

  bool sixth(ValueId from, ValueId& to) {
    const size_t before = parts_.size();
    if (const auto by = reader(from, ElementOp::divide_by, to); by && by->p == 6.0f) return true;
    parts_.resize(before);
    if (const auto by = reader(from, ElementOp::scale, to); by && near(by->p, 1.0f / 6)) {
      return true;
    }
    parts_.resize(before);
    return false;
  }

  // x / sqrt(2) -> Erf -> + 1 -> * x -> / 2, the halving at any place.
  bool erf_gelu() {
    ValueId inner = kNoValue, curve = kNoValue, raised = kNoValue;
    if (const auto by = reader(x_, ElementOp::divide_by, inner)) {
      if (!near(by->p, 1.41421356f)) return false;
    } else if (const auto times = reader(x_, ElementOp::scale, inner)) {
      if (!near(times->p, 0.70710678f)) return false;
    } else {
      return false;
    }
    if (!reader(inner, ElementOp::error_function, curve)) return false;
    const auto plus = reader(curve, ElementOp::add_number, raised);
    return plus && plus->p == 1.0f && half_product(raised, ElementOp::gelu);
  }

  // x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2.
  bool tanh_gelu() {
    const NodeId tanh = tanh_below();
    if (tanh == kNoNode) return false;
    ValueId raised = kNoValue;
    const auto plus = reader(graph_.node(tanh).outputs[0], ElementOp::add_number, raised);
    return plus && plus->p == 1.0f && half_product(raised, ElementOp::gelu_tanh);
  }

  // The Tanh of sqrt(2 / pi) * (x + 0.044715 * x^3); its nodes become parts.
  NodeId tanh_below() {
    for (const Use& use : graph_.uses(x_)) {
      const std::optional<Element> sum = step(use.node);
      if (!sum || sum->op != ElementOp::add) continue;
      const ValueId cubic = sum->operands[0] == x_ ? sum->operands[1] : sum->operands[0];
      if (!is_cubic(cubic)) return kNoNode;
      parts_.push_back(use.node);
      ValueId scaled = kNoValue, curve = kNoValue;
      const auto by = reader(graph_.node(use.node).outputs[0], ElementOp::scale, scaled);
      if (!by || !near(by->p, 0.79788456f)) return kNoNode;
      if (!reader(scaled, ElementOp::tangent_h, curve)) return kNoNode;
      return parts_.back();
    }
    return kNoNode;
  }

  // 0.044715 * Pow(x, 3).
  bool is_cubic(ValueId id) {
    const NodeId scale = graph_.value(id).producer;
    if (scale == kNoNode) return false;
    const std::optional<Element> by = step(scale);
    if (!by || by->op != ElementOp::scale || !near(by->p, 0.044715f)) return false;
    const NodeId power = producer_of(graph_, by->operands[0], "Pow");
    if (power == kNoNode || graph_.node(power).inputs[0] != x_) return false;
    if (scalar_constant(graph_, graph_.node(power), 1) != 3.0) return false;
    parts_.push_back(power);
    parts_.push_back(scale);
    return true;
  }

  // x * raised / 2: (x * raised) * 0.5, (x * 0.5) * raised or x * (raised * 0.5).
  bool half_product(ValueId raised, ElementOp op) {
    ValueId out = kNoValue, half = kNoValue;
    if (const auto product = reader(raised, ElementOp::multiply, out)) {
      if (reads(*product, x_, raised)) {
        ValueId last = kNoValue;
        return is_half(out, last) && finish(op, 0, 0, last);
      }
      return is_half(x_, half) && reads(*product, half, raised) && finish(op, 0, 0, out);
    }
    if (!is_half(raised, half)) return false;
    const auto product = reader(half, ElementOp::multiply, out);
    return product && reads(*product, x_, half) && finish(op, 0, 0, out);
  }

  bool is_half(ValueId from, ValueId& to) {
    if (const auto by = reader(from, ElementOp::scale, to)) return by->p == 0.5f;
    if (const auto by = reader(from, ElementOp::divide_by, to)) return by->p == 2.0f;
    return false;
  }

  const Graph& graph_;
  ValueId x_;
  std::vector<NodeId> parts_;
  ValueId out_ = kNoValue;
  kernels::ActivationF32 activation_;
};

// An activation written out in several nodes becomes the one node that ONNX has for it.
void join_activation(Graph& graph, ValueId x) {
  const std::optional<FusedActivation> found = ActivationMatch(graph, x).match();
  if (!found || found->parts.size() < 2) return;
  NodeSpec spec;
  switch (found->activation.op) {
    case ElementOp::hard_swish:
      spec.op_type = "HardSwish";
      break;
    case ElementOp::gelu:
      spec.op_type = "Gelu";
      break;
    case ElementOp::gelu_tanh:
      spec.op_type = "Gelu";
      spec.attributes = {{"approximate", std::string("tanh"), ""}};
      break;
    default:
      return;
  }
  spec.inputs = {x};
  spec.outputs = {graph.value(found->out).name + "/joined"};
  const TypeInfo type = graph.value(found->out).type;
  const NodeId joined = graph.add(std::move(spec));
  graph.set_type(graph.node(joined).outputs[0], type);
  for (const NodeId part : found->parts) add_origin(graph, joined, part);
  graph.replace_uses(found->out, graph.node(joined).outputs[0]);
}

void join_activations(Graph& graph) {
  for (const NodeId id : std::vector<NodeId>(graph.order())) {
    if (!graph.node(id).alive) continue;
    for (const ValueId out : std::vector<ValueId>(graph.node(id).outputs)) {
      if (out != kNoValue && is_float(graph, out)) join_activation(graph, out);
    }
  }
  erase_dead(graph);
}

// --- Chains --------------------------------------------------------------------------------------

class Chains {
 public:
  explicit Chains(Graph& graph) : graph_(graph) {}

  void run() {
    const std::vector<NodeId> order = graph_.order();
    position_.resize(static_cast<size_t>(graph_.node_slots()));
    for (size_t i = 0; i < order.size(); ++i) position_[static_cast<size_t>(order[i])] = i;
    for (auto id = order.rbegin(); id != order.rend(); ++id) {
      if (!graph_.node(*id).alive || !element_of(graph_, graph_.node(*id))) continue;
      fuse(*id);
    }
  }

 private:
  static constexpr size_t kMaxSteps = 32;

  // Registers end where their last reader is; nullopt where a limit is exceeded.
  struct Built {
    ElementProgram program;
    std::vector<ValueId> inputs;
  };

  // The group and one more node, in the order of execution.
  std::vector<NodeId> with(std::vector<NodeId> group, NodeId node) const {
    const auto at = [&](NodeId id) { return position_[static_cast<size_t>(id)]; };
    group.insert(std::upper_bound(group.begin(), group.end(), node,
                                  [&](NodeId a, NodeId b) { return at(a) < at(b); }),
                 node);
    return group;
  }

  std::optional<Built> build(const std::vector<NodeId>& group) const {
    if (group.size() > kMaxSteps) return std::nullopt;
    Built built;
    std::map<ValueId, size_t> last_read;
    std::set<ValueId> made;
    for (const NodeId id : group) made.insert(graph_.node(id).outputs[0]);
    for (size_t i = 0; i < group.size(); ++i) {
      const Element element = *element_of(graph_, graph_.node(group[i]));
      for (const ValueId operand : element.operands) {
        last_read[operand] = i;
        const bool known =
            made.contains(operand) ||
            std::find(built.inputs.begin(), built.inputs.end(), operand) != built.inputs.end();
        if (!known) built.inputs.push_back(operand);
      }
    }
    if (built.inputs.size() > ElementProgram::kMaxInputs) return std::nullopt;
    built.program.inputs = static_cast<int>(built.inputs.size());
    std::map<ValueId, int> slots;
    for (size_t i = 0; i < built.inputs.size(); ++i) slots[built.inputs[i]] = static_cast<int>(i);
    std::array<bool, ElementProgram::kMaxRegisters> busy{};
    for (size_t i = 0; i < group.size(); ++i) {
      const Element element = *element_of(graph_, graph_.node(group[i]));
      kernels::ElementStep step;
      step.op = element.op;
      step.p = element.p;
      step.q = element.q;
      step.a = slots.at(element.operands[0]);
      if (element.operands.size() == 2) step.b = slots.at(element.operands[1]);
      for (const ValueId operand : element.operands) {
        const int slot = slots.at(operand) - built.program.inputs;
        if (slot >= 0 && last_read[operand] == i) busy[static_cast<size_t>(slot)] = false;
      }
      const auto free = std::find(busy.begin(), busy.end(), false);
      if (free == busy.end()) return std::nullopt;
      *free = true;
      step.to = built.program.inputs + static_cast<int>(free - busy.begin());
      slots[graph_.node(group[i]).outputs[0]] = step.to;
      built.program.steps.push_back(step);
    }
    return built;
  }

  // Computing `id` in the shape of `root` does no more work than by itself.
  bool same_size(ValueId id, ValueId root) const {
    const TypeInfo& a = graph_.value(id).type;
    const TypeInfo& b = graph_.value(root).type;
    if (!a.has_shape || !b.has_shape) return false;
    return a.shape == b.shape;
  }

  bool joins(NodeId producer, ValueId made, const std::vector<NodeId>& group, ValueId root) const {
    if (producer == kNoNode || !element_of(graph_, graph_.node(producer))) return false;
    return same_size(made, root) && used_within(graph_, made, group);
  }

  void fuse(NodeId root) {
    const ValueId out = graph_.node(root).outputs[0];
    std::vector<NodeId> group = {root};
    std::optional<Built> built = build(group);
    if (!built) return;
    for (bool grown = true; grown;) {
      grown = false;
      for (const ValueId input : std::vector<ValueId>(built->inputs)) {
        const NodeId producer = graph_.value(input).producer;
        if (!joins(producer, input, group, out)) continue;
        std::vector<NodeId> larger = with(group, producer);
        std::optional<Built> candidate = build(larger);
        if (!candidate) continue;
        group = std::move(larger);
        built = std::move(candidate);
        grown = true;
        break;
      }
    }
    replace(group, *built, out);
  }

  void replace(const std::vector<NodeId>& group, const Built& built, ValueId out) {
    std::vector<int64_t> steps;
    std::vector<float> numbers;
    for (const kernels::ElementStep& step : built.program.steps) {
      for (const int value : {static_cast<int>(step.op), step.a, step.b, step.to}) {
        steps.push_back(value);
      }
      numbers.push_back(step.p);
      numbers.push_back(step.q);
    }
    replace_parts(graph_, "Elements", built.inputs,
                  {{kSteps, std::move(steps), ""}, {kNumbers, std::move(numbers), ""}}, out, group);
  }

  Graph& graph_;
  std::vector<size_t> position_;  // of each node in the order of execution
};

}  // namespace

std::optional<Element> element_of(const Graph& graph, const Node& node) {
  if (!node.domain.empty() || node.outputs.size() != 1 || node.inputs.empty()) return std::nullopt;
  if (node.inputs[0] == kNoValue || !is_float(graph, node.outputs[0])) return std::nullopt;
  std::optional<Element> element;
  for (const Name& row : kBinary) {
    if (node.op_type == row.name) element = binary_element(graph, node, row.op);
  }
  if (!element) element = unary_element(graph, node);
  if (!element) return std::nullopt;
  for (const ValueId operand : element->operands) {
    if (!is_float(graph, operand)) return std::nullopt;
  }
  return element;
}

std::optional<FusedActivation> activation_after(const Graph& graph, ValueId x) {
  return ActivationMatch(graph, x).match();
}

bool only_used_by(const Graph& graph, ValueId id, const std::vector<NodeId>& parts) {
  return used_within(graph, id, parts);
}

void lower_elements(Graph& graph, const Model&) {
  join_activations(graph);
  Chains(graph).run();
}

}  // namespace compress::runtime
