// com.microsoft's quantized elementwise operators, pools and Softmax: dequantize, compute in
// float32, quantize. Functions of one byte become tables.
#include <array>
#include <cmath>
#include <vector>

#include "compress/core/parallel.h"
#include "compress/ops/compute_families.h"
#include "compress/ops/integer_loops.h"
#include "compress/ops/pool_loops.h"
#include "compress/ops/support.h"
#include "compress/ops/typed.h"

namespace compress {
namespace {

// Scale and zero point of one tensor, read when the kernel runs.
struct Params {
  float scale;
  int32_t zero;
};

Params read_params(const KernelArgs& args, int scale, int zero) {
  const auto z = static_cast<size_t>(zero);
  return {scale_at(args.inputs[static_cast<size_t>(scale)], 0),
          z < args.inputs.size() ? zero_point_at(args.inputs[z], 0) : 0};
}

void check_params(const NodeContext& c, int scale, int zero, DType dtype) {
  if (!c.has_input(scale)) c.invalid(fmt::format("input {} is missing", scale));
  if (c.dtype(scale) != DType::float32) c.unsupported("scales that are not float32");
  require_count(c, scale, 1);
  require_count(c, zero, 1);
  if (c.has_input(zero) && c.dtype(zero) != dtype) c.invalid("a zero point has another type");
}

template <class T>
float real(T q, Params p) {
  return static_cast<float>(static_cast<int32_t>(q) - p.zero) * p.scale;
}
template <class T>
T quantized(float x, Params p) {
  return round_to<T>(x / p.scale, p.zero);
}

// --- QLinearAdd, QLinearMul: A s z, B s z, C s z -------------------------------------------------

void infer_binary(NodeContext& c) {
  for (const int i : {0, 1, 3, 4, 6}) {
    if (!c.has_input(i)) c.invalid(fmt::format("input {} is missing", i));
  }
  if (!c.in(0).has_shape || !c.in(3).has_shape) return c.set_output(0, c.dtype(0));
  c.set_output(0, c.dtype(0), broadcast(c.shape(0), c.shape(3)));
}

template <class F>
Kernel prepare_binary(const NodeContext& c, const char* name, F f) {
  if (c.dtype(0) != c.dtype(3)) c.invalid("operands have different types");
  for (const int i : {1, 4, 6}) check_params(c, i, i + 1, c.dtype(0));
  const std::array<Shape, 2> shapes = {c.shape(0), c.shape(3)};
  const ops::BroadcastPlan plan = ops::plan_broadcast(c.output_types[0].shape, shapes);
  return by_byte(c, c.dtype(0), [&]<class T>(T) {
    return Kernel{name, [plan, f](const KernelArgs& args) {
                    const T* a = args.inputs[0].as<const T>();
                    const T* b = args.inputs[3].as<const T>();
                    T* y = args.outputs[0].as<T>();
                    const Params pa = read_params(args, 1, 2);
                    const Params pb = read_params(args, 4, 5);
                    const Params py = read_params(args, 6, 7);
                    ops::for_each_row(plan, [&](int64_t at, const auto& from, int64_t n) {
                      ops::map_row(y + at, a + from[0], plan.row_strides()[0], b + from[1],
                                   plan.row_strides()[1], n, [&](T u, T v) {
                                     return quantized<T>(f(real(u, pa), real(v, pb)), py);
                                   });
                    });
                  }};
  });
}

Kernel prepare_add(const NodeContext& c) {
  return prepare_binary(c, "qlinear_add_ref", [](float a, float b) { return a + b; });
}
Kernel prepare_mul(const NodeContext& c) {
  return prepare_binary(c, "qlinear_mul_ref", [](float a, float b) { return a * b; });
}

// --- QLinearSigmoid, QLinearLeakyRelu: X s z, Y s z ----------------------------------------------

template <class T>
using Table = std::array<T, 256>;

template <class T, class F>
Table<T> make_table(Params x, Params y, F&& f) {
  Table<T> table;
  for (int i = 0; i < 256; ++i) {
    const T q = static_cast<T>(static_cast<uint8_t>(i));
    table[static_cast<size_t>(i)] = quantized<T>(f(real(q, x)), y);
  }
  return table;
}

template <class T>
T look_up(const Table<T>& table, T q) {
  return table[static_cast<uint8_t>(q)];
}

// Slots 2 and 4 (zero points) may be omitted.
void infer_table(NodeContext& c) {
  infer_like_first(c);
  if (!c.has_input(1) || !c.has_input(3)) c.invalid("a scale is missing");
}

template <class F>
Kernel prepare_table(const NodeContext& c, const char* name, F f) {
  for (const int i : {1, 3}) check_params(c, i, i + 1, c.dtype(0));
  const int64_t count = c.shape(0).count();
  return by_byte(c, c.dtype(0), [&]<class T>(T) {
    return Kernel{name, [=](const KernelArgs& args) {
                    const Table<T> table =
                        make_table<T>(read_params(args, 1, 2), read_params(args, 3, 4), f);
                    const T* x = args.inputs[0].as<const T>();
                    T* y = args.outputs[0].as<T>();
                    parallel_for(0, count, ops::kGrain, [&](int64_t from, int64_t to) {
                      for (int64_t i = from; i < to; ++i) y[i] = look_up(table, x[i]);
                    });
                  }};
  });
}

Kernel prepare_sigmoid(const NodeContext& c) {
  return prepare_table(c, "qlinear_sigmoid_ref",
                       [](float x) { return 1.0f / (1.0f + std::exp(-x)); });
}
Kernel prepare_leaky_relu(const NodeContext& c) {
  const float alpha = c.node().float_or("alpha", 0.01f);
  return prepare_table(c, "qlinear_leaky_relu_ref",
                       [alpha](float x) { return x >= 0 ? x : alpha * x; });
}

// --- QLinearConcat: Y scale, Y zero point, then X s z for each -----------------------------------

int concat_count(const NodeContext& c) {
  const int rest = c.input_count() - 2;
  if (rest < 3 || rest % 3 != 0) c.invalid(fmt::format("{} inputs", c.input_count()));
  require_inputs(c, c.input_count());
  return rest / 3;
}

void infer_concat(NodeContext& c) {
  const int count = concat_count(c);
  for (int i = 0; i < count; ++i) {
    if (!c.in(2 + 3 * i).has_shape) return c.set_output(0, c.dtype(1));
  }
  Shape out = c.shape(2);
  const int axis = normalize_axis(c.node().int_or("axis", 0), out.rank());
  for (int i = 1; i < count; ++i) {
    const Shape& x = c.shape(2 + 3 * i);
    bool fits = x.rank() == out.rank();
    for (int d = 0; fits && d < out.rank(); ++d) {
      fits = d == axis || x[d] < 0 || out[d] < 0 || x[d] == out[d];
      if (fits && d != axis && out[d] < 0) out[d] = x[d];
    }
    if (!fits) c.invalid(fmt::format("shapes {} and {}", out.to_string(), x.to_string()));
    if (out[axis] < 0 || x[axis] < 0) {
      out[axis] = kUnknownDim;
    } else if (__builtin_add_overflow(out[axis], x[axis], &out[axis])) {
      c.invalid("the joined axis is too long");
    }
  }
  c.set_output(0, c.dtype(1), out);
}

Kernel prepare_concat(const NodeContext& c) {
  const int count = concat_count(c);
  const Shape out = c.output_types[0].shape;
  const int axis = normalize_axis(c.node().int_or("axis", 0), out.rank());
  const int64_t outer = out.count(0, axis);
  const int64_t out_row = out.count(axis, out.rank());
  check_params(c, 0, 1, c.dtype(1));
  std::vector<int64_t> rows;
  for (int i = 0; i < count; ++i) {
    const int x = 2 + 3 * i;
    if (c.dtype(x) != c.dtype(1)) c.invalid("operands have different types");
    check_params(c, x + 1, x + 2, c.dtype(1));
    rows.push_back(c.shape(x).count(axis, out.rank()));
  }
  return by_byte(c, c.dtype(1), [&]<class T>(T) {
    return Kernel{"qlinear_concat_ref", [=](const KernelArgs& args) {
                    const Params py = read_params(args, 0, 1);
                    int64_t at = 0;
                    for (int i = 0; i < count; ++i) {
                      const int slot = 2 + 3 * i;
                      const Table<T> table = make_table<T>(read_params(args, slot + 1, slot + 2),
                                                           py, [](float x) { return x; });
                      const int64_t row = rows[static_cast<size_t>(i)];
                      const T* x = args.inputs[static_cast<size_t>(slot)].as<const T>();
                      T* y = args.outputs[0].as<T>() + at;
                      for (int64_t o = 0; o < outer; ++o) {
                        for (int64_t k = 0; k < row; ++k)
                          y[o * out_row + k] = look_up(table, x[o * row + k]);
                      }
                      at += row;
                    }
                  }};
  });
}

// --- Pools: X s z, Y s z -------------------------------------------------------------------------

void require_channels_first(const NodeContext& c) {
  if (c.node().int_or("channels_last", 0) != 0) c.unsupported("channels_last");
}

void infer_global_average_pool(NodeContext& c) {
  infer_table(c);
  infer_global_pool_as(c, c.dtype(0));
}
void infer_average_pool(NodeContext& c) {
  infer_table(c);
  infer_pool_as(c, c.dtype(0));
}

Kernel prepare_global_average_pool(const NodeContext& c) {
  require_channels_first(c);
  for (const int i : {1, 3}) check_params(c, i, i + 1, c.dtype(0));
  const int64_t planes = c.shape(0).count(0, 2);
  const int64_t size = c.shape(0).count(2, c.shape(0).rank());
  return by_byte(c, c.dtype(0), [&]<class T>(T) {
    return Kernel{"qlinear_global_average_pool_ref", [=](const KernelArgs& args) {
                    const Params px = read_params(args, 1, 2);
                    const Params py = read_params(args, 3, 4);
                    const float m =
                        requantize_factor(px.scale, 1.0f / static_cast<float>(size), py.scale);
                    const T* x = args.inputs[0].as<const T>();
                    T* y = args.outputs[0].as<T>();
                    parallel_for(0, planes, 8, [&](int64_t from, int64_t to) {
                      for (int64_t p = from; p < to; ++p) {
                        int64_t sum = 0;
                        for (int64_t i = 0; i < size; ++i)
                          sum += static_cast<int32_t>(x[p * size + i]) - px.zero;
                        y[p] = round_to<T>(static_cast<float>(sum) * m, py.zero);
                      }
                    });
                  }};
  });
}

Kernel prepare_average_pool(const NodeContext& c) {
  require_channels_first(c);
  for (const int i : {1, 3}) check_params(c, i, i + 1, c.dtype(0));
  const Window window = read_pool(c);
  const int64_t planes = c.shape(0).count(0, 2);
  const int64_t in_count = c.shape(0).count();
  const int64_t out_count = c.output_types[0].shape.count();
  const bool with_pad = c.node().int_or("count_include_pad", 0) != 0;
  return by_byte(c, c.dtype(0), [&]<class T>(T) {
    Kernel kernel{"qlinear_average_pool_ref", [=](const KernelArgs& args) {
                    const Params px = read_params(args, 1, 2);
                    const Params py = read_params(args, 3, 4);
                    const T* x = args.inputs[0].as<const T>();
                    T* y = args.outputs[0].as<T>();
                    float* in = reinterpret_cast<float*>(args.workspace);
                    float* out = in + in_count;
                    for (int64_t i = 0; i < in_count; ++i) in[i] = real(x[i], px);
                    pool_loops::average_pool<float>(window, planes, with_pad, in, out);
                    for (int64_t i = 0; i < out_count; ++i) y[i] = quantized<T>(out[i], py);
                  }};
    kernel.workspace_bytes = static_cast<size_t>(byte_size(
        DType::float32, static_cast<uint64_t>(in_count) + static_cast<uint64_t>(out_count)));
    return kernel;
  });
}

// --- QLinearSoftmax: X s z, Y s z ----------------------------------------------------------------

Kernel prepare_softmax(const NodeContext& c) {
  for (const int i : {1, 3}) check_params(c, i, i + 1, c.dtype(0));
  const Shape& shape = c.shape(0);
  const int axis = normalize_axis(c.node().int_or("axis", -1), shape.rank());
  // Before opset 13 everything from the axis on is one row.
  const bool flat = c.node().int_or("opset", 13) < 13;
  const int64_t n = flat ? shape.count(axis, shape.rank()) : shape[axis];
  const int64_t inner = flat ? 1 : shape.count(axis + 1, shape.rank());
  const int64_t rows = n == 0 ? 0 : shape.count(0, axis) * inner;
  return by_byte(c, c.dtype(0), [&]<class T>(T) {
    return Kernel{"qlinear_softmax_ref", [=](const KernelArgs& args) {
                    const Params px = read_params(args, 1, 2);
                    const Params py = read_params(args, 3, 4);
                    const T* x = args.inputs[0].as<const T>();
                    T* y = args.outputs[0].as<T>();
                    parallel_for(0, rows, 16, [&](int64_t from, int64_t to) {
                      for (int64_t row = from; row < to; ++row) {
                        const int64_t first = row / inner * n * inner + row % inner;
                        T top = x[first];
                        for (int64_t i = 1; i < n; ++i) top = std::max(top, x[first + i * inner]);
                        const auto term = [&](int64_t i) {
                          const int32_t below = static_cast<int32_t>(x[first + i * inner]) - top;
                          return std::exp(static_cast<float>(below) * px.scale);
                        };
                        float sum = 0;
                        for (int64_t i = 0; i < n; ++i) sum += term(i);
                        for (int64_t i = 0; i < n; ++i)
                          y[first + i * inner] = quantized<T>(term(i) / sum, py);
                      }
                    });
                  }};
  });
}

constexpr std::string_view kDomain = "com.microsoft";
constexpr OpDef kRows[] = {
    {kDomain, "QLinearAdd", 1, infer_binary, prepare_add},
    {kDomain, "QLinearMul", 1, infer_binary, prepare_mul},
    {kDomain, "QLinearConcat", 1, infer_concat, prepare_concat},
    {kDomain, "QLinearGlobalAveragePool", 1, infer_global_average_pool,
     prepare_global_average_pool},
    {kDomain, "QLinearAveragePool", 1, infer_average_pool, prepare_average_pool},
    {kDomain, "QLinearSigmoid", 1, infer_table, prepare_sigmoid},
    {kDomain, "QLinearLeakyRelu", 1, infer_table, prepare_leaky_relu},
    {kDomain, "QLinearSoftmax", 1, infer_table, prepare_softmax},
};

}  // namespace

const std::span<const OpDef> kQLinearElementwiseOps = kRows;

}  // namespace compress
