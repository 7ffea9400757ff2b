// Runs a single node over the table, for tests of families.
#pragma once

#include <string>
#include <vector>

#include "compress/graph/builder.h"
#include "compress/ops/fold.h"
#include "compress/ops/op.h"

namespace compress::test {

struct NodeCase {
  std::string op;
  std::vector<Tensor> inputs;  // undefined: omitted
  std::vector<Attribute> attributes = {};
  int opset = 17;
  size_t outputs = 1;
  std::string domain = "";
  bool constants = false;  // the contents are known to infer and prepare
};

inline std::vector<Tensor> run(const NodeCase& c) {
  GraphBuilder builder;
  std::vector<ValueId> ids;
  for (const Tensor& tensor : c.inputs) {
    ids.push_back(tensor ? builder.graph().add_input(builder.graph().unique_value_name("x"),
                                                     {tensor.dtype(), true, tensor.shape()})
                         : kNoValue);
  }
  const std::vector<ValueId> outputs = builder.op_n(c.op, c.outputs, ids, c.attributes, c.domain);
  const Node& node = builder.graph().node(builder.graph().value(outputs[0]).producer);
  NodeContext context = context_of(builder.graph(), node, c.opset);
  if (c.constants) {
    for (size_t i = 0; i < c.inputs.size(); ++i) {
      context.constants[i] = c.inputs[i] ? &c.inputs[i] : nullptr;
    }
  }
  const OpDef* op = find_op(c.domain, c.op, c.opset);
  if (op == nullptr) fail(ErrorCode::unsupported, "no row {}", c.op);
  return run_node(*op, context, c.inputs);
}

}  // namespace compress::test
