// Lifts the default opset where asked (--opset N). Never lowers it.
#include "compress/error.h"
#include "compress/runtime/inline.h"
#include "passes/optimize/optimize.h"

namespace compress {

namespace {

// Inlined nodes are of the model's opsets, so those of the functions must not differ.
void require_own_opsets(Model& model, int64_t wanted) {
  for (const Function& function : model.functions) {
    for (const auto& [domain, version] : function.opsets) {
      const int ours = model.opsets.emplace(domain, version).first->second;
      if (ours == version) continue;
      fail(ErrorCode::unsupported,
           "--opset {}: function '{}' is written for opset {} of {}, the model for {}; export the "
           "model with one opset for both",
           wanted, function.name, version, domain.empty() ? "ai.onnx" : "'" + domain + "'", ours);
    }
  }
}

}  // namespace

PassResult lift_opset(Model& model, PassContext& context) {
  PassResult result;
  const int64_t wanted = context.options.integer("opset");
  if (wanted <= model.opset()) return result;
  if (context.lift_opset == nullptr) {
    fail(ErrorCode::unsupported, "--opset {}: no version converter is at hand", wanted);
  }
  result.details["from"] = model.opset();
  if (!model.functions.empty()) {
    result.details["note"] = fmt::format(
        "--opset {}: the model's {} functions became the nodes that they stand for, since the "
        "version converter knows no functions",
        wanted, model.functions.size());
    require_own_opsets(model, wanted);
    runtime::inline_functions(model);
  }
  (*context.lift_opset)(model, static_cast<int>(wanted));
  result.details["to"] = model.opset();
  result.changed = true;
  return result;
}

}  // namespace compress
