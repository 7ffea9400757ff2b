// Lifts the default opset where asked (--opset N). Never lowers it.
#include "compress/error.h"
#include "passes/optimize/optimize.h"

namespace compress {

PassResult lift_opset(Model& model, PassContext& context) {
  PassResult result;
  const int64_t wanted = context.options.integer("opset");
  if (wanted <= model.opset()) return result;
  if (context.lift_opset == nullptr) {
    fail(ErrorCode::unsupported, "--opset {}: no version converter is at hand", wanted);
  }
  result.details["from"] = model.opset();
  (*context.lift_opset)(model, static_cast<int>(wanted));
  result.details["to"] = model.opset();
  result.changed = true;
  return result;
}

}  // namespace compress
