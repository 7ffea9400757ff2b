// GridSample: values of an image at coordinates that another tensor holds.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "compress/ops/special_families.h"
#include "compress/ops/support.h"

namespace compress {
namespace {

using namespace ops;

enum class Mode { nearest, linear, cubic };
enum class Padding { zeros, border, reflection };

struct GridSpec {
  Mode mode;
  Padding padding;
  bool align_corners;
  size_t spatial;             // dimensions of the image
  std::array<int64_t, 3> in;  // their sizes
  int64_t batch, channels;
  int64_t plane;   // elements of a channel of the input
  int64_t points;  // of a channel of the output
};

// --- Attributes and shapes -----------------------------------------------------------------------

Mode mode_of(const NodeContext& context) {
  // The names of opset 16 and those since 20.
  const std::string name = context.node().string_or("mode", "linear");
  if (name == "nearest") return Mode::nearest;
  if (name == "linear" || name == "bilinear") return Mode::linear;
  if (name == "cubic" || name == "bicubic") return Mode::cubic;
  context.invalid(fmt::format("mode '{}'", printable(name)));
}

Padding padding_of(const NodeContext& context) {
  const std::string name = context.node().string_or("padding_mode", "zeros");
  if (name == "zeros") return Padding::zeros;
  if (name == "border") return Padding::border;
  if (name == "reflection") return Padding::reflection;
  context.invalid(fmt::format("padding_mode '{}'", printable(name)));
}

void infer_grid_sample(NodeContext& context) {
  require_inputs(context, 2, 2);
  if (!all_shapes_known(context)) return context.set_output(0, context.dtype(0));
  const Shape& x = context.shape(0);
  const Shape& grid = context.shape(1);
  if (x.rank() < 3 || grid.rank() != x.rank()) {
    context.invalid(fmt::format("a grid of shape {} over an input of shape {}", grid.to_string(),
                                x.to_string()));
  }
  Shape out{x[0], x[1]};
  for (int i = 1; i + 1 < grid.rank(); ++i) out.push_back(grid[i]);
  context.set_output(0, context.dtype(0), out);
}

GridSpec spec_of(const NodeContext& context) {
  const Shape& x = context.shape(0);
  const Shape& grid = context.shape(1);
  const int spatial = x.rank() - 2;
  if (spatial > 3) context.unsupported(fmt::format("{} spatial dimensions", spatial));
  if (grid[0] != x[0] || grid[grid.rank() - 1] != spatial) {
    context.invalid(fmt::format("a grid of shape {} over an input of shape {}", grid.to_string(),
                                x.to_string()));
  }
  GridSpec spec{mode_of(context),
                padding_of(context),
                context.node().int_or("align_corners", 0) != 0,
                static_cast<size_t>(spatial),
                {},
                x[0],
                x[1],
                x.count(2, x.rank()),
                grid.count(1, grid.rank() - 1)};
  for (size_t d = 0; d < spec.spatial; ++d) {
    spec.in[d] = x[static_cast<int>(d) + 2];
    // Indices are computed as float: exact up to 2^24, and never beyond the range of int64.
    if (spec.in[d] > (int64_t{1} << 40)) context.invalid("a spatial dimension is too large");
  }
  if (spec.plane == 0 && spec.batch * spec.channels * spec.points > 0) {
    context.invalid("samples of an empty image");
  }
  return spec;
}

// --- Coordinates ---------------------------------------------------------------------------------

// The coordinate folded back and forth between the borders.
template <class Real>
Real reflect(Real x, Real low, Real high) {
  const Real range = high - low;
  if (!(range > 0)) return low;
  if (x >= low && x <= high) return x;
  const Real distance = x < low ? low - x : x - high;
  const Real turns = std::floor(distance / range);
  const Real rest = distance - turns * range;
  const bool odd = std::fmod(turns, Real(2)) != 0;
  return (x < low) == !odd ? low + rest : high - rest;
}

// What one dimension adds to a sample: up to four elements with their weights.
template <class Real>
struct Taps {
  int count = 0;
  std::array<int64_t, 4> index{};  // -1: outside, reads 0
  std::array<Real, 4> weight{};
};

template <class Real>
int64_t tap_index(const GridSpec& spec, size_t d, int64_t at) {
  const int64_t size = spec.in[d];
  if (at >= 0 && at < size) return at;
  if (spec.padding == Padding::zeros) return -1;
  if (spec.padding == Padding::border) return std::clamp<int64_t>(at, 0, size - 1);
  const Real edge = spec.align_corners ? Real(0) : Real(0.5);
  const Real folded = reflect(static_cast<Real>(at), -edge, static_cast<Real>(size - 1) + edge);
  return std::clamp<int64_t>(static_cast<int64_t>(folded), 0, size - 1);
}

// Keys' cubic convolution with a = -0.75, for the taps at -1, 0, 1, 2 around a fraction.
template <class Real>
std::array<Real, 4> cubic_weights(Real x) {
  constexpr Real a = Real(-0.75);
  const auto near = [](Real t) { return ((a + 2) * t - (a + 3)) * t * t + 1; };
  const auto far = [](Real t) { return ((a * t - 5 * a) * t + 8 * a) * t - 4 * a; };
  return {far(x + 1), near(x), near(1 - x), far(2 - x)};
}

template <class Real>
Taps<Real> taps_of(const GridSpec& spec, size_t d, Real normal) {
  const Real size = static_cast<Real>(spec.in[d]);
  const Real low = spec.align_corners ? Real(0) : Real(-0.5);
  const Real high = spec.align_corners ? size - 1 : size - Real(0.5);
  Real x = spec.align_corners ? (normal + 1) / 2 * (size - 1) : ((normal + 1) * size - 1) / 2;
  if (spec.mode == Mode::nearest) x = std::nearbyint(x);  // ties to even
  if (x < low || x > high) {
    // Taps of a cubic go over the border one by one, as PyTorch and ONNX Runtime have it (ONNX's
    // reference moves the whole sample); three pixels outside, all of them read the border.
    const Real margin = spec.mode == Mode::cubic ? Real(3) : Real(0);
    if (spec.padding == Padding::border) x = std::clamp(x, -margin, size - 1 + margin);
    if (spec.padding == Padding::reflection) x = reflect(x, low, high);
  }
  Taps<Real> taps;
  // NaN, infinity, and what is so far outside that no tap is inside: 0.
  if (!(x > -4 && x < size + 4)) return taps;
  if (spec.mode == Mode::nearest) {
    taps.count = 1;
    taps.index[0] = tap_index<Real>(spec, d, static_cast<int64_t>(x));
    taps.weight[0] = 1;
    return taps;
  }
  const Real below = std::floor(x);
  const Real fraction = x - below;
  const auto first = static_cast<int64_t>(below);
  if (spec.mode == Mode::linear) {
    taps.count = 2;
    taps.weight = {1 - fraction, fraction};
    for (size_t k = 0; k < 2; ++k) {
      taps.index[k] = tap_index<Real>(spec, d, first + static_cast<int64_t>(k));
    }
  } else {
    taps.count = 4;
    taps.weight = cubic_weights(fraction);
    for (size_t k = 0; k < 4; ++k) {
      taps.index[k] = tap_index<Real>(spec, d, first - 1 + static_cast<int64_t>(k));
    }
  }
  return taps;
}

// --- Samples -------------------------------------------------------------------------------------

// The elements of a channel that a point reads: at most 4 * 4 * 4.
template <class Real>
struct Reads {
  int count = 0;
  std::array<int64_t, 64> offset;
  std::array<Real, 64> weight;
};

template <class Real>
void join_taps(const GridSpec& spec, const Real* point, Reads<Real>& reads) {
  std::array<Taps<Real>, 3> taps;
  for (size_t d = 0; d < 3; ++d) {
    const size_t own = d + spec.spatial;  // the last dimensions are the image's
    if (own < 3) {
      taps[d].count = 1;
      taps[d].weight[0] = 1;
    } else {
      // The grid's last axis counts from the last dimension of the image: x, y, z.
      taps[d] = taps_of(spec, own - 3, point[3 - 1 - d]);
    }
  }
  const auto size = [&](size_t d) {
    return d + spec.spatial < 3 ? 1 : spec.in[d + spec.spatial - 3];
  };
  reads.count = 0;
  for (size_t i = 0; i < static_cast<size_t>(taps[0].count); ++i) {
    for (size_t j = 0; j < static_cast<size_t>(taps[1].count); ++j) {
      for (size_t k = 0; k < static_cast<size_t>(taps[2].count); ++k) {
        if (taps[0].index[i] < 0 || taps[1].index[j] < 0 || taps[2].index[k] < 0) continue;
        const auto n = static_cast<size_t>(reads.count++);
        reads.offset[n] =
            (taps[0].index[i] * size(1) + taps[1].index[j]) * size(2) + taps[2].index[k];
        reads.weight[n] = taps[0].weight[i] * taps[1].weight[j] * taps[2].weight[k];
      }
    }
  }
}

template <class T, class Real>
T stored(Real value) {
  if constexpr (std::is_floating_point_v<T>) {
    return static_cast<T>(value);
  } else {
    using Limits = std::numeric_limits<T>;
    if (!(value > static_cast<Real>(Limits::min()))) return value == value ? Limits::min() : T(0);
    return value >= static_cast<Real>(Limits::max()) ? Limits::max() : static_cast<T>(value);
  }
}

template <class T, class Real>
void sample(const GridSpec& spec, const Reads<Real>& reads, const T* image, T* out) {
  if (spec.mode == Mode::nearest) {  // exact for 64-bit integers
    *out = reads.count == 0 ? T(0) : image[reads.offset[0]];
    return;
  }
  using Sum = std::conditional_t<std::is_same_v<T, double>, double, Real>;
  Sum sum = 0;
  for (size_t n = 0; n < static_cast<size_t>(reads.count); ++n) {
    sum += static_cast<Sum>(reads.weight[n]) * static_cast<Sum>(image[reads.offset[n]]);
  }
  *out = stored<T>(sum);
}

Kernel prepare_grid_sample(const NodeContext& context) {
  const GridSpec spec = spec_of(context);
  return dispatch(FloatTypes(), context, context.dtype(1), [&](auto grid_tag) {
    using Real = decltype(grid_tag);
    return dispatch(NumericTypes(), context, context.dtype(0), [&](auto tag) -> Kernel {
      using T = decltype(tag);
      return {"", [spec](const KernelArgs& args) {
                const T* x = static_cast<const T*>(args.inputs[0].data);
                const auto* grid = static_cast<const Real*>(args.inputs[1].data);
                T* y = static_cast<T*>(args.outputs[0].data);
                const auto width = static_cast<int64_t>(spec.spatial);
                parallel_for(0, spec.batch * spec.points, 64, [&](int64_t begin, int64_t end) {
                  Reads<Real> reads;
                  for (int64_t i = begin; i < end; ++i) {
                    const int64_t n = i / spec.points, p = i % spec.points;
                    join_taps(spec, grid + i * width, reads);
                    for (int64_t c = n * spec.channels; c < (n + 1) * spec.channels; ++c) {
                      sample(spec, reads, x + c * spec.plane, y + c * spec.points + p);
                    }
                  }
                });
              }};
    });
  });
}

constexpr OpDef kRows[] = {
    row("GridSample", 16, infer_grid_sample, prepare_grid_sample),
};

}  // namespace

constinit const std::span<const OpDef> kGridSampleOps = kRows;

}  // namespace compress
