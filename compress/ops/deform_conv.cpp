// DeformConv: a convolution whose taps read at learned offsets from the grid.
#include <algorithm>
#include <cmath>

#include "compress/ops/special_families.h"
#include "compress/ops/typed.h"
#include "compress/ops/window.h"

#include "compress/core/parallel.h"

namespace compress {
namespace {

struct DeformSpec {
  Window window;  // height and width are its dimensions 1 and 2
  int64_t batch, channels, features;
  int64_t groups, offset_groups;
  int64_t taps() const { return window.kernel[1] * window.kernel[2]; }
  int64_t plane() const { return window.in[1] * window.in[2]; }
  int64_t points() const { return window.out[1] * window.out[2]; }
};

Window window_of(const NodeContext& c) {
  const Shape& w = c.shape(1);
  const std::vector<int64_t> kernel{w[2], w[3]};
  const std::vector<int64_t> given = c.node().ints_or("kernel_shape", kernel);
  if (w.is_concrete() && given != kernel) c.invalid("kernel_shape is not that of the weights");
  return read_window(c, c.shape(0), kernel, false);
}

void infer_deform(NodeContext& c) {
  require_inputs(c, 3);
  if (!known_rank(c, 0, 4) || !known_rank(c, 1, 4)) return c.set_output(0, c.dtype(0));
  known_rank(c, 2, 4);
  c.set_output(0, c.dtype(0), window_output(window_of(c), c.shape(0)[0], c.shape(1)[0]));
}

DeformSpec read_deform(const NodeContext& c) {
  const Shape& x = c.shape(0);
  const Shape& w = c.shape(1);
  const DeformSpec spec{window_of(c),
                        x[0],
                        x[1],
                        w[0],
                        c.node().int_or("group", 1),
                        c.node().int_or("offset_group", 1)};
  const bool grouped = spec.groups >= 1 && spec.groups <= std::max<int64_t>(x[1], 1) &&
                       x[1] % spec.groups == 0 && w[0] % spec.groups == 0 &&
                       w[1] == x[1] / spec.groups;
  if (!grouped) {
    c.invalid(fmt::format("weights of shape {} in {} groups for an input of shape {}",
                          w.to_string(), spec.groups, x.to_string()));
  }
  const bool offset = spec.offset_groups >= 1 && spec.offset_groups <= std::max<int64_t>(x[1], 1) &&
                      x[1] % spec.offset_groups == 0;
  if (!offset) c.invalid(fmt::format("{} offset groups of {} channels", spec.offset_groups, x[1]));
  // Each factor is below 2^31 or a dimension of a tensor that is there.
  const Shape offsets{x[0], spec.offset_groups, spec.taps(),
                      2,    spec.window.out[1], spec.window.out[2]};
  require_shape(c, 2, {x[0], offsets.count(1, 4), offsets[4], offsets[5]});
  require_shape(c, 3, {w[0]});
  require_shape(c, 4, {x[0], offsets.count(1, 3), offsets[4], offsets[5]});
  for (int i = 1; i < c.input_count(); ++i) {
    if (c.has_input(i) && c.dtype(i) != c.dtype(0)) c.invalid("inputs differ in type");
  }
  return spec;
}

// Between the four pixels around (y, x); those outside of the image are 0.
template <class T>
T bilinear(const T* image, int64_t height, int64_t width, T y, T x) {
  if (!(y > -1 && y < static_cast<T>(height) && x > -1 && x < static_cast<T>(width))) return 0;
  const T top = std::floor(y), left = std::floor(x);
  const T fy = y - top, fx = x - left;
  const auto row = static_cast<int64_t>(top), column = static_cast<int64_t>(left);
  const auto pixel = [&](int64_t r, int64_t s) {
    return r < 0 || r >= height || s < 0 || s >= width ? T(0) : image[r * width + s];
  };
  return (1 - fy) * ((1 - fx) * pixel(row, column) + fx * pixel(row, column + 1)) +
         fy * ((1 - fx) * pixel(row + 1, column) + fx * pixel(row + 1, column + 1));
}

template <class T>
struct DeformInputs {
  const T *x, *weights, *offsets, *bias, *mask;
};

// What the taps of all channels read for point p of image n.
template <class T>
void gather_taps(const DeformSpec& spec, const DeformInputs<T>& in, int64_t n, int64_t p, T* taps) {
  const Window& w = spec.window;
  const int64_t count = spec.taps(), points = spec.points();
  const int64_t per_group = spec.channels / spec.offset_groups;
  const int64_t y0 = p / w.out[2] * w.stride[1], x0 = p % w.out[2] * w.stride[2];
  for (int64_t c = 0; c < spec.channels; ++c) {
    const T* image = in.x + (n * spec.channels + c) * spec.plane();
    const int64_t group = n * spec.offset_groups + c / per_group;
    for (int64_t k = 0; k < count; ++k) {
      const T* offset = in.offsets + (group * count + k) * 2 * points + p;
      const T y = static_cast<T>(y0 + w.offset(1, k / w.kernel[2])) + offset[0];
      const T x = static_cast<T>(x0 + w.offset(2, k % w.kernel[2])) + offset[points];
      T value = bilinear(image, w.in[1], w.in[2], y, x);
      if (in.mask != nullptr) value *= in.mask[(group * count + k) * points + p];
      taps[c * count + k] = value;
    }
  }
}

template <class T>
void run_deform(const DeformSpec& spec, const DeformInputs<T>& in, T* y) {
  const int64_t points = spec.points();
  const int64_t reads = spec.channels / spec.groups * spec.taps();
  const int64_t in_group = spec.features / spec.groups;
  parallel_for(0, spec.batch * points, 16, [&](int64_t begin, int64_t end) {
    std::vector<T> taps(static_cast<size_t>(spec.channels * spec.taps()));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / points, p = i % points;
      gather_taps(spec, in, n, p, taps.data());
      for (int64_t f = 0; f < spec.features; ++f) {
        const T* read = taps.data() + f / in_group * reads;
        const T* weight = in.weights + f * reads;
        T sum = in.bias != nullptr ? in.bias[f] : T(0);
        for (int64_t k = 0; k < reads; ++k) sum += weight[k] * read[k];
        y[(n * spec.features + f) * points + p] = sum;
      }
    }
  });
}

Kernel prepare_deform(const NodeContext& c) {
  const DeformSpec spec = read_deform(c);
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    return Kernel{"", [spec](const KernelArgs& args) {
                    const DeformInputs<T> in{args.inputs[0].as<const T>(),
                                             args.inputs[1].as<const T>(),
                                             args.inputs[2].as<const T>(), data_or_null<T>(args, 3),
                                             data_or_null<T>(args, 4)};
                    run_deform(spec, in, args.outputs[0].as<T>());
                  }};
  });
}

constexpr OpDef kRows[] = {
    {"", "DeformConv", 19, infer_deform, prepare_deform},
};

}  // namespace

const std::span<const OpDef> kDeformConvOps = kRows;

}  // namespace compress
