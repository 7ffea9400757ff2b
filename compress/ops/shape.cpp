// Operators on shapes, and those that keep all bytes in their order.
#include <algorithm>

#include "compress/ops/families.h"
#include "compress/ops/fold.h"
#include "compress/ops/support.h"

namespace compress {
namespace {

using namespace ops;

// --- Shape, Size ---------------------------------------------------------------------------------

struct Section {
  int begin, end;
};
Section section_of(const NodeContext& context) {
  const int rank = context.shape(0).rank();
  const auto clamp = [&](int64_t at) {
    return static_cast<int>(std::clamp<int64_t>(at < 0 ? at + rank : at, 0, rank));
  };
  const int begin = clamp(context.node().int_or("start", 0));
  const int end = clamp(context.node().int_or("end", rank));
  return {begin, std::max(begin, end)};
}

void infer_shape(NodeContext& context) {
  require_inputs(context, 1, 1);
  if (!context.in(0).has_shape) return context.set_output(0, DType::int64, {kUnknownDim});
  const Section section = section_of(context);
  context.set_output(0, DType::int64, {section.end - section.begin});
}

Kernel prepare_shape(const NodeContext& context) {
  const Section section = section_of(context);
  return {"", [shape = context.shape(0), section](const KernelArgs& args) {
            std::copy(shape.begin() + section.begin, shape.begin() + section.end,
                      args.outputs[0].as<int64_t>());
          }};
}

void infer_size(NodeContext& context) {
  require_inputs(context, 1, 1);
  context.set_output(0, DType::int64, Shape());
}

Kernel prepare_size(const NodeContext& context) {
  return {"", [count = context.shape(0).count()](const KernelArgs& args) {
            *args.outputs[0].as<int64_t>() = count;
          }};
}

// --- Reshape, Flatten, Squeeze, Unsqueeze --------------------------------------------------------

Kernel prepare_copy(const NodeContext& context) { return copy_all_kernel(context); }

// The output of Reshape; unknown dimensions where the input's are.
Shape reshaped(const NodeContext& context, std::span<const int64_t> wanted) {
  const bool zero_copies = context.node().int_or("allowzero", 0) == 0;
  const TypeInfo& in = context.in(0);
  Shape out;
  int open = -1;     // the dimension that is -1
  int64_t rest = 1;  // of the others
  bool rest_known = true;
  for (size_t i = 0; i < wanted.size(); ++i) {
    int64_t dim = wanted[i];
    if (dim == -1) {
      if (open >= 0) context.invalid("more than one dimension is -1");
      open = static_cast<int>(i);
    } else if (dim < -1) {
      context.invalid(fmt::format("a dimension of {}", dim));
    } else if (dim == 0 && zero_copies) {
      dim = kUnknownDim;
      if (in.has_shape) {
        if (static_cast<int>(i) >= in.shape.rank()) context.invalid("copies a missing dimension");
        dim = in.shape[static_cast<int>(i)];
      }
    }
    out.push_back(dim);
    if (static_cast<int>(i) == open) continue;
    rest_known &= known(dim);
    if (known(dim) && __builtin_mul_overflow(rest, dim, &rest)) context.invalid("is too large");
  }
  if (!in.is_concrete()) return out;
  const int64_t count = in.shape.count();
  if (open >= 0) {
    if (rest == 0 || count % rest != 0) {
      context.invalid(fmt::format("shape {} does not fit {} elements", out.to_string(), count));
    }
    out[open] = count / rest;
  } else if (rest_known && rest != count) {
    context.invalid(fmt::format("shape {} does not fit {} elements", out.to_string(), count));
  }
  return out;
}

void infer_reshape(NodeContext& context) {
  require_inputs(context, 2, 2);
  if (const Tensor* shape = context.constant(1)) {
    return context.set_output(0, context.dtype(0), reshaped(context, shape->to_ints()));
  }
  const TypeInfo& shape = context.in(1);
  if (!shape.is_concrete() || shape.shape.rank() != 1) {
    return context.set_output(0, context.dtype(0));
  }
  context.set_output(
      0, context.dtype(0),
      unknown_shape(static_cast<int>(std::min<int64_t>(shape.shape[0], kMaxRank + 1))));
}

void infer_flatten(NodeContext& context) {
  require_inputs(context, 1, 1);
  const TypeInfo& in = context.in(0);
  if (!in.has_shape) return context.set_output(0, in.dtype, {kUnknownDim, kUnknownDim});
  const int rank = in.shape.rank();
  const int64_t given = context.node().int_or("axis", 1);
  const int axis = given == rank             ? rank
                   : rank == 0 && given == 0 ? 0
                                             : axis_of(context, given, rank);
  const auto product = [&](int first, int last) {
    if (last - first == 1) return in.shape[first];  // keeps a symbol
    const bool all = std::all_of(in.shape.begin() + first, in.shape.begin() + last, known);
    return all ? in.shape.count(first, last) : kUnknownDim;
  };
  context.set_output(0, in.dtype, {product(0, axis), product(axis, rank)});
}

void infer_squeeze(NodeContext& context) {
  require_inputs(context, 1, 2);
  const TypeInfo& in = context.in(0);
  const bool given = context.has_input(1) || context.node().attribute("axes") != nullptr;
  const auto axes = context.ints("axes", 1);
  if (!in.has_shape || !axes || (!given && !in.shape.is_concrete())) {
    const bool counted = in.has_shape && given && context.has_input(1) &&
                         context.in(1).is_concrete() && context.shape(1).rank() == 1;
    if (!counted) return context.set_output(0, in.dtype);
    const int64_t left = in.shape.rank() - context.shape(1)[0];
    return context.set_output(0, in.dtype,
                              unknown_shape(static_cast<int>(std::max<int64_t>(left, 0))));
  }
  const std::vector<int> drop = axes_of(context, *axes, in.shape.rank());
  Shape out;
  for (int i = 0; i < in.shape.rank(); ++i) {
    const bool dropped =
        given ? std::find(drop.begin(), drop.end(), i) != drop.end() : in.shape[i] == 1;
    if (dropped && known(in.shape[i]) && in.shape[i] != 1) {
      context.invalid(fmt::format("dimension {} is {}, not 1", i, in.shape[i]));
    }
    if (!dropped) out.push_back(in.shape[i]);
  }
  context.set_output(0, in.dtype, out);
}

void infer_unsqueeze(NodeContext& context) {
  require_inputs(context, 1, 2);
  const TypeInfo& in = context.in(0);
  const auto axes = context.ints("axes", 1);
  if (!in.has_shape) return context.set_output(0, in.dtype);
  if (!axes) {
    const TypeInfo& type = context.in(1);
    if (!type.is_concrete() || type.shape.rank() > 1) return context.set_output(0, in.dtype);
    const int64_t rank = in.shape.rank() + type.shape.count();
    return context.set_output(
        0, in.dtype, unknown_shape(static_cast<int>(std::min<int64_t>(rank, kMaxRank + 1))));
  }
  const int rank = in.shape.rank() + static_cast<int>(axes->size());
  const std::vector<int> ones = axes_of(context, *axes, rank);
  Shape out;
  int next = 0;
  for (int i = 0; i < rank; ++i) {
    const bool one = std::find(ones.begin(), ones.end(), i) != ones.end();
    out.push_back(one ? 1 : in.shape[next++]);
  }
  context.set_output(0, in.dtype, out);
}

// --- Identity ------------------------------------------------------------------------------------

void infer_identity(NodeContext& context) {
  require_inputs(context, 1, 1);
  infer_same(context);
}

// --- Constant, ConstantOfShape -------------------------------------------------------------------

void infer_constant(NodeContext& context) {
  require_inputs(context, 0, 0);
  const Tensor value = constant_value(context.node());
  context.set_output(0, value.dtype(), value.shape());
}

Kernel prepare_constant(const NodeContext& context) {
  const Tensor value = constant_value(context.node());
  if (info(value.dtype()).bits == 0) unsupported_type(context, value.dtype());
  return {"", [value](const KernelArgs& args) {
            const TensorData data = value.read();
            const auto bytes = data.bytes();
            if (!bytes.empty()) std::memcpy(args.outputs[0].data, bytes.data(), bytes.size());
          }};
}

Tensor filler_of(const NodeContext& context) {
  const Tensor* value = context.node().tensor_or_null("value");
  if (value == nullptr) return Tensor::from<float>({1}, {0.0f});
  if (value->count() != 1) context.invalid("value must hold one element");
  return *value;
}

void infer_constant_of_shape(NodeContext& context) {
  require_inputs(context, 1, 1);
  const DType dtype = filler_of(context).dtype();
  if (const Tensor* dims = context.constant(0)) {
    return context.set_output(0, dtype, shape_from(context, dims->to_ints()));
  }
  const TypeInfo& type = context.in(0);
  if (!type.is_concrete() || type.shape.rank() != 1) return context.set_output(0, dtype);
  context.set_output(
      0, dtype, unknown_shape(static_cast<int>(std::min<int64_t>(type.shape[0], kMaxRank + 1))));
}

Kernel prepare_constant_of_shape(const NodeContext& context) {
  const Tensor value = filler_of(context);
  const int64_t count = context.output_types[0].shape.count();
  if (is_sub_byte(value.dtype())) {
    // prepare_kernel unpacks: the output is int8 or uint8 here.
    return {"", [value = static_cast<int8_t>(value.to_int()), count](const KernelArgs& args) {
              std::memset(args.outputs[0].data, value, static_cast<size_t>(count));
            }};
  }
  return dispatch_size(context, value.dtype(), [&](auto tag) -> Kernel {
    using T = decltype(tag);
    T element;
    const TensorData data = value.read();
    std::memcpy(&element, data.bytes().data(), sizeof(T));
    return {"", [element, count](const KernelArgs& args) {
              std::fill_n(static_cast<T*>(args.outputs[0].data), count, element);
            }};
  });
}

constexpr OpDef kRows[] = {
    any_row("Shape", 1, infer_shape, prepare_shape),
    any_row("Size", 1, infer_size, prepare_size),
    moving_row("Reshape", 5, infer_reshape, prepare_copy),
    moving_row("Flatten", 1, infer_flatten, prepare_copy),
    moving_row("Squeeze", 1, infer_squeeze, prepare_copy),
    moving_row("Unsqueeze", 1, infer_unsqueeze, prepare_copy),
    moving_row("Identity", 1, infer_identity, prepare_copy),
    any_row("Constant", 1, infer_constant, prepare_constant),
    any_row("ConstantOfShape", 9, infer_constant_of_shape, prepare_constant_of_shape),
};

}  // namespace

Tensor constant_value(const Node& node) {
  if (const Tensor* value = node.tensor_or_null("value")) return *value;
  const auto vector_of = [](const auto& values) {
    using T = typename std::decay_t<decltype(values)>::value_type;
    return Tensor::from<T>({static_cast<int64_t>(values.size())}, std::span<const T>(values));
  };
  if (node.attribute("value_float")) return Tensor::scalar<float>(node.float_or("value_float", 0));
  if (node.attribute("value_int")) return Tensor::scalar<int64_t>(node.int_or("value_int", 0));
  if (node.attribute("value_floats")) return vector_of(node.floats_or("value_floats", {}));
  if (node.attribute("value_ints")) return vector_of(node.ints_or("value_ints", {}));
  if (node.attribute("value_string")) {
    return Tensor::strings(Shape(), {node.string_or("value_string", "")});
  }
  if (const AttributeValue* value = node.attribute("value_strings")) {
    if (const auto* strings = std::get_if<std::vector<std::string>>(value)) {
      return Tensor::strings({static_cast<int64_t>(strings->size())}, *strings);
    }
  }
  fail(ErrorCode::unsupported, "Constant '{}': a sparse value, or none", printable(node.name));
}

constinit const std::span<const OpDef> kShapeOps = kRows;

}  // namespace compress
