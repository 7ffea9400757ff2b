// compress diff: what changed between two models.
#include <algorithm>
#include <memory>

#include "cli/command.h"
#include "cli/machine.h"
#include "cli/verification.h"
#include "compress/error.h"
#include "compress/graph/diff.h"
#include "formats/onnx.h"

namespace compress {
namespace {

struct Command {
  std::string before, after;
  bool all = false;
  bool json = false;
};

constexpr size_t kRows = 10;  // of a kind, without --all

// Lines of one kind under a head; the rest is counted.
template <class Row, class Text>
void add_rows(std::string& out, std::string_view head, const std::vector<Row>& rows, bool all,
              const Text& text) {
  if (rows.empty()) return;
  out += fmt::format("{} ({}):\n", head, rows.size());
  const size_t shown = all ? rows.size() : std::min(rows.size(), kRows);
  for (size_t i = 0; i < shown; ++i) out += "  " + printable(text(rows[i])) + "\n";
  if (shown < rows.size()) out += fmt::format("  ... {} more (--all)\n", rows.size() - shown);
}

std::string signed_bytes(int64_t bytes) {
  const auto size = static_cast<uint64_t>(bytes < 0 ? -bytes : bytes);
  return (bytes < 0 ? "-" : "+") + human_bytes(size);
}

std::string to_text(const GraphDiff& diff, const ModelSummary& a, const ModelSummary& b, bool all) {
  std::string out =
      fmt::format("size      {} -> {}  x {:.3f}\n", human_bytes(a.bytes), human_bytes(b.bytes),
                  static_cast<double>(b.bytes) / static_cast<double>(a.bytes));
  out += fmt::format("nodes     {} -> {}\n", a.nodes, b.nodes);
  if (a.opset != b.opset) out += fmt::format("opset     {} -> {}\n", a.opset, b.opset);
  out += fmt::format("sparsity  {:.1f} % -> {:.1f} %\n", 100 * *a.sparsity, 100 * *b.sparsity);
  if (diff.empty()) return out + "no difference in the graph\n";
  std::vector<std::string> operators;
  for (const auto& [op, counts] : diff.operators) {
    if (counts.first == counts.second) continue;
    operators.push_back(fmt::format("{:<32} {} -> {}", op, counts.first, counts.second));
  }
  const auto as_is = [](const std::string& line) { return line; };
  add_rows(out, "inputs and outputs", diff.interface, true, as_is);
  add_rows(out, "operators", operators, true, as_is);
  const auto node = [](const GraphDiff::NodeRow& row) {
    return fmt::format("{} '{}'{}{}", row.op, row.name, row.changes.empty() ? "" : ": ",
                       fmt::join(row.changes, "; "));
  };
  add_rows(out, "nodes changed", diff.changed, all, node);
  add_rows(out, "nodes removed", diff.removed, all, node);
  add_rows(out, "nodes added", diff.added, all, node);
  const auto constant = [](const GraphDiff::ConstantRow& row) {
    return fmt::format("'{}' {} {}{}{}", row.name, row.type, signed_bytes(row.bytes),
                       row.difference.empty() ? "" : ": ", row.difference);
  };
  const auto gone = [&](GraphDiff::ConstantRow row) {
    row.bytes = -row.bytes;
    return constant(row);
  };
  add_rows(out, "constants changed", diff.changed_constants, all, constant);
  add_rows(out, "constants removed", diff.removed_constants, all, gone);
  add_rows(out, "constants added", diff.added_constants, all, constant);
  return out;
}

Json to_json(const GraphDiff& diff, const ModelSummary& a, const ModelSummary& b) {
  Json json = {{"schema", "compress.diff/1"},
               {"bytes", {a.bytes, b.bytes}},
               {"nodes", {a.nodes, b.nodes}},
               {"opset", {a.opset, b.opset}},
               {"sparsity", {*a.sparsity, *b.sparsity}},
               {"interface", diff.interface},
               {"operators", Json::object()}};
  for (const auto& [op, counts] : diff.operators) json["operators"][op] = counts;
  const auto nodes = [&](const char* key, const std::vector<GraphDiff::NodeRow>& rows) {
    json[key] = Json::array();
    for (const auto& row : rows) {
      json[key].push_back({{"name", row.name}, {"op", row.op}, {"changes", row.changes}});
    }
  };
  nodes("changed", diff.changed);
  nodes("removed", diff.removed);
  nodes("added", diff.added);
  const auto constants = [&](const char* key, const std::vector<GraphDiff::ConstantRow>& rows) {
    json[key] = Json::array();
    for (const auto& row : rows) {
      json[key].push_back({{"name", row.name},
                           {"type", row.type},
                           {"bytes", row.bytes},
                           {"difference", row.difference}});
    }
  };
  constants("changed_constants", diff.changed_constants);
  constants("removed_constants", diff.removed_constants);
  constants("added_constants", diff.added_constants);
  return json;
}

}  // namespace

Run add_diff(CLI::App& program) {
  CLI::App* command = program.add_subcommand("diff", "what changed between two models");
  command->footer(
      "Examples:\n"
      "  compress diff model.onnx model_int8.onnx\n"
      "  compress diff model.onnx pruned.onnx --all --json\n"
      "Nodes and constants are matched by name. What the two compute is compared by verify.\n");
  auto state = std::make_shared<Command>();
  command->add_option("BEFORE", state->before, "a model (.onnx)")->required();
  command->add_option("AFTER", state->after, "another")->required();
  command->add_flag("--all", state->all, "every row; without it ten of a kind");
  command->add_flag("--json", state->json, "print JSON instead");
  return [state] {
    const Model a = read_onnx(state->before), b = read_onnx(state->after);
    const GraphDiff diff = diff_graphs(a.graph, b.graph);
    const ModelSummary before = summarize(a, state->before), after = summarize(b, state->after);
    if (state->json) {
      print(to_json(diff, before, after).dump(2, ' ', false, Json::error_handler_t::replace) +
            "\n");
    } else {
      print(to_text(diff, before, after, state->all));
    }
    return int{kDone};
  };
}

}  // namespace compress
