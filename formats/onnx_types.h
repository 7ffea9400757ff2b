// ValueInfoProto and TypeProto <-> TypeInfo.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>

#include "compress/graph/graph.h"

namespace compress {

// What a ValueInfoProto says.
struct ValueInfo {
  std::string name;
  TypeInfo type;  // dtype undefined where it is no tensor type, or none is given
  bool has_type = false;
  // There is more than name, element type and shape: the wire bytes must be kept.
  bool is_partial = false;
};

// Dimension names as symbols of one graph.
class SymbolTable {
 public:
  explicit SymbolTable(Graph& graph) : graph_(graph) {}
  int64_t find(std::string_view name);

 private:
  Graph& graph_;
  std::unordered_map<std::string, int64_t> known_;
};

// Fails (invalid_model) on negative dimensions and unknown element types, (unsupported) on a rank
// above kMaxRank.
ValueInfo scan_value_info(std::string_view wire, SymbolTable& symbols);

// The ValueInfoProto of a value: made from its type, and from `value.wire` where that says more.
std::string value_info_wire(const Graph& graph, const Value& value);

}  // namespace compress
