// A whole model: the main graph and what surrounds it in the file.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "compress/graph/graph.h"

namespace compress {

// A model-local function. It stays in the model as it was read; the runtime inlines it on its copy.
struct Function {
  std::string domain;
  std::string name;
  std::string overload;
  std::vector<std::string> inputs;
  std::vector<std::string> outputs;
  std::vector<std::string> attributes;  // parameters without default
  std::vector<Attribute> attribute_defaults;
  std::map<std::string, int> opsets;
  // The body as a graph whose inputs and outputs bear the names above; types unknown.
  std::shared_ptr<const Graph> graph;
  std::string wire;  // the FunctionProto as read
};

// The body of an operator that its specification defines through other operators, for one node of
// version `opset` of its domain; types of inputs that are omitted or not known are undefined. Empty
// where the operator has no such body. Fails (invalid_model) where the node breaks the
// specification, (unsupported) where its body depends on more than is known.
using OperatorFunction = std::optional<Function> (*)(const Node& node, int opset,
                                                     std::span<const TypeInfo> inputs);

struct Model {
  int64_t ir_version = 10;
  std::map<std::string, int> opsets;  // by domain; "" is ai.onnx
  std::string producer_name;
  std::string producer_version;
  std::string domain;
  int64_t model_version = 0;
  std::string doc_string;
  std::vector<std::pair<std::string, std::string>> metadata;
  std::vector<Function> functions;
  std::string unknown_fields;  // wire bytes of ModelProto fields that we do not interpret
  Graph graph;
  // Set by readers of formats that come with such bodies: what a session runs operators by that
  // have no kernel. It is no part of the model's content.
  OperatorFunction operator_function = nullptr;

  // Where it was read from, for messages and reports; empty for models built in memory.
  std::string path;
  uint64_t file_bytes = 0;  // external data included

  int opset() const {
    const auto row = opsets.find("");
    return row == opsets.end() ? 1 : row->second;
  }
  const Function* find_function(const Node& node) const;
};

}  // namespace compress
