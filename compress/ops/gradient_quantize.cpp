// Straight-through gradients of fake quantization with a learned scale (LSQ, Esser et al. 2020):
//   y = s (clip(round(x / s) + z, lo, hi) - z);  q = x / s + z
//   dx = dy inside of the clip, else 0
//   ds = sum of dy (round(q) - q) inside, dy (lo - z) below, dy (hi - z) above
#include <algorithm>
#include <cmath>

#include "compress/ops/gradient_families.h"
#include "compress/ops/support.h"
#include "compress/ops/typed.h"

namespace compress {
namespace {

// The tensor seen as [outer, axis, inner]; `block` elements along the axis share a scale.
struct Scales {
  int64_t outer = 1, axis = 1, inner = 1, block = 1;
  int64_t count = 1;
  bool blocked = false;

  int64_t of(int64_t o, int64_t a, int64_t i) const {
    if (count == 1) return 0;
    return blocked ? (o * ((axis + block - 1) / block) + a / block) * inner + i : a;
  }
};

Scales read_scales(const NodeContext& c) {
  Scales scales;
  const Shape& x = c.shape(1);
  scales.count = c.shape(2).count();
  if (scales.count == 1) {
    scales.inner = x.count();
    return scales;
  }
  const int axis = ops::axis_of(c, c.node().int_or("axis", 1), x.rank());
  scales.outer = x.count(0, axis);
  scales.axis = x[axis];
  scales.inner = x.count(axis + 1, x.rank());
  scales.block = std::max<int64_t>(c.node().int_or("block_size", 0), 1);
  scales.blocked = c.node().int_or("block_size", 0) > 0;
  const int64_t expected = scales.blocked ? scales.outer * scales.inner *
                                                ((scales.axis + scales.block - 1) / scales.block)
                                          : scales.axis;
  if (scales.count != expected) c.invalid("scales that do not fit the shape");
  return scales;
}

// Gradients of one element: to x, and the part of its scale.
template <class T>
struct Element {
  T lo, hi;

  T operator()(T dy, T x, T scale, T zero, double& sum) const {
    const T q = x / scale + zero;
    const T rounded = std::nearbyint(q);
    const bool inside = rounded >= lo && rounded <= hi;
    const T slope = inside ? rounded - q : (rounded < lo ? lo : hi) - zero;
    sum += static_cast<double>(dy) * static_cast<double>(slope);
    return inside ? dy : T{0};
  }
};

// One scale for all: fixed parts of the tensor, each summed by one thread, are added in order.
constexpr int64_t kParts = 64;

template <class T>
void run_single(const KernelArgs& args, const Element<T>& element, double* sums) {
  const T* dy = args.inputs[0].as<const T>();
  const T* x = args.inputs[1].as<const T>();
  const T scale = *args.inputs[2].as<const T>();
  const T* zero = data_or_null<T>(args, 3);
  T* dx = args.outputs[0].as<T>();
  const int64_t count = args.inputs[1].count();
  const int64_t part = (count + kParts - 1) / kParts;
  parallel_for(0, kParts, 1, [&](int64_t from, int64_t to) {
    for (int64_t p = from; p < to; ++p) {
      double sum = 0;
      for (int64_t i = p * part; i < std::min((p + 1) * part, count); ++i) {
        dx[i] = element(dy[i], x[i], scale, zero == nullptr ? T{0} : *zero, sum);
      }
      sums[p] = sum;
    }
  });
  for (int64_t p = 1; p < kParts; ++p) sums[0] += sums[p];
}

// Scales of different rows of the axis are different ones unless blocks join them, so the axis is
// cut at blocks.
template <class T>
void run_many(const KernelArgs& args, const Scales& s, const Element<T>& element, double* sums) {
  const T* dy = args.inputs[0].as<const T>();
  const T* x = args.inputs[1].as<const T>();
  const T* scale = args.inputs[2].as<const T>();
  const T* zero = data_or_null<T>(args, 3);
  T* dx = args.outputs[0].as<T>();
  std::fill(sums, sums + s.count, 0.0);
  parallel_for(0, (s.axis + s.block - 1) / s.block, 1, [&](int64_t from, int64_t to) {
    for (int64_t o = 0; o < s.outer; ++o) {
      for (int64_t a = from * s.block; a < std::min(to * s.block, s.axis); ++a) {
        const int64_t first = (o * s.axis + a) * s.inner;
        for (int64_t i = first; i < first + s.inner; ++i) {
          const int64_t k = s.of(o, a, i - first);
          dx[i] = element(dy[i], x[i], scale[k], zero == nullptr ? T{0} : zero[k], sums[k]);
        }
      }
    }
  });
}

template <class T>
void run(const KernelArgs& args, const Scales& s, const Element<T>& element) {
  auto* sums = reinterpret_cast<double*>(args.workspace);
  if (s.count == 1) {
    run_single(args, element, sums);
  } else {
    run_many(args, s, element, sums);
  }
  T* dscale = args.outputs.size() > 1 ? args.outputs[1].as<T>() : nullptr;
  for (int64_t k = 0; dscale != nullptr && k < s.count; ++k) dscale[k] = static_cast<T>(sums[k]);
}

void infer(NodeContext& c) {
  require_inputs(c, 3);
  infer_like_first(c);
  if (c.in(2).has_shape) {
    c.set_output(1, c.dtype(0), c.shape(2));
  } else {
    c.set_output(1, c.dtype(0));
  }
}

Kernel prepare(const NodeContext& c) {
  ops::require_same_dtype(c, 0, 4);
  const Scales scales = read_scales(c);
  require_count(c, 3, scales.count);
  if (!(c.shape(0) == c.shape(1))) c.invalid("a gradient of another shape");
  Kernel kernel = by_float(c, c.dtype(0), [&]<class T>(T) {
    const Element<T> element{static_cast<T>(c.node().float_or("lo", -128)),
                             static_cast<T>(c.node().float_or("hi", 127))};
    return Kernel{"fake_quantize_gradient_ref",
                  [=](const KernelArgs& args) { run<T>(args, scales, element); }};
  });
  kernel.workspace_bytes = static_cast<size_t>(std::max(scales.count, kParts)) * sizeof(double);
  return kernel;
}

constexpr OpDef kRows[] = {gradient_row("FakeQuantizeGradient", infer, prepare)};

}  // namespace

const std::span<const OpDef> kQuantizeGradients = kRows;

}  // namespace compress
