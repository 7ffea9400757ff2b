// --explain: the kernel of each node, and what ONNX Runtime does with it; and what it does less
// exactly.
#pragma once

#include <string>
#include <vector>

#include "cli/onnxruntime.h"
#include "compress/report/report.h"
#include "compress/runtime/session.h"
#include "compress/verify/explain.h"
#include "passes/pass.h"

namespace compress {

// `model` was read from `path` and its nodes have names; `feed` tells the shapes; `kernels` are of
// a profiled run. ONNX Runtime is asked where Python has it (through `runtime` where one runs
// already); why it could not be asked is a note. `ask` false: by rule alone.
Explanation explain_model(const Model& model, const std::string& path,
                          const std::vector<NamedTensor>& feed, std::vector<KernelRecord> kernels,
                          bool ask, OnnxRuntime* runtime, std::vector<std::string>& notes);

// Where static quantization has made products that ONNX Runtime computes less exactly on a
// processor like this one, a note that says so.
void note_saturation(const PipelineResult& result, Report& report);

}  // namespace compress
