// Pools over channels-last images, a thread an output: neighbours in the channels.
#include "compress/kernels/cuda/device_code.h"
#include "compress/kernels/cuda/launchers.h"

namespace compress::cuda {
namespace {

// Taps of a window along one axis that lie in [0, size).
struct Taps {
  int32_t first, last;

  __device__ Taps(int32_t start, int32_t taps, int32_t dilation, int32_t size)
      : first(0), last(taps) {
    while (first < taps && start + first * dilation < 0) ++first;
    while (last > first && start + (last - 1) * dilation >= size) --last;
  }
  __device__ int32_t count() const { return last - first; }
};

struct Window {
  int32_t y0, x0, image, channel;
  Taps rows, columns;

  __device__ Window(const ConvShape& s, int32_t i)
      : y0(i / (s.in_channels * s.out_w) % s.out_h * s.stride_h - s.pad_top),
        x0(i / s.in_channels % s.out_w * s.stride_w - s.pad_left),
        image(i / (s.in_channels * s.out_w * s.out_h)),
        channel(i % s.in_channels),
        rows(y0, s.kernel_h, s.dilation_h, s.in_h),
        columns(x0, s.kernel_w, s.dilation_w, s.in_w) {}

  __device__ int32_t count() const { return rows.count() * columns.count(); }
  __device__ int32_t at(const ConvShape& s, int32_t row, int32_t column) const {
    const int32_t y = y0 + row * s.dilation_h, x = x0 + column * s.dilation_w;
    return ((image * s.in_h + y) * s.in_w + x) * s.in_channels + channel;
  }
};

// Taps that an average divides by.
__device__ int32_t divisor(const Pool& p, const Window& window) {
  if (p.count_include_pad == 0) return window.count();
  const ConvShape& s = p.shape;
  const Taps rows(window.y0 + s.pad_top, s.kernel_h, s.dilation_h, p.padded_h);
  const Taps columns(window.x0 + s.pad_left, s.kernel_w, s.dilation_w, p.padded_w);
  return rows.count() * columns.count();
}

template <class Visit>
__device__ void for_each_tap(const ConvShape& s, const Window& window, Visit visit) {
  for (int32_t y = window.rows.first; y < window.rows.last; ++y) {
    for (int32_t x = window.columns.first; x < window.columns.last; ++x) {
      visit(window.at(s, y, x));
    }
  }
}

__device__ void pool_one(const Pool& p, const Window& window, int32_t i) {
  const ConvShape& s = p.shape;
  if (p.kind == PoolKind::max || p.kind == PoolKind::average) {
    const auto* x = static_cast<const float*>(p.x);
    auto* out = static_cast<float*>(p.out);
    if (p.kind == PoolKind::max) {
      float most = -INFINITY;
      for_each_tap(s, window, [&](int32_t at) { most = x[at] > most ? x[at] : most; });
      out[i] = most;
    } else {
      double sum = 0;
      for_each_tap(s, window, [&](int32_t at) { sum += static_cast<double>(x[at]); });
      out[i] = static_cast<float>(sum / static_cast<double>(divisor(p, window)));
    }
    return;
  }
  const auto* x = static_cast<const uint8_t*>(p.x);
  auto* out = static_cast<uint8_t*>(p.out);
  if (p.kind == PoolKind::max_s8) {
    int32_t most = p.x_signed != 0 ? -128 : 0;
    for_each_tap(s, window, [&](int32_t at) {
      const int32_t value = widen(x[at], p.x_signed);
      most = value > most ? value : most;
    });
    out[i] = static_cast<uint8_t>(most);
  } else {
    int32_t sum = 0;
    for_each_tap(s, window, [&](int32_t at) { sum += widen(x[at], p.x_signed) - p.x_zero_point; });
    const double ratio = static_cast<double>(p.x_scale) / static_cast<double>(p.y_scale);
    const auto scale = static_cast<float>(ratio / static_cast<double>(divisor(p, window)));
    out[i] = into_byte(static_cast<float>(sum) * scale, p.lo, p.hi, p.y_zero_point);
  }
}

__global__ void __launch_bounds__(kBlock) pool_kernel(const Pool p) {
  const ConvShape& s = p.shape;
  const int32_t count = s.batch * s.out_h * s.out_w * s.in_channels;
  for (int32_t i = thread_index(); i < count; i += thread_total()) {
    pool_one(p, Window(s, i), i);
  }
}

}  // namespace

int pool(Context* context, const Pool* p) {
  const ConvShape& s = p->shape;
  const int32_t count = s.batch * s.out_h * s.out_w * s.in_channels;
  if (count == 0) return 0;
  return launch(*context, pool_kernel, dim3(blocks_for(*context, count)), dim3(kBlock), *p);
}

}  // namespace compress::cuda
