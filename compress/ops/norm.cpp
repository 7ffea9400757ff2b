// Normalizations by the input's own statistics.
#include <cmath>
#include <vector>

#include "compress/core/parallel.h"
#include "compress/ops/compute_families.h"
#include "compress/ops/typed.h"

namespace compress {
namespace {

// The sum of f(i) for i in [0, n), in eight interleaved parts: a fixed order that vectorizes.
template <class T, class F>
T sum_over(int64_t n, F&& f) {
  T parts[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (int k = 0; k < 8; ++k) parts[k] += f(i + k);
  }
  for (; i < n; ++i) parts[i % 8] += f(i);
  return ((parts[0] + parts[4]) + (parts[2] + parts[6])) +
         ((parts[1] + parts[5]) + (parts[3] + parts[7]));
}

// Mean and variance (about the mean, population) of n values.
template <class T>
struct Moments {
  T mean;
  T variance;
};

template <class T>
Moments<T> moments(const T* x, int64_t n) {
  const T count = static_cast<T>(n);
  const T mean = sum_over<T>(n, [&](int64_t i) { return x[i]; }) / count;
  const T variance = sum_over<T>(n, [&](int64_t i) { return (x[i] - mean) * (x[i] - mean); });
  return {mean, variance / count};
}

// Elements of one channel of [N, C, ...].
int64_t plane_size(const Shape& x) { return x.rank() < 2 ? 1 : x.count(2, x.rank()); }

void require_channels(const NodeContext& c, std::initializer_list<int> slots, int64_t channels) {
  for (const int i : slots) require_count(c, i, channels);
}

// --- InstanceNormalization, GroupNormalization ---------------------------------------------------

Kernel prepare_instance_norm(const NodeContext& c) {
  require_inputs(c, 3);
  const Shape& x_shape = c.shape(0);
  if (x_shape.rank() < 2) c.invalid(fmt::format("the input has shape {}", x_shape.to_string()));
  const int64_t channels = x_shape[1];
  require_channels(c, {1, 2}, channels);
  const int64_t planes = x_shape.count(0, 2);
  const int64_t size = plane_size(x_shape);
  const float epsilon = c.node().float_or("epsilon", 1e-5f);
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    return Kernel{"instance_norm_ref", [=](const KernelArgs& args) {
                    const T* x = args.inputs[0].as<const T>();
                    const T* scale = args.inputs[1].as<const T>();
                    const T* bias = args.inputs[2].as<const T>();
                    T* y = args.outputs[0].as<T>();
                    parallel_for(0, planes, 1, [&](int64_t from, int64_t to) {
                      for (int64_t p = from; p < to; ++p) {
                        const auto [mean, variance] = moments(x + p * size, size);
                        const T factor =
                            scale[p % channels] / std::sqrt(variance + static_cast<T>(epsilon));
                        const T shift = bias[p % channels];
                        for (int64_t i = p * size; i < (p + 1) * size; ++i)
                          y[i] = (x[i] - mean) * factor + shift;
                      }
                    });
                  }};
  });
}

// Scale and bias are for each group up to opset 20 and for each channel from 21 on.
Kernel prepare_group_norm(const NodeContext& c) {
  require_inputs(c, 3);
  const Shape& x_shape = c.shape(0);
  const int64_t groups = c.node().int_or("num_groups", 0);
  if (x_shape.rank() < 2 || groups < 1 || x_shape[1] % groups != 0) {
    c.invalid(fmt::format("{} groups over shape {}", groups, x_shape.to_string()));
  }
  const int64_t channels = x_shape[1];
  const bool by_channel = c.opset() >= 21;
  require_channels(c, {1, 2}, by_channel ? channels : groups);
  const int64_t plane = plane_size(x_shape);
  const int64_t in_group = channels / groups;
  const int64_t size = in_group * plane;
  const int64_t batch = x_shape[0];
  const float epsilon = c.node().float_or("epsilon", 1e-5f);
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    return Kernel{"group_norm_ref", [=](const KernelArgs& args) {
                    const T* x = args.inputs[0].as<const T>();
                    const T* scale = args.inputs[1].as<const T>();
                    const T* bias = args.inputs[2].as<const T>();
                    T* y = args.outputs[0].as<T>();
                    parallel_for(0, batch * groups, 1, [&](int64_t from, int64_t to) {
                      for (int64_t g = from; g < to; ++g) {
                        const auto [mean, variance] = moments(x + g * size, size);
                        const T inverse = T{1} / std::sqrt(variance + static_cast<T>(epsilon));
                        for (int64_t k = 0; k < in_group; ++k) {
                          const int64_t group = g % groups;
                          const int64_t at = by_channel ? group * in_group + k : group;
                          const T factor = scale[at] * inverse;
                          const int64_t first = g * size + k * plane;
                          for (int64_t i = first; i < first + plane; ++i) {
                            y[i] = (x[i] - mean) * factor + bias[at];
                          }
                        }
                      }
                    });
                  }};
  });
}

// --- LayerNormalization, RMSNormalization --------------------------------------------------------

// Output 0 like input 0; outputs 1 (and 2) have ones from `axis` on.
void infer_layer_norm(NodeContext& c) {
  infer_like_first(c);
  const auto stash = static_cast<DType>(c.node().int_or("stash_type", 1));
  const DType dtype = c.dtype(0) == DType::float64 ? DType::float64 : stash;
  Shape reduced;
  if (c.in(0).has_shape) {
    reduced = c.shape(0);
    const int axis = normalize_axis(c.node().int_or("axis", -1), reduced.rank());
    for (int i = axis; i < reduced.rank(); ++i) reduced[i] = 1;
  }
  for (const int i : {1, 2}) {
    if (!c.has_output(i)) continue;
    if (c.in(0).has_shape) {
      c.set_output(i, dtype, reduced);
    } else {
      c.set_output(i, dtype);
    }
  }
}

struct Rows {
  int64_t count;
  int64_t size;
};

Rows read_rows(const NodeContext& c) {
  const Shape& x = c.shape(0);
  const int axis = normalize_axis(c.node().int_or("axis", -1), x.rank());
  const Rows rows{x.count(0, axis), x.count(axis, x.rank())};
  for (const int i : {1, 2}) {
    // One vector for all rows; broadcasting among the normalized axes is left out.
    if (c.has_input(i) && c.shape(i).count() != rows.size) {
      c.unsupported(fmt::format("scale or bias of shape {} for rows of {}", c.shape(i).to_string(),
                                rows.size));
    }
  }
  return rows;
}

// With `centred` false the mean is taken as 0 (RMSNormalization).
template <class T>
Kernel row_norm_kernel(const NodeContext& c, bool centred, int mean_slot, int inverse_slot) {
  const Rows rows = read_rows(c);
  const float epsilon = c.node().float_or("epsilon", 1e-5f);
  for (const int i : {mean_slot, inverse_slot}) {
    if (i >= 0 && c.has_output(i) &&
        c.output_types[static_cast<size_t>(i)].dtype != dtype_of<T>()) {
      c.unsupported("statistics of another type");
    }
  }
  const bool has_mean = mean_slot >= 0 && c.has_output(mean_slot);
  const bool has_inverse = inverse_slot >= 0 && c.has_output(inverse_slot);
  return {centred ? "layer_norm_ref" : "rms_norm_ref", [=](const KernelArgs& args) {
            const T* x = args.inputs[0].as<const T>();
            const T* scale = data_or_null<T>(args, 1);
            const T* bias = data_or_null<T>(args, 2);
            T* y = args.outputs[0].as<T>();
            T* means = has_mean ? args.outputs[static_cast<size_t>(mean_slot)].as<T>() : nullptr;
            T* inverses =
                has_inverse ? args.outputs[static_cast<size_t>(inverse_slot)].as<T>() : nullptr;
            const int64_t n = rows.size;
            parallel_for(
                0, rows.count, 1 + 4096 / std::max<int64_t>(n, 1), [&](int64_t from, int64_t to) {
                  for (int64_t r = from; r < to; ++r) {
                    const T* in = x + r * n;
                    T* out = y + r * n;
                    Moments<T> m{};
                    if (centred) {
                      m = moments(in, n);
                    } else {
                      m.variance = sum_over<T>(n, [&](int64_t i) { return in[i] * in[i]; }) /
                                   static_cast<T>(n);
                    }
                    const T inverse = T{1} / std::sqrt(m.variance + static_cast<T>(epsilon));
                    for (int64_t i = 0; i < n; ++i) {
                      const T normal = (in[i] - m.mean) * inverse * (scale ? scale[i] : T{1});
                      out[i] = bias ? normal + bias[i] : normal;
                    }
                    if (means) means[r] = m.mean;
                    if (inverses) inverses[r] = inverse;
                  }
                });
          }};
}

Kernel prepare_layer_norm(const NodeContext& c) {
  return by_float(c, c.dtype(0), [&]<class T>(T) { return row_norm_kernel<T>(c, true, 1, 2); });
}
Kernel prepare_rms_norm(const NodeContext& c) {
  return by_float(c, c.dtype(0), [&]<class T>(T) { return row_norm_kernel<T>(c, false, -1, -1); });
}
Kernel prepare_simplified_layer_norm(const NodeContext& c) {
  return by_float(c, c.dtype(0), [&]<class T>(T) { return row_norm_kernel<T>(c, false, -1, 1); });
}

// --- LpNormalization, LRN, MeanVarianceNormalization ---------------------------------------------

Kernel prepare_lp_norm(const NodeContext& c) {
  const Shape& shape = c.shape(0);
  const int axis = normalize_axis(c.node().int_or("axis", -1), shape.rank());
  const int64_t p = c.node().int_or("p", 2);
  if (p != 1 && p != 2) c.invalid(fmt::format("p is {}", p));
  const int64_t outer = shape.count(0, axis);
  const int64_t n = shape[axis];
  const int64_t inner = shape.count(axis + 1, shape.rank());
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    return Kernel{"lp_norm_ref", [=](const KernelArgs& args) {
                    const T* x = args.inputs[0].as<const T>();
                    T* y = args.outputs[0].as<T>();
                    parallel_for(0, outer * inner, 16, [&](int64_t from, int64_t to) {
                      for (int64_t row = from; row < to; ++row) {
                        const int64_t first = row / inner * n * inner + row % inner;
                        const T sum = sum_over<T>(n, [&](int64_t i) {
                          const T value = x[first + i * inner];
                          return p == 1 ? std::abs(value) : value * value;
                        });
                        const T norm = p == 1 ? sum : std::sqrt(sum);
                        for (int64_t i = 0; i < n; ++i) {
                          const int64_t at = first + i * inner;
                          y[at] = norm == 0 ? T{0} : x[at] / norm;
                        }
                      }
                    });
                  }};
  });
}

Kernel prepare_lrn(const NodeContext& c) {
  const Shape& shape = c.shape(0);
  const int64_t size = c.node().int_or("size", 0);
  if (shape.rank() < 2 || size < 1) {
    c.invalid(fmt::format("size {} over shape {}", size, shape.to_string()));
  }
  const float alpha = c.node().float_or("alpha", 1e-4f);
  const float beta = c.node().float_or("beta", 0.75f);
  const float bias = c.node().float_or("bias", 1);
  const int64_t channels = shape[1];
  const int64_t planes = shape.count(0, 2);
  const int64_t plane = plane_size(shape);
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    return Kernel{"lrn_ref", [=](const KernelArgs& args) {
                    const T* x = args.inputs[0].as<const T>();
                    T* y = args.outputs[0].as<T>();
                    parallel_for(0, planes, 1, [&](int64_t from, int64_t to) {
                      for (int64_t p = from; p < to; ++p) {
                        const int64_t channel = p % channels;
                        const int64_t before = std::min(channel, (size - 1) / 2);
                        const int64_t after = std::min(channels - 1 - channel, size / 2);
                        for (int64_t i = 0; i < plane; ++i) {
                          T squares{0};
                          for (int64_t k = -before; k <= after; ++k) {
                            const T value = x[(p + k) * plane + i];
                            squares += value * value;
                          }
                          const T base = static_cast<T>(bias) +
                                         static_cast<T>(alpha) / static_cast<T>(size) * squares;
                          y[p * plane + i] =
                              x[p * plane + i] / std::pow(base, static_cast<T>(beta));
                        }
                      }
                    });
                  }};
  });
}

constexpr OpDef kRows[] = {
    {"", "InstanceNormalization", 6, infer_like_first, prepare_instance_norm},
    {"", "GroupNormalization", 18, infer_like_first, prepare_group_norm},
    {"", "LayerNormalization", 1, infer_layer_norm, prepare_layer_norm},
    {"", "RMSNormalization", 23, infer_like_first, prepare_rms_norm},
    {"", "SimplifiedLayerNormalization", 1, infer_layer_norm, prepare_simplified_layer_norm},
    {"com.microsoft", "SimplifiedLayerNormalization", 1, infer_layer_norm,
     prepare_simplified_layer_norm},
    {"", "LpNormalization", 1, infer_like_first, prepare_lp_norm},
    {"", "LRN", 1, infer_like_first, prepare_lrn},
};

}  // namespace

const std::span<const OpDef> kNormOps = kRows;

}  // namespace compress
