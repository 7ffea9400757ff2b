// What changed between two graphs, node by node: nodes are matched by name (unnamed ones by their
// first output), constants by name.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "compress/graph/graph.h"

namespace compress {

std::string describe(const Graph& graph, const TypeInfo& type);  // "float32[1,3,batch]"
std::string describe(const AttributeValue& value);
bool same_attribute(const AttributeValue& a, const AttributeValue& b);

struct GraphDiff {
  struct NodeRow {
    std::string name;
    std::string op;                    // "ai.onnx" operators without their domain
    std::vector<std::string> changes;  // of a node that both have: "pads [0,0] -> [1,1]"
  };
  struct ConstantRow {
    std::string name;
    std::string type;        // "float32[64,3,7,7]", of changed ones "... -> ..."
    int64_t bytes = 0;       // in the file; of changed ones: the difference
    std::string difference;  // "41 % of the elements differ, by up to 0.031"
  };
  std::map<std::string, std::pair<int64_t, int64_t>> operators;  // nodes before and after
  std::vector<NodeRow> removed, added, changed;
  std::vector<ConstantRow> removed_constants, added_constants, changed_constants;
  std::vector<std::string> interface;  // what differs in inputs and outputs

  bool empty() const;
};

// Bodies of control flow are compared as a whole: a node whose body differs has changed.
GraphDiff diff_graphs(const Graph& before, const Graph& after);

}  // namespace compress
