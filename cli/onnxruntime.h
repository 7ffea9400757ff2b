// ONNX Runtime, where Python has it: cli/ort_runner.py in a child process. Never needed.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cli/child.h"
#include "compress/core/tensor.h"
#include "compress/graph/model.h"
#include "compress/recipe.h"
#include "compress/verify/load.h"
#include "compress/verify/resources.h"
#include "compress/verify/runner.h"

namespace compress {

class OnnxRuntime {
 public:
  // Runs COMPRESS_PYTHON, or python3. Fails (unsupported) naming what is missing; `seconds` is the
  // longest wait for any answer.
  explicit OnnxRuntime(double seconds);

  std::string version() const { return version_; }  // "onnxruntime 1.32.0"

  // The graph that it makes of a model, with layout changes off.
  Model optimized(const std::string& path);

  void open(const std::string& path, int threads);
  const std::vector<std::string>& outputs() const { return outputs_; }
  std::vector<Tensor> run(std::span<const NamedTensor> feeds);
  // What time_once() and load() run on.
  void feed(std::span<const NamedTensor> feeds);
  double time_once();  // ms
  // `clients` threads that each run again as soon as they have their answer, for `seconds`.
  LoadSample load(int clients, double seconds);
  // Since open(); processor time of the runs that were timed.
  ResourceUse resources();
  // One run in a session of its own; the kernels are ONNX Runtime's.
  std::vector<KernelRecord> profile(const std::string& path, std::span<const NamedTensor> feeds,
                                    int threads);
  // This outlives the runner.
  Runner runner();

 private:
  Json call(const char* what, Json request, std::span<const NamedTensor> tensors = {},
            double more_seconds = 0);

  double seconds_;
  std::string python_;
  std::string version_;
  std::unique_ptr<Child> child_;
  std::vector<std::string> outputs_;
  std::vector<Tensor> tensors_;  // of the last answer
};

}  // namespace compress
