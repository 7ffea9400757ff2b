// Softmax, LogSoftmax, Hardmax. Before opset 13 the input is coerced to a matrix at the axis.
#include <algorithm>
#include <cmath>
#include <limits>

#include "compress/ops/families.h"
#include "compress/ops/support.h"

namespace compress {
namespace {

using namespace ops;

// Rows of `dim` elements that are `inner` apart; `outer` * `inner` rows.
struct RowsView {
  int64_t outer, dim, inner;
};

RowsView rows_of(const NodeContext& context) {
  const Shape& shape = context.shape(0);
  const bool coerces = context.opset() < 13;
  const int64_t given = context.node().int_or("axis", coerces ? 1 : -1);
  if (coerces && given == shape.rank()) return {shape.count(), 1, 1};
  const int axis = axis_of(context, given, shape.rank());
  if (coerces) return {shape.count(0, axis), shape.count(axis, shape.rank()), 1};
  return {shape.count(0, axis), shape[axis], shape.count(axis + 1, shape.rank())};
}

void infer_softmax(NodeContext& context) {
  require_inputs(context, 1, 1);
  infer_same(context);
}

// Each pass runs over a block of neighbouring rows, so that strided ones are read in order too.
constexpr int64_t kBlock = 64;

template <class T, bool kLog>
void softmax_block(const T* in, T* out, const RowsView& view, int64_t n) {
  std::array<T, kBlock> largest;
  std::array<double, kBlock> sum{};
  std::fill_n(largest.begin(), n, -std::numeric_limits<T>::infinity());
  const auto each = [&](auto visit) {
    for (int64_t d = 0; d < view.dim; ++d) {
      for (int64_t i = 0; i < n; ++i) visit(d * view.inner + i, static_cast<size_t>(i));
    }
  };
  each([&](int64_t at, size_t i) { largest[i] = in[at] > largest[i] ? in[at] : largest[i]; });
  each([&](int64_t at, size_t i) {
    const T shifted = in[at] - largest[i];
    const T power = std::exp(shifted);
    out[at] = kLog ? shifted : power;
    sum[i] += static_cast<double>(power);
  });
  std::array<T, kBlock> scale;
  for (int64_t k = 0; k < n; ++k) {
    const auto i = static_cast<size_t>(k);
    scale[i] = static_cast<T>(kLog ? std::log(sum[i]) : sum[i]);
  }
  each([&](int64_t at, size_t i) { out[at] = kLog ? out[at] - scale[i] : out[at] / scale[i]; });
}

template <class T>
void hardmax_block(const T* in, T* out, const RowsView& view, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    int64_t best = 0;
    for (int64_t d = 1; d < view.dim; ++d) {
      if (in[d * view.inner + i] > in[best * view.inner + i]) best = d;
    }
    for (int64_t d = 0; d < view.dim; ++d) out[d * view.inner + i] = T(d == best);
  }
}

template <class T>
using BlockFn = void (*)(const T*, T*, const RowsView&, int64_t);

template <class T>
Kernel rows_kernel(const RowsView& view, BlockFn<T> block) {
  return {"", [view, block](const KernelArgs& args) {
            if (view.outer * view.dim * view.inner == 0) return;
            const T* in = static_cast<const T*>(args.inputs[0].data);
            T* out = static_cast<T*>(args.outputs[0].data);
            const int64_t blocks = (view.inner + kBlock - 1) / kBlock;
            const int64_t work = view.dim * std::min(kBlock, view.inner);
            parallel_for(0, view.outer * blocks, kGrain / 8 / work + 1,
                         [&](int64_t begin, int64_t end) {
                           for (int64_t unit = begin; unit < end; ++unit) {
                             const int64_t first = unit % blocks * kBlock;
                             const int64_t at = unit / blocks * view.dim * view.inner + first;
                             block(in + at, out + at, view, std::min(kBlock, view.inner - first));
                           }
                         });
          }};
}

template <bool kLog>
Kernel prepare_softmax(const NodeContext& context) {
  return dispatch(FloatTypes(), context, context.dtype(0), [&](auto tag) {
    using T = decltype(tag);
    return rows_kernel<T>(rows_of(context), softmax_block<T, kLog>);
  });
}

Kernel prepare_hardmax(const NodeContext& context) {
  return dispatch(FloatTypes(), context, context.dtype(0), [&](auto tag) {
    using T = decltype(tag);
    return rows_kernel<T>(rows_of(context), hardmax_block<T>);
  });
}

constexpr OpDef kRows[] = {
    row("Softmax", 1, infer_softmax, prepare_softmax<false>),
    row("LogSoftmax", 1, infer_softmax, prepare_softmax<true>),
    row("Hardmax", 1, infer_softmax, prepare_hardmax),
};

}  // namespace

constinit const std::span<const OpDef> kSoftmaxOps = kRows;

}  // namespace compress
