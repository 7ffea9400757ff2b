#include "passes/quantize/target.h"

#include <array>

#include "compress/error.h"

namespace compress {
namespace {

// ONNX Runtime: measured (docs/numbers.md). TensorRT: symmetric int8, no quantized bias, and Q/DQ
// on what layers read (its guide on explicit quantization). OpenVINO: both signs, on what layers
// read, since its transformations for low precision move them.
constexpr std::array kTargets = {
    Target{"ort-cpu"},
    Target{.name = "ort-cuda", .has_integer_kernels = false},
    Target{.name = "tensorrt",
           .activations = DType::int8,
           .symmetric_activations = true,
           .quantizes_outputs = false,
           .quantizes_both_summands = false,
           .integer_bias = false,
           .dedicated_pairs = true},
    Target{.name = "openvino", .quantizes_outputs = false, .integer_bias = false},
};

}  // namespace

const Target& target_of(const Options& options) {
  if (options.has("target")) {
    const std::string name = options.text("target");
    for (const Target& row : kTargets) {
      if (row.name == name) return row;
    }
  }
  return kTargets[0];
}

DType activation_dtype(const Options& options) {
  const Target& target = target_of(options);
  if (!options.given("activations")) return target.activations;
  const DType dtype = find_dtype(options.text("activations"))->dtype;
  if (target.symmetric_activations && dtype != target.activations) {
    fail(ErrorCode::usage, "--target {} takes {} activations, not {}", target.name,
         info(target.activations).name, options.text("activations"));
  }
  return dtype;
}

bool symmetric_activations(const Options& options) {
  return options.flag("symmetric-activations") || target_of(options).symmetric_activations;
}

}  // namespace compress
