// What of a model is trained, and the graph's form for it: parameters become inputs that the
// session neither folds nor packs, batch statistics become state.
#pragma once

#include <string>
#include <vector>

#include "compress/graph/model.h"

namespace compress::train {

struct Parameter {
  std::string name;          // of the constant that it was
  ValueId constant;          // in the model that find_parameters() saw
  ValueId value = kNoValue;  // the input that stands for it; set by bind_parameters()
  Tensor initial;
  bool decays = false;    // weight decay and l1 apply: weights, not biases and norms
  bool is_scale = false;  // of fake quantization
  std::string node;       // its first reader
  double step = 0;        // between two integers, on the average, behind fake quantization; else 0
};

struct ParameterOptions {
  bool scales = false;  // also the scales of QuantizeLinear / DequantizeLinear pairs (LSQ)
};

// float32 constants in the parameter slots of layers, also behind Transpose, Reshape, Identity and
// fake quantization, in the order of execution. Constants that Add, Mul or Slice read are left
// alone, except biases: what is added to a layer's output.
std::vector<Parameter> find_parameters(const Graph& graph, const ParameterOptions& options = {});

// Each constant becomes an input of its name, with its type.
void bind_parameters(Graph& graph, std::vector<Parameter>& parameters);

// Running statistics: each batch moves them to momentum * before + (1 - momentum) * the batch's.
struct State {
  std::string name;
  ValueId input = kNoValue;
  ValueId output = kNoValue;  // of the batch alone
  Tensor initial;
  double momentum = 0;
};

// BatchNormalization normalizes by the batch, and its running statistics become state.
std::vector<State> train_batch_norm(Graph& graph);

// Dropout nodes draw masks, a function of `seed` and of the step, an int64 input of the name
// returned; "" where there are none.
std::string activate_dropout(Graph& graph, uint64_t seed);

}  // namespace compress::train
