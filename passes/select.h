// Which nodes a step touches: --include, --exclude (regular expressions on node names), --op-types.
#pragma once

#include <functional>
#include <regex>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "compress/graph/graph.h"
#include "compress/recipe.h"

namespace compress {

class Selection {
 public:
  // Reads "include", "exclude" and "op-types". Fails (usage) on a bad regular expression.
  explicit Selection(const Options& options);

  // The patterns that match no node of the graph or its bodies: "--exclude 'fc9' matches no node".
  std::vector<std::string> unmatched(const Graph& graph) const;
  // Why the node is left alone by --include, --exclude or restrict(); "" where it is not.
  std::string refusal(const Node& node) const;
  // Asks `refusal` about every node first.
  void restrict(std::function<std::string(const Node&)> refusal) { first_ = std::move(refusal); }
  // --op-types was given; then it replaces the step's default list.
  bool has_op_types() const { return !op_types_.empty(); }
  bool names_op(std::string_view op_type) const { return op_types_.count(op_type) > 0; }
  // `op_type` is named by --op-types, or is a default of the step where the flag is absent.
  bool wants_op(std::string_view op_type, bool by_default) const {
    return has_op_types() ? names_op(op_type) : by_default;
  }

 private:
  struct Pattern {
    std::string text;
    std::regex regex;
  };
  static std::vector<Pattern> compile(const std::vector<std::string>& texts, std::string_view flag);
  static bool matches(const Pattern& pattern, const Node& node);

  std::function<std::string(const Node&)> first_;
  std::vector<Pattern> include_;
  std::vector<Pattern> exclude_;
  std::set<std::string, std::less<>> op_types_;
};

}  // namespace compress
