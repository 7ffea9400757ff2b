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
  std::string integers;    // the constant that DequantizeLinear read
  bool bias = false;       // int32: the constant stands where DequantizeLinear's result was read
};

// What is known of a model that was quantized to be trained (--qat).
struct FakeQuantization {
  // The model before it was: weights start from its constants, found by name, not from what their
  // integers mean. Null: there is none.
  const Model* before = nullptr;
  bool learn_scales = false;
};

// Weights w = s (q - z) become float constants behind which QuantizeLinear and DequantizeLinear of
// the same scales stand: fake quantization, through which gradients pass straight. int32 biases
// become plain float constants.
std::vector<Unfolded> unfold_quantized(Model& model, const FakeQuantization& how = {});
// Rounds the (trained) constants and puts the integers back. Where scales were learnt, a bias takes
// the scale that integer kernels want: that of its layer's input times that of the weights.
void fold_quantized(Model& model, const std::vector<Unfolded>& unfolded,
                    const FakeQuantization& how = {});

}  // namespace compress
