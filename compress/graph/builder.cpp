#include "compress/graph/builder.h"

#include <cassert>

namespace compress {

ValueId GraphBuilder::input(std::string name, DType dtype, std::initializer_list<int64_t> dims) {
  return graph_.add_input(std::move(name), {dtype, true, Shape(dims)});
}

ValueId GraphBuilder::constant(Tensor tensor, std::string name) {
  return graph_.add_constant(std::move(name), std::move(tensor));
}

std::vector<ValueId> GraphBuilder::op_n(std::string op_type, size_t outputs,
                                        std::vector<ValueId> inputs,
                                        std::vector<Attribute> attributes, std::string domain) {
  NodeSpec spec;
  for (size_t i = 0; i < outputs; ++i) spec.outputs.push_back(op_type + "_out");
  spec.op_type = std::move(op_type);
  spec.inputs = std::move(inputs);
  spec.attributes = std::move(attributes);
  spec.domain = std::move(domain);
  return graph_.node(graph_.add(std::move(spec))).outputs;
}

ValueId GraphBuilder::op(std::string op_type, std::vector<ValueId> inputs,
                         std::vector<Attribute> attributes, std::string domain) {
  return op_n(std::move(op_type), 1, std::move(inputs), std::move(attributes),
              std::move(domain))[0];
}

void GraphBuilder::output(ValueId id, std::string name) {
  if (graph_.value(id).name != name) graph_.rename(id, std::move(name));
  graph_.add_output(id);
}

Model GraphBuilder::model(int opset) && {
  Model model;
  model.opsets[""] = opset;
  model.graph = std::move(graph_);
  for (NodeId id = 0; id < model.graph.node_slots(); ++id) {
    const Node& node = model.graph.node(id);
    if (node.alive && !node.domain.empty()) model.opsets.emplace(node.domain, 1);
  }
  return model;
}

}  // namespace compress
