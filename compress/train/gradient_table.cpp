// Lists the families of gradients and finds rows.
#include "compress/train/gradient.h"

namespace compress::train {

std::span<const std::span<const GradientDef>> gradient_families() {
  static const std::span<const GradientDef> families[] = {
      kElementwiseGradients, kProductGradients, kReductionGradients,
      kMovementGradients,    kLayerGradients,   kRecurrentRows,
  };
  return families;
}

std::span<const std::string_view> operators_by_body() {
  static constexpr std::string_view kNames[] = {"ReduceLogSum", "Shrink", "Swish",
                                                "ThresholdedRelu"};
  return kNames;
}

const GradientDef* find_gradient(std::string_view domain, std::string_view name) {
  if (domain == "ai.onnx") domain = "";
  for (const auto& family : gradient_families()) {
    for (const GradientDef& row : family) {
      if (row.domain == domain && row.name == name) return &row;
    }
  }
  return nullptr;
}

}  // namespace compress::train
