// Which operators ONNX Runtime has rules for, and small questions that those who apply them share.
// Not for others; ort_rules.h is the interface.
#pragma once

#include <string>

#include "compress/verify/ort_rules.h"

namespace compress {

const OrtRule* ort_rule_of(const Node& node);  // nullptr: none
std::string ort_op_name(const Node& node);
// With operands, of ONNX's domain or com.microsoft's.
bool is_quantize(const Node& node);
bool is_dequantize(const Node& node);

}  // namespace compress
