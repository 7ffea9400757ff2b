// Resize and Upsample. Nearest picks by one index table a dimension; linear and cubic are
// separable: each dimension is a pass of weighted sums, whose taps are made once, when the node is
// prepared.
#include <algorithm>
#include <cmath>

#include "compress/ops/families.h"
#include "compress/ops/gradient_families.h"
#include "compress/ops/support.h"
#include "compress/ops/typed.h"

namespace compress {
namespace {

using namespace ops;

// --- What is asked for ---------------------------------------------------------------------------

struct ResizeSpec {
  Shape out;
  std::vector<float> scales;  // one a dimension of the input
  std::vector<float> roi_begin, roi_end;
};

std::vector<float> floats_of(const Tensor& tensor) {
  std::vector<float> values;
  for (const double x : tensor.to_doubles()) values.push_back(static_cast<float>(x));
  return values;
}

// Slots of the operands in each version: Upsample has scales alone, as Resize at opset 10 does.
struct Slots {
  int roi = -1, scales = 1, sizes = -1;
};
Slots slots_of(const NodeContext& context) {
  if (context.node().op_type == "Upsample" || context.opset() < 11) return {};
  return {1, 2, 3};
}

// An optional operand: omitted and empty mean the same.
struct Operand {
  bool missing = false;  // given, but its content is not known yet
  const Tensor* tensor = nullptr;
};
Operand operand(const NodeContext& context, int i) {
  if (i < 0 || !context.has_input(i)) return {};
  const TypeInfo& type = context.in(i);
  if (type.is_concrete() && type.shape.count() == 0) return {};
  const Tensor* tensor = context.constant(i);
  return {tensor == nullptr, tensor != nullptr && tensor->count() > 0 ? tensor : nullptr};
}

int64_t output_size(const NodeContext& context, float exact) {
  if (!(exact >= 0 && exact < 1e9f)) context.invalid("a scale is negative or too large");
  return static_cast<int64_t>(exact);
}

void apply_sizes(const NodeContext& context, const std::vector<int>& axes, const Tensor& tensor,
                 ResizeSpec& spec) {
  const Shape& in = context.shape(0);
  const std::vector<int64_t> sizes = tensor.to_ints();
  if (sizes.size() != axes.size()) context.invalid("sizes does not fit the input's rank");
  const std::string policy = context.node().string_or("keep_aspect_ratio_policy", "stretch");
  std::optional<float> common;
  for (size_t i = 0; i < axes.size(); ++i) {
    const int64_t dim = in[axes[i]];
    if (sizes[i] < 0 || dim == 0) context.invalid("a size is negative, or the input empty");
    const float scale = static_cast<float>(sizes[i]) / static_cast<float>(dim);
    spec.out[axes[i]] = sizes[i];
    spec.scales[static_cast<size_t>(axes[i])] = scale;
    if (!common) common = scale;
    common = policy == "not_larger" ? std::min(*common, scale) : std::max(*common, scale);
  }
  if (policy == "stretch") return;
  for (const int axis : axes) {
    spec.scales[static_cast<size_t>(axis)] = *common;
    spec.out[axis] =
        output_size(context, std::floor(*common * static_cast<float>(in[axis]) + 0.5f));
  }
}

void apply_scales(const NodeContext& context, const std::vector<int>& axes,
                  const std::vector<float>& scales, ResizeSpec& spec) {
  const bool crops =
      context.node().string_or("coordinate_transformation_mode", "") == "tf_crop_and_resize";
  if (scales.size() != axes.size()) context.invalid("scales does not fit the input's rank");
  for (size_t i = 0; i < axes.size(); ++i) {
    const auto axis = static_cast<size_t>(axes[i]);
    if (!(scales[i] > 0)) context.invalid("a scale is not positive");
    const float part = crops ? spec.roi_end[axis] - spec.roi_begin[axis] : 1;
    const float exact = static_cast<float>(context.shape(0)[axes[i]]) * part * scales[i];
    spec.out[axes[i]] = output_size(context, std::floor(exact));
    spec.scales[axis] = scales[i];
  }
}

// nullopt where an operand or the shape is not known yet.
std::optional<ResizeSpec> spec_of(const NodeContext& context) {
  const Slots slots = slots_of(context);
  const Operand scales = operand(context, slots.scales), sizes = operand(context, slots.sizes);
  const Operand roi = operand(context, slots.roi);
  if (scales.missing || sizes.missing || roi.missing || !context.in(0).is_concrete()) {
    return std::nullopt;
  }
  const int rank = context.shape(0).rank();
  const auto dims = static_cast<size_t>(rank);
  std::vector<int64_t> all;
  for (int i = 0; i < rank; ++i) all.push_back(i);
  const std::vector<int> axes = axes_of(context, context.node().ints_or("axes", all), rank);
  ResizeSpec spec{context.shape(0), std::vector<float>(dims, 1), std::vector<float>(dims, 0),
                  std::vector<float>(dims, 1)};
  if (roi.tensor != nullptr) {
    const std::vector<float> box = floats_of(*roi.tensor);
    if (box.size() != 2 * axes.size()) context.invalid("roi does not fit the input's rank");
    for (size_t i = 0; i < axes.size(); ++i) {
      spec.roi_begin[static_cast<size_t>(axes[i])] = box[i];
      spec.roi_end[static_cast<size_t>(axes[i])] = box[i + axes.size()];
    }
  }
  if (sizes.tensor != nullptr) {
    apply_sizes(context, axes, *sizes.tensor, spec);
  } else if (scales.tensor != nullptr) {
    apply_scales(context, axes, floats_of(*scales.tensor), spec);
  } else if (context.node().attribute("scales") != nullptr) {
    apply_scales(context, axes, context.node().floats_or("scales", {}), spec);
  } else {
    context.invalid("neither scales nor sizes are given");
  }
  return spec;
}

void infer_resize(NodeContext& context) {
  require_inputs(context, 1, 4);
  const TypeInfo& in = context.in(0);
  if (!in.has_shape) return context.set_output(0, in.dtype);
  if (const auto spec = spec_of(context)) return context.set_output(0, in.dtype, spec->out);
  context.set_output(0, in.dtype, unknown_shape(in.shape.rank()));
}

// --- Where an output lies in the input -----------------------------------------------------------

// In float32, as ONNX Runtime computes it, so that "nearest" falls on the same side.
std::vector<float> positions(const NodeContext& context, const ResizeSpec& spec, int d) {
  const bool old = slots_of(context).sizes < 0;
  const std::string mode =
      context.node().string_or("coordinate_transformation_mode", old ? "asymmetric" : "half_pixel");
  const auto axis = static_cast<size_t>(d);
  const auto in = static_cast<float>(context.shape(0)[d]);
  const auto out = static_cast<float>(spec.out[d]);
  const float scale = spec.scales[axis], begin = spec.roi_begin[axis], end = spec.roi_end[axis];
  std::vector<float> at;
  for (int64_t i = 0; i < spec.out[d]; ++i) {
    const auto x = static_cast<float>(i);
    if (mode == "half_pixel") {
      at.push_back((x + 0.5f) / scale - 0.5f);
    } else if (mode == "half_pixel_symmetric") {
      const float adjustment = out / (scale * in);
      at.push_back(in / 2 * (1 - adjustment) + (x + 0.5f) / scale - 0.5f);
    } else if (mode == "pytorch_half_pixel") {
      at.push_back(out > 1 ? (x + 0.5f) / scale - 0.5f : 0);
    } else if (mode == "align_corners") {
      at.push_back(out > 1 ? x * (in - 1) / (out - 1) : 0);
    } else if (mode == "asymmetric") {
      at.push_back(x / scale);
    } else if (mode == "tf_half_pixel_for_nn") {
      at.push_back((x + 0.5f) / scale);
    } else if (mode == "tf_crop_and_resize") {
      at.push_back(out > 1 ? begin * (in - 1) + x * (end - begin) * (in - 1) / (out - 1)
                           : 0.5f * (begin + end) * (in - 1));
    } else {
      context.invalid(fmt::format("coordinate_transformation_mode '{}'", printable(mode)));
    }
  }
  return at;
}

// Outputs that take extrapolation_value: positions outside, in the mode that crops.
struct Outside {
  bool any = false;
  float value = 0;
  std::vector<std::vector<bool>> flags;  // one a dimension

  template <class T>
  void fill(const Shape& out, T* to) const {
    if (!any) return;
    for (int64_t i = 0; i < out.count(); ++i) {
      int64_t rest = i;
      bool outside = false;
      for (int d = out.rank() - 1; d >= 0; --d) {
        outside |= flags[static_cast<size_t>(d)][static_cast<size_t>(rest % out[d])];
        rest /= out[d];
      }
      if (outside) to[i] = static_cast<T>(value);
    }
  }
};

Outside outside_of(const NodeContext& context, const ResizeSpec& spec) {
  Outside outside;
  outside.value = context.node().float_or("extrapolation_value", 0);
  if (context.node().string_or("coordinate_transformation_mode", "") != "tf_crop_and_resize") {
    return outside;
  }
  outside.any = true;
  for (int d = 0; d < spec.out.rank(); ++d) {
    std::vector<bool>& flags = outside.flags.emplace_back();
    const auto last = static_cast<float>(context.shape(0)[d] - 1);
    for (const float x : positions(context, spec, d)) flags.push_back(x < 0 || x > last);
  }
  return outside;
}

// --- Nearest -------------------------------------------------------------------------------------

int64_t nearest_index(const NodeContext& context, float x, float scale, const std::string& mode) {
  if (mode == "simple") return static_cast<int64_t>(scale < 1 ? std::ceil(x) : std::floor(x));
  if (mode == "round_prefer_floor") return static_cast<int64_t>(std::ceil(x - 0.5f));
  if (mode == "round_prefer_ceil") return static_cast<int64_t>(std::floor(x + 0.5f));
  if (mode == "floor") return static_cast<int64_t>(std::floor(x));
  if (mode == "ceil") return static_cast<int64_t>(std::ceil(x));
  context.invalid(fmt::format("nearest_mode '{}'", printable(mode)));
}

using ResizeTypes = Types<float, double, uint8_t, int8_t, int32_t, int64_t>;

Kernel prepare_nearest(const NodeContext& context, const ResizeSpec& spec) {
  const bool old = slots_of(context).sizes < 0;
  const std::string mode =
      old ? "simple" : context.node().string_or("nearest_mode", "round_prefer_floor");
  const Shape& in = context.shape(0);
  const Shape strides = strides_of(in);
  std::vector<std::vector<int64_t>> offsets;  // one a dimension
  for (int d = 0; d < in.rank(); ++d) {
    std::vector<int64_t>& table = offsets.emplace_back();
    const bool same = spec.scales[static_cast<size_t>(d)] == 1 && spec.out[d] == in[d] &&
                      spec.roi_begin[static_cast<size_t>(d)] == 0;
    int64_t i = 0;
    for (const float x : positions(context, spec, d)) {
      const int64_t at =
          same ? i : nearest_index(context, x, spec.scales[static_cast<size_t>(d)], mode);
      table.push_back(std::clamp<int64_t>(at, 0, in[d] - 1) * strides[d]);
      ++i;
    }
  }
  return dispatch(ResizeTypes(), context, context.dtype(0), [&](auto tag) -> Kernel {
    using T = decltype(tag);
    return {
        "", [out = spec.out, offsets, outside = outside_of(context, spec)](const KernelArgs& args) {
          const T* from = static_cast<const T*>(args.inputs[0].data);
          T* to = static_cast<T*>(args.outputs[0].data);
          const int last = out.rank() - 1;
          const std::vector<int64_t>& columns = offsets.back();
          const int64_t row = out[last];
          parallel_for(0, out.count(0, last), kGrain / row + 1, [&](int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; ++r) {
              int64_t offset = 0, rest = r;
              for (int d = last - 1; d >= 0; --d) {
                offset += offsets[static_cast<size_t>(d)][static_cast<size_t>(rest % out[d])];
                rest /= out[d];
              }
              for (int64_t i = 0; i < row; ++i) {
                to[r * row + i] = from[offset + columns[static_cast<size_t>(i)]];
              }
            }
          });
          outside.fill(out, to);
        }};
  });
}

// --- Linear and cubic ----------------------------------------------------------------------------

double cubic_filter(double x, double a) {  // Keys' convolution kernel
  x = std::fabs(x);
  if (x <= 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
  return 0;
}

// One dimension's weighted sums: output i takes `width` inputs from first[i] on.
struct Pass {
  int64_t outer = 0, in = 0, out = 0, inner = 0;
  int64_t width = 0;
  std::vector<int64_t> index;  // out * width, clamped to the input
  std::vector<float> weight;
};

Pass make_pass(const NodeContext& context, const ResizeSpec& spec, int d, bool cubic) {
  const Node& node = context.node();
  const double a = node.float_or("cubic_coeff_a", -0.75f);
  const bool excludes = node.int_or("exclude_outside", 0) != 0;
  const int64_t in = context.shape(0)[d];
  // Antialiasing widens the filter to cover all inputs that an output stands for.
  const double scale = node.int_or("antialias", 0) != 0
                           ? std::min(1.0, static_cast<double>(spec.scales[static_cast<size_t>(d)]))
                           : 1.0;
  const double support = (cubic ? 2 : 1) / scale;
  if (support > 1e6) context.unsupported("a scale below a millionth");
  Pass pass;
  pass.in = in;
  pass.out = spec.out[d];
  pass.width = static_cast<int64_t>(std::ceil(2 * support)) + 1;
  for (const float position : positions(context, spec, d)) {
    const double x = position;
    const auto first = static_cast<int64_t>(std::ceil(x - support));
    std::vector<double> weights;
    double sum = 0;
    for (int64_t k = 0; k < pass.width; ++k) {
      const double distance = (static_cast<double>(first + k) - x) * scale;
      const bool inside = first + k >= 0 && first + k < in;
      double w = cubic ? cubic_filter(distance, a) : std::max(0.0, 1 - std::fabs(distance));
      if (excludes && !inside) w = 0;
      weights.push_back(w);
      sum += w;
    }
    for (int64_t k = 0; k < pass.width; ++k) {
      pass.index.push_back(std::clamp<int64_t>(first + k, 0, in - 1));
      pass.weight.push_back(static_cast<float>(weights[static_cast<size_t>(k)] / sum));
    }
  }
  return pass;
}

template <class From, class To, class Sum>
void run_pass(const Pass& pass, const From* in, To* out) {
  parallel_for(0, pass.outer * pass.out, kGrain / (pass.inner * pass.width) + 1,
               [&](int64_t begin, int64_t end) {
                 constexpr int64_t kBlock = 64;
                 std::array<Sum, kBlock> sums;
                 for (int64_t r = begin; r < end; ++r) {
                   const From* base = in + r / pass.out * pass.in * pass.inner;
                   const auto taps = static_cast<size_t>(r % pass.out * pass.width);
                   for (int64_t first = 0; first < pass.inner; first += kBlock) {
                     const int64_t n = std::min(kBlock, pass.inner - first);
                     std::fill_n(sums.begin(), n, Sum(0));
                     for (size_t k = 0; k < static_cast<size_t>(pass.width); ++k) {
                       const Sum weight = static_cast<Sum>(pass.weight[taps + k]);
                       if (weight == 0) continue;
                       const From* row = base + pass.index[taps + k] * pass.inner + first;
                       for (int64_t i = 0; i < n; ++i) {
                         sums[static_cast<size_t>(i)] += weight * static_cast<Sum>(row[i]);
                       }
                     }
                     To* to = out + r * pass.inner + first;
                     for (int64_t i = 0; i < n; ++i)
                       to[i] = static_cast<To>(sums[static_cast<size_t>(i)]);
                   }
                 }
               });
}

// Sums that leave an integer type's range (cubic overshoots) saturate.
template <class T>
void store(const float* from, T* to, int64_t count) {
  using Limits = std::numeric_limits<T>;
  for (int64_t i = 0; i < count; ++i) {
    to[i] = static_cast<T>(std::clamp<double>(from[i], static_cast<double>(Limits::min()),
                                              static_cast<double>(Limits::max())));
  }
}

template <class T>
Kernel passes_kernel(const NodeContext& context, const ResizeSpec& spec, std::vector<Pass> passes) {
  using Sum = std::conditional_t<std::is_same_v<T, double>, double, float>;
  int64_t largest = context.shape(0).count();
  for (const Pass& pass : passes) largest = std::max(largest, pass.outer * pass.out * pass.inner);
  const size_t buffer = (static_cast<size_t>(largest) * sizeof(Sum) + 63) / 64 * 64;
  const int64_t in_count = context.shape(0).count(), out_count = spec.out.count();
  return {"",
          [=, passes = std::move(passes), out = spec.out,
           outside = outside_of(context, spec)](const KernelArgs& args) {
            const T* from = static_cast<const T*>(args.inputs[0].data);
            T* to = static_cast<T*>(args.outputs[0].data);
            // Passes alternate between two buffers.
            auto* here = reinterpret_cast<Sum*>(args.workspace);
            auto* there = reinterpret_cast<Sum*>(args.workspace + buffer);
            if (out_count == 0) return;
            std::copy_n(from, in_count, here);
            for (const Pass& pass : passes) {
              run_pass<Sum, Sum, Sum>(pass, here, there);
              std::swap(here, there);
            }
            if constexpr (std::is_integral_v<T>) {
              store(here, to, out_count);
            } else {
              std::copy_n(here, out_count, to);
            }
            outside.fill(out, to);
          },
          2 * buffer};
}

std::vector<Pass> passes_of(const NodeContext& context, const ResizeSpec& spec, bool cubic) {
  Shape shape = context.shape(0);
  std::vector<Pass> passes;
  for (int d = 0; d < shape.rank(); ++d) {
    const auto axis = static_cast<size_t>(d);
    if (spec.out[d] == shape[d] && spec.scales[axis] == 1 && spec.roi_begin[axis] == 0) continue;
    Pass pass = make_pass(context, spec, d, cubic);
    pass.outer = shape.count(0, d);
    pass.inner = shape.count(d + 1, shape.rank());
    shape[d] = spec.out[d];
    passes.push_back(std::move(pass));
  }
  return passes;
}

Kernel prepare_filtered(const NodeContext& context, const ResizeSpec& spec, bool cubic) {
  const std::vector<Pass> passes = passes_of(context, spec, cubic);
  return dispatch(ResizeTypes(), context, context.dtype(0),
                  [&](auto tag) { return passes_kernel<decltype(tag)>(context, spec, passes); });
}

Kernel prepare_resize(const NodeContext& context) {
  const auto spec = spec_of(context);
  if (!spec) return prepare_at_run(context);
  const std::string mode = context.node().string_or("mode", "nearest");
  if (context.shape(0).rank() == 0) return copy_all_kernel(context);
  if (spec->out.count() > 0 && context.shape(0).count() == 0) context.invalid("resizes nothing");
  if (spec->out.count() == 0) return {"", [](const KernelArgs&) {}};
  if (mode == "nearest") return prepare_nearest(context, *spec);
  if (mode == "linear" || mode == "bilinear") return prepare_filtered(context, *spec, false);
  if (mode == "cubic") return prepare_filtered(context, *spec, true);
  context.invalid(fmt::format("mode '{}'", printable(mode)));
}

// --- The gradient of linear and cubic: the same passes in reverse order, each the other way
// --------

template <class T>
void run_back(const Pass& pass, const T* dy, T* dx) {
  parallel_for(0, pass.outer, 1, [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      T* to = dx + o * pass.in * pass.inner;
      std::fill_n(to, pass.in * pass.inner, T{0});
      const T* from = dy + o * pass.out * pass.inner;
      for (size_t tap = 0; tap < pass.index.size(); ++tap) {
        const T weight = static_cast<T>(pass.weight[tap]);
        if (weight == 0) continue;
        const T* row = from + static_cast<int64_t>(tap) / pass.width * pass.inner;
        T* sum = to + pass.index[tap] * pass.inner;
        for (int64_t i = 0; i < pass.inner; ++i) sum[i] += weight * row[i];
      }
    }
  });
}

Kernel prepare_gradient(const NodeContext& c) {
  // The operator, as it was prepared.
  Node node;
  node.name = c.node().name;
  node.op_type = c.node().string_or("of", "");
  node.attributes = c.node().attributes;
  NodeContext forward(node, static_cast<int>(c.node().int_or("of_opset", 1)));
  const auto operand = [&](const TypeInfo& type, const Tensor* constant, bool given) {
    node.inputs.push_back(given ? static_cast<ValueId>(node.inputs.size()) : kNoValue);
    forward.input_types.push_back(type);
    forward.constants.push_back(constant);
  };
  operand(c.output_types[0], nullptr, true);
  for (int i = 2; i < c.input_count(); ++i) {
    operand(c.has_input(i) ? c.in(i) : TypeInfo(), c.constant(i), c.has_input(i));
  }
  const auto spec = spec_of(forward);
  if (!spec || !(spec->out == c.shape(0))) c.invalid("a gradient of another shape");
  std::vector<Pass> passes = passes_of(forward, *spec, node.string_or("mode", "") == "cubic");
  const int64_t count = c.output_types[0].shape.count();
  int64_t largest = std::max(count, spec->out.count());
  for (const Pass& pass : passes) {
    largest = std::max(largest, pass.outer * pass.inner * std::max(pass.in, pass.out));
  }
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    const size_t buffer = (static_cast<size_t>(largest) * sizeof(T) + 63) / 64 * 64;
    return Kernel{"resize_gradient_ref",
                  [=, passes = passes](const KernelArgs& args) {
                    auto* here = reinterpret_cast<T*>(args.workspace);
                    auto* there = reinterpret_cast<T*>(args.workspace + buffer);
                    std::copy_n(args.inputs[0].as<const T>(), args.inputs[0].count(), here);
                    for (auto pass = passes.rbegin(); pass != passes.rend(); ++pass) {
                      run_back(*pass, here, there);
                      std::swap(here, there);
                    }
                    std::copy_n(here, count, args.outputs[0].as<T>());
                  },
                  2 * buffer};
  });
}

void infer_gradient(NodeContext& c) {
  infer_shape_operand(c, 1, c.in(0).has_shape ? c.shape(0).rank() : -1);
}

constexpr OpDef kGradientRows[] = {
    gradient_row("ResizeGradient", infer_gradient, prepare_gradient)};

constexpr OpDef resize_row(std::string_view name, int since) {
  OpDef resize = row(name, since, infer_resize, prepare_resize);
  resize.quant.shares_scale = true;
  return resize;
}

constexpr OpDef kRows[] = {
    resize_row("Upsample", 7),
    resize_row("Resize", 10),
};

}  // namespace

constinit const std::span<const OpDef> kResizeOps = kRows;

const std::span<const OpDef> kResizeGradients = kGradientRows;

}  // namespace compress
