// The optimizers of ai.onnx.preview.training: Adagrad, Adam, Momentum. Inputs are the rate R, the
// step T, then all parameters X, all gradients G, and all of each state; outputs are X and the
// states, updated.
#include <cmath>

#include "compress/core/parallel.h"
#include "compress/ops/special_families.h"
#include "compress/ops/typed.h"

namespace compress {
namespace {

constexpr int64_t kGrain = 1 << 14;

// Tensors of each parameter among the inputs: X, G and the states.
template <int kStates>
int parameters_of(const NodeContext& c) {
  constexpr int kEach = 2 + kStates;
  const int given = c.input_count() - 2;
  if (given < kEach || given % kEach != 0) {
    c.invalid(fmt::format("{} inputs, where 2 and {} a parameter belong", c.input_count(), kEach));
  }
  require_inputs(c, c.input_count());
  return given / kEach;
}

template <int kStates>
void infer_optimizer(NodeContext& c) {
  const int count = parameters_of<kStates>(c);
  for (int k = 0; k < 1 + kStates; ++k) {
    for (int i = 0; i < count; ++i) {
      // Outputs have no G.
      const int from = 2 + (k == 0 ? 0 : k + 1) * count + i;
      if (c.in(from).has_shape) {
        c.set_output(k * count + i, c.dtype(from), c.shape(from));
      } else {
        c.set_output(k * count + i, c.dtype(from));
      }
    }
  }
}

// Checks what all three have in common.
template <int kStates>
int check_optimizer(const NodeContext& c) {
  const int count = parameters_of<kStates>(c);
  require_count(c, 0, 1);
  require_count(c, 1, 1);
  if (c.dtype(1) != DType::int64) c.invalid("the step is not int64");
  for (int i = 0; i < count; ++i) {
    for (int k = 0; k < 2 + kStates; ++k) {
      require_shape(c, 2 + k * count + i, c.shape(2 + i));
      if (c.dtype(2 + k * count + i) != c.dtype(2)) c.invalid("tensors differ in type");
    }
    for (int k = 0; k < 1 + kStates; ++k) {
      if (!c.has_output(k * count + i))
        c.invalid(fmt::format("output {} is missing", k * count + i));
    }
  }
  if (c.dtype(0) != c.dtype(2)) c.unsupported("a rate of another type than the parameters");
  return count;
}

// The views of parameter i, and its element count.
template <class T, int kStates>
struct Parameter {
  const T *x, *g;
  const T* states[kStates];
  T* new_x;
  T* new_states[kStates];
  int64_t size;
};

template <class T, int kStates>
Parameter<T, kStates> parameter_of(const KernelArgs& args, int i, int count) {
  const auto in = [&](int k) { return args.inputs[static_cast<size_t>(2 + k * count + i)]; };
  const auto out = [&](int k) { return args.outputs[static_cast<size_t>(k * count + i)]; };
  Parameter<T, kStates> p{in(0).template as<const T>(),
                          in(1).template as<const T>(),
                          {},
                          out(0).template as<T>(),
                          {},
                          in(0).count()};
  for (int k = 0; k < kStates; ++k) {
    p.states[k] = in(2 + k).template as<const T>();
    p.new_states[k] = out(1 + k).template as<T>();
  }
  return p;
}

// make(T{}) gives update(rate, step, Parameter, element), which writes one element.
template <int kStates, class Make>
Kernel optimizer_kernel(const NodeContext& c, Make make) {
  const int count = check_optimizer<kStates>(c);
  return by_float(c, c.dtype(2), [&]<class T>(T) {
    return Kernel{"", [count, update = make(T{})](const KernelArgs& args) {
                    const T rate = *args.inputs[0].as<const T>();
                    const int64_t step = *args.inputs[1].as<const int64_t>();
                    for (int i = 0; i < count; ++i) {
                      const auto p = parameter_of<T, kStates>(args, i, count);
                      const auto prepared = update(rate, step);
                      parallel_for(0, p.size, kGrain, [&](int64_t begin, int64_t end) {
                        for (int64_t e = begin; e < end; ++e) prepared(p, e);
                      });
                    }
                  }};
  });
}

Kernel prepare_adagrad(const NodeContext& c) {
  const float decay = c.node().float_or("decay_factor", 0);
  const float epsilon = c.node().float_or("epsilon", 1e-6f);
  const float norm = c.node().float_or("norm_coefficient", 0);
  return optimizer_kernel<1>(c, [=]<class T>(T) {
    return [=](T rate, int64_t step) {
      const T decayed = rate / (1 + static_cast<T>(step) * static_cast<T>(decay));
      return [=](const Parameter<T, 1>& p, int64_t e) {
        const T gradient = static_cast<T>(norm) * p.x[e] + p.g[e];
        const T squares = p.states[0][e] + gradient * gradient;
        p.new_x[e] = p.x[e] - decayed * gradient / (std::sqrt(squares) + static_cast<T>(epsilon));
        p.new_states[0][e] = squares;
      };
    };
  });
}

Kernel prepare_adam(const NodeContext& c) {
  const float alpha = c.node().float_or("alpha", 0.9f);
  const float beta = c.node().float_or("beta", 0.999f);
  const float epsilon = c.node().float_or("epsilon", 1e-6f);
  const float norm = c.node().float_or("norm_coefficient", 0);
  const float norm_post = c.node().float_or("norm_coefficient_post", 0);
  return optimizer_kernel<2>(c, [=]<class T>(T) {
    return [=](T rate, int64_t step) {
      const T a = static_cast<T>(alpha), b = static_cast<T>(beta);
      const T t = static_cast<T>(step);
      // Bias correction from the first step on.
      const T adjusted =
          step > 0 ? rate * std::sqrt(1 - std::pow(b, t)) / (1 - std::pow(a, t)) : rate;
      return [=](const Parameter<T, 2>& p, int64_t e) {
        const T gradient = static_cast<T>(norm) * p.x[e] + p.g[e];
        const T mean = a * p.states[0][e] + (1 - a) * gradient;
        const T square = b * p.states[1][e] + (1 - b) * gradient * gradient;
        const T moved = p.x[e] - adjusted * mean / (std::sqrt(square) + static_cast<T>(epsilon));
        p.new_x[e] = (1 - static_cast<T>(norm_post)) * moved;
        p.new_states[0][e] = mean;
        p.new_states[1][e] = square;
      };
    };
  });
}

Kernel prepare_momentum(const NodeContext& c) {
  const float alpha = c.node().float_or("alpha", 0);
  const float beta = c.node().float_or("beta", 0);
  const float norm = c.node().float_or("norm_coefficient", 0);
  const std::string mode = c.node().string_or("mode", "standard");
  if (mode != "standard" && mode != "nesterov") {
    c.invalid(fmt::format("mode '{}'", printable(mode)));
  }
  return optimizer_kernel<1>(c, [=, nesterov = mode == "nesterov"]<class T>(T) {
    return [=](T rate, int64_t step) {
      // At step 0 the gradient counts whole.
      const T weight = step > 0 ? static_cast<T>(beta) : T(1);
      return [=](const Parameter<T, 1>& p, int64_t e) {
        const T a = static_cast<T>(alpha);
        const T gradient = static_cast<T>(norm) * p.x[e] + p.g[e];
        const T moment = a * p.states[0][e] + weight * gradient;
        p.new_x[e] = p.x[e] - rate * (nesterov ? gradient + a * moment : moment);
        p.new_states[0][e] = moment;
      };
    };
  });
}

constexpr std::string_view kDomain = "ai.onnx.preview.training";
constexpr OpDef kRows[] = {
    {kDomain, "Adagrad", 1, infer_optimizer<1>, prepare_adagrad},
    {kDomain, "Adam", 1, infer_optimizer<2>, prepare_adam},
    {kDomain, "Momentum", 1, infer_optimizer<1>, prepare_momentum},
};

}  // namespace

const std::span<const OpDef> kOptimizerOps = kRows;

}  // namespace compress
