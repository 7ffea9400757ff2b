// What needs ONNX's own library: checker, shape inference, version converter, operator versions.
// It sees models with their payloads cut out, never the weights.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "formats/onnx_tensor.h"

namespace compress {

enum class Cut {
  // Tensors without payload have the shape [0]: what the checker accepts of a tensor without data.
  for_checker,
  // They keep their shape, and have no data: what shape inference needs.
  for_inference,
};

// A copy of ModelProto's wire bytes in which no tensor above a few kilobytes has data and none is
// external: small external tensors move in, for shape inference reads them.
std::string cut_model(std::string_view wire, Cut cut, TensorSource& source);

// ONNX's checker on a model cut for it, and shape inference in strict mode on one cut for that.
// Fails (invalid_model) with their reason in one line.
void check_cut_model(const std::string& for_checker);
void infer_cut_model(const std::string& for_inference);

// The first IR version that knows `opset` of the default domain.
int64_t ir_version_of_opset(int opset);
// The newest IR version that the library knows.
int64_t newest_ir_version();

// The cut model lifted to another opset of the default domain. Fails (unsupported).
std::string convert_cut_model(const std::string& wire, int opset);

}  // namespace compress
