// Gradients of normalizations. With n = (x - mean) / root over a set of m elements and g the
// gradient of n:  dx = (g - mean(g) - n mean(g n)) / root  (no mean(g) where no mean was taken
// off). Sums are kept in float64, in index order.
#include <cmath>

#include "compress/ops/gradient_families.h"
#include "compress/ops/lane_sum.h"
#include "compress/ops/support.h"
#include "compress/ops/typed.h"

namespace compress {
namespace {

template <class T>
T* output_or_null(const KernelArgs& args, size_t i) {
  return i < args.outputs.size() ? static_cast<T*>(args.outputs[i].data) : nullptr;
}

struct Sums {
  double mean = 0, inverse = 0;  // of x; 1 / root
};

template <class At>
Sums moments(int64_t m, double epsilon, bool rms, At&& at) {
  Sums sums;
  for (int64_t i = 0; !rms && i < m; ++i) sums.mean += at(i);
  sums.mean /= static_cast<double>(m);
  double variance = 0;
  for (int64_t i = 0; i < m; ++i) variance += (at(i) - sums.mean) * (at(i) - sums.mean);
  sums.inverse = 1.0 / std::sqrt(variance / static_cast<double>(m) + epsilon);
  return sums;
}

// --- BatchNormalization --------------------------------------------------------------------------

void infer_channel_norm(NodeContext& c) {
  require_inputs(c, 3);
  infer_like_first(c);
  for (const int i : {1, 2}) {
    if (c.in(2).has_shape) {
      c.set_output(i, c.dtype(0), c.shape(2));
    } else {
      c.set_output(i, c.dtype(0));
    }
  }
}

template <class T>
void batch_norm_channel(const KernelArgs& args, int64_t batch, int64_t channels, int64_t plane,
                        int64_t k, double epsilon, bool training) {
  const T* dy = args.inputs[0].as<const T>();
  const T* x = args.inputs[1].as<const T>();
  const int64_t m = batch * plane;
  // Over the channel's elements of all samples; term takes the index into the tensors.
  const auto sum_of = [&](const auto& term) {
    double total = 0;
    for (int64_t n = 0; n < batch; ++n) {
      const int64_t first = (n * channels + k) * plane;
      total += ops::lane_sum(plane, [&](int64_t i) { return term(first + i); });
    }
    return total;
  };
  Sums stats;
  if (training) {
    const auto count = static_cast<double>(m);
    stats.mean = sum_of([&](int64_t i) { return static_cast<double>(x[i]); }) / count;
    const double squares = sum_of([&](int64_t i) {
      const double apart = static_cast<double>(x[i]) - stats.mean;
      return apart * apart;
    });
    stats.inverse = 1.0 / std::sqrt(squares / count + epsilon);
  } else {
    stats.mean = static_cast<double>(args.inputs[3].as<const T>()[k]);
    const auto variance = static_cast<double>(args.inputs[4].as<const T>()[k]);
    stats.inverse = 1.0 / std::sqrt(variance + epsilon);
  }
  const double sum = sum_of([&](int64_t i) { return static_cast<double>(dy[i]); });
  const double sum_n =
      stats.inverse * sum_of([&](int64_t i) {
        return static_cast<double>(dy[i]) * (static_cast<double>(x[i]) - stats.mean);
      });
  if (T* dscale = output_or_null<T>(args, 1)) dscale[k] = static_cast<T>(sum_n);
  if (T* dbias = output_or_null<T>(args, 2)) dbias[k] = static_cast<T>(sum);
  T* dx = args.outputs[0].as<T>();
  if (dx == nullptr) return;
  const auto factor =
      static_cast<T>(static_cast<double>(args.inputs[2].as<const T>()[k]) * stats.inverse);
  const auto mean = static_cast<T>(stats.mean);
  const auto mean_g = static_cast<T>(training ? sum / static_cast<double>(m) : 0);
  const auto slope = static_cast<T>(training ? sum_n / static_cast<double>(m) * stats.inverse : 0);
  for (int64_t n = 0; n < batch; ++n) {
    const int64_t first = (n * channels + k) * plane;
    for (int64_t i = first; i < first + plane; ++i) {
      dx[i] = factor * (dy[i] - mean_g - (x[i] - mean) * slope);
    }
  }
}

Kernel prepare_batch_norm(const NodeContext& c) {
  const Shape& x = c.shape(1);
  if (x.rank() < 2) c.unsupported("an input of shape " + x.to_string());
  const bool training = c.node().int_or("training_mode", 0) != 0;
  const auto epsilon = static_cast<double>(c.node().float_or("epsilon", 1e-5f));
  const int64_t batch = x[0], channels = x[1], plane = x.count(2, x.rank());
  ops::require_same_dtype(c, 0, 5);
  if (!(c.shape(0) == x)) c.invalid("a gradient of another shape");
  for (const int i : {2, 3, 4}) require_count(c, i, channels);
  if (!training) require_inputs(c, 5);
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    return Kernel{"batch_norm_gradient_ref", [=](const KernelArgs& args) {
                    parallel_for(0, channels, 1, [&](int64_t from, int64_t to) {
                      for (int64_t k = from; k < to; ++k) {
                        batch_norm_channel<T>(args, batch, channels, plane, k, epsilon, training);
                      }
                    });
                  }};
  });
}

// --- LayerNormalization, InstanceNormalization ---------------------------------------------------

// Sets of `size` neighbours. The gain of element i of set s is scale[gain(s, i)].
struct Sets {
  int64_t count = 1;
  int64_t size = 1;
  int64_t gains = 1;
  bool by_element = true;  // LayerNormalization; else by set, modulo gains

  int64_t gain(int64_t set, int64_t i) const { return by_element ? i : set % gains; }
};

template <class T>
void normalized_gradient(const KernelArgs& args, const Sets& sets, double epsilon, bool rms) {
  const T* dy = args.inputs[0].as<const T>();
  const T* x = args.inputs[1].as<const T>();
  const T* scale = data_or_null<T>(args, 2);
  T* dx = args.outputs[0].as<T>();
  const auto gain = [&](int64_t set, int64_t i) {
    return scale == nullptr ? 1.0 : static_cast<double>(scale[sets.gain(set, i)]);
  };
  parallel_for(0, sets.count, 1 + 4096 / sets.size, [&](int64_t from, int64_t to) {
    for (int64_t set = from; set < to; ++set) {
      const T* in = x + set * sets.size;
      const T* g = dy + set * sets.size;
      const Sums stats =
          moments(sets.size, epsilon, rms, [&](int64_t i) { return static_cast<double>(in[i]); });
      double sum = 0, sum_n = 0;
      for (int64_t i = 0; i < sets.size; ++i) {
        const double value = static_cast<double>(g[i]) * gain(set, i);
        sum += value;
        sum_n += value * (static_cast<double>(in[i]) - stats.mean) * stats.inverse;
      }
      sum = rms ? 0 : sum / static_cast<double>(sets.size);
      sum_n /= static_cast<double>(sets.size);
      for (int64_t i = 0; i < sets.size; ++i) {
        const double n = (static_cast<double>(in[i]) - stats.mean) * stats.inverse;
        const double value = static_cast<double>(g[i]) * gain(set, i);
        dx[set * sets.size + i] = static_cast<T>((value - sum - n * sum_n) * stats.inverse);
      }
    }
  });
}

// dscale and dbias: sums over the sets, a gain's own thread each.
template <class T>
void gain_gradient(const KernelArgs& args, const Sets& sets, double epsilon, bool rms) {
  T* dscale = output_or_null<T>(args, 1);
  T* dbias = output_or_null<T>(args, 2);
  if (dscale == nullptr && dbias == nullptr) return;
  const T* dy = args.inputs[0].as<const T>();
  const T* x = args.inputs[1].as<const T>();
  auto* stats = reinterpret_cast<Sums*>(args.workspace);
  parallel_for(0, sets.count, 1 + 4096 / sets.size, [&](int64_t from, int64_t to) {
    for (int64_t set = from; set < to; ++set) {
      const T* in = x + set * sets.size;
      stats[set] =
          moments(sets.size, epsilon, rms, [&](int64_t i) { return static_cast<double>(in[i]); });
    }
  });
  parallel_for(0, sets.gains, 8, [&](int64_t from, int64_t to) {
    for (int64_t k = from; k < to; ++k) {
      double scale_sum = 0, bias_sum = 0;
      const auto take = [&](int64_t set, int64_t i) {
        const auto g = static_cast<double>(dy[set * sets.size + i]);
        const auto in = static_cast<double>(x[set * sets.size + i]);
        scale_sum += g * (in - stats[set].mean) * stats[set].inverse;
        bias_sum += g;
      };
      if (sets.by_element) {
        for (int64_t set = 0; set < sets.count; ++set) take(set, k);
      } else {
        for (int64_t set = k; set < sets.count; set += sets.gains) {
          for (int64_t i = 0; i < sets.size; ++i) take(set, i);
        }
      }
      if (dscale != nullptr) dscale[k] = static_cast<T>(scale_sum);
      if (dbias != nullptr) dbias[k] = static_cast<T>(bias_sum);
    }
  });
}

Kernel normalized_kernel(const NodeContext& c, const char* name, const Sets& sets) {
  const auto epsilon = static_cast<double>(c.node().float_or("epsilon", 1e-5f));
  const bool rms = c.node().int_or("rms", 0) != 0;
  ops::require_same_dtype(c, 0, 3);
  require_count(c, 2, sets.gains);
  if (!(c.shape(0) == c.shape(1))) c.invalid("a gradient of another shape");
  if (sets.size == 0) c.unsupported("an empty input");
  Kernel kernel = by_float(c, c.dtype(0), [&]<class T>(T) {
    return Kernel{name, [=](const KernelArgs& args) {
                    normalized_gradient<T>(args, sets, epsilon, rms);
                    gain_gradient<T>(args, sets, epsilon, rms);
                  }};
  });
  kernel.workspace_bytes = static_cast<size_t>(sets.count) * sizeof(Sums);
  return kernel;
}

Kernel prepare_layer_norm(const NodeContext& c) {
  const Shape& x = c.shape(1);
  const int axis = ops::axis_of(c, c.node().int_or("axis", -1), x.rank());
  Sets sets;
  sets.count = x.count(0, axis);
  sets.size = sets.gains = x.count(axis, x.rank());
  return normalized_kernel(c, "layer_norm_gradient_ref", sets);
}

Kernel prepare_instance_norm(const NodeContext& c) {
  const Shape& x = c.shape(1);
  if (x.rank() < 3) c.unsupported("an input of shape " + x.to_string());
  Sets sets;
  sets.count = x[0] * x[1];
  sets.size = x.count(2, x.rank());
  sets.gains = x[1];
  sets.by_element = false;
  return normalized_kernel(c, "instance_norm_gradient_ref", sets);
}

constexpr OpDef kRows[] = {
    gradient_row("BatchNormGradient", infer_channel_norm, prepare_batch_norm),
    gradient_row("LayerNormGradient", infer_channel_norm, prepare_layer_norm),
    gradient_row("InstanceNormGradient", infer_channel_norm, prepare_instance_norm),
};

}  // namespace

const std::span<const OpDef> kNormGradients = kRows;

}  // namespace compress
