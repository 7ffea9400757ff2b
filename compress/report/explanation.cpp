#include <algorithm>

#include "compress/error.h"
#include "compress/report/page.h"
#include "compress/report/plot.h"
#include "compress/report/report.h"
#include "compress/report/tables.h"

namespace compress {
namespace {

// Nodes that run by themselves; the others are parts of these or were computed beforehand.
bool is_shown(const ExplainedNode& row) {
  return row.ort.runs != OrtRuns::fused && row.ort.runs != OrtRuns::folded;
}

std::string kernel_here(const ExplainedNode& row) {
  if (row.kernel.empty()) return "-";
  return row.fused ? "in " + row.kernel : row.kernel;
}

std::string kernel_there(const ExplainedNode& row) {
  std::string out(name_of(row.ort.runs));
  if (!row.ort.kernel.empty()) out += ": " + row.ort.kernel;
  return out;
}

std::string milliseconds(const ExplainedNode& row) {
  return row.kernel.empty() || row.fused ? "" : fmt::format("{:.3f}", row.ms);
}

int64_t hidden(const Explanation& explanation) {
  return std::count_if(explanation.nodes.begin(), explanation.nodes.end(),
                       [](const ExplainedNode& row) { return !is_shown(row); });
}

std::string hidden_line(const Explanation& explanation) {
  const int64_t count = hidden(explanation);
  if (count == 0) return "";
  return fmt::format(
      "{} more node{} part of these, or computed when the model is loaded; the JSON "
      "report has all",
      count, count == 1 ? " is" : "s are");
}

std::string source_line(const Explanation& explanation) {
  std::string out = explanation.source == "rules"
                        ? "by rule (measured on ONNX Runtime 1.32, CPU)"
                        : fmt::format("as {} optimized it", explanation.source);
  if (explanation.contradictions > 0) {
    out += fmt::format("; {} nodes against the rules", explanation.contradictions);
  }
  return out;
}

}  // namespace

Json explanation_json(const Explanation& explanation) {
  Json nodes = Json::array();
  for (const ExplainedNode& row : explanation.nodes) {
    Json ort = {{"runs", name_of(row.ort.runs)}, {"kernel", row.ort.kernel}};
    if (!row.ort.reason.empty()) ort["reason"] = row.ort.reason;
    if (!row.ort.as_ruled) ort["against_rules"] = true;
    Json json = {{"node", row.ort.node},
                 {"op", row.ort.op},
                 {"device", row.device},
                 {"kernel", row.kernel},
                 {"fused", row.fused},
                 {"ms", row.ms},
                 {"multiply_adds", row.ort.macs},
                 {"onnxruntime", std::move(ort)}};
    if (row.ort.weight_bytes > 0) json["weight_bytes"] = row.ort.weight_bytes;
    nodes.push_back(std::move(json));
  }
  return {{"source", explanation.source},
          {"why", explanation.why},
          {"multiply_adds",
           {{"total", explanation.macs},
            {"integer", explanation.integer_macs},
            {"packed", explanation.packed_macs},
            {"float", explanation.float_macs},
            {"dequantized", explanation.dequantized_macs}}},
          {"dequantized_bytes", explanation.dequantized_bytes},
          {"against_rules", explanation.contradictions},
          {"nodes", std::move(nodes)}};
}

std::string explanation_lines(const Explanation& explanation) {
  std::string out;
  for (const std::string& line : explanation.why) out += "why: " + printable(line) + "\n";
  return out;
}

std::string explanation_table(const Explanation& explanation) {
  constexpr size_t kWidest = 44;
  size_t name = 4, op = 2, here = 11, there = 12;
  for (const ExplainedNode& row : explanation.nodes) {
    if (!is_shown(row)) continue;
    name = std::max(name, std::min(printable(row.ort.node).size(), kWidest));
    op = std::max(op, std::min(row.ort.op.size(), kWidest));
    here = std::max(here, kernel_here(row).size());
    there = std::max(there, kernel_there(row).size());
  }
  std::string out =
      "nodes: what runs here, and what ONNX Runtime does, " + source_line(explanation) + "\n";
  const auto add = [&](const std::string& a, const std::string& b, const std::string& c,
                       const std::string& ms, const std::string& d, const std::string& e) {
    std::string line = fmt::format("  {:<{}}  {:<{}}  {:<{}}  {:>8}  {:<{}}  {}", a, name, b, op, c,
                                   here, ms, d, there, e);
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  };
  add("node", "op", "kernel here", "ms", "ONNX Runtime", "");
  for (const ExplainedNode& row : explanation.nodes) {
    if (!is_shown(row)) continue;
    add(shortened(printable(row.ort.node), kWidest), shortened(printable(row.ort.op), kWidest),
        kernel_here(row), milliseconds(row), printable(kernel_there(row)),
        printable(row.ort.reason));
  }
  const std::string more = hidden_line(explanation);
  return more.empty() ? out : out + "  " + more + "\n";
}

std::string explanation_markdown(const Explanation& explanation) {
  std::string out = fmt::format(
      "\n<details><summary>Kernel of each node</summary>\n\nONNX Runtime {}.\n\n"
      "| node | op | kernel here | ms | ONNX Runtime | |\n|---|---|---|--:|---|---|\n",
      escape_markdown(source_line(explanation)));
  for (const ExplainedNode& row : explanation.nodes) {
    if (!is_shown(row)) continue;
    out += fmt::format("| {} | {} | {} | {} | {} | {} |\n", escape_markdown(row.ort.node),
                       escape_markdown(row.ort.op), escape_markdown(kernel_here(row)),
                       milliseconds(row), escape_markdown(kernel_there(row)),
                       escape_markdown(row.ort.reason));
  }
  const std::string more = hidden_line(explanation);
  if (!more.empty()) out += "\n" + more + "\n";
  return out + "\n</details>\n";
}

std::string explanation_html(const Explanation& explanation) {
  Cells cells = {{"node", "op", "kernel here", "ms", "ONNX Runtime", ""}};
  for (const ExplainedNode& row : explanation.nodes) {
    if (!is_shown(row)) continue;
    cells.push_back({row.ort.node, row.ort.op, kernel_here(row), milliseconds(row),
                     kernel_there(row), row.ort.reason});
  }
  return html_section(
      "Kernel of each node",
      html_paragraph(fmt::format("ONNX Runtime {}.", source_line(explanation))) +
          html_details(fmt::format("{} nodes", cells.size() - 1), html_table(cells, "lllrl")) +
          html_paragraph(hidden_line(explanation)));
}

}  // namespace compress
