// Products with constant matrices and embedding tables: what dynamic and weight-only quantize.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "compress/graph/model.h"
#include "passes/quantize/quantize.h"

namespace compress {

// y = x * W (+ bias), from MatMul or Gemm.
struct Linear {
  NodeId node = kNoNode;
  ValueId input = kNoValue;
  ValueId weight = kNoValue;   // the constant
  NodeId transpose = kNoNode;  // between constant and node, where there is one
  bool transposed = false;     // the constant is [n, k]
  int64_t k = 0;
  int64_t n = 0;
  ValueId bias = kNoValue;  // Gemm's C
};

// An embedding: rows of a constant [rows, width] by index.
struct Table {
  NodeId node = kNoNode;
  ValueId weight = kNoValue;
  ValueId indices = kNoValue;
  int64_t rows = 0;
  int64_t width = 0;
};

// Fills `out`; returns "" or why the MatMul or Gemm is none of these.
std::string read_linear(const Model& model, NodeId id, Linear& out);
std::string read_table(const Model& model, NodeId id, Table& out);

// What the node reads now: nodes before it may have been replaced since, and with them its input.
void refresh(const Graph& graph, Linear& linear);
void refresh(const Graph& graph, Table& table);

// The constant as float32 [n, k], the layout that blocks along k are contiguous in.
Tensor weight_rows(const Graph& graph, const Linear& linear);
// The constant as float32 [k, n].
Tensor weight_columns(const Graph& graph, const Linear& linear);

// A matrix as integers [k, n], one scale and zero point in all or one a column.
struct IntegerWeight {
  Tensor quantized;
  Tensor scale;
  Tensor zero_point;
};
struct IntegerFormat {
  DType dtype = DType::int8;
  bool symmetric = true;
  bool by_column = false;
  bool reduce_range = false;
};
// `constant` is [n, k] where it is transposed.
IntegerWeight integer_weight(const QuantJob& job, const Tensor& constant, bool transposed,
                             const IntegerFormat& format);

struct Candidates {
  std::vector<Linear> linears;
  std::vector<Table> tables;
};

// Products and embeddings that the selection allows; reasons for the others go to the job.
// Convolutions are listed as skipped.
Candidates find_candidates(QuantJob& job);

// Runs a mode on the candidates of the model and of the bodies of its nodes, where constants that
// bodies capture count as theirs. Left out are those whose constant something else reads as well:
// it would stand in the file twice.
void for_each_scope(QuantJob& job, const std::function<void(QuantJob&, Candidates)>& run);

// Replaces a node by one of the same (single) output; the value keeps its name. Returns the new
// node.
NodeId replace_node(Graph& graph, NodeId old, NodeSpec spec);

// Gather of 8-bit rows, then DequantizeLinear of what was gathered, with one scale for the table:
// plain ONNX, and only the rows that are read are converted. A table that several nodes read is
// stored once.
void quantize_table(QuantJob& job, const Table& table, DType dtype);

}  // namespace compress
