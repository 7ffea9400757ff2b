// Serializing a model to ModelProto's wire bytes, in field order; shared by onnx_write.cpp and the
// version converter.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "compress/graph/model.h"
#include "formats/rope.h"

namespace compress {

// Where initializers' bytes go.
struct PayloadPlan {
  enum class Kind {
    inlined,   // into the model
    external,  // those of at least 1 KiB into the file `location`
    held,      // those above 4 KiB nowhere: "held:N" names number N of `held`, attributes included
  };
  Kind kind = Kind::inlined;
  std::string location;

  // Filled while serializing.
  struct Row {
    Tensor tensor;
    uint64_t offset;
  };
  std::vector<Row> rows;  // external or held, in order
  uint64_t external_end = 0;
};

// ModelProto's bytes. `provenance` gives the metadata property "compress", where there is one, once
// the graph is streamed.
Rope model_rope(const Model& model, const std::function<std::string()>& provenance,
                PayloadPlan& plan);

// NodeProto's bytes of a node apart from its graph, payloads included; names of operands say only
// which are there.
std::string lone_node_wire(const Node& node);

// Bytes of all initializers and tensor attributes.
uint64_t payload_bytes(const Graph& graph);

// The least IR version that may hold this model.
int64_t needed_ir_version(const Model& model);

}  // namespace compress
