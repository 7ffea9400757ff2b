// Why a model is as fast as it is: every node's kernel here, its fate in ONNX Runtime, and in words
// what keeps a quantized model from being faster.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "compress/graph/label.h"
#include "compress/runtime/session.h"
#include "compress/verify/ort_rules.h"

namespace compress {

struct ExplainedNode {
  OrtNode ort;
  std::string device;  // "" where the model was not run
  std::string kernel;  // "" for nodes that were folded away
  bool fused = false;  // its time is told of another node of the same kernel
  double ms = 0;       // of one profiled run
};

struct Explanation {
  std::string source;  // "rules", or "onnxruntime 1.32.0"
  std::vector<std::string> why;
  int64_t macs = 0;
  int64_t integer_macs = 0;
  int64_t packed_macs = 0;
  int64_t float_macs = 0;  // dequantized ones included
  int64_t dequantized_macs = 0;
  uint64_t dequantized_bytes = 0;  // stored bytes of weights that are dequantized on each run
  int64_t contradictions = 0;      // nodes where ONNX Runtime did something else than the rules say
  std::vector<ExplainedNode> nodes;
};

struct ExplainInput {
  std::map<std::string, Shape> shapes;  // of the inputs
  std::vector<KernelRecord> kernels;    // of a profiled run; empty where it did not run
  const Model* optimized = nullptr;     // what ONNX Runtime saved, where it was asked
  std::string source = "rules";
  bool vnni = true;  // the processor multiplies 8-bit integers in one instruction
};
// REQUIRES that name_nodes() (graph/label.h) was called on the model that the kernels are of.
Explanation explain(const Model& model, const ExplainInput& input);

// The kernels of a run, each with the least of its times in a few runs: one run alone is mostly
// noise.
std::vector<KernelRecord> profile_kernels(Session& session, std::span<const NamedTensor> feeds);

// Whether this processor has AVX512-VNNI or AVX-VNNI; true where it cannot be told.
bool has_vnni();

}  // namespace compress
