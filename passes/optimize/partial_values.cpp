#include "passes/optimize/partial_values.h"

#include <algorithm>

#include "passes/edit.h"

namespace compress {
namespace {

constexpr size_t kMaxElements = 64;  // shapes and pads; longer vectors are data

using Values = std::vector<std::optional<int64_t>>;

std::optional<std::vector<int64_t>> known(const std::optional<ShapeList>& ints) {
  if (!ints || !ints->is_known()) return std::nullopt;
  std::vector<int64_t> out;
  for (const auto& value : ints->values) out.push_back(*value);
  return out;
}

std::optional<ShapeList> shape_of(const Node& node, const TypeInfo& type) {
  if (!type.has_shape) return std::nullopt;
  const int64_t rank = type.shape.rank();
  const auto clamp = [&](int64_t i) { return std::clamp<int64_t>(i < 0 ? i + rank : i, 0, rank); };
  const int64_t start = clamp(node.int_or("start", 0));
  const int64_t end = clamp(node.int_or("end", rank));
  ShapeList out;
  for (int64_t i = start; i < end; ++i) {
    const int64_t dim = type.shape[static_cast<int>(i)];
    out.values.push_back(dim >= 0 ? std::optional(dim) : std::nullopt);
  }
  return out;
}

std::optional<ShapeList> gather(const ShapeList& data, const std::vector<int64_t>& indices,
                                bool scalar_index) {
  if (data.is_scalar) return std::nullopt;
  const int64_t n = static_cast<int64_t>(data.values.size());
  ShapeList out{data.dtype, scalar_index, {}};
  for (int64_t index : indices) {
    if (index < 0) index += n;
    if (index < 0 || index >= n) return std::nullopt;
    out.values.push_back(data.values[static_cast<size_t>(index)]);
  }
  return out;
}

std::optional<ShapeList> slice(const ShapeList& data, int64_t start, int64_t end, int64_t step) {
  if (data.is_scalar || step == 0) return std::nullopt;
  const int64_t n = static_cast<int64_t>(data.values.size());
  const int64_t low = step > 0 ? 0 : -1;
  const int64_t high = step > 0 ? n : n - 1;
  const auto clamp = [&](int64_t i) { return std::clamp(i < 0 ? i + n : i, low, high); };
  // An end below -n with a negative step means "through the first element".
  const int64_t stop = end < -n ? low : clamp(end);
  ShapeList out{data.dtype, false, {}};
  for (int64_t i = clamp(std::max(start, -n)); step > 0 ? i < stop : i > stop; i += step) {
    if (i < 0 || i >= n) break;
    out.values.push_back(data.values[static_cast<size_t>(i)]);
  }
  return out;
}

std::optional<int64_t> arithmetic(std::string_view op, std::optional<int64_t> a,
                                  std::optional<int64_t> b) {
  if (op == "Mul" && ((a && *a == 0) || (b && *b == 0))) return 0;
  if (!a || !b) return std::nullopt;
  int64_t out = 0;
  bool overflow = false;
  if (op == "Add") overflow = __builtin_add_overflow(*a, *b, &out);
  if (op == "Sub") overflow = __builtin_sub_overflow(*a, *b, &out);
  if (op == "Mul") overflow = __builtin_mul_overflow(*a, *b, &out);
  if (op == "Div") {
    if (*b == 0 || *b == -1) return std::nullopt;
    out = *a / *b;
  }
  return overflow ? std::nullopt : std::optional(out);
}

std::optional<ShapeList> combine(std::string_view op, const ShapeList& a, const ShapeList& b) {
  const size_t n = std::max(a.values.size(), b.values.size());
  if (a.values.empty() || b.values.empty()) return std::nullopt;
  if ((a.values.size() != n && a.values.size() != 1) ||
      (b.values.size() != n && b.values.size() != 1) || a.dtype != b.dtype) {
    return std::nullopt;
  }
  ShapeList out{a.dtype, a.is_scalar && b.is_scalar, {}};
  for (size_t i = 0; i < n; ++i) {
    out.values.push_back(arithmetic(op, a.values[a.values.size() == 1 ? 0 : i],
                                    b.values[b.values.size() == 1 ? 0 : i]));
  }
  return out;
}

}  // namespace

bool ShapeList::is_known() const {
  return std::all_of(values.begin(), values.end(), [](const auto& v) { return v.has_value(); });
}

Tensor ShapeList::tensor() const {
  std::vector<int64_t> ints;
  for (const auto& value : values) ints.push_back(*value);
  const Shape shape = is_scalar ? Shape() : Shape{static_cast<int64_t>(ints.size())};
  const Tensor wide = Tensor::from<int64_t>(shape, ints);
  return dtype == DType::int64 ? wide : convert(wide, dtype);
}

std::optional<ShapeList> PartialValues::find(ValueId id) const {
  if (id == kNoValue) return std::nullopt;
  if (const auto row = known_.find(id); row != known_.end()) return row->second;
  const Tensor* tensor = constant_of(model_, id);
  if (tensor == nullptr || tensor->shape().rank() > 1) return std::nullopt;
  if (tensor->dtype() != DType::int64 && tensor->dtype() != DType::int32) return std::nullopt;
  if (tensor->count() > static_cast<int64_t>(kMaxElements)) return std::nullopt;
  ShapeList out{tensor->dtype(), tensor->shape().rank() == 0, {}};
  for (const int64_t value : tensor->to_ints()) out.values.emplace_back(value);
  return out;
}

std::optional<ShapeList> PartialValues::visit(const Node& node) {
  if (!node.domain.empty() || node.outputs.empty() || node.outputs[0] == kNoValue) {
    return std::nullopt;
  }
  std::optional<ShapeList> out = evaluate(node);
  if (out && out->values.size() > kMaxElements) out.reset();
  if (out) known_.insert_or_assign(node.outputs[0], *out);
  return out;
}

std::optional<ShapeList> PartialValues::evaluate(const Node& node) const {
  const std::string& op = node.op_type;
  const ValueId first = operand(node, 0);
  if (first == kNoValue) return std::nullopt;
  if (op == "Shape") return shape_of(node, model_.graph.value(first).type);
  if (op == "Concat") {
    ShapeList out;
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      const auto part = find(node.inputs[i]);
      if (!part || part->is_scalar || (i > 0 && part->dtype != out.dtype)) return std::nullopt;
      out.dtype = part->dtype;
      out.values.insert(out.values.end(), part->values.begin(), part->values.end());
      if (out.values.size() > kMaxElements) return std::nullopt;
    }
    return out;
  }
  const auto data = find(first);
  if (!data) return std::nullopt;
  if (op == "Identity") return data;
  if (op == "Cast") {
    const auto to = static_cast<DType>(node.int_or("to", 0));
    if (to != DType::int64 && to != DType::int32) return std::nullopt;
    ShapeList out = *data;
    out.dtype = to;
    for (const auto& value : out.values) {
      if (value && to == DType::int32 && *value != static_cast<int32_t>(*value))
        return std::nullopt;
    }
    return out;
  }
  if (op == "Gather") {
    const Tensor* indices = constant_of(model_, operand(node, 1));
    if (indices == nullptr || indices->shape().rank() > 1 || node.int_or("axis", 0) != 0) {
      return std::nullopt;
    }
    return gather(*data, indices->to_ints(), indices->shape().rank() == 0);
  }
  if (op == "Slice" && model_.opset() >= 10) {
    const auto starts = known(find(operand(node, 1)));
    const auto ends = known(find(operand(node, 2)));
    const auto steps = known(find(operand(node, 4)));
    if (!starts || !ends || starts->size() != 1 || ends->size() != 1) return std::nullopt;
    if (operand(node, 4) != kNoValue && (!steps || steps->size() != 1)) return std::nullopt;
    return slice(*data, (*starts)[0], (*ends)[0], steps ? (*steps)[0] : 1);
  }
  if (op == "Slice") {
    const auto starts = node.ints_or("starts", {});
    const auto ends = node.ints_or("ends", {});
    if (starts.size() != 1 || ends.size() != 1) return std::nullopt;
    return slice(*data, starts[0], ends[0], 1);
  }
  if (op == "Unsqueeze" || op == "Squeeze" || op == "Reshape") {
    const TypeInfo& type = model_.graph.value(node.outputs[0]).type;
    if (!type.has_shape || type.shape.rank() > 1) return std::nullopt;
    ShapeList out = *data;
    out.is_scalar = type.shape.rank() == 0;
    if (out.is_scalar && out.values.size() != 1) return std::nullopt;
    return out;
  }
  if (op == "Add" || op == "Sub" || op == "Mul" || op == "Div") {
    const auto other = find(operand(node, 1));
    return other ? combine(op, *data, *other) : std::nullopt;
  }
  return std::nullopt;
}

}  // namespace compress
