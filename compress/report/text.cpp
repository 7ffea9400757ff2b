#include <algorithm>

#include "compress/error.h"
#include "compress/report/page.h"
#include "compress/report/rows.h"

namespace compress {
namespace {

// "pass: reason: 12 nodes (first, ...)".
std::vector<std::string> skip_lines(const Report& report) {
  constexpr size_t kMost = 8;
  const std::vector<SkipGroup> groups = skip_groups(report);
  std::vector<std::string> out;
  for (size_t i = 0; i < groups.size() && i < kMost; ++i) {
    const auto& nodes = groups[i].nodes;
    out.push_back(groups[i].pass + ": " + groups[i].reason);
    if (nodes.empty()) continue;  // of the whole model
    out.back() += fmt::format(": {} node{} ({}{})", nodes.size(), nodes.size() == 1 ? "" : "s",
                              nodes[0], nodes.size() > 1 ? ", ..." : "");
  }
  if (groups.size() > kMost) {
    out.push_back(
        fmt::format("and {} more reasons; --report x.json lists all", groups.size() - kMost));
  }
  return out;
}

// Columns of a terminal; characters beyond ASCII in names may shift a line, which is harmless.
std::string columns(const std::vector<Line>& lines) {
  size_t width[3] = {0, std::string_view("reference").size(), std::string_view("candidate").size()};
  for (const Line& line : lines) {
    width[0] = std::max(width[0], line.label.size());
    width[1] = std::max(width[1], line.reference.size());
    width[2] = std::max(width[2], line.candidate.size());
  }
  std::string out;
  const auto add = [&](const Line& line) {
    std::string row = fmt::format("{:<{}}  {:>{}}  {:>{}}  {}", line.label, width[0],
                                  line.reference, width[1], line.candidate, width[2], line.change);
    row.erase(row.find_last_not_of(' ') + 1);
    out += row + "\n";
  };
  add({"", "reference", "candidate", ""});
  for (const Line& line : lines) add(line);
  return out;
}

// A row a metric: the same numbers as the JSON's, for spreadsheets.
std::string to_csv(const Report& report) {
  const auto text = [](double value) { return fmt::format("{:.9g}", value); };
  Cells cells = {{"metric", "reference", "candidate", "candidate_low", "candidate_high"}};
  for (const auto& [name, value] : measurements(report)) {
    std::optional<std::pair<double, double>> interval = value.interval;
    if (report.evaluation) {
      const auto found = report.evaluation->intervals.find(name);
      if (found != report.evaluation->intervals.end()) interval = found->second.candidate;
    }
    cells.push_back({name, text(value.reference), text(value.candidate),
                     interval ? text(interval->first) : "",
                     interval ? text(interval->second) : ""});
  }
  for (const GateResult& gate : report.gates) {
    cells.push_back({"gate " + gate.expression, "", text(gate.value), "", ""});
  }
  return csv_table(cells);
}

const std::vector<std::string_view> kExtensions = {"json", "md", "html", "csv", "xml"};

}  // namespace

std::string to_table(const Report& report) {
  std::string out;
  if (report.candidate) {
    out += fmt::format("{} -> {}\n", printable(report.reference->path),
                       printable(report.candidate->path));
  }
  if (report.explanation) out += explanation_lines(*report.explanation);
  out += columns(lines_of(report));
  if (!report.load.empty()) {
    out += "under load (throughput in samples)\n" + text_table(load_cells(report), kLoadAlign, 2);
  }
  if (report.search) out += search_table(*report.search);
  if (report.sensitivity) out += sensitivity_table(*report.sensitivity);
  out += printable(data_line(report)) + "\n";
  const auto worst = worst_layers(report, 3);
  if (!worst.empty()) {
    out += "most distorted:";
    for (const LayerSimilarity* row : worst) {
      out += fmt::format(" {} ({}) {:.1f} dB{}", printable(row->name), row->op, row->sqnr_db,
                         row == worst.back() ? "\n" : ",");
    }
  }
  for (const std::string& line : skip_lines(report)) out += "left: " + printable(line) + "\n";
  for (const std::string& note : report.notes) out += "note: " + printable(note) + "\n";
  for (const GateResult& gate : report.gates) {
    out += fmt::format("gate: {} is {:.6g}: {}\n", gate.expression, gate.value,
                       gate.passed ? "passed" : "FAILED");
  }
  if (report.explanation) out += explanation_table(*report.explanation);
  if (!report.gates.empty()) out += verdict(report) + "\n";
  return out;
}

std::string to_markdown(const Report& report) {
  std::string out = fmt::format("### compress {}: {}\n\n", report.command,
                                report.gates.empty() ? "done" : verdict(report));
  if (report.reference && report.candidate) {
    out += fmt::format("`{}` -> `{}`\n\n", printable(report.reference->path),
                       printable(report.candidate->path));
  }
  if (report.explanation) {
    for (const std::string& line : report.explanation->why) {
      out += "- " + escape_markdown(line) + "\n";
    }
    out += "\n";
  }
  out += "| | reference | candidate | |\n|---|--:|--:|---|\n";
  for (const Line& line : lines_of(report)) {
    out += fmt::format("| {} | {} | {} | {} |\n", line.label, line.reference, line.candidate,
                       line.change);
  }
  if (!report.load.empty()) {
    out += "\nUnder load (throughput in samples):\n\n" +
           markdown_table(load_cells(report), kLoadAlign);
  }
  if (report.search) out += search_markdown(*report.search);
  if (report.sensitivity) out += sensitivity_markdown(*report.sensitivity);
  out += "\n" + escape_markdown(data_line(report)) + "\n";
  if (!report.gates.empty()) {
    out += "\n| gate | value | |\n|---|--:|---|\n";
    for (const GateResult& gate : report.gates) {
      out += fmt::format("| `{}` | {:.6g} | {} |\n", gate.expression, gate.value,
                         gate.passed ? "passed" : "**FAILED**");
    }
  }
  const auto skipped = skip_lines(report);
  if (!skipped.empty() || !report.notes.empty()) out += "\n";
  for (const std::string& line : skipped) out += "- " + escape_markdown(line) + "\n";
  for (const std::string& note : report.notes) out += "- " + escape_markdown(note) + "\n";
  const auto worst = worst_layers(report, 10);
  if (!worst.empty()) {
    out +=
        "\n<details><summary>Most distorted layers</summary>\n\n| layer | op | SQNR |\n"
        "|---|---|--:|\n";
    for (const LayerSimilarity* row : worst) {
      out += fmt::format("| {} | {} | {:.1f} dB |\n", escape_markdown(row->name), row->op,
                         row->sqnr_db);
    }
    out += "\n</details>\n";
  }
  if (report.explanation) out += explanation_markdown(*report.explanation);
  out += fmt::format("\n{}, {}, {} threads; compress {}\n", report.machine.cpu, report.machine.isa,
                     report.machine.threads, report.version);
  return out;
}

std::string to_junit(const Report& report) {
  const auto failures = std::count_if(report.gates.begin(), report.gates.end(),
                                      [](const GateResult& gate) { return !gate.passed; });
  std::string out = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
  const std::string totals = fmt::format("tests=\"{}\" failures=\"{}\" time=\"{:.3f}\"",
                                         report.gates.size(), failures, report.seconds);
  out += fmt::format("<testsuites {0}>\n<testsuite name=\"compress {1}\" {0}>\n", totals,
                     escape_xml(report.command));
  for (const GateResult& gate : report.gates) {
    out += fmt::format("<testcase classname=\"gate\" name=\"{}\"", escape_xml(gate.expression));
    if (gate.passed) {
      out += "/>\n";
    } else {
      out += fmt::format(">\n<failure message=\"value {:.6g}\"/>\n</testcase>\n", gate.value);
    }
  }
  return out + "</testsuite>\n</testsuites>\n";
}

void check_report_path(std::string_view path) { check_extension("--report", path, kExtensions); }

std::string render(const Report& report, std::string_view path) {
  check_report_path(path);
  const std::string extension = extension_of(path);
  if (extension == "md") return to_markdown(report);
  if (extension == "html") return to_html(report);
  if (extension == "csv") return to_csv(report);
  if (extension == "xml") return to_junit(report);
  // Names from a model may hold bytes that are no UTF-8; they are replaced, not refused.
  return to_json(report).dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace compress
