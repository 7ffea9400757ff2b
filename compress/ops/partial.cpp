#include "compress/ops/partial.h"

#include <algorithm>

#include "compress/ops/support.h"

namespace compress {
namespace {

constexpr size_t kLongest = 64;  // longer lists are no shapes

using Inputs = std::vector<const PartialInts*>;

std::optional<PartialInts> shape_values(const NodeContext& context) {
  if (!context.in(0).has_shape || context.node().attribute("start") != nullptr ||
      context.node().attribute("end") != nullptr) {
    return std::nullopt;
  }
  PartialInts out;
  for (const int64_t dim : context.shape(0)) out.values.push_back({dim >= 0, dim});
  return out;
}

std::optional<PartialInts> gathered(const NodeContext& context, const Inputs& inputs) {
  const Tensor* indices = context.constant(1);
  if (inputs[0] == nullptr || inputs[0]->is_scalar || indices == nullptr ||
      indices->shape().rank() > 1) {
    return std::nullopt;
  }
  const auto size = static_cast<int64_t>(inputs[0]->values.size());
  PartialInts out{indices->shape().rank() == 0, {}};
  for (int64_t index : indices->to_ints()) {
    if (index < 0) index += size;
    if (index < 0 || index >= size) return std::nullopt;
    out.values.push_back(inputs[0]->values[static_cast<size_t>(index)]);
  }
  return out;
}

std::optional<PartialInts> joined(const Inputs& inputs) {
  PartialInts out;
  for (const PartialInts* input : inputs) {
    if (input == nullptr || input->is_scalar) return std::nullopt;
    out.values.insert(out.values.end(), input->values.begin(), input->values.end());
  }
  return out;
}

// Slice with constant bounds and positive steps.
std::optional<PartialInts> sliced(const NodeContext& context, const Inputs& inputs) {
  const auto starts = context.ints("starts", 1), ends = context.ints("ends", 2);
  const auto steps = context.ints("", 4, {1});
  if (inputs[0] == nullptr || !starts || !ends || !steps) return std::nullopt;
  if (starts->size() != 1 || ends->size() != 1 || steps->size() != 1 || (*steps)[0] < 1) {
    return std::nullopt;
  }
  const auto size = static_cast<int64_t>(inputs[0]->values.size());
  const auto clamp = [&](int64_t at) {
    return std::clamp<int64_t>(at < 0 ? at + size : at, 0, size);
  };
  PartialInts out;
  const int64_t step = std::min((*steps)[0], size + 1);
  for (int64_t i = clamp((*starts)[0]); i < clamp((*ends)[0]); i += step) {
    out.values.push_back(inputs[0]->values[static_cast<size_t>(i)]);
  }
  return out;
}

// Add, Sub, Mul, Div of numbers; a symbol survives * 1, / 1, + 0 and - 0 alone.
PartialInt combined(const std::string& op, PartialInt a, PartialInt b) {
  const bool neutral_b = b.known && b.value == (op == "Mul" || op == "Div" ? 1 : 0);
  const bool neutral_a = a.known && a.value == (op == "Mul" ? 1 : 0);
  if (neutral_b) return a;
  if (neutral_a && (op == "Mul" || op == "Add")) return b;
  int64_t value = 0;
  const bool known = a.known && b.known &&
                     (op == "Add"   ? !__builtin_add_overflow(a.value, b.value, &value)
                      : op == "Sub" ? !__builtin_sub_overflow(a.value, b.value, &value)
                      : op == "Mul" ? !__builtin_mul_overflow(a.value, b.value, &value)
                                    : b.value > 0);
  if (!known) return {false, kUnknownDim};
  return {true, op == "Div" ? a.value / b.value : value};
}

std::optional<PartialInts> arithmetic(const NodeContext& context, const Inputs& inputs) {
  if (inputs.size() != 2 || inputs[0] == nullptr || inputs[1] == nullptr) return std::nullopt;
  const auto& a = inputs[0]->values;
  const auto& b = inputs[1]->values;
  if (a.size() != b.size() && a.size() != 1 && b.size() != 1) return std::nullopt;
  if (a.empty() || b.empty()) return std::nullopt;
  PartialInts out{inputs[0]->is_scalar && inputs[1]->is_scalar, {}};
  for (size_t i = 0; i < std::max(a.size(), b.size()); ++i) {
    out.values.push_back(
        combined(context.node().op_type, a[a.size() == 1 ? 0 : i], b[b.size() == 1 ? 0 : i]));
  }
  return out;
}

// The same numbers as a scalar or a list, as the inferred type says.
std::optional<PartialInts> reshaped_list(const NodeContext& context, const Inputs& inputs) {
  const TypeInfo& out = context.output_types[0];
  if (inputs[0] == nullptr || !out.is_concrete() || out.shape.rank() > 1) return std::nullopt;
  if (out.shape.count() != static_cast<int64_t>(inputs[0]->values.size())) return std::nullopt;
  return PartialInts{out.shape.rank() == 0, inputs[0]->values};
}

// The -1 of a Reshape: the unknown dimensions on both sides cancel where they are the same symbols.
int64_t open_dimension(const Shape& in, const Shape& out, int open) {
  std::vector<int64_t> left, right;
  int64_t have = 1, given = 1;
  for (int i = 0; i < in.rank(); ++i) {
    if (in[i] < 0) left.push_back(in[i]);
    if (in[i] >= 0 && __builtin_mul_overflow(have, in[i], &have)) return kUnknownDim;
  }
  for (int i = 0; i < out.rank(); ++i) {
    if (i == open) continue;
    if (out[i] < 0) right.push_back(out[i]);
    if (out[i] >= 0 && __builtin_mul_overflow(given, out[i], &given)) return kUnknownDim;
  }
  std::sort(left.begin(), left.end());
  std::sort(right.begin(), right.end());
  // kUnknownDim equals nothing, not even itself.
  if (left != right || std::count(left.begin(), left.end(), kUnknownDim) > 0) return kUnknownDim;
  return given > 0 && have % given == 0 ? have / given : kUnknownDim;
}

void refine_reshape(NodeContext& context, const PartialInts& wanted) {
  Shape out;
  int open = -1;
  const bool zero_copies = context.node().int_or("allowzero", 0) == 0;
  const TypeInfo& in = context.in(0);
  for (size_t i = 0; i < wanted.values.size(); ++i) {
    const auto [known, value] = wanted.values[i];
    const int axis = static_cast<int>(i);
    if (known && value == -1) open = axis;
    const bool copies = known && value == 0 && zero_copies;
    if (copies) {
      out.push_back(in.has_shape && axis < in.shape.rank() ? in.shape[axis] : kUnknownDim);
    } else {
      out.push_back(known && value == -1 ? kUnknownDim : value);
    }
  }
  if (open >= 0 && in.has_shape) out[open] = open_dimension(in.shape, out, open);
  context.set_output(0, in.dtype, out);
}

std::optional<Shape> dims_of(const PartialInts& list) {
  Shape shape;
  for (const auto& [known, value] : list.values) {
    if (known && value < 0) return std::nullopt;
    shape.push_back(value);
  }
  return shape;
}

}  // namespace

std::optional<PartialInts> partial_of(const Tensor& constant) {
  if (!is_integer(constant.dtype()) || constant.shape().rank() > 1) return std::nullopt;
  if (constant.count() > static_cast<int64_t>(kLongest)) return std::nullopt;
  PartialInts out{constant.shape().rank() == 0, {}};
  for (const int64_t value : constant.to_ints()) out.values.push_back({true, value});
  return out;
}

std::optional<PartialInts> evaluate_partial(const NodeContext& context, const Inputs& inputs) {
  const Node& node = context.node();
  const std::string& op = node.op_type;
  if (!node.domain.empty() || inputs.empty()) return std::nullopt;
  std::optional<PartialInts> out;
  if (op == "Shape") out = shape_values(context);
  if (op == "Gather") out = gathered(context, inputs);
  if (op == "Concat") out = joined(inputs);
  if (op == "Slice") out = sliced(context, inputs);
  if (op == "Add" || op == "Sub" || op == "Mul" || op == "Div") out = arithmetic(context, inputs);
  if (op == "Unsqueeze" || op == "Squeeze" || op == "Reshape" || op == "Identity") {
    out = reshaped_list(context, inputs);
  }
  if (op == "Cast" && is_integer(context.output_types[0].dtype)) {
    out = reshaped_list(context, inputs);
  }
  if (out && out->values.size() > kLongest) return std::nullopt;
  return out;
}

void refine_output(NodeContext& context, const Inputs& inputs) {
  const Node& node = context.node();
  if (!node.domain.empty()) return;
  const size_t slot = node.op_type == "ConstantOfShape" ? 0 : 1;
  if (inputs.size() <= slot || inputs[slot] == nullptr || inputs[slot]->is_scalar) return;
  const PartialInts& list = *inputs[slot];
  if (list.values.size() > kMaxRank) return;
  if (node.op_type == "Reshape") return refine_reshape(context, list);
  const auto dims = dims_of(list);
  if (!dims) return;
  const DType dtype = context.output_types[0].dtype;
  if (node.op_type == "ConstantOfShape") context.set_output(0, dtype, *dims);
  if (node.op_type == "Expand" && context.in(0).has_shape) {
    context.set_output(0, dtype, ops::broadcast_of(context, context.shape(0), *dims));
  }
}

}  // namespace compress
