// A row an operator: the function that emits what computes the gradients of its inputs. Rows know
// nothing of broadcasting and of values with several readers: the driver (autograd.cpp) does.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "compress/graph/model.h"
#include "compress/ops/op.h"

namespace compress::train {

// What a row sees of a node, and how it adds to the graph.
class Gradient {
 public:
  // What the driver keeps: gradients that were found so far, by value.
  struct Driver;
  Gradient(Driver& driver, NodeId id);

  // A copy: adding nodes moves those of the graph.
  const Node& node() const { return node_; }
  // The version of the operator's domain.
  int opset() const { return opset_; }
  ValueId in(size_t i) const { return i < node_.inputs.size() ? node_.inputs[i] : kNoValue; }
  ValueId out(size_t i) const { return i < node_.outputs.size() ? node_.outputs[i] : kNoValue; }
  // The gradient of output i; kNoValue where the loss does not depend on it.
  ValueId dy(size_t i = 0) const;
  // Whether a gradient of input i is asked for.
  bool wants(size_t i) const;
  const TypeInfo& type(ValueId id) const;
  // -1 where it is not known.
  int rank(ValueId id) const;
  const Tensor* constant(ValueId id) const;
  const Node* producer(ValueId id) const;  // null where there is none

  // The gradient of input i has that input's shape / is summed to it first.
  void give(size_t i, ValueId gradient);
  void give_broadcast(size_t i, ValueId gradient);
  // The same for any value above the node (straight-through estimation skips integers).
  bool wants_value(ValueId id) const;
  void give_value(ValueId id, ValueId gradient);

  // The first output of a new node of opset 18, or of the domain of gradients.
  ValueId op(std::string_view type, std::vector<ValueId> inputs,
             std::vector<Attribute> attributes = {}) const;
  ValueId gradient_op(std::string_view type, std::vector<ValueId> inputs,
                      std::vector<Attribute> attributes = {}) const;
  std::vector<ValueId> gradient_ops(std::string_view type, size_t outputs,
                                    std::vector<ValueId> inputs,
                                    std::vector<Attribute> attributes = {}) const;
  ValueId ints(std::span<const int64_t> values) const;
  // In the type of the node's gradient.
  ValueId scalar(float value) const;
  ValueId as_float(ValueId id) const;
  // The dimensions of a value, as a constant where they are known.
  ValueId shape_of(ValueId id) const;
  ValueId like(ValueId gradient, ValueId value) const;  // reshaped to the value's shape
  // Summed over all axes but one, as [n].
  ValueId sum_except(ValueId id, int axis) const;

 private:
  DType dtype() const;
  std::vector<ValueId> emit(std::string_view type, std::string_view domain, size_t outputs,
                            std::vector<ValueId> inputs, std::vector<Attribute> attributes) const;

  Driver& driver_;
  Node node_;
  int opset_;
};

struct GradientDef {
  std::string_view domain;
  std::string_view name;
  void (*emit)(Gradient&);
  // Why this node has no derivative; "" where it has one. Null: every node has.
  std::string (*refuse)(const Gradient&) = nullptr;
};

// All rows; one array a family.
std::span<const std::span<const GradientDef>> gradient_families();
const GradientDef* find_gradient(std::string_view domain, std::string_view name);

// Operators that have a kernel but no row, while the bodies that ONNX defines have rows throughout.
std::span<const std::string_view> operators_by_body();

extern const std::span<const GradientDef> kElementwiseGradients;
extern const std::span<const GradientDef> kProductGradients;
extern const std::span<const GradientDef> kReductionGradients;
extern const std::span<const GradientDef> kMovementGradients;
extern const std::span<const GradientDef> kLayerGradients;
extern const std::span<const GradientDef> kRecurrentRows;

}  // namespace compress::train
