// Small questions about a graph that the lowering steps ask.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "compress/graph/graph.h"
#include "compress/graph/model.h"

namespace compress::runtime {

// The node that alone reads the value, as an operand; kNoNode where there are several readers, or
// where the value is a graph output.
NodeId only_reader(const Graph& graph, ValueId id);
// The producer where it is alive and of that type; kNoNode otherwise.
NodeId producer_of(const Graph& graph, ValueId id, std::string_view op_type);
int rank_of(const Graph& graph, ValueId id);  // -1: not known
// The single number that a constant operand holds.
std::optional<double> scalar_constant(const Graph& graph, const Node& node, size_t slot);

// The bounds of Relu, or of Clip with constant bounds.
struct Bounds {
  float lo, hi;
};
std::optional<Bounds> bounds_of(const Graph& graph, const Node& node);

// Erases nodes whose outputs nothing reads.
void erase_dead(Graph& graph);

// A node of the internal domain with one output. Its type is that of `like`, and of `dtype` where
// that is given.
NodeId add_internal(Graph& graph, std::string_view op_type, std::vector<ValueId> inputs,
                    std::vector<Attribute> attributes, ValueId like,
                    DType dtype = DType::undefined);

// Puts a node of the internal domain in the place of `parts` (in the order of execution), one of
// which produces `out`.
void replace_parts(Graph& graph, std::string_view op_type, std::vector<ValueId> inputs,
                   std::vector<Attribute> attributes, ValueId out,
                   const std::vector<NodeId>& parts);

// The steps of lowering, in this order. Channels-last nodes are wired to channels-first values
// until assign_layouts() has run.
bool widen_half(Graph& graph);  // true where it changed anything
void lower_quantized(Graph& graph, const Model& model);
void lower_weight_only(Graph& graph, const Model& model);
void fold_into_convolutions(Graph& graph);
void lower_attention(Graph& graph, const Model& model);
void lower_norms(Graph& graph, const Model& model);
void lower_training(Graph& graph);
void lower_recurrent(Graph& graph, const Model& model);
void lower_float(Graph& graph, const Model& model);
void assign_layouts(Graph& graph, const Model& model);
void lower_elements(Graph& graph, const Model& model);
void lower_transposes(Graph& graph);

}  // namespace compress::runtime
