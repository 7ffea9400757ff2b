// Which nodes of a model become integer kernels under static quantization, and which values carry
// Q/DQ for it. Q/DQ that leads to no integer kernel is pure cost, so none is planned (the rules are
// what ONNX Runtime's CPU provider was measured to fuse; docs/numbers.md).
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "compress/graph/model.h"
#include "passes/quantize/quantize.h"

namespace compress {

// One node with an integer kernel, and the Relu or Clip that its output saturation replaces.
struct Unit {
  NodeId node = kNoNode;
  NodeId activation = kNoNode;
  std::vector<ValueId> inputs;   // data inputs, constants among them included
  ValueId output = kNoValue;     // of the activation where there is one
  bool has_weights = false;      // Conv, Gemm, MatMul by a constant
  bool output_optional = false;  // Gemm, MatMul: float results are possible
  bool shares_scale = false;     // moves values: output has the scale of inputs[0]
};

struct StaticPlan {
  std::vector<Unit> units;      // in execution order
  std::vector<NodeId> tables;   // embeddings: Gather of float constants
  std::set<ValueId> quantized;  // activations that get QuantizeLinear and DequantizeLinear
  // Values whose parameters are those of another (MaxPool, Reshape...): value -> root.
  std::map<ValueId, ValueId> root;
  std::vector<Skipped> skipped;
};

// `banned` values cannot be quantized (no statistics, not finite). Types must be inferred.
StaticPlan plan_static(const Model& model, const Options& options, const Selection& selection,
                       const std::set<ValueId>& banned);

}  // namespace compress
