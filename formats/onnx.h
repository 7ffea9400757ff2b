// ONNX files. Protobuf and ONNX's own library are seen in this folder alone.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "compress/graph/model.h"

namespace compress {

struct ReadOptions {
  uint64_t max_model_bytes = uint64_t{64} << 30;
  int64_t max_nodes = 1'000'000;
  // Run ONNX's checker on the model with its payloads cut out.
  bool check = true;
};

// Reads a model. The file is mapped; raw tensor data and external data stay mapped. What is not
// understood is kept for the writer. Fails: io (missing, unreadable), invalid_model (not ONNX,
// truncated, sizes that do not fit, external data outside the model's folder), unsupported
// (opset newer than the library knows).
Model read_onnx(const std::string& path, const ReadOptions& options = {});

struct WriteOptions {
  bool overwrite = false;      // an existing file at `path`
  bool external_data = false;  // forced; automatic above 2 GB
  // Gives the text for metadata_props "compress": what decides the bytes (recipe, seed, hashes).
  // Asked for when the weights are written, so that hashing may go on meanwhile.
  std::function<std::string()> provenance;
};

// Writes atomically: a temporary beside the target, flushed, re-read and checked (structure, ONNX's
// checker, finite scales > 0), then renamed; external data first. The bytes depend on the model and
// the options alone. Returns the bytes written, external data included.
uint64_t write_onnx(const Model& model, const std::string& path, const WriteOptions& options = {});

// The model file's bytes without external data, for tests.
std::string serialize_onnx(const Model& model);
// How many those are; tensors are not read.
uint64_t serialized_bytes(const Model& model);

// Lifts the default domain to `opset` with ONNX's version converter. Fails (unsupported) with the
// converter's reason. Weights are not copied through protobuf.
void convert_opset(Model& model, int opset);

// The body that ONNX's schema gives an operator for one node: the OperatorFunction of every model
// that read_onnx reads.
std::optional<Function> onnx_operator_function(const Node& node, int opset,
                                               std::span<const TypeInfo> inputs);

// The newest version of ai.onnx that the library knows.
int newest_opset();

// One tensor file (TensorProto), as in test_data_set_*/input_0.pb.
Tensor read_tensor_file(const std::string& path, std::string* name = nullptr);

}  // namespace compress
