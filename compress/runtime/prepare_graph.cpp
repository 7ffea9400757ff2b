#include "compress/runtime/prepare_graph.h"

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "compress/error.h"
#include "compress/runtime/fold.h"
#include "compress/runtime/inline.h"
#include "compress/runtime/plan.h"

namespace compress::runtime {
namespace {

constexpr uint64_t kMaxFoldedBytes = uint64_t{256} << 20;

bool all_constant(const Graph& graph, const Node& node, std::vector<Tensor>& inputs) {
  for (const ValueId id : node.inputs) {
    if (id != kNoValue && !graph.value(id).is_constant()) return false;
    inputs.push_back(id == kNoValue ? Tensor() : graph.value(id).constant);
    if (inputs.back() && inputs.back().dtype() == DType::string) return false;
  }
  return true;
}

Tensor widened(const Tensor& tensor) {
  return tensor.dtype() == DType::float32 ? convert(tensor, DType::float64) : tensor;
}

void widen_node(Node& node) {
  constexpr auto kFloat = static_cast<int64_t>(DType::float32);
  constexpr auto kDouble = static_cast<int64_t>(DType::float64);
  for (const char* name : {"to", "dtype", "output_dtype"}) {
    if (node.attribute(name) != nullptr && node.int_or(name, 0) == kFloat) {
      node.set_attribute(name, kDouble);
    }
  }
  for (Attribute& attribute : node.attributes) {
    if (auto* tensor = std::get_if<Tensor>(&attribute.value)) *tensor = widened(*tensor);
  }
  if (node.is("Constant")) {
    if (node.attribute("value_float") != nullptr) {
      const auto value = static_cast<double>(node.float_or("value_float", 0));
      node.remove_attribute("value_float");
      node.set_attribute("value", Tensor::scalar<double>(value));
    } else if (node.attribute("value_floats") != nullptr) {
      const std::vector<float> values = node.floats_or("value_floats", {});
      node.remove_attribute("value_floats");
      const std::vector<double> wide(values.begin(), values.end());
      node.set_attribute("value", Tensor::from<double>({static_cast<int64_t>(wide.size())},
                                                       std::span<const double>(wide)));
    }
  }
  // Its value defaults to a float32 zero.
  if (node.is("ConstantOfShape") && node.attribute("value") == nullptr) {
    node.set_attribute("value", Tensor::from<double>({1}, {0.0}));
  }
}

}  // namespace

void check_operators(const Graph& graph, const Model& model, int depth) {
  if (depth > kMaxDepth) {
    fail(ErrorCode::unsupported, "control flow nests deeper than {}", kMaxDepth);
  }
  for (const NodeId id : graph.order()) {
    const Node& node = graph.node(id);
    if (!is_control_flow(node)) row_of(node, model);
    for (const Body& body : node.bodies) check_operators(*body.graph, model, depth + 1);
  }
}

void push_constants_into_bodies(Graph& graph) {
  for (const NodeId id : graph.order()) {
    for (Body& body : graph.edit(id).bodies) {
      for (const Body::Capture& capture : body.captures) {
        const Value& outer = graph.value(capture.outer);
        if (outer.is_constant()) body.graph->set_constant(capture.inner, outer.constant);
      }
      push_constants_into_bodies(*body.graph);
    }
  }
}

uint64_t foldable_bytes(const Model& model) {
  // Weights of 4 bits are 8 times as large in float32, and may be computed in two steps.
  constexpr uint64_t kFreeBytes = uint64_t{64} << 20;
  constexpr uint64_t kPerFileByte = 16;
  constexpr uint64_t kAny = std::numeric_limits<uint64_t>::max();
  if (model.file_bytes == 0 || model.file_bytes > kAny / 32) return kAny;
  return kFreeBytes + kPerFileByte * model.file_bytes;
}

void fold_constants(Graph& graph, const Model& model, bool keep_quantized, uint64_t& left) {
  const std::vector<NodeId> order = graph.order();
  for (const NodeId id : order) {
    const Node& node = graph.node(id);
    for (const Body& body : node.bodies) {
      fold_constants(*body.graph, model, keep_quantized, left);
    }
    if (!is_pure(node) || is_control_flow(node)) continue;
    if (keep_quantized && node.op_type == "DequantizeLinear") continue;
    std::vector<Tensor> inputs;
    if (!all_constant(graph, node, inputs)) continue;
    std::vector<Tensor> outputs;
    try {
      outputs = evaluate(row_of(node, model), node, node_opset(node, model), inputs,
                         std::min(kMaxFoldedBytes, left));
    } catch (const Error&) {
      continue;  // too large, or broken: said where it is run, if it is
    }
    const std::vector<ValueId> ids = node.outputs;
    for (size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] == kNoValue) continue;
      left -= std::min<uint64_t>(left, outputs[i].bytes());
      graph.set_constant(ids[i], std::move(outputs[i]));
    }
    graph.erase(id);
  }
}

void widen_to_double(Graph& graph) {
  for (ValueId id = 0; id < graph.value_slots(); ++id) {
    const Value& value = graph.value(id);
    if (!value.alive) continue;
    if (value.is_constant() && value.constant.dtype() == DType::float32) {
      graph.set_constant(id, widened(value.constant));
    }
    if (value.type.dtype == DType::float32) {
      TypeInfo type = value.type;
      type.dtype = DType::float64;
      graph.set_type(id, type);
    }
  }
  for (const NodeId id : std::vector<NodeId>(graph.order())) {
    widen_node(graph.edit(id));
    for (Body& body : graph.edit(id).bodies) widen_to_double(*body.graph);
  }
}

}  // namespace compress::runtime
