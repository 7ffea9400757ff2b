// Accuracy that static quantization lost, won back without labels: layer by layer, on what the
// quantized layers before really put out.
#pragma once

#include <vector>

#include "passes/pass.h"
#include "passes/recover/round_rows.h"

namespace compress {

struct RecoverOptions {
  // Weights are rounded so that errors make up for each other, by GPTQ or by learning it.
  Rounding rounding = Rounding::nearest;
  // Each channel's mean after its activation becomes that of the float model (Nagel et al. 2019,
  // arXiv 1906.04721, section 4.2, but measured where values are already clipped).
  bool bias = false;
  bool equalize = false;  // see channels.h
  bool smooth = false;    // see input_scales.h

  bool reduce_range = false;  // as the weights were quantized
  bool integer_bias = true;   // of layers that get one

  explicit operator bool() const {
    return rounding != Rounding::nearest || bias || equalize || smooth;
  }
};

// From --algorithm, --recover and --reduce-range; fails (usage) on a name that there is not.
RecoverOptions recover_options(const Options& options);

// `layers` are nodes (Conv, Gemm, MatMul) of `model` with weights behind DequantizeLinear; the
// float `reference` has nodes of the same ids and values of the same names.
void recover_static(Model& model, const Model& reference, const std::vector<NodeId>& layers,
                    const RecoverOptions& options, const CalibrationSamples& samples,
                    PassResult& result);

}  // namespace compress
