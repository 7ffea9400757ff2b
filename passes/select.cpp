#include "passes/select.h"

#include "compress/error.h"
#include "passes/overrides.h"

namespace compress {
namespace {

// libstdc++ matches recursively: a hostile name must not exhaust the stack.
constexpr size_t kMaxNameLength = 1024;

}  // namespace

Selection::Selection(const Options& options)
    : include_(compile(options.list("include"), "include")),
      exclude_(compile(options.list("exclude"), "exclude")) {
  for (std::string& op_type : options.list("op-types")) op_types_.insert(std::move(op_type));
}

std::vector<Selection::Pattern> Selection::compile(const std::vector<std::string>& texts,
                                                   std::string_view flag) {
  std::vector<Pattern> patterns;
  for (const std::string& text : texts) {
    try {
      patterns.push_back({text, std::regex(text, std::regex::ECMAScript | std::regex::optimize)});
    } catch (const std::regex_error& error) {
      fail(ErrorCode::usage, "--{} '{}' is no regular expression: {}", flag, text, error.what());
    }
  }
  return patterns;
}

bool Selection::matches(const Pattern& pattern, const Node& node) {
  return std::regex_search(node.name.substr(0, kMaxNameLength), pattern.regex);
}

std::vector<std::string> Selection::unmatched(const Graph& graph) const {
  const std::function<bool(const Pattern&, const Graph&)> found = [&](const Pattern& pattern,
                                                                      const Graph& in) {
    for (NodeId id = 0; id < in.node_slots(); ++id) {
      const Node& node = in.node(id);
      if (!node.alive) continue;
      if (matches(pattern, node)) return true;
      for (const Body& body : node.bodies) {
        if (found(pattern, *body.graph)) return true;
      }
    }
    return false;
  };
  std::vector<std::string> out;
  for (const auto& [flag, patterns] :
       {std::pair("include", &include_), std::pair("exclude", &exclude_)}) {
    for (const Pattern& pattern : *patterns) {
      if (found(pattern, graph)) continue;
      out.push_back(fmt::format("--{} '{}' matches no node{}", flag, pattern.text,
                                nearest_label(graph, pattern.text)));
    }
  }
  return out;
}

std::string Selection::refusal(const Node& node) const {
  if (first_) {
    if (std::string reason = first_(node); !reason.empty()) return reason;
  }
  for (const Pattern& pattern : exclude_) {
    if (matches(pattern, node)) return fmt::format("excluded by '{}'", pattern.text);
  }
  if (include_.empty()) return "";
  for (const Pattern& pattern : include_) {
    if (matches(pattern, node)) return "";
  }
  return "not matched by --include";
}

}  // namespace compress
