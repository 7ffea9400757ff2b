#include "cli/explaining.h"

#include <cstdlib>

#include "compress/error.h"
#include "compress/kernels/isa.h"

namespace compress {
namespace {

constexpr double kAskSeconds = 60;

// Fails where ONNX Runtime is not there or cannot load the model.
Model ask(const std::string& path, OnnxRuntime* runtime, std::string& source) {
  std::optional<OnnxRuntime> own;
  if (runtime == nullptr) runtime = &own.emplace(kAskSeconds);
  source = runtime->version();
  return runtime->optimized(path);
}

}  // namespace

Explanation explain_model(const Model& model, const std::string& path,
                          const std::vector<NamedTensor>& feed, std::vector<KernelRecord> kernels,
                          bool asks, OnnxRuntime* runtime, std::vector<std::string>& notes) {
  ExplainInput input;
  for (const NamedTensor& named : feed) input.shapes[named.name] = named.tensor.shape();
  input.kernels = std::move(kernels);
  input.vnni = has_vnni();
  std::optional<Model> optimized;
  if (asks) {
    std::string source;
    try {
      optimized = ask(path, runtime, source);
      input.optimized = &*optimized;
      input.source = source;
    } catch (const Error& error) {
      // Nobody needs Python; who named one, or has ONNX Runtime, wants to know what went wrong.
      if (!source.empty() || std::getenv("COMPRESS_PYTHON") != nullptr) {
        notes.push_back(fmt::format("explained by rule: {}", error.what()));
      }
    }
  }
  return explain(model, input);
}

void note_saturation(const PipelineResult& result, Report& report) {
  if (has_vnni()) return;
  for (const PassRecord& pass : result.passes) {
    if (!pass.details.contains("mode") || pass.details["mode"] != "static") continue;
    for (const Json& step : result.resolved_steps) {
      if (!step.contains(pass.step)) continue;
      const Json& options = step[pass.step];
      const bool saturates = !options.value("reduce-range", false) &&
                             options.value("activations", "uint8") == "uint8" &&
                             options.value("weights", "int8") == "int8" &&
                             options.value("target", "ort-cpu") == "ort-cpu";
      if (!saturates) continue;
      report.notes.emplace_back(
          "on processors without VNNI, as this one is, ONNX Runtime adds up byte products in 16 "
          "bits "
          "and cuts off what goes beyond; the figures here are those of exact sums. verify "
          "--simulate-saturation measures the difference, quantize --reduce-range avoids it");
      return;
    }
  }
}

}  // namespace compress
