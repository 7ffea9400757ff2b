// Lowering of quantized graphs: what its parts share. The class is defined by subject in
// lower_quantized.cpp (order of work, products, moves, pools), lower_quantized_parts.cpp (reading Q
// and DQ, building integer nodes), lower_quantized_tables.cpp (functions of one element) and
// lower_qoperator.cpp (QLinear operators).
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "compress/graph/graph.h"
#include "compress/graph/model.h"
#include "compress/quant/qparams.h"
#include "compress/runtime/lower_internal.h"
#include "compress/runtime/lower_patterns.h"

namespace compress::runtime {

// Parameters of a per-tensor quantized value.
struct QuantizedType {
  float scale = 0;
  int32_t zero_point = 0;
  DType dtype = DType::undefined;
  bool operator==(const QuantizedType&) const = default;
};

class QuantizedLowering {
 public:
  QuantizedLowering(Graph& graph, const Model& model) : graph_(graph), model_(model) {}
  void run();

 private:
  using Params = QuantizedType;

  struct Quantized {
    ValueId value = kNoValue;
    Params params;
    NodeId node = kNoNode;  // the DequantizeLinear
  };
  // Weights: scales per tensor or per output channel.
  struct Weights {
    ValueId value = kNoValue;
    std::vector<float> scales;
    std::optional<Tensor> zero_point;  // where one is not 0
    NodeId node = kNoNode;
  };
  // How an operator's result leaves: quantized, after bounds, or as float.
  struct Exit {
    ValueId out = kNoValue;        // the value that the integer node replaces
    std::vector<NodeId> parts;     // bounds and QuantizeLinear nodes
    std::optional<Params> params;  // nullopt: float
    int32_t lo = 0, hi = 255;
  };
  struct Bias {
    ValueId value = kNoValue;
    NodeId node = kNoNode;
  };
  // A value that is a function of one quantized activation, element by element.
  struct Function {
    std::vector<NodeId> nodes;  // in order of execution
    ValueId argument = kNoValue;
  };

  const Node& node(NodeId id) const { return graph_.node(id); }
  static Attribute number(const char* name, int64_t value) { return {name, value, ""}; }
  static bool is_byte(DType dtype) { return dtype == DType::uint8 || dtype == DType::int8; }
  static IntegerRange byte_range(DType dtype) {
    return dtype == DType::int8 ? IntegerRange{-128, 127} : IntegerRange{0, 255};
  }

  // Kernels of static quantization read bytes: weights of 4 or 2 bits stand in them as they are.
  void widen_narrow_weights();
  void visit(NodeId id);

  // --- Reading Q and DQ ---
  std::optional<Params> params_at(const Node& of, size_t scale, size_t zero_point) const;
  // The integers that a DequantizeLinear of an activation reads.
  std::optional<Quantized> quantized(ValueId id) const;
  // Scales and zero points beside a constant of integers; `axis` is that of the output channels.
  std::optional<Weights> weights_at(const Node& of, size_t slot, size_t scale, size_t zero_point,
                                    int axis, bool axis_given) const;
  std::optional<Weights> dequantized_weights(ValueId id, int axis) const;
  // Follows `out` through bounds to its QuantizeLinear nodes. Where there are none, the result
  // leaves as float before the bounds.
  Exit exit_of(ValueId out) const;
  // As `y`, with nothing in between.
  static Exit whole_exit(ValueId out, const Params& y);

  // --- Building ---
  // Puts an internal node in the place of `main`, what it reads through DQ, and the exit's nodes.
  NodeId finish(std::string_view op, NodeId main, std::vector<ValueId> inputs,
                std::vector<Attribute> attributes, const Exit& exit,
                const std::vector<NodeId>& dequantizers);
  // The bias in units of sx * sw[c], or as float where the output is float. A bias that int32
  // cannot hold gives nullopt.
  std::optional<Bias> bias_at(ValueId id, const Params& x, const Weights& w, int64_t channels,
                              bool as_float);
  // m = float(double(sx) * sw / sy), one a channel; sx * sw where the output is float.
  static Tensor multiplier(const Params& x, const std::vector<float>& scales,
                           const std::optional<Params>& y);
  static std::vector<Attribute> product_attributes(const Params& x, const Weights& w,
                                                   const Exit& exit);
  // What each of the 256 bytes stands for.
  static Tensor all_values(const Params& params);
  static Tensor table_of(const Tensor& values, const Params& y);
  // The integers of `x` in the parameters `y`.
  ValueId requantized(ValueId x, const Params& params, const Params& y);

  // --- DQ -> operator -> Q ---
  void lower_conv(NodeId id);
  void lower_gemm(NodeId id);
  void lower_matmul(NodeId id);
  bool lower_product(NodeId id, const Quantized& x, ValueId weights, bool transposed,
                     ValueId bias_value, ValueId out, const std::vector<NodeId>& between);
  bool lower_binary(NodeId id);
  void lower_move(NodeId id);
  void lower_pool(NodeId id);
  // Q and DQ that remain between float and integer regions.
  void lower_edge(NodeId id);

  // --- Functions of one element ---
  bool is_table_constant(const Node& of, size_t slot) const;
  bool collect(ValueId value, Function& function, size_t depth = 0) const;
  bool is_closed(const std::vector<NodeId>& nodes) const;
  std::optional<Tensor> evaluate_function(const Function& function, const Tensor& values) const;
  void lower_function(NodeId id);

  // --- QOperator form ---
  void lower_qoperator(NodeId id);
  std::optional<Quantized> operand_at(const Node& of, size_t slot) const;
  std::optional<Exit> exit_at(const Node& of, size_t scale, DType dtype) const;
  void lower_qlinear_conv(NodeId id);
  void lower_qlinear_matmul(NodeId id);
  void lower_qgemm(NodeId id);
  void lower_qlinear_binary(NodeId id);
  void lower_qlinear_pool(NodeId id);
  void lower_qlinear_concat(NodeId id);
  void lower_qlinear_table(NodeId id);

  Graph& graph_;
  const Model& model_;
};

}  // namespace compress::runtime
