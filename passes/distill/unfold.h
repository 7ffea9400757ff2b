// Weights that are stored as integers, in a form that can be trained.
#pragma once

#include <string>
#include <vector>

#include "compress/graph/model.h"

namespace compress {

// A DequantizeLinear whose integers became float weights for the time of training.
struct Unfolded {
  std::string weights;     // the float constant
  std::string dequantize;  // the value that DequantizeLinear makes
  Tensor integers;         // as they were: type and shape
  bool bias = false;       // int32: the constant stands where DequantizeLinear's result was read
};

// Weights w = s (q - z) become float constants behind which QuantizeLinear and DequantizeLinear of
// the same scales stand: fake quantization, through which gradients pass straight. int32 biases
// become plain float constants.
std::vector<Unfolded> unfold_quantized(Model& model);
// Rounds the (trained) constants and puts the integers back.
void fold_quantized(Model& model, const std::vector<Unfolded>& unfolded);

}  // namespace compress
