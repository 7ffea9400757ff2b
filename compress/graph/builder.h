// A fluent way to write small graphs in tests and passes.
//
//   GraphBuilder b;
//   auto x = b.input("x", DType::float32, {1, 3, 8, 8});
//   auto y = b.op("Relu", {b.op("Conv", {x, b.constant(w)}, {attr("pads", ints)})});
//   b.output(y, "y");
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "compress/graph/graph.h"
#include "compress/graph/model.h"

namespace compress {

inline Attribute attr(std::string name, AttributeValue value) {
  return {std::move(name), std::move(value), ""};
}

class GraphBuilder {
 public:
  // Negative dims are unknown.
  ValueId input(std::string name, DType dtype, std::initializer_list<int64_t> dims);
  ValueId constant(Tensor tensor, std::string name = "c");
  // The first output of a new node.
  ValueId op(std::string op_type, std::vector<ValueId> inputs,
             std::vector<Attribute> attributes = {}, std::string domain = "");
  // All outputs of a new node.
  std::vector<ValueId> op_n(std::string op_type, size_t outputs, std::vector<ValueId> inputs,
                            std::vector<Attribute> attributes = {}, std::string domain = "");
  void output(ValueId id, std::string name);
  Graph& graph() { return graph_; }
  // The graph as a model of the given opset (IR 10; com.microsoft 1 where it is used).
  Model model(int opset = 17) &&;

 private:
  Graph graph_;
};

}  // namespace compress
