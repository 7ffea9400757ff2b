// --explain: the kernel of each node, and what ONNX Runtime does with it.
#pragma once

#include <string>
#include <vector>

#include "cli/onnxruntime.h"
#include "compress/runtime/session.h"
#include "compress/verify/explain.h"

namespace compress {

// `model` was read from `path` and its nodes have names; `feed` tells the shapes; `kernels` are of
// a profiled run. ONNX Runtime is asked where Python has it (through `runtime` where one runs
// already); why it could not be asked is a note. `ask` false: by rule alone.
Explanation explain_model(const Model& model, const std::string& path,
                          const std::vector<NamedTensor>& feed, std::vector<KernelRecord> kernels,
                          bool ask, OnnxRuntime* runtime, std::vector<std::string>& notes);

}  // namespace compress
