// What ONNX Runtime's CPU execution provider makes of each node of a model, by rule.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "compress/graph/model.h"

namespace compress {

// How a node runs there.
enum class OrtRuns {
  integer,      // an integer kernel
  packed,       // weights stay packed in 4 or 8 bits and are expanded inside the kernel
  floating,     // float arithmetic
  dequantized,  // float arithmetic on weights that are dequantized again on each run
  overhead,     // quantizes or dequantizes an activation, and is no part of another kernel
  fused,        // part of another node's kernel
  moves,        // moves values or computes shapes; no float arithmetic
  folded,       // computed once, when the model is loaded
};
std::string_view name_of(OrtRuns runs);  // "integer", "packed", "float", ...

struct OrtNode {
  std::string node;
  std::string op;  // with its domain where that is not ai.onnx
  OrtRuns runs = OrtRuns::floating;
  std::string kernel;  // ONNX Runtime's operator: "QLinearConv"; "" where it does not matter
  std::string reason;  // why it is no integer kernel; "" where nothing is to be said
  int64_t macs = 0;    // multiply-adds of one run, 0 where shapes are not known
  // Of the constants that it dequantizes on each run, or keeps packed; bytes as stored.
  uint64_t weight_bytes = 0;
  // False where ONNX Runtime was asked and did something else than the rules say.
  bool as_ruled = true;
};

// Nodes of the main graph in execution order, then those of bodies. `shapes` are of inputs, by
// name; multiply-adds are counted for them.
std::vector<OrtNode> ort_rules(const Model& model, const std::map<std::string, Shape>& shapes);

// Replaces what the rules say by what ONNX Runtime did: `optimized` is the graph that it saved for
// this model, with layout changes off (they rename nodes).
void apply_optimized(std::vector<OrtNode>& nodes, const Model& model, const Model& optimized);

// A row a node type that the rules know; for tests and documentation.
enum class OrtKind {
  conv,             // x and w dequantized, output quantized
  matmul,           // both dequantized; or a dequantized constant alone
  gemm,             // the same
  elementwise,      // every input dequantized, output quantized
  moves,            // on integers where input and output share scale and zero point
  no_integer,       // float always: Q and DQ beside it only cost
  integer,          // an integer operator itself
  packed,           // packed weights
  slow_integer,     // an integer operator that is slower than float
  dynamic_quantize  // finds the range of its input on each run
};
struct OrtRule {
  std::string_view domain;
  std::string_view op;
  OrtKind kind;
  std::string_view kernel;
};
std::span<const OrtRule> ort_rule_table();

}  // namespace compress
