// One or more cases for each row of the gradient table: a node, and which inputs to differentiate
// by.
#pragma once

#include <string>
#include <vector>

#include "compress/graph/builder.h"

namespace compress::test {

struct Operand {
  enum Kind { parameter, constant, omitted } kind = parameter;
  Tensor tensor;
};

struct GradientCase {
  std::string op;
  std::vector<Operand> inputs;
  std::vector<Attribute> attributes = {};
  std::string domain = "";
  int opset = 18;
  size_t outputs = 1;
};

std::vector<GradientCase> gradient_cases();

}  // namespace compress::test
