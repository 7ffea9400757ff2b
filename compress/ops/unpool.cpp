// The way back from windows to images: MaxUnpool, Col2Im.
#include <algorithm>
#include <array>
#include <functional>

#include "compress/ops/special_families.h"
#include "compress/ops/support.h"

namespace compress {
namespace {

using namespace ops;

// Far above any real size, low enough that the sums and products below stay inside 63 bits.
constexpr int64_t kLimit = int64_t{1} << 30;

std::vector<int64_t> steps_of(const NodeContext& context, std::string_view name, size_t count,
                              int64_t least, int64_t fallback) {
  std::vector<int64_t> values = context.node().ints_or(name, {});
  if (values.empty()) values.assign(count, fallback);
  if (values.size() != count) {
    context.invalid(fmt::format("{} has {} values, {} are needed", name, values.size(), count));
  }
  for (const int64_t value : values) {
    if (value < least || value > kLimit) context.invalid(fmt::format("{} holds {}", name, value));
  }
  return values;
}

// --- MaxUnpool -----------------------------------------------------------------------------------

// The shape that was pooled, as far as the attributes tell.
Shape pooled_from(const NodeContext& context) {
  const Shape& x = context.shape(0);
  const int spatial = x.rank() - 2;
  if (spatial < 1) context.invalid(fmt::format("the input has shape {}", x.to_string()));
  const auto count = static_cast<size_t>(spatial);
  if (context.node().attribute("kernel_shape") == nullptr) context.invalid("without kernel_shape");
  const std::vector<int64_t> kernel = steps_of(context, "kernel_shape", count, 1, 1);
  const std::vector<int64_t> strides = steps_of(context, "strides", count, 1, 1);
  const std::vector<int64_t> pads = steps_of(context, "pads", 2 * count, 0, 0);
  Shape out{x[0], x[1]};
  for (size_t d = 0; d < count; ++d) {
    const int64_t size = x[static_cast<int>(d) + 2];
    if (size > kLimit) context.invalid(fmt::format("the input has shape {}", x.to_string()));
    const int64_t full = (size - 1) * strides[d] + kernel[d] - pads[d] - pads[count + d];
    if (known(size) && full < 0) context.invalid(fmt::format("an output dimension is {}", full));
    out.push_back(known(size) ? full : kUnknownDim);
  }
  return out;
}

void infer_max_unpool(NodeContext& context) {
  require_inputs(context, 2, 3);
  if (!context.in(0).has_shape) return context.set_output(0, context.dtype(0));
  const Shape pooled = pooled_from(context);
  if (!context.has_input(2)) return context.set_output(0, context.dtype(0), pooled);
  const Tensor* wanted = context.constant(2);
  if (wanted == nullptr)
    return context.set_output(0, context.dtype(0), unknown_shape(pooled.rank()));
  const Shape out = shape_from(context, wanted->to_ints());
  bool fits = out.rank() == pooled.rank();
  for (int i = 0; fits && i < out.rank(); ++i) {
    fits = i < 2 ? !known(pooled[i]) || out[i] == pooled[i] : out[i] >= pooled[i];
  }
  if (!fits) {
    context.invalid(
        fmt::format("output_shape {} where {} was pooled", out.to_string(), pooled.to_string()));
  }
  context.set_output(0, context.dtype(0), out);
}

// Indices count in the shape that was pooled; a larger output_shape adds zeros behind it.
Kernel prepare_max_unpool(const NodeContext& context) {
  if (context.has_input(2) && context.constant(2) == nullptr) return prepare_at_run(context);
  const Shape pooled = pooled_from(context);
  const Shape out = context.output_types[0].shape;
  if (!(context.shape(1) == context.shape(0)))
    context.invalid("as many indices as elements belong");
  if (context.dtype(1) != DType::int64) context.invalid("indices are not int64");
  const Shape strides = strides_of(out);
  return dispatch_size(context, context.dtype(0), [&](auto tag) -> Kernel {
    using T = decltype(tag);
    return {"", [=, count = context.shape(0).count(), limit = pooled.count(),
                 where = label(context)](const KernelArgs& args) {
              const T* x = static_cast<const T*>(args.inputs[0].data);
              const auto* indices = static_cast<const int64_t*>(args.inputs[1].data);
              T* y = static_cast<T*>(args.outputs[0].data);
              std::memset(static_cast<void*>(y), 0, static_cast<size_t>(out.count()) * sizeof(T));
              for (int64_t i = 0; i < count; ++i) {
                int64_t rest = indices[i];
                if (rest < 0 || rest >= limit) {
                  fail(ErrorCode::invalid_model, "{}: index {} is outside {} elements", where, rest,
                       limit);
                }
                int64_t at = 0;
                for (int d = pooled.rank() - 1; d >= 0; --d) {
                  at += rest % pooled[d] * strides[d];
                  rest /= pooled[d];
                }
                y[at] = x[i];
              }
            }};
  });
}

// --- Col2Im --------------------------------------------------------------------------------------

struct Columns {
  std::vector<int64_t> image, block, blocks;  // sizes, one a spatial dimension
  std::vector<int64_t> strides, dilations, pads;
  int64_t image_size = 1, block_size = 1, block_count = 1;
};

std::vector<int64_t> sizes_of(const NodeContext& context, int i) {
  const std::vector<int64_t> values = context.constant(i)->to_ints();
  for (const int64_t value : values) {
    if (value < 1 || value > kLimit) {
      context.invalid(fmt::format("input {} holds {}", i, value));
    }
  }
  return values;
}

int64_t product_of(const NodeContext& context, const std::vector<int64_t>& sizes) {
  int64_t product = 1;
  for (const int64_t size : sizes) {
    if (__builtin_mul_overflow(product, size, &product)) context.invalid("sizes overflow");
  }
  return product;
}

Columns columns_of(const NodeContext& context) {
  Columns columns;
  columns.image = sizes_of(context, 1);
  columns.block = sizes_of(context, 2);
  const size_t spatial = columns.image.size();
  if (spatial == 0 || columns.block.size() != spatial || spatial + 2 > kMaxRank) {
    context.invalid(
        fmt::format("an image of {} and blocks of {} dimensions", spatial, columns.block.size()));
  }
  columns.strides = steps_of(context, "strides", spatial, 1, 1);
  columns.dilations = steps_of(context, "dilations", spatial, 1, 1);
  columns.pads = steps_of(context, "pads", 2 * spatial, 0, 0);
  for (size_t d = 0; d < spatial; ++d) {
    const int64_t room = columns.image[d] + columns.pads[d] + columns.pads[spatial + d] -
                         columns.dilations[d] * (columns.block[d] - 1) - 1;
    if (room < 0) context.invalid("a block is larger than the padded image");
    columns.blocks.push_back(room / columns.strides[d] + 1);
  }
  columns.image_size = product_of(context, columns.image);
  columns.block_size = product_of(context, columns.block);
  columns.block_count = product_of(context, columns.blocks);
  return columns;
}

void infer_col2im(NodeContext& context) {
  require_inputs(context, 3, 3);
  if (!context.in(0).has_shape) return context.set_output(0, context.dtype(0));
  const Shape& x = context.shape(0);
  if (x.rank() != 3) context.invalid(fmt::format("the input has shape {}", x.to_string()));
  if (context.constant(1) == nullptr || context.constant(2) == nullptr) {
    return context.set_output(0, context.dtype(0));
  }
  const Columns columns = columns_of(context);
  if ((known(x[1]) && x[1] % columns.block_size != 0) ||
      (known(x[2]) && x[2] != columns.block_count)) {
    context.invalid(fmt::format("{} blocks of {} elements for an input of shape {}",
                                columns.block_count, columns.block_size, x.to_string()));
  }
  Shape out{x[0], known(x[1]) ? x[1] / columns.block_size : kUnknownDim};
  for (const int64_t size : columns.image) out.push_back(size);
  context.set_output(0, context.dtype(0), out);
}

// Calls visit(column, element of the image) for what of tap `tap` is inside of the image.
template <class Visit>
void for_each_inside(const Columns& columns, int64_t tap, Visit&& visit) {
  const size_t spatial = columns.image.size();
  std::array<int64_t, kMaxRank> offset{};
  for (size_t d = spatial; d-- > 0;) {
    offset[d] = tap % columns.block[d] * columns.dilations[d] - columns.pads[d];
    tap /= columns.block[d];
  }
  for (int64_t column = 0; column < columns.block_count; ++column) {
    int64_t rest = column, at = 0, scale = 1;
    bool inside = true;
    for (size_t d = spatial; d-- > 0;) {
      const int64_t i = rest % columns.blocks[d] * columns.strides[d] + offset[d];
      rest /= columns.blocks[d];
      inside = i >= 0 && i < columns.image[d];
      if (!inside) break;
      at += i * scale;
      scale *= columns.image[d];
    }
    if (inside) visit(column, at);
  }
}

Kernel prepare_col2im(const NodeContext& context) {
  if (context.constant(1) == nullptr || context.constant(2) == nullptr) {
    return prepare_at_run(context);
  }
  const Columns columns = columns_of(context);
  const int64_t images = context.output_types[0].shape.count(0, 2);
  return dispatch(NumericTypes(), context, context.dtype(0), [&](auto tag) -> Kernel {
    using T = decltype(tag);
    return {"", [columns, images](const KernelArgs& args) {
              const T* x = static_cast<const T*>(args.inputs[0].data);
              T* y = static_cast<T*>(args.outputs[0].data);
              parallel_for(0, images, 1, [&](int64_t begin, int64_t end) {
                for (int64_t n = begin; n < end; ++n) {
                  T* image = y + n * columns.image_size;
                  std::fill_n(image, columns.image_size, T(0));
                  for (int64_t tap = 0; tap < columns.block_size; ++tap) {
                    const T* row = x + (n * columns.block_size + tap) * columns.block_count;
                    for_each_inside(columns, tap, [&](int64_t column, int64_t at) {
                      image[at] = wrapping(image[at], row[column], std::plus<>());
                    });
                  }
                }
              });
            }};
  });
}

constexpr OpDef kRows[] = {
    moving_row("MaxUnpool", 9, infer_max_unpool, prepare_max_unpool),
    row("Col2Im", 18, infer_col2im, prepare_col2im),
};

}  // namespace

constinit const std::span<const OpDef> kUnpoolOps = kRows;

}  // namespace compress
