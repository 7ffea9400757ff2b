// Models built by hand from wire bytes, and a folder to put them in.
#pragma once

#include <stdlib.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "compress/graph/model.h"
#include "formats/onnx.h"
#include "formats/onnx_fields.h"
#include "formats/wire.h"

namespace compress {

namespace fs = std::filesystem;
namespace field = onnx_field;

inline fs::path shared_models() { return fs::path(COMPRESS_SHARED_DIR) / "models"; }

struct Scratch {
  fs::path folder;
  Scratch() {
    std::string name = (fs::temp_directory_path() / "compress-test-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    folder = name;
  }
  ~Scratch() { fs::remove_all(folder); }
  std::string path(const std::string& name) const { return (folder / name).string(); }
  std::string write(const std::string& name, std::string_view bytes) const {
    const fs::path path = folder / name;
    std::ofstream(path, std::ios::binary) << bytes;
    return path.string();
  }
};

inline std::string value_info(const std::string& name, std::vector<int64_t> dims,
                              int64_t type = 1) {
  std::string shape;
  for (const int64_t size : dims) {
    std::string dim;
    put_int(dim, field::dim::value, size);
    put_bytes(shape, field::shape::dim, dim);
  }
  std::string tensor;
  put_int(tensor, field::tensor_type::elem_type, type);
  put_bytes(tensor, field::tensor_type::shape, shape);
  std::string holder;
  put_bytes(holder, field::type::tensor, tensor);
  std::string wire;
  put_bytes(wire, field::value_info::name, name);
  put_bytes(wire, field::value_info::type, holder);
  return wire;
}

inline std::string float_tensor(const std::string& name, std::vector<float> values) {
  std::string wire;
  put_int(wire, field::tensor::dims, static_cast<int64_t>(values.size()));
  put_int(wire, field::tensor::data_type, 1);
  put_bytes(wire, field::tensor::name, name);
  put_bytes(wire, field::tensor::raw_data,
            {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)});
  return wire;
}

inline std::string node(const std::string& type, std::vector<std::string> inputs,
                        std::vector<std::string> outputs,
                        std::vector<std::string> attributes = {}) {
  std::string wire;
  for (const std::string& input : inputs) put_bytes(wire, field::node::input, input);
  for (const std::string& output : outputs) put_bytes(wire, field::node::output, output);
  put_bytes(wire, field::node::op_type, type);
  for (const std::string& attribute : attributes) {
    put_bytes(wire, field::node::attribute, attribute);
  }
  return wire;
}

struct GraphParts {
  std::vector<std::string> nodes, inputs, outputs, initializers;
};

inline std::string graph_wire(const GraphParts& parts) {
  std::string wire;
  for (const std::string& row : parts.nodes) put_bytes(wire, field::graph::node, row);
  put_bytes(wire, field::graph::name, "g");
  for (const std::string& row : parts.initializers) {
    put_bytes(wire, field::graph::initializer, row);
  }
  for (const std::string& row : parts.inputs) put_bytes(wire, field::graph::input, row);
  for (const std::string& row : parts.outputs) put_bytes(wire, field::graph::output, row);
  return wire;
}

inline std::string model_wire(const std::string& graph, int64_t opset = 17) {
  std::string wire;
  put_int(wire, field::model::ir_version, 8);
  put_bytes(wire, field::model::graph, graph);
  std::string import;
  put_bytes(import, field::opset::domain, "");
  put_int(import, field::opset::version, opset);
  put_bytes(wire, field::model::opset_import, import);
  return wire;
}

// y = x + w
inline GraphParts small_graph() {
  return {{node("Add", {"x", "w"}, {"y"})},
          {value_info("x", {2})},
          {value_info("y", {2})},
          {float_tensor("w", {1, 2})}};
}

inline std::string graph_attribute(const std::string& name, const std::string& graph) {
  std::string wire;
  put_bytes(wire, field::attribute::name, name);
  put_bytes(wire, field::attribute::g, graph);
  put_int(wire, field::attribute::type, field::attribute::kGraph);
  return wire;
}

// An If in an If and so on; the innermost branch adds the model's input and its weight.
inline std::string nested_ifs(int depth) {
  std::string name = "v" + std::to_string(depth);
  GraphParts inner{{node("Add", {"x", "w"}, {name})}, {}, {value_info(name, {2})}, {}};
  for (int level = depth - 1; level >= 0; --level) {
    const std::string branch = graph_wire(inner);
    std::string other = name + "_else";
    const std::string alternative =
        graph_wire({{node("Identity", {"x"}, {other})}, {}, {value_info(other, {2})}, {}});
    name = "v" + std::to_string(level);
    inner = {{node("If", {"c"}, {name},
                   {graph_attribute("then_branch", branch),
                    graph_attribute("else_branch", alternative)})},
             {},
             {value_info(name, {2})},
             {}};
  }
  inner.inputs = {value_info("x", {2}), value_info("c", {}, 9)};
  inner.initializers = {float_tensor("w", {1, 2})};
  return model_wire(graph_wire(inner));
}

}  // namespace compress
