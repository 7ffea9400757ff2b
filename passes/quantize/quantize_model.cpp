// Chooses the mode and runs it. What could not be quantized is listed with its reason.
#include "compress/error.h"
#include "passes/quantize/quantize.h"
#include "passes/recover/recover_static.h"

namespace compress {
namespace {

void refuse_recovery(const QuantJob& job, std::string_view mode) {
  if (mode != "static" && !job.options.list("recover").empty()) {
    recover_options(job.options);  // an unknown name is the first thing to say
    fail(ErrorCode::usage, "--recover is for --mode static, this is {}", mode);
  }
  const std::string algorithm = job.options.text("algorithm");
  if (algorithm == "rtn" || mode == "weight-only") return;
  if (algorithm == "gptq" && mode == "static") return;
  fail(ErrorCode::usage, "--algorithm {} is for --mode {}weight-only, this is {}", algorithm,
       algorithm == "gptq" ? "static and " : "", mode);
}

void quantize_static_and_recover(QuantJob& job) {
  const RecoverOptions recover = recover_options(job.options);
  if (!recover) return quantize_static(job);
  const CalibrationSamples samples = calibration_samples(
      job, job.options.list("recover").empty() ? "--algorithm gptq" : "--recover");
  const Model reference = job.model;
  quantize_static(job);
  recover_static(job.model, reference, job.layers, recover, samples, job.result);
}

}  // namespace

CalibrationSamples calibration_samples(const QuantJob& job, std::string_view what) {
  if (job.samples == nullptr) {
    fail(ErrorCode::usage, "{} runs samples; give --data (a file of statistics is not enough)",
         what);
  }
  CalibrationSamples samples = (*job.samples)();
  if (samples.indices.empty()) fail(ErrorCode::usage, "{} runs samples; there are none", what);
  return samples;
}

PassResult quantize_model(Model& model, PassContext& context) {
  const ModeChoice choice = choose_mode(model, context.options, context.has_data);
  QuantJob job{model, context.options, context.statistics, Selection(context.options)};
  job.samples = context.samples;
  job.result.details = {{"mode", mode_name(choice.mode)}, {"why", choice.why}};
  switch (choice.mode) {
    case QuantMode::none:
      job.skip("", choice.why);
      return std::move(job.result);
    case QuantMode::static_:
      if (!context.has_data) {
        fail(ErrorCode::usage, "--mode static needs calibration data: --data, or --statistics");
      }
      refuse_recovery(job, "static");
      quantize_static_and_recover(job);
      break;
    case QuantMode::dynamic:
      refuse_recovery(job, "dynamic");
      quantize_dynamic(job);
      break;
    case QuantMode::weight_only:
      refuse_recovery(job, "weight-only");
      quantize_weights(job);
      break;
  }
  job.result.changed = job.quantized > 0;
  job.result.details["quantized_nodes"] = job.quantized;
  return std::move(job.result);
}

}  // namespace compress
