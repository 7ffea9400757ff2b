#include "compress/kernels/transpose/transpose.h"

#include <algorithm>

#include "compress/core/parallel.h"
#include "compress/kernels/aligned.h"

namespace compress::kernels {
namespace {

constexpr const TransposeKernel* kKernels[] = {&kTransposeAvx2, &kTransposeRef};

constexpr int64_t kThreadWork = 1 << 15;  // elements that repay waking a thread
constexpr int64_t kTile = 64;             // columns turned at a time

struct Axis {
  int64_t size, in_stride, out_stride;
};

// Axes of the output from the outermost inwards, neighbours of the input merged, sizes of 1 left
// out.
std::vector<Axis> merged_axes(std::span<const int64_t> dims, std::span<const int64_t> perm) {
  std::vector<int64_t> strides(dims.size());
  int64_t stride = 1;
  for (size_t i = dims.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= dims[i];
  }
  std::vector<Axis> axes;
  for (const int64_t from : perm) {
    const auto i = static_cast<size_t>(from);
    if (dims[i] == 1) continue;
    if (!axes.empty() && axes.back().in_stride == dims[i] * strides[i]) {
      axes.back() = {axes.back().size * dims[i], strides[i], 0};
    } else {
      axes.push_back({dims[i], strides[i], 0});
    }
  }
  stride = 1;
  for (size_t i = axes.size(); i-- > 0;) {
    axes[i].out_stride = stride;
    stride *= axes[i].size;
  }
  return axes;
}

template <class T>
using TileFunction = void (*)(const T*, int64_t, int64_t, int64_t, T*, int64_t) noexcept;

template <class T>
void run(const Transpose& plan, const T* in, T* out, TileFunction<T> tile) noexcept {
  // A large matrix alone is cut into bands of columns.
  const int64_t bands = plan.turned ? divide_up(plan.columns, kTile) : 1;
  const int64_t unit = plan.turned ? plan.rows * std::min(kTile, plan.columns) : plan.run;
  const int64_t grain = divide_up(kThreadWork, std::max<int64_t>(unit, 1));
  parallel_for(0, plan.outer * bands, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      int64_t rest = i / bands;
      int64_t from = 0, to = 0;
      for (size_t d = plan.dims.size(); d-- > 0;) {
        from += rest % plan.dims[d] * plan.strides[d];
        to += rest % plan.dims[d] * plan.to[d];
        rest /= plan.dims[d];
      }
      if (!plan.turned) {
        std::copy_n(in + from, plan.run, out + to);
        continue;
      }
      const int64_t column = i % bands * kTile;
      tile(in + from + column, plan.in_stride, plan.rows, std::min(kTile, plan.columns - column),
           out + to + column * plan.out_stride, plan.out_stride);
    }
  });
}

}  // namespace

Transpose plan_transpose(std::span<const int64_t> dims, std::span<const int64_t> perm) {
  std::vector<Axis> axes = merged_axes(dims, perm);
  Transpose plan;
  if (std::any_of(dims.begin(), dims.end(), [](int64_t dim) { return dim == 0; })) {
    plan.outer = 0;
    return plan;
  }
  if (!axes.empty() && axes.back().in_stride == 1) {
    plan.run = axes.back().size;
    axes.pop_back();
  } else if (!axes.empty()) {
    // The output's last axis and the input's: a matrix.
    plan.turned = true;
    plan.rows = axes.back().size;
    plan.in_stride = axes.back().in_stride;
    axes.pop_back();
    const auto last = std::find_if(axes.begin(), axes.end(),
                                   [](const Axis& axis) { return axis.in_stride == 1; });
    plan.columns = last->size;
    plan.out_stride = last->out_stride;
    axes.erase(last);
  }
  for (const Axis& axis : axes) {
    plan.dims.push_back(axis.size);
    plan.strides.push_back(axis.in_stride);
    plan.to.push_back(axis.out_stride);
    plan.outer *= axis.size;
  }
  return plan;
}

std::span<const TransposeKernel* const> transpose_kernels() noexcept { return kKernels; }

const TransposeKernel& best_transpose() noexcept {
  return active_isa() == Isa::ref ? kTransposeRef : kTransposeAvx2;
}

void transpose(const Transpose& plan, const uint32_t* in, uint32_t* out,
               const TransposeKernel& kernel) noexcept {
  run(plan, in, out, kernel.tile_32);
}

void transpose(const Transpose& plan, const uint8_t* in, uint8_t* out,
               const TransposeKernel& kernel) noexcept {
  run(plan, in, out, kernel.tile_8);
}

}  // namespace compress::kernels
