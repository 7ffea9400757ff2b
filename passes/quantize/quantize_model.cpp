// Chooses the mode and runs it. What could not be quantized is listed with its reason.
#include "compress/error.h"
#include "passes/quantize/quantize.h"

namespace compress {

PassResult quantize_model(Model& model, PassContext& context) {
  const ModeChoice choice = choose_mode(model, context.options, context.has_data);
  QuantJob job{model, context.options, context.statistics, Selection(context.options)};
  job.result.details = {{"mode", mode_name(choice.mode)}, {"why", choice.why}};
  switch (choice.mode) {
    case QuantMode::none:
      job.skip("", choice.why);
      return std::move(job.result);
    case QuantMode::static_:
      if (!context.has_data) {
        fail(ErrorCode::usage, "--mode static needs calibration data: --data, or --statistics");
      }
      quantize_static(job);
      break;
    case QuantMode::dynamic:
      quantize_dynamic(job);
      break;
    case QuantMode::weight_only:
      quantize_weights(job);
      break;
  }
  job.result.changed = job.quantized > 0;
  job.result.details["quantized_nodes"] = job.quantized;
  return std::move(job.result);
}

}  // namespace compress
