// Integers that are known although the tensor they were traced from is not: the channel count that
// Shape-Gather reads from a value whose batch is symbolic, the rank that Shape(Shape(x)) gives.
#pragma once

#include <optional>
#include <unordered_map>
#include <vector>

#include "compress/graph/model.h"

namespace compress {

// A scalar or a vector of integers, each known or not.
struct ShapeList {
  DType dtype = DType::int64;
  bool is_scalar = false;
  std::vector<std::optional<int64_t>> values;

  bool is_known() const;
  Tensor tensor() const;  // REQUIRES is_known()
};

class PartialValues {
 public:
  explicit PartialValues(const Model& model) : model_(model) {}

  // What the node's first output holds, as far as it can be told. REQUIRES that types are inferred
  // and that the nodes before it were visited.
  std::optional<ShapeList> visit(const Node& node);
  // Of an earlier node, or of a small integer constant.
  std::optional<ShapeList> find(ValueId id) const;

 private:
  std::optional<ShapeList> evaluate(const Node& node) const;

  const Model& model_;
  std::unordered_map<ValueId, ShapeList> known_;
};

}  // namespace compress
