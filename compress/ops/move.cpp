// Operators that move elements by a fixed pattern: all are strided copies.
#include <algorithm>
#include <limits>

#include "compress/ops/families.h"
#include "compress/ops/moves.h"
#include "compress/ops/support.h"

namespace compress {
namespace {

using namespace ops;

std::vector<int64_t> vector_of(const Shape& shape) { return {shape.begin(), shape.end()}; }

// --- Transpose -----------------------------------------------------------------------------------

std::vector<int> permutation_of(const NodeContext& context) {
  const int rank = context.shape(0).rank();
  std::vector<int64_t> reversed;
  for (int i = rank - 1; i >= 0; --i) reversed.push_back(i);
  const std::vector<int64_t> given = context.node().ints_or("perm", reversed);
  if (static_cast<int>(given.size()) != rank)
    context.invalid("perm does not have the input's rank");
  return axes_of(context, given, rank);
}

void infer_transpose(NodeContext& context) {
  require_inputs(context, 1, 1);
  if (!context.in(0).has_shape) return context.set_output(0, context.dtype(0));
  Shape out;
  for (const int axis : permutation_of(context)) out.push_back(context.shape(0)[axis]);
  context.set_output(0, context.dtype(0), out);
}

// How a walk over the whole output steps through the input.
struct Walk {
  std::vector<int64_t> strides;
  int64_t base = 0;
};

Walk transpose_walk(const NodeContext& context) {
  const Shape steps = strides_of(context.shape(0));
  Walk walk;
  for (const int axis : permutation_of(context)) walk.strides.push_back(steps[axis]);
  return walk;
}

Kernel walk_kernel(const NodeContext& context, const Walk& walk) {
  return copy_kernel(context,
                     plan_copy(context.output_types[0].shape.dims(), walk.strides, walk.base));
}

Kernel prepare_transpose(const NodeContext& context) {
  return walk_kernel(context, transpose_walk(context));
}

// --- Expand, Tile --------------------------------------------------------------------------------

// Rank of what a 1-D input of dimensions says, where its length is known.
std::optional<int> length_of(const NodeContext& context, int i) {
  const TypeInfo& type = context.in(i);
  if (!type.is_concrete() || type.shape.rank() != 1 || type.shape[0] > kMaxRank)
    return std::nullopt;
  return static_cast<int>(type.shape[0]);
}

void infer_expand(NodeContext& context) {
  require_inputs(context, 2, 2);
  const TypeInfo& in = context.in(0);
  const Tensor* wanted = context.constant(1);
  if (wanted != nullptr && in.has_shape) {
    const Shape shape = shape_from(context, wanted->to_ints());
    return context.set_output(0, in.dtype, broadcast_of(context, in.shape, shape));
  }
  const auto length = length_of(context, 1);
  if (!length || !in.has_shape) return context.set_output(0, in.dtype);
  context.set_output(0, in.dtype, unknown_shape(std::max(*length, in.shape.rank())));
}

Walk expand_walk(const NodeContext& context) {
  const Shape& in = context.shape(0);
  const int rank = context.output_types[0].shape.rank();
  const Shape steps = strides_of(in);
  Walk walk{std::vector<int64_t>(static_cast<size_t>(rank), 0)};
  for (int i = 0; i < in.rank(); ++i) {
    if (in[i] != 1) walk.strides[static_cast<size_t>(i + rank - in.rank())] = steps[i];
  }
  return walk;
}

Kernel prepare_expand(const NodeContext& context) {
  return walk_kernel(context, expand_walk(context));
}

void infer_tile(NodeContext& context) {
  require_inputs(context, 2, 2);
  const TypeInfo& in = context.in(0);
  const Tensor* repeats = context.constant(1);
  if (!in.has_shape) return context.set_output(0, in.dtype);
  if (repeats == nullptr) return context.set_output(0, in.dtype, unknown_shape(in.shape.rank()));
  const std::vector<int64_t> times = repeats->to_ints();
  if (static_cast<int>(times.size()) != in.shape.rank()) {
    context.invalid("repeats does not have the input's rank");
  }
  Shape out = in.shape;
  for (int i = 0; i < out.rank(); ++i) {
    const int64_t n = times[static_cast<size_t>(i)];
    if (n < 0) context.invalid(fmt::format("repeats {} times", n));
    if (!known(out[i])) {
      if (n != 1) out[i] = n == 0 ? 0 : kUnknownDim;
    } else if (__builtin_mul_overflow(out[i], n, &out[i])) {
      context.invalid("the output is too large");
    }
  }
  context.set_output(0, in.dtype, out);
}

Kernel prepare_tile(const NodeContext& context) {
  const Tensor* repeats = context.constant(1);
  if (repeats == nullptr) return prepare_at_run(context);
  const Shape& in = context.shape(0);
  const Shape steps = strides_of(in);
  std::vector<int64_t> dims, strides;
  const std::vector<int64_t> times = repeats->to_ints();
  for (int i = 0; i < in.rank(); ++i) {
    dims.insert(dims.end(), {times[static_cast<size_t>(i)], in[i]});
    strides.insert(strides.end(), {0, steps[i]});
  }
  return copy_kernel(context, plan_copy(dims, strides, 0));
}

// --- Slice: attributes at opset 1, inputs since 10 -----------------------------------------------

struct Range {
  int64_t start = 0;
  int64_t step = 1;
  int64_t count = 0;
};

// The elements that start:end:step takes of a known dimension.
Range range_of(int64_t dim, int64_t start, int64_t end, int64_t step) {
  step = std::max(step, -std::numeric_limits<int64_t>::max());  // so that it can be negated
  if (start < 0) start += dim;
  if (end < 0) end += dim;
  Range range{0, step, 0};
  if (step > 0) {
    start = std::clamp<int64_t>(start, 0, dim);
    end = std::clamp<int64_t>(end, 0, dim);
    if (end > start) range.count = 1 + (end - start - 1) / step;
  } else {
    start = std::clamp<int64_t>(start, -1, dim - 1);
    end = std::clamp<int64_t>(end, -1, dim - 1);
    if (start > end) range.count = 1 + (start - end - 1) / -step;
  }
  range.start = range.count > 0 ? start : 0;
  if (range.count <= 1) range.step = 1;
  return range;
}

struct SliceSpec {
  std::vector<int> axes;
  std::vector<int64_t> starts, ends, steps;
};

// What is taken, or nullopt where an operand is not known yet. REQUIRES a known rank.
std::optional<SliceSpec> slice_of(const NodeContext& context) {
  const auto starts = context.ints("starts", 1);
  const auto ends = context.ints("ends", 2);
  if (!starts || !ends) return std::nullopt;
  std::vector<int64_t> all, ones(starts->size(), 1);
  for (size_t i = 0; i < starts->size(); ++i) all.push_back(static_cast<int64_t>(i));
  const auto axes = context.ints("axes", 3, all);
  const auto steps = context.ints("", 4, ones);
  if (!axes || !steps) return std::nullopt;
  if (ends->size() != starts->size() || axes->size() != starts->size() ||
      steps->size() != starts->size()) {
    context.invalid("starts, ends, axes and steps differ in length");
  }
  for (const int64_t step : *steps) {
    if (step == 0) context.invalid("a step of 0");
  }
  return SliceSpec{axes_of(context, *axes, context.shape(0).rank()), *starts, *ends, *steps};
}

void infer_slice(NodeContext& context) {
  require_inputs(context, 1, 5);
  const TypeInfo& in = context.in(0);
  if (!in.has_shape) return context.set_output(0, in.dtype);
  const auto spec = slice_of(context);
  if (!spec) {
    Shape out = in.shape;
    const auto axes =
        context.has_input(3) && context.constant(3) != nullptr ? context.ints("", 3) : std::nullopt;
    if (!axes) return context.set_output(0, in.dtype, unknown_shape(in.shape.rank()));
    for (const int axis : axes_of(context, *axes, in.shape.rank())) out[axis] = kUnknownDim;
    return context.set_output(0, in.dtype, out);
  }
  Shape out = in.shape;
  for (size_t i = 0; i < spec->axes.size(); ++i) {
    const int axis = spec->axes[i];
    if (known(in.shape[axis])) {
      out[axis] = range_of(in.shape[axis], spec->starts[i], spec->ends[i], spec->steps[i]).count;
    } else if (spec->starts[i] != 0 || spec->steps[i] != 1 ||
               spec->ends[i] < std::numeric_limits<int32_t>::max()) {
      out[axis] = kUnknownDim;
    }
  }
  context.set_output(0, in.dtype, out);
}

std::optional<Walk> slice_walk(const NodeContext& context) {
  const auto spec = slice_of(context);
  if (!spec) return std::nullopt;
  const Shape& in = context.shape(0);
  Walk walk{vector_of(strides_of(in))};
  for (size_t i = 0; i < spec->axes.size(); ++i) {
    const int axis = spec->axes[i];
    const Range range = range_of(in[axis], spec->starts[i], spec->ends[i], spec->steps[i]);
    int64_t& stride = walk.strides[static_cast<size_t>(axis)];
    walk.base += range.start * stride;
    stride *= range.step;
  }
  return walk;
}

Kernel prepare_slice(const NodeContext& context) {
  const auto walk = slice_walk(context);
  return walk ? walk_kernel(context, *walk) : prepare_at_run(context);
}

// --- Concat, Split -------------------------------------------------------------------------------

void infer_concat(NodeContext& context) {
  require_inputs(context, 1, context.input_count());
  require_same_dtype(context, 0, context.input_count());
  for (int i = 0; i < context.input_count(); ++i) {
    if (!context.has_input(i)) context.invalid(fmt::format("input {} is missing", i));
  }
  if (context.node().attribute("axis") == nullptr && context.opset() >= 4) {
    context.invalid("axis is missing");
  }
  const TypeInfo* any = nullptr;
  for (int i = 0; i < context.input_count(); ++i) {
    if (context.in(i).has_shape) any = &context.in(i);
  }
  if (any == nullptr) return context.set_output(0, context.dtype(0));
  const int rank = any->shape.rank();
  const int axis = axis_of(context, context.node().int_or("axis", 1), rank);
  Shape out = unknown_shape(rank);
  out[axis] = 0;
  for (int i = 0; i < context.input_count(); ++i) {
    if (!context.in(i).has_shape) {
      out[axis] = kUnknownDim;
      continue;
    }
    const Shape& shape = context.shape(i);
    if (shape.rank() != rank) context.invalid("inputs differ in rank");
    for (int d = 0; d < rank; ++d) {
      if (d == axis) {
        if (!known(shape[d])) out[d] = context.input_count() == 1 ? shape[d] : kUnknownDim;
        if (known(out[d]) && __builtin_add_overflow(out[d], shape[d], &out[d])) {
          context.invalid("the output is too large");
        }
      } else if (known(out[d]) && known(shape[d]) && out[d] != shape[d]) {
        context.invalid(
            fmt::format("input {} is {} in dimension {}, others {}", i, shape[d], d, out[d]));
      } else if (!known(out[d])) {
        out[d] = shape[d];
      }
    }
  }
  context.set_output(0, context.dtype(0), out);
}

// Inputs that give one element each to a row, as rotated pairs are put together: input by input.
template <class T>
Kernel interleave_kernel(int64_t rows, T) {
  return {"", [rows](const KernelArgs& args) {
            const auto inputs = static_cast<int64_t>(args.inputs.size());
            parallel_for(0, rows, kGrain, [&](int64_t begin, int64_t end) {
              for (int64_t i = 0; i < inputs; ++i) {
                const T* from = static_cast<const T*>(args.inputs[static_cast<size_t>(i)].data);
                T* to = static_cast<T*>(args.outputs[0].data) + i;
                for (int64_t r = begin; r < end; ++r) to[r * inputs] = from[r];
              }
            });
          }};
}

Kernel prepare_concat(const NodeContext& context) {
  const Shape& out = context.output_types[0].shape;
  const int axis = axis_of(context, context.node().int_or("axis", 1), out.rank());
  return dispatch_size(context, context.dtype(0), [&](auto tag) -> Kernel {
    const auto bytes = static_cast<int64_t>(sizeof(tag));
    const int64_t outer = out.count(0, axis);
    const int64_t inner = out.count(axis + 1, out.rank()) * bytes;
    std::vector<int64_t> lengths;  // bytes that each input gives to a row
    for (int i = 0; i < context.input_count(); ++i) {
      lengths.push_back(context.shape(i)[axis] * inner);
    }
    const int64_t row = out[axis] * inner;
    const auto one = [&](int64_t length) { return length == bytes; };
    if (std::all_of(lengths.begin(), lengths.end(), one)) return interleave_kernel(outer, tag);
    return {"", [=, lengths = std::move(lengths)](const KernelArgs& args) {
              std::byte* to = static_cast<std::byte*>(args.outputs[0].data);
              parallel_for(0, outer, kGrain * 4 / std::max<int64_t>(row, 1) + 1,
                           [&](int64_t begin, int64_t end) {
                             for (int64_t r = begin; r < end; ++r) {
                               int64_t at = r * row;
                               for (size_t i = 0; i < lengths.size(); ++i) {
                                 if (lengths[i] == 0) continue;
                                 std::memcpy(to + at,
                                             static_cast<const std::byte*>(args.inputs[i].data) +
                                                 r * lengths[i],
                                             static_cast<size_t>(lengths[i]));
                                 at += lengths[i];
                               }
                             }
                           });
            }};
  });
}

// Sizes of the outputs along the axis; nullopt where they are not known yet.
std::optional<std::vector<int64_t>> split_sizes(const NodeContext& context, int64_t dim) {
  const auto outputs = static_cast<int64_t>(context.node().outputs.size());
  const auto given = context.ints("split", 1);
  if (!given) return std::nullopt;
  const bool explicit_sizes = context.has_input(1) || context.node().attribute("split") != nullptr;
  if (explicit_sizes) {
    int64_t sum = 0;
    for (const int64_t size : *given) {
      if (size < 0 || __builtin_add_overflow(sum, size, &sum)) context.invalid("a negative size");
    }
    if (static_cast<int64_t>(given->size()) != outputs) {
      context.invalid(fmt::format("{} sizes for {} outputs", given->size(), outputs));
    }
    if (known(dim) && sum != dim) {
      context.invalid(fmt::format("sizes add up to {} of {} elements", sum, dim));
    }
    return given;
  }
  const int64_t parts = context.node().int_or("num_outputs", outputs);
  if (parts != outputs || parts < 1) context.invalid("num_outputs is not the number of outputs");
  if (!known(dim)) return std::nullopt;
  if (context.opset() < 18 && dim % parts != 0) {
    context.invalid(fmt::format("{} elements do not split into {} parts", dim, parts));
  }
  const int64_t size = (dim + parts - 1) / parts;  // the last is smaller
  std::vector<int64_t> sizes;
  for (int64_t i = 0; i < parts; ++i) {
    sizes.push_back(std::clamp<int64_t>(dim - i * size, 0, size));
  }
  return sizes;
}

void infer_split(NodeContext& context) {
  require_inputs(context, 1, 2);
  const TypeInfo& in = context.in(0);
  const int outputs = static_cast<int>(context.node().outputs.size());
  if (!in.has_shape) {
    for (int i = 0; i < outputs; ++i) context.set_output(i, in.dtype);
    return;
  }
  const int axis = axis_of(context, context.node().int_or("axis", 0), in.shape.rank());
  const auto sizes = split_sizes(context, in.shape[axis]);
  for (int i = 0; i < outputs; ++i) {
    Shape shape = in.shape;
    shape[axis] = sizes ? (*sizes)[static_cast<size_t>(i)] : kUnknownDim;
    context.set_output(i, in.dtype, shape);
  }
}

Kernel prepare_split(const NodeContext& context) {
  const Shape& in = context.shape(0);
  const int axis = axis_of(context, context.node().int_or("axis", 0), in.rank());
  const auto sizes = split_sizes(context, in[axis]);
  if (!sizes) return prepare_at_run(context);
  std::vector<std::pair<size_t, CopyPlan>> plans;  // output, and what it takes
  const Shape strides = strides_of(in);
  int64_t start = 0;
  for (size_t i = 0; i < sizes->size(); ++i) {
    if (context.has_output(static_cast<int>(i))) {
      Shape dims = in;
      dims[axis] = (*sizes)[i];
      plans.emplace_back(i, plan_copy(dims.dims(), strides.dims(), start * strides[axis]));
    }
    start += (*sizes)[i];
  }
  return dispatch_size(context, context.dtype(0), [&](auto tag) -> Kernel {
    return {"", [plans = std::move(plans), bytes = sizeof(tag)](const KernelArgs& args) {
              for (const auto& [output, plan] : plans) {
                run_copy(plan, bytes, args.inputs[0].data, args.outputs[output].data);
              }
            }};
  });
}

// --- DepthToSpace, SpaceToDepth ------------------------------------------------------------------

int64_t block_of(const NodeContext& context) {
  const int64_t block = context.node().int_or("blocksize", 0);
  if (block < 1 || block > (1 << 20)) context.invalid(fmt::format("a block of {}", block));
  if (context.in(0).has_shape && context.shape(0).rank() != 4)
    context.invalid("the input must be 4-D");
  return block;
}

void infer_depth_to_space(NodeContext& context) {
  require_inputs(context, 1, 1);
  const int64_t b = block_of(context);
  if (!context.in(0).has_shape) return context.set_output(0, context.dtype(0), unknown_shape(4));
  const Shape& in = context.shape(0);
  if (known(in[1]) && in[1] % (b * b) != 0)
    context.invalid("the block does not divide the channels");
  const auto times = [&](int64_t dim) { return known(dim) ? dim * b : kUnknownDim; };
  context.set_output(
      0, context.dtype(0),
      {in[0], known(in[1]) ? in[1] / (b * b) : kUnknownDim, times(in[2]), times(in[3])});
}

Kernel prepare_depth_to_space(const NodeContext& context) {
  const int64_t b = block_of(context);
  const std::string mode = context.node().string_or("mode", "DCR");
  if (mode != "DCR" && mode != "CRD") context.invalid("mode must be DCR or CRD");
  const Shape& in = context.shape(0);
  const int64_t c = in[1] / (b * b), h = in[2], w = in[3], plane = h * w;
  // Of a block: the steps along channels, rows of the block and its columns.
  const int64_t by_channel = mode == "DCR" ? plane : b * b * plane;
  const int64_t by_row = mode == "DCR" ? b * c * plane : b * plane;
  const int64_t by_column = mode == "DCR" ? c * plane : plane;
  const int64_t dims[] = {in[0], c, h, b, w, b};
  const int64_t strides[] = {in[1] * plane, by_channel, w, by_row, 1, by_column};
  return copy_kernel(context, plan_copy(dims, strides, 0));
}

void infer_space_to_depth(NodeContext& context) {
  require_inputs(context, 1, 1);
  const int64_t b = block_of(context);
  if (!context.in(0).has_shape) return context.set_output(0, context.dtype(0), unknown_shape(4));
  const Shape& in = context.shape(0);
  const auto part = [&](int64_t dim) {
    if (known(dim) && dim % b != 0) context.invalid("the block does not divide the plane");
    return known(dim) ? dim / b : kUnknownDim;
  };
  int64_t channels = kUnknownDim;
  if (known(in[1]) && __builtin_mul_overflow(in[1], b * b, &channels))
    context.invalid("is too large");
  context.set_output(0, context.dtype(0), {in[0], channels, part(in[2]), part(in[3])});
}

Kernel prepare_space_to_depth(const NodeContext& context) {
  const int64_t b = block_of(context);
  const std::string mode = context.node().string_or("mode", "DCR");
  if (mode != "DCR" && mode != "CRD") context.invalid("mode must be DCR or CRD");
  const Shape& in = context.shape(0);
  const int64_t w = in[3], plane = in[2] * w;
  if (mode == "CRD") {
    const int64_t dims[] = {in[0], in[1], b, b, in[2] / b, w / b};
    const int64_t strides[] = {in[1] * plane, plane, w, 1, b * w, b};
    return copy_kernel(context, plan_copy(dims, strides, 0));
  }
  const int64_t dims[] = {in[0], b, b, in[1], in[2] / b, w / b};
  const int64_t strides[] = {in[1] * plane, w, 1, plane, b * w, b};
  return copy_kernel(context, plan_copy(dims, strides, 0));
}

constexpr OpDef kRows[] = {
    moving_row("Transpose", 1, infer_transpose, prepare_transpose),
    moving_row("Expand", 8, infer_expand, prepare_expand),
    moving_row("Tile", 6, infer_tile, prepare_tile),
    moving_row("Slice", 1, infer_slice, prepare_slice),
    moving_row("Concat", 1, infer_concat, prepare_concat),
    moving_row("Split", 2, infer_split, prepare_split),
    moving_row("DepthToSpace", 1, infer_depth_to_space, prepare_depth_to_space),
    moving_row("SpaceToDepth", 1, infer_space_to_depth, prepare_space_to_depth),
};

// --- As copies -----------------------------------------------------------------------------------

std::vector<MovedBlock> whole_output(const NodeContext& context, const Walk& walk) {
  const Shape& out = context.output_types[0].shape;
  return {{0, 0, vector_of(out), walk.strides, vector_of(strides_of(out)), walk.base, 0}};
}

// The part of `whole` along `axis` that begins at `start`, as operand `i` of `type`.
MovedBlock part_of(const Shape& whole, const Shape& part, int axis, int64_t start, bool is_output,
                   int i) {
  const std::vector<int64_t> outer = vector_of(strides_of(whole)),
                             inner = vector_of(strides_of(part));
  const int64_t at = start * outer[static_cast<size_t>(axis)];
  if (is_output) return {0, i, vector_of(part), outer, inner, at, 0};
  return {i, 0, vector_of(part), inner, outer, 0, at};
}

std::vector<MovedBlock> concat_moves(const NodeContext& context) {
  const Shape& out = context.output_types[0].shape;
  const int axis = axis_of(context, context.node().int_or("axis", 1), out.rank());
  std::vector<MovedBlock> blocks;
  int64_t start = 0;
  for (int i = 0; i < context.input_count(); ++i) {
    blocks.push_back(part_of(out, context.shape(i), axis, start, false, i));
    start += context.shape(i)[axis];
  }
  return blocks;
}

std::optional<std::vector<MovedBlock>> split_moves(const NodeContext& context) {
  const Shape& in = context.shape(0);
  const int axis = axis_of(context, context.node().int_or("axis", 0), in.rank());
  const auto sizes = split_sizes(context, in[axis]);
  if (!sizes) return std::nullopt;
  std::vector<MovedBlock> blocks;
  int64_t start = 0;
  for (size_t i = 0; i < sizes->size(); ++i) {
    Shape part = in;
    part[axis] = (*sizes)[i];
    if (context.has_output(static_cast<int>(i))) {
      blocks.push_back(part_of(in, part, axis, start, true, static_cast<int>(i)));
    }
    start += (*sizes)[i];
  }
  return blocks;
}

}  // namespace

std::optional<std::vector<MovedBlock>> moves_of(const NodeContext& context) {
  const std::string& op = context.node().op_type;
  if (op == "Transpose") return whole_output(context, transpose_walk(context));
  if (op == "Expand") return whole_output(context, expand_walk(context));
  if (op == "Concat") return concat_moves(context);
  if (op == "Split") return split_moves(context);
  if (op != "Slice") return std::nullopt;
  const auto walk = slice_walk(context);
  if (!walk) return std::nullopt;
  return whole_output(context, *walk);
}

constinit const std::span<const OpDef> kMoveOps = kRows;

}  // namespace compress
