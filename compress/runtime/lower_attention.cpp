// softmax(Q K' * scale + mask) V from its nodes becomes one node, with the transposes before its
// operands and behind its result: the kernel reads and writes rows wherever they lie.
#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "compress/runtime/inline.h"
#include "compress/runtime/lower.h"
#include "compress/runtime/lower_elements.h"
#include "compress/runtime/lower_internal.h"
#include "compress/runtime/lower_patterns.h"

namespace compress::runtime {
namespace {

constexpr int kRank = 4;
using Perm = std::vector<int64_t>;

// A value, and its axes in the order in which they are wanted.
struct Operand {
  ValueId value = kNoValue;
  Perm perm = {0, 1, 2, 3};
};

class AttentionMatch {
 public:
  AttentionMatch(Graph& graph, const Model& model, NodeId softmax)
      : graph_(graph), model_(model), softmax_(softmax) {}

  bool lower() {
    if (!rows_of_softmax() || !weighted_values() || !scores()) return false;
    std::vector<ValueId> inputs = {q_.value, k_.value, v_.value};
    if (mask_ != kNoValue) inputs.push_back(mask_);
    std::vector<Attribute> attributes = {{kQueryPerm, q_.perm, ""},
                                         {kKeyPerm, k_.perm, ""},
                                         {kValuePerm, v_.perm, ""},
                                         {kOutPerm, out_.perm, ""},
                                         {kAlpha, scale_, ""}};
    const NodeId fused =
        add_internal(graph_, "Attention", std::move(inputs), std::move(attributes), out_.value);
    for (const NodeId part : parts_) add_origin(graph_, fused, part);
    graph_.replace_uses(out_.value, graph_.node(fused).outputs[0]);
    return true;
  }

 private:
  const Node& node(NodeId id) const { return graph_.node(id); }
  bool is_float(ValueId id) const {
    const Value& value = graph_.value(id);
    return (value.is_constant() ? value.constant.dtype() : value.type.dtype) == DType::float32;
  }

  bool rows_of_softmax() {
    const Node& of = node(softmax_);
    if (of.inputs.size() != 1 || rank_of(graph_, of.inputs[0]) != kRank) return false;
    const int64_t axis = of.int_or("axis", node_opset(of, model_) < 13 ? 1 : -1);
    parts_.push_back(softmax_);
    return (axis == -1 || axis == kRank - 1) && is_float(of.inputs[0]);
  }

  // The product with V, and a transpose after it that keeps rows whole.
  bool weighted_values() {
    const NodeId product = only_reader(graph_, node(softmax_).outputs[0]);
    if (product == kNoNode || !node(product).is("MatMul")) return false;
    if (node(product).inputs[0] != node(softmax_).outputs[0]) return false;
    if (rank_of(graph_, node(product).inputs[1]) != kRank) return false;
    v_ = source(node(product).inputs[1]);
    if (v_.perm[3] != 3 || !is_float(v_.value)) return false;
    parts_.push_back(product);
    out_.value = node(product).outputs[0];
    const NodeId turn = only_reader(graph_, out_.value);
    if (turn == kNoNode || !node(turn).is("Transpose")) return true;
    const Perm perm = node(turn).ints_or("perm", {});
    if (perm.size() != kRank || perm[3] != 3) return true;
    out_ = {node(turn).outputs[0], perm};
    parts_.push_back(turn);
    return true;
  }

  // From the softmax back to Q K': a sum with a mask, a factor, in either order of nodes.
  bool scores() {
    ValueId from = node(softmax_).inputs[0];
    for (int step = 0; step < 3; ++step) {
      const NodeId id = graph_.value(from).producer;
      if (id == kNoNode || only_reader(graph_, from) == kNoNode) return false;
      if (node(id).is("MatMul")) return product(id);
      const std::optional<Element> element = element_of(graph_, node(id));
      if (!element) return false;
      if (element->op == kernels::ElementOp::add) {
        if (mask_ != kNoValue || scale_ != 1.0f || !take_mask(*element, from)) return false;
      } else if (element->op == kernels::ElementOp::scale) {
        scale_ *= element->p;
        from = element->operands[0];
      } else if (element->op == kernels::ElementOp::divide_by && element->p != 0.0f) {
        scale_ /= element->p;
        from = element->operands[0];
      } else {
        return false;
      }
      parts_.push_back(id);
    }
    return false;
  }

  // The operand that leads to the product, and the other one as the mask.
  bool take_mask(const Element& sum, ValueId& from) {
    const int product = leads_to_product(sum.operands[0]) ? 0 : 1;
    if (!leads_to_product(sum.operands[static_cast<size_t>(product)])) return false;
    from = sum.operands[static_cast<size_t>(product)];
    mask_ = sum.operands[static_cast<size_t>(1 - product)];
    const int rank = rank_of(graph_, mask_);
    return rank >= 1 && rank <= kRank && is_float(mask_);
  }

  bool leads_to_product(ValueId id) const {
    const NodeId producer = graph_.value(id).producer;
    if (producer == kNoNode || only_reader(graph_, id) == kNoNode) return false;
    if (node(producer).is("MatMul")) return true;
    const std::optional<Element> element = element_of(graph_, node(producer));
    const bool factor = element && (element->op == kernels::ElementOp::scale ||
                                    element->op == kernels::ElementOp::divide_by);
    return factor && producer_of(graph_, element->operands[0], "MatMul") != kNoNode;
  }

  bool product(NodeId id) {
    for (const ValueId input : node(id).inputs) {
      if (rank_of(graph_, input) != kRank || !is_float(input)) return false;
    }
    q_ = source(node(id).inputs[0]);
    Operand turned = source(node(id).inputs[1]);  // [.., size, keys]
    std::swap(turned.perm[2], turned.perm[3]);
    k_ = turned;
    parts_.push_back(id);
    return q_.perm[3] == 3 && k_.perm[3] == 3;
  }

  // What a value is a transpose of.
  Operand source(ValueId id) const {
    Operand operand{id};
    for (;;) {
      const NodeId turn = producer_of(graph_, operand.value, "Transpose");
      if (turn == kNoNode || !node(turn).domain.empty()) return operand;
      const Perm perm = node(turn).ints_or("perm", {});
      if (perm.size() != kRank) return operand;
      for (int64_t& axis : operand.perm) axis = perm[static_cast<size_t>(axis)];
      operand.value = node(turn).inputs[0];
    }
  }

  Graph& graph_;
  const Model& model_;
  NodeId softmax_;
  Operand q_, k_, v_, out_;
  ValueId mask_ = kNoValue;
  float scale_ = 1.0f;
  std::vector<NodeId> parts_;
};

// A value [batch, rows, heads * size] as [batch, rows, heads, size], or back with heads 0.
ValueId reshaped(Graph& graph, ValueId from, int64_t heads, int64_t size) {
  std::vector<int64_t> dims = {0, 0, size};
  if (heads > 0) dims.insert(dims.begin() + 2, heads);
  const auto rank = static_cast<int64_t>(dims.size());
  TypeInfo type = graph.value(from).type;
  if (type.has_shape) {
    Shape shape{type.shape[0], type.shape[1]};
    for (size_t i = 2; i < dims.size(); ++i) shape.push_back(dims[i]);
    type.shape = shape;
  }
  NodeSpec spec;
  spec.op_type = "Reshape";
  spec.inputs = {from, graph.add_constant("heads", Tensor::from<int64_t>({rank}, dims))};
  spec.outputs = {graph.value(from).name + "/heads"};
  const ValueId made = graph.node(graph.add(std::move(spec))).outputs[0];
  graph.set_type(made, std::move(type));
  return made;
}

// com.microsoft's MultiHeadAttention of a query, a key and a value, with an attention bias at most.
void lower_multi_head(Graph& graph, NodeId id) {
  const Node node = graph.node(id);
  const int64_t heads = node.int_or("num_heads", 0);
  if (heads <= 0 || node.inputs.size() < 3 || node.int_or("unidirectional", 0) != 0) return;
  std::vector<int64_t> sizes;
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    const ValueId input = node.inputs[i];
    if (i >= 3 && i != 5 && input != kNoValue) return;
    if (i >= 3) continue;
    if (input == kNoValue || rank_of(graph, input) != 3) return;
    const TypeInfo& type = graph.value(input).type;
    if (type.dtype != DType::float32 || type.shape[2] <= 0 || type.shape[2] % heads != 0) return;
    sizes.push_back(type.shape[2] / heads);
  }
  for (size_t i = 1; i < node.outputs.size(); ++i) {
    if (node.outputs[i] != kNoValue) return;
  }
  const ValueId mask = node.inputs.size() > 5 ? node.inputs[5] : kNoValue;
  if (mask != kNoValue && rank_of(graph, mask) != kRank) return;
  std::vector<ValueId> inputs;
  for (size_t i = 0; i < 3; ++i) {
    inputs.push_back(reshaped(graph, node.inputs[i], heads, sizes[i]));
  }
  if (mask != kNoValue) inputs.push_back(mask);
  const float given = node.float_or("scale", 0.0f);
  const float scale = given != 0.0f ? given : 1.0f / std::sqrt(static_cast<float>(sizes[0]));
  const Perm turned = {0, 2, 1, 3};
  const NodeId fused = add_internal(graph, "Attention", std::move(inputs),
                                    {{kQueryPerm, turned, ""},
                                     {kKeyPerm, turned, ""},
                                     {kValuePerm, turned, ""},
                                     {kOutPerm, turned, ""},
                                     {kAlpha, scale, ""}},
                                    node.outputs[0]);
  add_origin(graph, fused, id);
  const ValueId made = graph.node(fused).outputs[0];
  const TypeInfo& query = graph.value(node.inputs[0]).type;
  TypeInfo type = query;
  type.shape = Shape{query.shape[0], query.shape[1], heads, sizes[2]};
  graph.set_type(made, std::move(type));
  graph.replace_uses(node.outputs[0], reshaped(graph, made, 0, heads * sizes[2]));
}

}  // namespace

void lower_attention(Graph& graph, const Model& model) {
  for (const NodeId id : std::vector<NodeId>(graph.order())) {
    if (!graph.node(id).alive) continue;
    if (graph.node(id).is("Softmax")) AttentionMatch(graph, model, id).lower();
    if (graph.node(id).is("MultiHeadAttention", "com.microsoft")) lower_multi_head(graph, id);
  }
  erase_dead(graph);
}

}  // namespace compress::runtime
