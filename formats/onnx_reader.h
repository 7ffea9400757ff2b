// Reading graphs from ModelProto's wire bytes; shared by onnx_read*.cpp.
#pragma once

#include <string>
#include <string_view>

#include "compress/graph/model.h"
#include "formats/onnx.h"
#include "formats/onnx_tensor.h"

namespace compress {

// Bodies in bodies. Protobuf's own limit of 100 messages allows 33 nested Ifs.
inline constexpr int kMaxGraphDepth = 33;

// What the reading of one model shares.
struct ReadState {
  TensorSource& source;
  int64_t nodes_left;
};

// A graph on the way, and the graphs around it whose values it may read.
struct GraphScope {
  Graph& graph;
  const GraphScope* outer = nullptr;
  std::vector<Body::Capture>* captures = nullptr;  // of the body that `graph` is
  int depth = 0;
  bool in_function = false;
};

// GraphProto: values first, so that nodes may come in any order, then nodes and their bodies.
void read_graph(std::string_view wire, GraphScope& scope, ReadState& state);
// The nodes of a graph whose inputs are declared (a function's body); `infos` are ValueInfoProtos.
void read_nodes(const std::vector<std::string_view>& nodes, GraphScope& scope, ReadState& state);
Attribute read_attribute(std::string_view wire, GraphScope& scope, ReadState& state);

// FunctionProto. An output that no node makes is an error, unless `partial`: bodies that ONNX
// builds for one call leave out what the call does not ask for.
Function read_function(std::string_view wire, ReadState& state, bool partial = false);

std::pair<std::string, std::string> read_entry(std::string_view wire);
std::string normal_domain(std::string_view domain);

// A model from its wire bytes; `path` for messages, may be empty.
Model read_model(std::string_view wire, TensorSource& source, const ReadOptions& options);

}  // namespace compress
