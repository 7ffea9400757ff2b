// BatchNormalization: by stored statistics, and in training mode by the batch's own.
#include <algorithm>
#include <cmath>
#include <vector>

#include "compress/core/parallel.h"
#include "compress/ops/compute_families.h"
#include "compress/ops/lane_sum.h"
#include "compress/ops/typed.h"

namespace compress {
namespace {

struct BatchNorm {
  int64_t batch, channels;
  int64_t plane;  // elements of one channel of one sample
  float epsilon;
  float momentum;
};

bool is_training(const NodeContext& c) { return c.node().int_or("training_mode", 0) != 0; }

int64_t channels_of(const Shape& x) { return x.rank() < 2 ? 1 : x[1]; }

void infer_batch_norm(NodeContext& c) {
  infer_like_first(c);
  // Updated statistics, in training mode alone.
  for (int i = 1; i < static_cast<int>(c.node().outputs.size()); ++i) {
    if (!c.has_output(i)) continue;
    const DType dtype = c.has_input(3) ? c.dtype(3) : c.dtype(0);
    if (is_training(c) && c.in(0).has_shape) {
      c.set_output(i, dtype, {channels_of(c.shape(0))});
    } else {
      c.set_output(i, dtype);
    }
  }
}

BatchNorm read_batch_norm(const NodeContext& c) {
  require_inputs(c, 5);
  const Shape& x = c.shape(0);
  if (x.rank() < 1) c.invalid("the input is a scalar");
  const int64_t channels = channels_of(x);
  for (int i = 1; i < 5; ++i) {
    require_count(c, i, channels);
    if (c.dtype(i) != c.dtype(0)) c.unsupported("inputs of different types");
  }
  return {x[0], channels, x.rank() < 2 ? 1 : x.count(2, x.rank()),
          c.node().float_or("epsilon", 1e-5f), c.node().float_or("momentum", 0.9f)};
}

// y = (x - mean) * factor + shift over channel `channel` of sample `n`.
template <class T>
void scale_plane(const BatchNorm& norm, int64_t plane, const T* x, T mean, T factor, T shift,
                 T* y) {
  const int64_t first = plane * norm.plane;
  for (int64_t i = first; i < first + norm.plane; ++i) y[i] = (x[i] - mean) * factor + shift;
}

template <class T>
Kernel stored_kernel(const BatchNorm& norm) {
  return {"batch_norm_ref", [=](const KernelArgs& args) {
            const T* x = args.inputs[0].as<const T>();
            T* y = args.outputs[0].as<T>();
            const T* parameters[4];
            for (size_t i = 0; i < 4; ++i) parameters[i] = args.inputs[i + 1].as<const T>();
            const int64_t grain = 1 + 4096 / std::max<int64_t>(norm.plane, 1);
            parallel_for(0, norm.batch * norm.channels, grain, [&](int64_t from, int64_t to) {
              for (int64_t p = from; p < to; ++p) {
                const int64_t k = p % norm.channels;
                const T factor =
                    parameters[0][k] / std::sqrt(parameters[3][k] + static_cast<T>(norm.epsilon));
                scale_plane(norm, p, x, parameters[2][k], factor, parameters[1][k], y);
              }
            });
          }};
}

// The mean and the population variance of a channel over the whole batch, summed in a fixed order.
template <class T>
void channel_moments(const BatchNorm& norm, const T* x, int64_t channel, double& mean,
                     double& variance) {
  const double count = static_cast<double>(norm.batch) * static_cast<double>(norm.plane);
  const auto sum = [&](auto term) {
    double total = 0;
    for (int64_t n = 0; n < norm.batch; ++n) {
      const T* plane = x + (n * norm.channels + channel) * norm.plane;
      total +=
          ops::lane_sum(norm.plane, [&](int64_t i) { return term(static_cast<double>(plane[i])); });
    }
    return total;
  };
  mean = sum([](double value) { return value; }) / count;
  variance = sum([&](double value) { return (value - mean) * (value - mean); }) / count;
}

template <class T>
Kernel training_kernel(const NodeContext& c, const BatchNorm& norm) {
  return {"batch_norm_training_ref",
          [=, means = c.has_output(1), variances = c.has_output(2)](const KernelArgs& args) {
            const T* x = args.inputs[0].as<const T>();
            T* y = args.outputs[0].as<T>();
            const double momentum = static_cast<double>(norm.momentum);
            const auto update = [&](size_t output, size_t input, int64_t k, double now) {
              const double before = static_cast<double>(args.inputs[input].as<const T>()[k]);
              args.outputs[output].as<T>()[k] =
                  static_cast<T>(before * momentum + now * (1 - momentum));
            };
            parallel_for(0, norm.channels, 1, [&](int64_t from, int64_t to) {
              for (int64_t k = from; k < to; ++k) {
                double mean = 0, variance = 0;
                channel_moments(norm, x, k, mean, variance);
                if (means) update(1, 3, k, mean);
                if (variances) update(2, 4, k, variance);
                const double root = std::sqrt(variance + static_cast<double>(norm.epsilon));
                const auto factor =
                    static_cast<T>(static_cast<double>(args.inputs[1].as<const T>()[k]) / root);
                for (int64_t n = 0; n < norm.batch; ++n) {
                  scale_plane(norm, n * norm.channels + k, x, static_cast<T>(mean), factor,
                              args.inputs[2].as<const T>()[k], y);
                }
              }
            });
          }};
}

Kernel prepare_batch_norm(const NodeContext& c) {
  const bool training = is_training(c);
  if (c.node().int_or("spatial", 1) == 0) c.unsupported("spatial = 0");
  if (!training && c.has_output(1)) c.unsupported("outputs of the training mode");
  const BatchNorm norm = read_batch_norm(c);
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    return training ? training_kernel<T>(c, norm) : stored_kernel<T>(norm);
  });
}

constexpr OpDef kRows[] = {
    {"", "BatchNormalization", 7, infer_batch_norm, prepare_batch_norm},
};

}  // namespace

const std::span<const OpDef> kBatchNormOps = kRows;

}  // namespace compress
