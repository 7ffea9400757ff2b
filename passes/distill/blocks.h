// A compressed copy of a model, in pieces that are trained one after another: each has one value
// going in, one going out, and the model that it was made from has the latter as well.
#pragma once

#include <string>
#include <vector>

#include "compress/graph/model.h"

namespace compress {

struct Block {
  std::string input;   // the value it reads; empty: the model's inputs
  std::string output;  // of the student, behind its QuantizeLinear and DequantizeLinear
  std::string target;  // of the teacher
};

// In the order of execution; each has weights to train. Types of both models are inferred. Empty
// where the models have no names in common.
std::vector<Block> find_blocks(const Model& student, const Model& teacher);

// The nodes between a block's input and its output.
Model cut_block(const Model& student, const Block& block);

// The model, with this value as its only output.
Model cut_at(const Model& model, const std::string& value);

}  // namespace compress
