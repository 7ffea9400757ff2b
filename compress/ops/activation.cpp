#include "compress/ops/activation.h"

#include <algorithm>
#include <cctype>
#include <limits>
#include <string>

namespace compress {
namespace {

struct Row {
  std::string_view name;  // lower case
  ActivationKind kind;
  int parameters;
  float alpha;
  float beta;
};

constexpr Row kRows[] = {
    {"", ActivationKind::identity, 0, 0, 0},
    {"relu", ActivationKind::relu, 0, 0, 0},
    {"tanh", ActivationKind::tanh, 0, 0, 0},
    {"sigmoid", ActivationKind::sigmoid, 0, 0, 0},
    {"affine", ActivationKind::affine, 2, 1, 0},
    {"leakyrelu", ActivationKind::leaky_relu, 1, 0.01f, 0},
    {"thresholdedrelu", ActivationKind::thresholded_relu, 1, 1, 0},
    {"scaledtanh", ActivationKind::scaled_tanh, 2, 1, 1},
    {"hardsigmoid", ActivationKind::hard_sigmoid, 2, 0.2f, 0.5f},
    {"elu", ActivationKind::elu, 1, 1, 0},
    {"softsign", ActivationKind::softsign, 0, 0, 0},
    {"softplus", ActivationKind::softplus, 0, 0, 0},
    {"clip", ActivationKind::clip, 2, std::numeric_limits<float>::lowest(),
     std::numeric_limits<float>::max()},
};

const Row* find_row(std::string_view name) {
  std::string lower(name);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
  for (const Row& row : kRows) {
    if (row.name == lower) return &row;
  }
  return nullptr;
}

}  // namespace

Activation find_activation(const NodeContext& c, std::string_view name,
                           std::span<const float> parameters) {
  const Row* row = find_row(name);
  if (row == nullptr) c.unsupported(fmt::format("activation {}", printable(name)));
  Activation found{row->kind, row->alpha, row->beta};
  if (!parameters.empty()) found.alpha = parameters[0];
  if (parameters.size() > 1) found.beta = parameters[1];
  return found;
}

std::optional<ActivationKind> activation_kind(std::string_view name) {
  const Row* row = find_row(name);
  return row != nullptr ? std::optional(row->kind) : std::nullopt;
}

int parameter_count(ActivationKind kind) {
  for (const Row& row : kRows) {
    if (row.kind == kind) return row.parameters;
  }
  return 0;
}

}  // namespace compress
