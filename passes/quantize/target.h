// --target: the runtime that the file is for, and what it turns into integer kernels.
#pragma once

#include <string_view>

#include "passes/quantize/quantize.h"

namespace compress {

struct Target {
  std::string_view name;
  // Of static quantization, where the options do not say otherwise.
  DType activations = DType::uint8;
  bool symmetric_activations = false;
  // What a layer makes is quantized right behind it, since the runtime fuses Q/DQ on both sides. If
  // not, only what layers read is: the runtime moves and merges Q/DQ by itself, and fuses sums and
  // activations with the layer in front of them.
  bool quantizes_outputs = true;
  // Of a sum of two branches, both; else only the one that no convolution makes.
  bool quantizes_both_summands = true;
  bool integer_bias = true;         // int32 behind DequantizeLinear; else it stays float32
  bool dedicated_pairs = false;     // each reader has its own Q/DQ
  bool has_integer_kernels = true;  // for Q/DQ at all
};

// Of --target; ONNX Runtime's CPU provider where it is absent.
const Target& target_of(const Options& options);
// --activations and --symmetric-activations, or what the target wants. Fail (usage) where the
// target cannot take what was asked for.
DType activation_dtype(const Options& options);
bool symmetric_activations(const Options& options);

}  // namespace compress
