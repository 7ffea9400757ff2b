// Shape arithmetic with dimensions that are not known: traced models compute the shape of a Reshape
// as Concat(Gather(Shape(x)), 12, 64), whose first element is "batch". What is known of such a list
// still tells ranks and the other dimensions.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "compress/ops/op.h"

namespace compress {

// One integer of a list: a number, or a dimension that is not known (negative: a symbol or
// kUnknownDim, as in TypeInfo).
struct PartialInt {
  bool known;
  int64_t value;
};
// A scalar, or a list of one dimension.
struct PartialInts {
  bool is_scalar = false;
  std::vector<PartialInt> values;
};

// What a constant holds, where it is a short list of integers.
std::optional<PartialInts> partial_of(const Tensor& constant);

// The content of output 0, from what is known of the inputs (nullptr: nothing). nullopt where this
// is no shape arithmetic.
std::optional<PartialInts> evaluate_partial(const NodeContext& context,
                                            const std::vector<const PartialInts*>& inputs);

// Sets the type of output 0 where it follows from a partly known list (Reshape, Expand,
// ConstantOfShape).
void refine_output(NodeContext& context, const std::vector<const PartialInts*>& inputs);

}  // namespace compress
