// DQ -> a function of single elements -> Q as a table of 256 bytes.
#include <algorithm>
#include <array>
#include <map>
#include <utility>

#include "compress/error.h"
#include "compress/runtime/fold.h"
#include "compress/runtime/inline.h"
#include "compress/runtime/lower.h"
#include "compress/runtime/lower_quantized.h"

namespace compress::runtime {
namespace {

// Operators of one activation, element by element, that a table of 256 entries stands for.
constexpr std::array<std::string_view, 22> kTableOps = {
    "Abs",       "Clip",      "Elu",      "Erf",  "Exp",  "Gelu",     "HardSigmoid",
    "HardSwish", "LeakyRelu", "Log",      "Mish", "Neg",  "Relu",     "Selu",
    "Sigmoid",   "Softplus",  "Softsign", "Sqrt", "Tanh", "Identity", "ThresholdedRelu",
    "Reciprocal"};
// The same for two operands that are both functions of the activation, or one a single constant.
constexpr std::array<std::string_view, 7> kTableBinary = {"Add", "Sub", "Mul", "Div",
                                                          "Pow", "Min", "Max"};
constexpr size_t kMaxFunctionNodes = 32;

template <size_t N>
bool contains(const std::array<std::string_view, N>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

bool QuantizedLowering::is_table_constant(const Node& of, size_t slot) const {
  const Tensor* constant = graph_.constant_input(of, slot);
  if (constant == nullptr) return false;
  if (contains(kTableOps, of.op_type)) return slot > 0;
  return constant->count() == 1 && constant->shape().rank() <= 1;
}

// Adds what computes `value`; false where anything but one activation and constants goes in.
bool QuantizedLowering::collect(ValueId value, Function& function, size_t depth) const {
  if (quantized(value)) {
    if (function.argument == kNoValue) function.argument = value;
    return function.argument == value;
  }
  const NodeId id = graph_.value(value).producer;
  if (id == kNoNode || depth == kMaxFunctionNodes) return false;
  std::vector<NodeId>& nodes = function.nodes;
  if (std::find(nodes.begin(), nodes.end(), id) != nodes.end()) return true;
  const Node& of = node(id);
  const bool known = contains(kTableOps, of.op_type) || contains(kTableBinary, of.op_type);
  if (!known || !of.domain.empty() || of.outputs.size() != 1) return false;
  for (size_t i = 0; i < of.inputs.size(); ++i) {
    if (of.inputs[i] == kNoValue || is_table_constant(of, i)) continue;
    if (!collect(of.inputs[i], function, depth + 1)) return false;
  }
  nodes.push_back(id);
  return nodes.size() <= kMaxFunctionNodes;
}

// Whether what the nodes compute, but for the last one's output, is read by themselves alone.
bool QuantizedLowering::is_closed(const std::vector<NodeId>& nodes) const {
  for (const NodeId id : nodes) {
    if (id == nodes.back()) continue;
    const ValueId out = node(id).outputs[0];
    if (graph_.is_output(out)) return false;
    for (const Use& use : graph_.uses(out)) {
      if (std::find(nodes.begin(), nodes.end(), use.node) == nodes.end()) return false;
    }
  }
  return true;
}

// The function's values at `values` of its argument, through the rows of its own operators.
std::optional<Tensor> QuantizedLowering::evaluate_function(const Function& function,
                                                           const Tensor& values) const {
  std::map<ValueId, Tensor> known = {{function.argument, values}};
  for (const NodeId id : function.nodes) {
    const Node& of = node(id);
    std::vector<Tensor> inputs;
    for (size_t i = 0; i < of.inputs.size(); ++i) {
      const auto row = known.find(of.inputs[i]);
      const Tensor* constant = graph_.constant_input(of, i);
      inputs.push_back(row != known.end() ? row->second
                                          : (constant != nullptr ? *constant : Tensor()));
    }
    const int opset = node_opset(of, model_);
    const OpDef* op = find_op("", of.op_type, opset);
    if (op == nullptr) return std::nullopt;
    try {
      known[of.outputs[0]] = evaluate(*op, of, opset, inputs, 1 << 20)[0];
    } catch (const Error&) {
      return std::nullopt;
    }
    const Tensor& result = known[of.outputs[0]];
    if (result.dtype() != DType::float32 || result.count() != values.count()) return std::nullopt;
  }
  return function.nodes.empty() ? values : known[node(function.nodes.back()).outputs[0]];
}

// DQ -> any function of a single element -> Q: a table of its values at all 256 integers. A
// HardSwish spelled out as Add, Clip, Mul and Div is one too.
void QuantizedLowering::lower_function(NodeId id) {
  Function function;
  const ValueId from = node(id).inputs[0];
  if (!collect(from, function) || !is_closed(function.nodes)) return;
  if (!function.nodes.empty() && only_reader(graph_, from) != id) return;
  const std::optional<Quantized> x = quantized(function.argument);
  const std::optional<Params> y = params_at(node(id), 1, 2);
  if (!x || !y) return;
  Exit exit = whole_exit(node(id).outputs[0], *y);
  if (function.nodes.empty() && x->params == *y && !graph_.is_output(exit.out)) {
    graph_.replace_uses(exit.out, x->value);
    graph_.erase(id);
    return;
  }
  const std::optional<Tensor> values = evaluate_function(function, all_values(x->params));
  if (!values) return;
  const std::vector<Attribute> table = {{kTable, table_of(*values, *y), ""}};
  if (function.nodes.empty()) {
    finish("Lookup", id, {x->value}, table, exit, {x->node});
    return;
  }
  exit.parts.assign(function.nodes.begin() + 1, function.nodes.end());
  exit.parts.push_back(id);
  finish("Lookup", function.nodes[0], {x->value}, table, exit, {x->node});
}

}  // namespace compress::runtime
