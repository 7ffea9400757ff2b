// Activations that are named by an attribute: those of recurrent operators and of FusedConv.
#pragma once

#include <cmath>
#include <optional>
#include <span>
#include <string_view>

#include "compress/error.h"
#include "compress/ops/op.h"

namespace compress {

enum class ActivationKind {
  identity,
  relu,
  tanh,
  sigmoid,
  affine,
  leaky_relu,
  thresholded_relu,
  scaled_tanh,
  hard_sigmoid,
  elu,
  softsign,
  softplus,
  clip,
};

struct Activation {
  ActivationKind kind = ActivationKind::identity;
  float alpha = 0;
  float beta = 0;

  template <class T>
  T apply(T x) const;
};

// By ONNX's name, whatever the case; "" is the identity. Parameters not given take the defaults of
// the operator of that name. Fails (unsupported) on other names.
Activation find_activation(const NodeContext& c, std::string_view name,
                           std::span<const float> parameters);
// nullopt on names that find_activation() does not know.
std::optional<ActivationKind> activation_kind(std::string_view name);
// How many of alpha and beta the activation takes from a list of such parameters.
int parameter_count(ActivationKind kind);

template <class T>
T Activation::apply(T x) const {
  const T a = static_cast<T>(alpha);
  const T b = static_cast<T>(beta);
  switch (kind) {
    case ActivationKind::identity:
      return x;
    case ActivationKind::relu:
      return x > 0 ? x : T{0};
    case ActivationKind::tanh:
      return std::tanh(x);
    case ActivationKind::sigmoid:
      return T{1} / (T{1} + std::exp(-x));
    case ActivationKind::affine:
      return a * x + b;
    case ActivationKind::leaky_relu:
      return x >= 0 ? x : a * x;
    case ActivationKind::thresholded_relu:
      return x > a ? x : T{0};
    case ActivationKind::scaled_tanh:
      return a * std::tanh(b * x);
    case ActivationKind::hard_sigmoid:
      return std::min(std::max(a * x + b, T{0}), T{1});
    case ActivationKind::elu:
      return x >= 0 ? x : a * (std::exp(x) - T{1});
    case ActivationKind::softsign:
      return x / (T{1} + std::abs(x));
    case ActivationKind::softplus:
      return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x));
    case ActivationKind::clip:
      return std::min(std::max(x, a), b);
  }
  return x;
}

}  // namespace compress
