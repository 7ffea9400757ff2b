// MaxPool, AveragePool, LpPool and their global forms.
#include <cmath>
#include <limits>
#include <vector>

#include "compress/core/parallel.h"
#include "compress/ops/compute_families.h"
#include "compress/ops/pool_loops.h"
#include "compress/ops/typed.h"

namespace compress {

Window read_pool(const NodeContext& c) {
  const std::vector<int64_t> kernel = c.node().ints_or("kernel_shape", {});
  if (kernel.empty()) c.invalid("kernel_shape is missing");
  for (const int64_t size : kernel) {
    if (size < 1) c.invalid(fmt::format("kernel_shape holds {}", size));
  }
  return read_window(c, c.shape(0), kernel, c.node().int_or("ceil_mode", 0) != 0);
}

void infer_pool_as(NodeContext& c, DType dtype) {
  require_inputs(c, 1);
  if (!c.in(0).has_shape) {
    c.set_output(0, dtype);
    if (c.has_output(1)) c.set_output(1, DType::int64);
    return;
  }
  const Shape& x = c.shape(0);
  const Window window = read_pool(c);
  const Shape out = window_output(window, x[0], x[1]);
  c.set_output(0, dtype, out);
  if (c.has_output(1)) c.set_output(1, DType::int64, out);
}

void infer_global_pool_as(NodeContext& c, DType dtype) {
  require_inputs(c, 1);
  if (!c.in(0).has_shape) return c.set_output(0, dtype);
  Shape out = c.shape(0);
  if (out.rank() < 2) c.invalid(fmt::format("the input has shape {}", out.to_string()));
  for (int i = 2; i < out.rank(); ++i) out[i] = 1;
  c.set_output(0, dtype, out);
}

namespace {

using pool_loops::for_each_output_row;
using pool_loops::for_each_tap;
using pool_loops::row_start;

void infer_pool(NodeContext& c) { infer_pool_as(c, c.dtype(0)); }
void infer_global_pool(NodeContext& c) { infer_global_pool_as(c, c.dtype(0)); }

// --- MaxPool -------------------------------------------------------------------------------------

template <class T>
constexpr T lowest() {
  return std::numeric_limits<T>::lowest();
}

template <class T>
void max_pool(const Window& s, int64_t planes, const T* x, T* y) {
  for_each_output_row(s, planes, [&](int64_t plane, int64_t od, int64_t oh) {
    T* out = y + row_start(s, plane, od, oh);
    std::fill(out, out + s.out[2], lowest<T>());
    for_each_tap(s, x + plane * Window::product(s.in), od, oh,
                 [&](const T* in, Window::Range columns) {
                   const int64_t stride = s.stride[2];
                   for (int64_t o = columns.begin; o < columns.end; ++o) {
                     out[o] = std::max(out[o], in[o * stride]);
                   }
                 });
  });
}

// With the flat index of each maximum; the first one wins. Column-major counts the spatial
// dimensions of the index the other way round.
template <class T>
void max_pool_indexed(const Window& s, int64_t planes, bool column_major, const T* x, T* y,
                      int64_t* indices) {
  const int64_t in_plane = Window::product(s.in);
  for_each_output_row(s, planes, [&](int64_t plane, int64_t od, int64_t oh) {
    const T* in = x + plane * in_plane;
    const int64_t start = row_start(s, plane, od, oh);
    const Window::Range ds = s.taps_of_output(0, od);
    const Window::Range hs = s.taps_of_output(1, oh);
    for (int64_t ow = 0; ow < s.out[2]; ++ow) {
      const Window::Range ws = s.taps_of_output(2, ow);
      T best = lowest<T>();
      int64_t best_at = -1;
      for (int64_t kd = ds.begin; kd < ds.end; ++kd) {
        const int64_t d = od * s.stride[0] + s.offset(0, kd);
        for (int64_t kh = hs.begin; kh < hs.end; ++kh) {
          const int64_t h = oh * s.stride[1] + s.offset(1, kh);
          for (int64_t kw = ws.begin; kw < ws.end; ++kw) {
            const int64_t w = ow * s.stride[2] + s.offset(2, kw);
            const T value = in[(d * s.in[1] + h) * s.in[2] + w];
            if (best_at >= 0 && !(value > best)) continue;
            best = value;
            best_at =
                column_major ? (w * s.in[1] + h) * s.in[0] + d : (d * s.in[1] + h) * s.in[2] + w;
          }
        }
      }
      y[start + ow] = best;
      indices[start + ow] = best_at < 0 ? 0 : plane * in_plane + best_at;
    }
  });
}

template <class T>
Kernel max_pool_kernel(const NodeContext& c) {
  const Window window = read_pool(c);
  const int64_t planes = c.shape(0).count(0, 2);
  if (!c.has_output(1)) {
    return {"max_pool_ref", [=](const KernelArgs& args) {
              max_pool<T>(window, planes, args.inputs[0].as<const T>(), args.outputs[0].as<T>());
            }};
  }
  const bool column_major = c.node().int_or("storage_order", 0) != 0;
  return {"max_pool_indexed_ref", [=](const KernelArgs& args) {
            max_pool_indexed<T>(window, planes, column_major, args.inputs[0].as<const T>(),
                                args.outputs[0].as<T>(), args.outputs[1].as<int64_t>());
          }};
}

Kernel prepare_max_pool(const NodeContext& c) {
  if (c.dtype(0) == DType::uint8) return max_pool_kernel<uint8_t>(c);
  if (c.dtype(0) == DType::int8) return max_pool_kernel<int8_t>(c);
  return by_float(c, c.dtype(0), [&]<class T>(T) { return max_pool_kernel<T>(c); });
}

// --- AveragePool, LpPool -------------------------------------------------------------------------

Kernel prepare_average_pool(const NodeContext& c) {
  const Window window = read_pool(c);
  const int64_t planes = c.shape(0).count(0, 2);
  const bool with_pad = c.node().int_or("count_include_pad", 0) != 0;
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    return Kernel{"average_pool_ref", [=](const KernelArgs& args) {
                    pool_loops::average_pool<T>(window, planes, with_pad,
                                                args.inputs[0].as<const T>(),
                                                args.outputs[0].as<T>());
                  }};
  });
}

int64_t read_norm(const NodeContext& c) {
  const int64_t p = c.node().int_or("p", 2);
  if (p < 1) c.invalid(fmt::format("p is {}", p));
  return p;
}

template <class T>
T power(T x, int64_t p) {
  const T magnitude = std::abs(x);
  return p == 1 ? magnitude : p == 2 ? x * x : std::pow(magnitude, static_cast<T>(p));
}
template <class T>
T root(T x, int64_t p) {
  return p == 1 ? x : p == 2 ? std::sqrt(x) : std::pow(x, T{1} / static_cast<T>(p));
}

Kernel prepare_lp_pool(const NodeContext& c) {
  const Window s = read_pool(c);
  const int64_t planes = c.shape(0).count(0, 2);
  const int64_t p = read_norm(c);
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    return Kernel{"lp_pool_ref", [=](const KernelArgs& args) {
                    const T* x = args.inputs[0].as<const T>();
                    T* y = args.outputs[0].as<T>();
                    for_each_output_row(s, planes, [&](int64_t plane, int64_t od, int64_t oh) {
                      T* out = y + row_start(s, plane, od, oh);
                      std::fill(out, out + s.out[2], T{0});
                      for_each_tap(s, x + plane * Window::product(s.in), od, oh,
                                   [&](const T* in, Window::Range columns) {
                                     for (int64_t o = columns.begin; o < columns.end; ++o) {
                                       out[o] += power(in[o * s.stride[2]], p);
                                     }
                                   });
                      for (int64_t o = 0; o < s.out[2]; ++o) out[o] = root(out[o], p);
                    });
                  }};
  });
}

// --- Global --------------------------------------------------------------------------------------

// y[plane] = reduce(first element, count) over planes.
template <class T, class Reduce>
Kernel global_kernel(const NodeContext& c, const char* name, Reduce reduce) {
  const int64_t planes = c.shape(0).count(0, 2);
  const int64_t size = c.shape(0).count(2, c.shape(0).rank());
  return {name, [=](const KernelArgs& args) {
            const T* x = args.inputs[0].as<const T>();
            T* y = args.outputs[0].as<T>();
            parallel_for(0, planes, 8, [&](int64_t from, int64_t to) {
              for (int64_t p = from; p < to; ++p) y[p] = reduce(x + p * size, size);
            });
          }};
}

// The sum in four interleaved parts, then the rest: ONNX Runtime's order (MLAS), see SumOrder in
// conv_loops.h.
template <class T, class F>
T sum_of(const T* x, int64_t n, F&& f) {
  T parts[4] = {};
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) {
    for (int k = 0; k < 4; ++k) parts[k] += f(x[i + k]);
  }
  T sum = (parts[0] + parts[2]) + (parts[1] + parts[3]);
  for (; i < n; ++i) sum += f(x[i]);
  return sum;
}

Kernel prepare_global_average_pool(const NodeContext& c) {
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    return global_kernel<T>(c, "global_average_pool_ref", [](const T* x, int64_t n) {
      return sum_of(x, n, [](T value) { return value; }) / static_cast<T>(n);
    });
  });
}

Kernel prepare_global_max_pool(const NodeContext& c) {
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    return global_kernel<T>(c, "global_max_pool_ref", [](const T* x, int64_t n) {
      T best = lowest<T>();
      for (int64_t i = 0; i < n; ++i) best = std::max(best, x[i]);
      return best;
    });
  });
}

Kernel prepare_global_lp_pool(const NodeContext& c) {
  const int64_t p = read_norm(c);
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    return global_kernel<T>(c, "global_lp_pool_ref", [p](const T* x, int64_t n) {
      return root(sum_of(x, n, [p](T value) { return power(value, p); }), p);
    });
  });
}

constexpr OpDef kRows[] = {
    {"", "MaxPool", 1, infer_pool, prepare_max_pool, {.shares_scale = true}},
    {"", "AveragePool", 1, infer_pool, prepare_average_pool},
    {"", "LpPool", 2, infer_pool, prepare_lp_pool},
    {"", "GlobalAveragePool", 1, infer_global_pool, prepare_global_average_pool},
    {"", "GlobalMaxPool", 1, infer_global_pool, prepare_global_max_pool, {.shares_scale = true}},
    {"", "GlobalLpPool", 2, infer_global_pool, prepare_global_lp_pool},
};

}  // namespace

const std::span<const OpDef> kPoolOps = kRows;

}  // namespace compress
